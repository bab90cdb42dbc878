"""Ends of steps, gathered on workers: the same is known as if each rank had told it alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_components.coordination.ledger import ENTRIES
from ips_components.coordination.run_state import RunState
from ips_components.coordination.step_report import StepReport, StepTally
from ips_components.receiver.sink import StepInfo
from ips_components.wire.messages import Counters, StepEnd

N_RANKS, N_STEPS = 5, 4


def account(step: int) -> tuple[Counters, ...]:
    n = step + 1
    return (Counters(0, (n, 0, n, 0, 0), (8 * n, 0, 8 * n, 0, 0)), Counters(1, (n, n, 0, 0, 0)))


def by_name(account: tuple[Counters, ...]) -> dict:
    return {
        name: {
            "blocks": dict(zip(ENTRIES, each.blocks, strict=True)),
            "bytes": dict(zip(ENTRIES, each.bytes, strict=True)),
        }
        for name, each in zip(("t", "p"), account, strict=False)
    }


def started() -> RunState:
    state = RunState("r", clock=lambda: 0.0)
    for rank in range(N_RANKS):
        state.hello(rank, {"size": N_RANKS})
    return state


def sent(tally: StepTally) -> StepReport:
    return StepReport.from_message(tally.take(["t", "p"]).to_message())


def test_nothing_to_tell():
    assert StepTally().take(["t"]) is None


def test_only_the_first_asks_for_a_message():
    tally = StepTally()
    assert [tally.add(rank, StepInfo(0, 0.0, ())) for rank in range(3)] == [True, False, False]
    tally.take([])
    assert tally.add(0, StepInfo(1, 0.0, ()))


def test_a_rank_whose_puts_nobody_wants_shows_that_it_goes_on():
    tally, state = StepTally(), started()
    assert tally.add(0, StepInfo(StepEnd.NO_STEP, 0.0, account(3)))
    assert not tally.add(1, StepInfo(0, 0.0, account(0)))
    state.step_ends(sent(tally))
    assert (state.progress()["signs"], state.newest_step) == (1, 0)
    assert state.ledger.accounts()["p"].blocks["skipped"] == 5

    tally.add(1, StepInfo(1, 0.0, account(1)))
    state.step_ends(sent(tally))
    assert state.progress()["signs"] == 1

    tally.add(0, StepInfo(StepEnd.NO_STEP + 7, 0.0, ()))  # of a run whose contract has no arrays
    state.step_ends(StepReport.from_message(tally.take([]).to_message()))
    assert state.progress()["signs"] == 2
    assert (state.position, state.newest_step) == (7, 1)


def test_a_rank_has_one_account_per_message_the_newest():
    tally = StepTally()
    for step in range(3):
        tally.add(7, StepInfo(step, 0.5 * step, account(step)))
    report = sent(tally)
    assert report.steps.tolist() == [0, 1, 2]
    assert report.accounted.tolist() == [7]
    assert report.counts[0, :, 0].tolist() == [[3, 0, 3, 0, 0], [3, 3, 0, 0, 0]]


def test_columns_of_different_lengths_are_refused():
    good = StepReport(
        np.zeros(2, int), np.zeros(2, int), np.zeros(2), np.zeros(0, int), np.zeros(0, int), ()
    ).to_message()
    with pytest.raises(ValueError, match="same length"):
        StepReport.from_message({**good, "steps": b""})


@given(st.randoms(use_true_random=False), st.integers(1, 3), st.integers(1, 6))
def test_ends_that_come_through_several_receivers_add_up(random, n_receivers, n_messages):
    """Ranks change receivers at will, messages overtake each other; nothing counts twice."""
    ends = [(rank, step) for step in range(N_STEPS) for rank in range(N_RANKS)]
    tallies = [StepTally() for _ in range(n_receivers * n_messages)]
    for rank, step in ends:
        told = account(step) if random.random() < 0.7 or step == N_STEPS - 1 else ()
        random.choice(tallies).add(rank, StepInfo(step, float(step), told))
    reports = [report for tally in tallies if (report := tally.take(["t", "p"])) is not None]
    random.shuffle(reports)
    state = started()
    for report in reports:
        state.step_ends(StepReport.from_message(report.to_message()))
    direct = started()
    for rank, step in ends:
        direct.step_end(rank, step, float(step), by_name(account(step)))
    assert state.steps_done == N_STEPS
    assert state.ledger.to_json() == direct.ledger.to_json()
    assert state.waited == direct.waited == [float(N_STEPS - 1)] * N_RANKS
    assert state.newest_step == N_STEPS - 1


def test_a_rank_lost_between_two_messages_is_accounted_for():
    state = started()
    early, late = StepTally(), StepTally()
    for rank in range(N_RANKS):
        early.add(rank, StepInfo(0, 0.0, account(0)))
    late.add(2, StepInfo(1, 0.0, (Counters(0, (2, 0, 1, 0, 0)), *account(1)[1:])))
    state.step_ends(sent(early))
    assert state.rank_lost(2, "killed")
    state.step_ends(sent(late))
    assert state.ledger.closed()
    blocks = state.ledger.accounts()["t"].blocks
    assert (blocks["produced"], blocks["delivered"], blocks["lost"]) == (N_RANKS + 1, N_RANKS, 1)


def test_physical_times_travel_with_the_ends_of_steps():
    tally = StepTally()
    assert tally.add_time(3, 0.5)
    assert not tally.add_time(4, 0.75)
    assert not tally.add_time(3, 9.0)  # another rank says it again
    report = StepReport.from_message(tally.take(()).to_message())
    assert report.timed.tolist() == [3, 4]
    assert report.times.tolist() == [0.5, 0.75]
    state = RunState("r")
    state.step_ends(report)
    assert state.times == {3: 0.5, 4: 0.75}
    assert tally.take(()) is None
