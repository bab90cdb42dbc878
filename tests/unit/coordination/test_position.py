"""How many steps of its own a simulation has put, as far as its ranks' accounts show."""

from types import SimpleNamespace

import pytest

from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.progress import position
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.selection import Selection
from ips_components.model.spec import ArraySpec, StepAxis


def run_of(steps, blocks=1, n_ranks=2):
    """A run whose analysis needs the last step only."""
    run = CoordinatedRun("r1")
    spec = ArraySpec("t", "f8", (8,), steps)
    last = Selection.from_key((slice(-1, None), slice(None)), (steps.count, 8))
    run.contract = Contract("r1", (ArrayContract.agree(spec, [last], run="r1"),))
    block = SimpleNamespace(offset=(0,), shape=(4,))
    run.blocks = {"t": dict.fromkeys(range(n_ranks), (block,) * blocks)}
    for rank in range(n_ranks):
        run.state.hello(rank, {"size": n_ranks})
    return run


def put(run, rank, blocks):
    account = {"t": {"blocks": {"produced": blocks, "skipped": blocks}, "bytes": {}}}
    run.state.ledger.update(rank, account)


def test_steps_that_nobody_wants_count():
    run = run_of(StepAxis(count=50))
    assert position(run) == 0
    put(run, 0, 17)
    put(run, 1, 18)
    assert position(run) == 18


@pytest.mark.parametrize(("blocks", "produced"), [(1, 6), (3, 18)])
def test_blocks_and_strides_are_no_steps(blocks, produced):
    """Put at steps 5, 15, 25, ...: six of them."""
    run = run_of(StepAxis(start=5, every=10, count=20), blocks)
    put(run, 0, produced)
    assert position(run) == 56


def test_a_count_that_cannot_be_is_left_out():
    run = run_of(StepAxis(count=4))
    put(run, 0, 400)  # many blocks that no rank has described
    assert position(run) == 0


def test_a_rank_that_has_ended_knows():
    run = run_of(StepAxis(count=50))
    run.state.bye(0, "ok", {}, 49)
    assert position(run) == 50
