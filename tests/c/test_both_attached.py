"""Attached runs, further contracts that a running simulation puts into: both bridges."""

import contextlib
import threading
from dataclasses import replace as changed

import numpy as np
import pytest
from c_ranks import agree, cells, coupling, delivered, expected, join_all, spec_of
from test_both_amr import MESH, blocks
from test_both_bridges import joined as joined_with_steps
from test_both_bridges import right
from test_c_bridge import row_cells

from ips_components.model.amr import BlockChoice
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.receiver.receiver import Receiver
from ips_components.wire import contact as contacts
from ips_components.wire import messages as m


@pytest.fixture
def start(either):
    """Start ranks of either bridge."""
    return either


def unending(spec):
    """Return an array as a program declares it that goes on beyond the steps of its analysis."""
    return changed(spec, steps=changed(spec.steps, count=None))


def joined(start, contact, directory, *specs):
    """One rank that holds all of each array, and does not say how many steps it puts."""
    return joined_with_steps(start, contact, directory, *map(unending, specs))


@contextlib.contextmanager
def attached(to, sink, *specs, run="c-run~1", token=None, blocks=None, **receiver):
    """A receiver of an attached run with a contract over these arrays, which ranks are to join."""
    token = token or contacts.new_token()
    contract = Contract(
        run,
        tuple(
            ArrayContract.agree(s, run=run, receivers=(0,), policy="drop", blocks=blocks)
            for s in specs
        ),
    )
    receiver.setdefault("budget", 64 << 20)
    with Receiver(sink, run=run, token=token, ordinal=0, **receiver) as own:
        own.set_contract(contract, (own.endpoint,))
        limits = {"connect": 5.0, "contract": 10.0, "drain": 5.0}
        contact = contacts.Contact(run, token, (own.endpoint,), limits, {"replay_steps": 1})
        to.attach(contact.to_bytes())
        yield own, contract


def put_until(rank, done, step, put=None):
    """Put step after step until something has happened; return the next step."""
    for _ in range(2000):
        if done():
            return step
        if put is None:
            rank("put", "t", step, "C")
        else:
            put(step)
        step += 1
        threading.Event().wait(0.002)
    raise TimeoutError("it has not happened")


def arrived_right(contract, sink):
    """Every chunk that arrived is right, and those that did not were put before the join."""
    array = contract.arrays[0]
    whole, got = expected(array), delivered(array, sink.chunks)
    for _, chunk in sink.chunks:
        where = array.chunk_selection(chunk).within(array.cover).to_slices()
        assert (got[where] == whole[where]).all()
    assert set(sink.counts.values()) <= {1}
    assert not {chunk for _, chunk in sink.chunks} & {chunk for _, chunk, *_ in sink.missed}
    first = min(chunk for _, chunk in sink.chunks)
    passed = [c for _, c, _, why in sink.missed if why == m.Dropped.WHY_PASSED]
    assert sorted(passed) == list(range(first))


def closes(info):
    """Whether an account is closed."""
    return all(each.closed for each in info.counters)


@pytest.mark.parametrize("how", ["put", "acquire"])
def test_an_attached_run_gets_the_steps_from_the_next_one_on(start, sinks, tmp_path, how):
    spec, further = spec_of(count=4), spec_of(start=3, count=5000)
    sink, other = sinks(2)
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(6):
            rank("put", "t", step, "C")
        with attached(receiver, other, further) as (own, more):

            def in_place(step):
                rank("acquire", "t", step)
                rank("fill", "t", step)
                rank("publish", "t")

            put = in_place if how == "acquire" else None
            step = put_until(rank, lambda: len(other.chunks) >= 3, 6, put)
            assert other.hellos[0].step >= 5
            own.stop("detached")
            step = put_until(rank, lambda: 0 in other.byes, step)
            arrived = len(other.counts)
            for each in range(step, step + 3):
                rank("put", "t", each, "C")
            assert len(other.counts) == arrived
            arrived_right(more, other)
            assert closes(other.byes[0])
        rank("close", 0)
        right(contract, sink)
        assert rank.account("t")[0][2] == 4


def test_an_attached_run_begins_with_a_whole_step(start, sinks, tmp_path):
    """It is joined in the middle of a step, of which something was put before."""
    specs = [spec_of(name, count=4) for name in "tu"]
    sink, *others = sinks(4)
    with coupling(tmp_path, [sink], agree(*specs)) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, *specs)
        step = 0

        def both():
            nonlocal step
            for name in "tu":
                rank("put", name, step, "C")
            step += 1

        for number, other in enumerate(others):
            both()
            rank("put", "t", step, "C")
            further = [spec_of(name, start=step, count=3000) for name in "tu"]
            with attached(receiver, other, *further, run=f"c-run~{number}") as (own, _):
                for _ in range(20):  # a rank in C joins in its calls
                    rank("progress")
                    threading.Event().wait(0.02)
                rank("put", "u", step, "C")
                step += 1
                while len(other.chunks) < 6:
                    both()
                    threading.Event().wait(0.002)
                own.stop("detached")
                while 0 not in other.byes:
                    both()
                    threading.Event().wait(0.002)
                came = [{chunk for array, chunk in other.chunks if array == i} for i in (0, 1)]
                missed = [
                    {chunk for array, chunk, *_ in other.missed if array == i} for i in (0, 1)
                ]
                assert min(came[0]) == min(came[1]) > 0, (came, missed)
                assert closes(other.byes[0])
        rank("close", 0)
        right(agree(*specs), sink)


def test_two_attached_runs_at_once(start, sinks, tmp_path):
    spec = spec_of(count=4)
    sink, one, two = sinks(3)
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec)
        with (
            attached(receiver, one, spec_of(count=5000)) as (_, more),
            attached(receiver, two, spec_of(count=3000, every=3), run="c-run~2") as (_, third),
        ):
            put_until(rank, lambda: len(one.chunks) > 3 and len(two.chunks) > 3, 0)
            rank("close", 0)
            for other, what in ((one, more), (two, third)):
                other.wait(lambda other=other: 0 in other.byes)
                arrived_right(what, other)
                assert closes(other.byes[0])
        right(contract, sink)


def test_an_attached_run_that_takes_nothing_holds_up_nobody(start, sinks, tmp_path):
    spec = spec_of(count=4, shape=(64, 64))
    sink, other = sinks(2)
    other.keep = True  # chunks that are kept are not released
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec)
        budget = 3 * 64 * 64 * 8
        further = spec_of(count=5000, shape=(64, 64))
        with attached(receiver, other, further, budget=budget) as (_, more):
            put_until(rank, lambda: len(other.missed) > 20 and other.chunks, 0)
            rank("close", 0)
            other.wait(lambda: 0 in other.byes)
            assert closes(other.byes[0])
            dropped = [why for *_, why in other.missed if why != m.Dropped.WHY_PASSED]
            assert dropped
            array = more.arrays[0]
            whole, got = expected(array), delivered(array, other.chunks)
            for _, chunk in other.chunks:
                where = array.chunk_selection(chunk).within(array.cover).to_slices()
                assert (got[where] == whole[where]).all()
        right(contract, sink)


@pytest.mark.parametrize("when", ["before its contract", "while it takes data"])
def test_receivers_of_an_attached_run_that_go_away_change_nothing(start, sinks, tmp_path, when):
    spec = spec_of(count=4)
    sink, other = sinks(2)
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec)
        step = 0
        if when == "while it takes data":
            with attached(receiver, other, spec_of(count=5000)):
                step = put_until(rank, lambda: len(other.chunks) >= 3, 0)
        else:
            with Receiver(other, run="c-run~1", token="ab" * 32, budget=1 << 20) as own:
                limits = {"connect": 1.0, "contract": 10.0, "drain": 1.0}
                gone = contacts.Contact("c-run~1", "ab" * 32, (own.endpoint,), limits)
                receiver.attach(gone.to_bytes())
                step = put_until(rank, lambda: other.hellos, 0)
        for each in range(step, step + 50):
            rank("put", "t", each, "C")
        rank("close", 0)
        right(contract, sink)


def test_an_attached_run_begins_after_the_analysis_has_failed(start, sinks, tmp_path):
    """The simulation goes on alone: its ranks can be attached to, and say where they are."""
    spec = spec_of(count=4000)
    sink, other = sinks(2)
    with coupling(tmp_path, [sink], agree(spec)) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec)
        rank("put", "t", 0, "C")
        receiver.fault("the analysis gave up", "continue")
        step = put_until(rank, lambda: rank("lost"), 1)
        for _ in range(2):  # again and again
            known = len(sink.steps)
            step = put_until(rank, lambda known=known: len(sink.steps) > known, step)
        assert known < sink.steps[-1][1].step - m.StepEnd.NO_STEP <= step
        with attached(receiver, other, spec_of(start=step, count=5000)) as (own, more):
            step = put_until(rank, lambda: len(other.chunks) >= 3, step)
            own.stop("detached")
            step = put_until(rank, lambda: 0 in other.byes, step)
            arrived_right(more, other)
            assert closes(other.byes[0])
        rank("close", 0)
        sink.wait(lambda: 0 in sink.byes)
        (account,) = sink.byes[0].counters
        assert account.closed
        assert account.blocks[account.NAMES.index("produced")] == step
        assert account.blocks[account.NAMES.index("lost")] > 0


# -- rows ------------------------------------------------------------------------------------------


def longer(spec):
    """Return an array with more steps than the simulation has said."""
    return changed(spec, steps=StepAxis(count=4000))


def taken(sink, n, ordinal=0):
    """Return the steps that arrived; the rank has said of all others of `n` why they do not."""
    steps = {chunk for array, chunk in sink.chunks if array == ordinal}
    missed = {chunk: why for array, chunk, _, why in sink.missed if array == ordinal}
    passed = sorted(step for step, why in missed.items() if why == m.Dropped.WHY_PASSED)
    assert passed == list(range(len(passed)))
    assert not missed.keys() & steps
    assert sorted(missed.keys() | steps) == list(range(n))
    assert set(sink.counts.values()) == {1}
    return steps


def test_an_attached_run_gets_rows(start, sinks, tmp_path):
    spec = ArraySpec("x", "<f4", (-1, 3), StepAxis(count=2), ragged=True)
    sink, other = sinks(2)
    with coupling(tmp_path, [sink], agree(spec)) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec)
        index = [7, 0, 3, 3, 9]

        def put(step):  # none, some in a row, some by a list
            if step % 3 < 2:
                rank("rows", "x", step, 4 * (step % 3))
            else:
                rank("put_parts", "x", step, len(index), *index)

        with attached(receiver, other, longer(spec)):
            n = put_until(rank, lambda: len(other.chunks) >= 6, 0, put)
            rank("close", 0)
            other.wait(lambda: 0 in other.byes)
            for step in taken(other, n):
                whole = row_cells(0, 10, 3, step)
                rows = [whole[:0], whole[:4], whole[index]][step % 3]
                found = np.ascontiguousarray(other.chunks[0, step][0]).view(np.uint8)
                assert np.array_equal(found.reshape(rows.shape), rows)
            assert closes(other.byes[0])


@pytest.mark.parametrize("described", [True, False], ids=["described", "put"])
def test_an_attached_run_gets_rows_by_ids(start, sinks, tmp_path, described):
    spec = ArraySpec("u", "<f8", (9, 2), StepAxis(count=2), ids="unique")
    sink, other = sinks(2)
    ids = [4, 0, 8, 1, 2, 7, 6, 5, 3]
    with coupling(tmp_path, [sink], agree(spec)) as (contact, (receiver,)):
        rank = start()
        rank("array", "u", 8, 2, 9, 2)
        rank("declare", "u", "<f8", 2, 9, 2)
        rank("steps", "u", 0, 1, -1)
        rank("ids", "u", "none", *([9, *ids] if described else [-1]))
        join_all([rank], contact, tmp_path)

        def put(step):
            turned = ids[step % 9 :] + ids[: step % 9]
            rank("put_ids", "u", step, 0, *([-1] if described else [9, *turned]))

        with attached(receiver, other, longer(spec)):
            n = put_until(rank, lambda: len(other.chunks) >= 5, 0, put)
            rank("close", 0)
            other.wait(lambda: 0 in other.byes)
            for step in taken(other, n):
                found = np.ascontiguousarray(other.chunks[0, step]).view(np.uint8)
                whole = cells(spec, np.arange(18).reshape(9, 2), step)
                assert np.array_equal(found.reshape(whole.shape), whole)
            assert closes(other.byes[0])


def in_both(chunks):
    """Return the steps of which both arrays have come; a client that is busy misses parts."""
    return {step for array, step in list(chunks) if array == 0 and (1, step) in chunks}


@pytest.mark.parametrize("choice", [None, BlockChoice((3, 4), (), 3)], ids=["all", "finest"])
def test_an_attached_run_gets_blocks_of_a_mesh(start, sinks, tmp_path, choice):
    mesh = MESH.spec, MESH.table.spec
    sink, other = sinks(2)
    with coupling(tmp_path, [sink], agree(*mesh)) as (contact, (receiver,)):
        rank = start()
        rank.offer(unending(mesh[0]), (), ())
        rank("levels", "rho", 4, 3)
        join_all([rank], contact, tmp_path)

        def put(step):
            table = blocks(0, step)
            rank("put_blocks", "rho", step, len(table), *table.ravel())

        with attached(receiver, other, *map(longer, mesh), blocks=choice):
            n = put_until(rank, lambda: len(in_both(other.chunks)) >= 4, 0, put)
            rank("close", 0)
            other.wait(lambda: 0 in other.byes)
            both = taken(other, n) & taken(other, n, 1)
            assert both
            for step in both:
                table = blocks(0, step)
                table = table if choice is None else table[choice.accept(table, (2, 4))]
                assert np.array_equal(other.chunks[1, step][0], table)
                first = (table[:, 0] * 131 + table[:, 1]) * 131 + table[:, 2]
                index = first[:, None, None] + np.arange(8)[:, None]
                raw = (index * 7 + step * 13 + np.arange(4) * 31).astype(np.uint8)
                found = np.ascontiguousarray(other.chunks[0, step][0])
                assert np.array_equal(found.view(np.uint8).reshape(raw.shape), raw)
            assert closes(other.byes[0])


def test_a_solver_that_goes_back_does_so_for_attached_runs_too(start, sinks, tmp_path):
    spec, further = spec_of(count=1), spec_of(start=0, every=50, count=100)
    sink, other = sinks(2)
    with coupling(tmp_path, [sink], agree(spec)) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec)
        with attached(receiver, other, further) as (_, more):
            step = put_until(rank, lambda: other.chunks, 0)
            while step % 50 != 40:
                rank("put", "t", step, "C")
                step += 1
            rank("rewind", step - 3)
            for each in range(step - 3, step + 20):
                rank("put", "t", each, "C")
            rank("close", 0)
            other.wait(lambda: 0 in other.byes)
            arrived_right(more, other)
            assert 0 in {chunk for _, chunk in other.chunks} | {c for _, c, *_ in other.missed}
            assert closes(other.byes[0])
