"""The live state of a run, fed by hand: steps, waiting, deaths, endings."""

from __future__ import annotations

import json

import pytest

from ips_components.coordination.run_state import MAX_FAULTS, MAX_SAMPLES, RunState


@pytest.fixture
def state():
    ticks = iter(range(10**9))
    return RunState("r1", clock=lambda: float(next(ticks)))


def test_a_step_is_complete_when_all_ranks_have_put_it(state):
    for rank in (0, 1):
        state.hello(rank, {"size": 2, "host": "h", "pid": rank})
    state.step_end(0, 0, 0.1, {})
    assert state.steps_done == 0
    state.step_end(1, 0, 0.3, {})
    assert state.steps_done == 1
    assert state.steps[0].to_json(0)["waited"]["max"] == pytest.approx(0.3)


def test_ranks_without_cells_hold_up_no_step(state):
    for rank in range(3):
        state.hello(rank, {"size": 3})
    state.without_cells |= {1, 2}
    state.step_end(0, 0, 0.0, {})
    assert state.steps_done == 1
    state.step_end(2, 1, 0.0, {})  # it puts blocks of no cells
    assert state.steps_done == 1
    state.step_end(0, 1, 0.0, {})
    assert state.steps_done == 2


def test_steps_may_be_below_zero(state):
    state.hello(0, {"size": 1})
    for step in range(-3, 3):
        state.step_end(0, step, 0.0, {})
    assert (state.steps_done, state.newest_step) == (6, 2)


def test_waiting_is_told_per_step_from_cumulative_times(state):
    state.hello(0, {"size": 1})
    state.step_end(0, 0, 1.0, {})
    state.step_end(0, 1, 1.25, {})
    assert state.record()["steps"][1]["waited"]["max"] == pytest.approx(0.25)
    assert state.record()["waited"]["per_rank"] == [1.25]


def test_over_when_every_rank_said_goodbye_or_is_lost(state):
    for rank in (0, 1):
        state.hello(rank, {"size": 2})
    state.bye(0, "ok", {})
    assert not state.simulation_over
    assert state.rank_lost(1, "connection closed")
    assert state.simulation_over
    assert state.missing_goodbyes == [1]
    assert not state.record()["ledger"]["closed"]


def test_losing_a_rank_that_said_goodbye_is_no_news(state):
    state.hello(0, {"size": 1})
    state.bye(0, "ok", {})
    assert not state.rank_lost(0, "connection closed")
    assert state.missing_goodbyes == []


def test_steps_beyond_the_last_one_are_noted_once_for_an_array(state):
    for rank in range(3):
        state.bye(rank, "ok", {"t": {"beyond": 2 * rank}, "u": {"beyond": 0}}, 12)
    (fault,) = state.faults
    assert (fault.who, fault.what) == ("rank 1", "notes")
    assert fault.cause.startswith(
        "it put array 't' at steps beyond the last one of the run: 2 steps were left out; "
    )
    assert state.phase == "open"


def test_the_first_cause_is_kept(state):
    state.fail("rank 3", "lost", "killed")
    state.fail("analysis", "failed", "its echo")
    assert state.phase == "failed"
    assert state.faults[0].who == "rank 3"
    state.end()
    assert state.phase == "failed"


def test_endings_name_step_and_total(state):
    assert state.ending(10) == "simulation ended before its first step of 10"
    state.hello(0, {"size": 1})
    state.step_end(0, 6, 0.0, {})
    assert state.ending(10) == "simulation ended at step 6 of 10"
    assert state.ending(None) == "simulation ended at step 6"
    state.bye(0, "ok", {}, 9)  # steps that are not wanted are known at the end
    assert state.ending(10) == "simulation ended at step 9 of 10"


def test_samples_are_bounded(state):
    for _ in range(3 * MAX_SAMPLES):
        state.sample({"worker": "w", "rss": 1})
    assert len(state.samples) <= MAX_SAMPLES


def test_the_record_is_json(state):
    state.hello(0, {"size": 1, "host": "h", "pid": 1})
    state.step_end(0, 0, 0.0, {})
    state.sample({"worker": "w"})
    state.fault("worker w", "lost", "why")
    assert json.loads(json.dumps(state.record()))["steps"][0]["step"] == 0


def test_steps_whose_consumers_are_given_up_are_not_analysed(state):
    state.hello(0, {"size": 1})
    for step in (0, 1):
        state.step_end(0, step, 0.0, {})
    state.analysed(0)
    state.fail("rank 0", "lost", "killed")
    state.analysed(1)
    assert [step["analysed"] is None for step in state.record()["steps"]] == [False, True]


def test_faults_are_bounded_and_counted(state):
    for n in range(3 * MAX_FAULTS):
        state.fault(f"worker {n}", "chunk lost", "dropped")
    record = state.record()
    told = [fault["who"] for fault in record["faults"]]
    assert len(told) == MAX_FAULTS and record["faults_left_out"] == 2 * MAX_FAULTS
    assert (told[0], told[-1]) == ("worker 0", f"worker {3 * MAX_FAULTS - 1}")
    assert state.progress()["faults"] == 3 * MAX_FAULTS
    state.fail("rank 0", "lost", "killed")
    assert state.fatal.who == "rank 0"
