"""Runs in which nothing moves: whether ranks wait for a step that one of them has left out.

A step that a rank leaves out keeps its chunk incomplete, and the chunk keeps its memory: after
some more steps no rank gets credit. To a rank this looks like a lack of memory. The receivers know
better: they have the pieces that came, and the rows for which the ranks wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.ending import Ending
from ips_components.coordination.gaps import LOOK_AT, contributors, left_out
from ips_components.coordination.messages import ReportWaiting, WaitingRanks
from ips_components.coordination.outbox import Outbox
from ips_components.model.array_contract import ArrayContract

#: Seconds without any data after which the receivers are asked, and the most between two questions.
PATIENCE, LONGEST = 3.0, 30.0


class Stalls:
    """Asks the receivers what is missing when nothing moves; fails runs with a step left out.

    Parameters
    ----------
    outbox : Outbox
    ending : Ending
    """

    def __init__(self, outbox: Outbox, ending: Ending) -> None:
        self._outbox = outbox
        self._ending = ending

    def look(self, run: CoordinatedRun) -> None:
        """Ask the receivers of a run that has not moved for a while."""
        stall = run.stall
        state = run.state
        now = state.clock()
        mark = (state.ledger.total("delivered"), *state.steps.counts().values())
        if mark != stall.mark or not _may_be_stuck(run):
            stall.begin(mark, now, PATIENCE)
        elif now >= stall.ask_at:
            stall.ask_at = now + min(2 * (now - stall.since), LONGEST)
            stall.asked, stall.answers = set(run.workers), {}
            self._outbox.send(run, ReportWaiting())

    def answered(self, run: CoordinatedRun, worker: str, event: WaitingRanks) -> None:
        """Fail the run if the answers of all its receivers show that a step was left out."""
        stall = run.stall
        if worker not in stall.asked:
            return
        stall.answers[worker] = event
        if stall.answers.keys() < stall.asked or not _may_be_stuck(run):
            return
        if gap := first_gap_of(run, stall.answers.values()):
            self._ending.fail(run, "simulation", "left out a step", gap)


def _may_be_stuck(run: CoordinatedRun) -> bool:
    """Whether a step that is missing can only have been left out.

    It may be on its way where a receiver or a rank was lost, and need not be put after a stop.
    """
    return (
        run.answered
        and run.has_tasks
        and not run.over
        and not run.state.stop_reason
        and not run.state.lost_ranks
        and len(run.workers) == len(run.state.endpoints)
    )


def first_gap_of(run: CoordinatedRun, answers: Iterable[WaitingRanks]) -> str:
    """Return which step which ranks have left out; empty if ranks may still put what is missing.

    Parameters
    ----------
    run : CoordinatedRun
        A run with a contract, in which nothing has moved for a while.
    answers : iterable of WaitingRanks
        Of all receivers.
    """
    answers = list(answers)
    arrays = run.agreed.arrays
    beyond = {ordinal: _put_beyond(run, ordinal, answers) for ordinal in range(len(arrays))}
    oldest = [(each.connected, *chunk) for each in answers for chunk in each.oldest]
    oldest.sort(key=lambda each: _first_step(arrays[each[1]], each[2]))
    for connected, ordinal, chunk, came in oldest[:LOOK_AT]:
        array, newest = arrays[ordinal], beyond[ordinal]
        there = {(rank, t) for rank, t in came}
        for i, t in enumerate(_times(array, chunk)):
            ranks = contributors(run, array, chunk, t)
            lacking = [rank for rank in ranks if (rank, i) not in there]
            step = array.spec.steps.step(t)
            if lacking and all(newest[rank] > step and rank in connected for rank in lacking):
                return left_out(array, step, ranks, lacking, newest)
    return ""


def _put_beyond(run: CoordinatedRun, ordinal: int, answers: list[WaitingRanks]) -> Any:
    """Return, by rank, the newest step that it has put, or waits to put, of an array."""
    array = run.agreed.arrays[ordinal]
    newest: np.ndarray[Any, Any] = run.state.newest_steps()
    for each in answers:
        for rank, wanted, row in each.wants:
            if wanted == ordinal and rank < len(newest):
                first = array.spec.steps.step(array.layout.bounds(0, row)[0])
                newest[rank] = max(newest[rank], first)
    return newest


def _times(array: ArrayContract, chunk: int) -> list[int]:
    """Return the time indices of a chunk that the contract names."""
    axis = array.chunk_selection(chunk).dims[0]
    return [axis.start + i * axis.step for i in range(axis.count)]


def _first_step(array: ArrayContract, chunk: int) -> int:
    return array.spec.steps.step(_times(array, chunk)[0])
