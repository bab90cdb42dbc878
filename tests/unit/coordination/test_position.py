"""How many steps of its own a simulation has put, as far as its ranks say it."""

from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.gaps import furthest_behind
from ips_components.coordination.step_report import StepTally
from ips_components.receiver.sink import StepInfo
from ips_components.wire.messages import StepEnd


def run_at(*steps):
    run = CoordinatedRun("r1")
    tally = StepTally()
    for rank, step in enumerate(steps):
        run.state.hello(rank, {"size": len(steps)})
        tally.add(rank, StepInfo(step, 0.0, ()))
    if (report := tally.take([])) is not None:
        run.state.step_ends(report)
    return run


def test_steps_that_nobody_wants_count():
    assert run_at().state.position_put == 0
    assert run_at(StepEnd.NO_STEP + 17, StepEnd.NO_STEP + 18).state.position_put == 18


def test_a_step_that_is_wanted_counts():
    assert run_at(55, StepEnd.NO_STEP + 12).state.position_put == 56


def test_a_rank_that_has_ended_knows():
    run = run_at(StepEnd.NO_STEP + 18)
    run.state.bye(0, "ok", {}, 49)
    assert run.state.position_put == 50


def test_the_rank_behind_is_named():
    run = run_at(7, 7)
    run.state.without_cells = {1}
    assert furthest_behind(run) == ""
    run = run_at(7, 4, StepEnd.NO_STEP + 12)
    run.state.without_cells = {2}
    assert furthest_behind(run) == "rank 1 is behind: it has put step 4, rank 0 has put step 7"
    run.state.without_cells = set()
    assert furthest_behind(run).startswith("rank 2 is behind: it has put no step, ")
