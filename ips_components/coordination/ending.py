"""The end of a run: as a success, as a failure, and what is closed after it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ips_components.coordination import launches
from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.gaps import first_gap
from ips_components.coordination.messages import (
    DropChunks,
    Flush,
    ReleaseRanks,
    ResolveAbsent,
    Retire,
    SendFault,
)
from ips_components.coordination.outbox import Outbox
from ips_components.coordination.placement import Placer
from ips_components.errors import AnalyticsLost, SimulationLost, StepPassed
from ips_components.model.contract import ArrayContract, Contract

logger = logging.getLogger(__name__)

#: Seconds between two questions to the workers whether a chunk that was put has arrived.
FLUSH_INTERVAL = 0.25
#: Seconds that a chunk may take that all ranks have put, after the last rank has closed.
FLUSH_LIMIT = 5.0
#: Seconds that ranks may stay connected after their release.
RETIRE_LIMIT = 10.0


class Ending:
    """Concludes and fails runs, and has the receivers of concluded runs closed.

    Parameters
    ----------
    tasks : ExternalTasks
    outbox : Outbox
    placer : Placer
    retire : callable
        ``retire(run)``: called once the run is over, its analysis is done and no rank is connected.
    """

    def __init__(
        self,
        tasks: Any,
        outbox: Outbox,
        placer: Placer,
        retire: Callable[[CoordinatedRun], None],
    ) -> None:
        self._tasks = tasks
        self._outbox = outbox
        self._placer = placer
        self._retire = retire

    # -- success -----------------------------------------------------------------------

    def ranks_closed(self, run: CoordinatedRun) -> None:
        """Conclude the run when all that its ranks have put is there.

        Goodbyes and chunks travel through different workers, so every worker is asked to answer
        after its last delivery before anything is given up.
        """
        drain = run.settings["deadlines"]["drain"]
        run.flush_until = run.state.clock() + min(drain, FLUSH_LIMIT)
        self._flush(run)
        self._tasks.scheduler.loop.call_later(drain, self.conclude, run, False)

    def _flush(self, run: CoordinatedRun) -> None:
        run.flushing, run.flushed = set(run.workers), False
        self._outbox.send(run, Flush())

    def flushed(self, run: CoordinatedRun, worker: str) -> None:
        """A worker has announced all that it has, or is gone."""
        if worker in run.flushing:
            run.flushing.discard(worker)
            run.flushed = not run.flushing
            self.conclude(run)

    def conclude(self, run: CoordinatedRun, in_time: bool = True) -> None:
        """End the run if nothing more is on its way: what is missing then will never come.

        If a worker has died, the ranks stay until they have sent again what died with it. A chunk
        all steps of which every rank has put is on its way, whatever the workers have answered:
        they are asked again, for a bounded time.
        """
        if not run.flushed or run.over:
            return
        if run.state.left_out is not None:
            self.fill(run)
            self._end(run)
            return
        if in_time and self._still_to_come(run):
            return
        if in_time and self._are_on_their_way(run) and run.state.clock() < run.flush_until:
            run.flushed = False
            self._tasks.scheduler.loop.call_later(FLUSH_INTERVAL, self._flush, run)
            return
        if run.between_launches:  # their data are here: these ranks may go, others will come
            if not run.idle:
                run.idle = True
                self._outbox.send(run, ReleaseRanks())
                run.notify()
            return
        if in_time and self._resolve_absent(run):
            return
        ending = launches.ending(run)
        reason = f"{ending} ({run.state.stop_reason})" if run.state.stop_reason else ending
        remaining, gap = 0, ""
        if run.has_tasks:
            waiting = self._tasks.waiting(run.state.run)
            gap = first_gap(run, waiting)
            if waiting and run.settings.get("leave_out") and not run.state.stop_reason:
                self._leave_out(run, "simulation", "ended early", gap or ending)
                return
            never_came = SimulationLost(f"{gap}; {reason}" if gap else reason)
            never, lost = set(waiting), self._lost_with_worker(run)
            remaining = self._tasks.fail_remaining(
                run.state.run, lambda key: never_came if key in never else lost(key)
            )
        if remaining and not run.state.stop_reason and not run.with_windows:
            what = "left out a step" if gap else "ended early"
            cause = f"{gap}; {ending}" if gap else ending
            self.fail(run, "simulation", what, f"{cause}; {remaining} chunks never came")
        else:
            self._end(run)

    def _end(self, run: CoordinatedRun) -> None:
        run.state.end()
        self._outbox.send(run, ReleaseRanks())
        self.retire_if_over(run)
        run.notify()

    def _resolve_absent(self, run: CoordinatedRun) -> bool:
        """Resolve chunks beyond the end of a simulation that has *at most* so many steps.

        Returns whether that is under way. What stands for them goes to every worker, so that it
        outlives each of them. Where other chunks are missing, too, the run has failed anyway: also
        where ranks saw the stop of the analysis at different steps, and some of the data beyond
        the last common step have been used.
        """
        last = newest = run.state.last_put
        if run.state.stop_reason and newest is not None:
            last = run.state.last_common_step
            if last is not None and self._has_come_between(run, last, newest):
                self.fail(
                    run,
                    "simulation",
                    "stopped at different steps",
                    f"every rank has put step {last}, some have put step {newest}, and parts of "
                    "the steps between were analysed; let all ranks stop at the same step: "
                    "should_stop is to be called by all of them, with their communicator",
                )
                return True
        done = [each.last_step for each in run.launches if each.ok and each.last_step is not None]
        last = max([*done, -1 if last is None else last])
        if last < 0 or run.with_windows or not run.has_tasks:
            return False
        waiting = self._tasks.waiting(run.state.run)
        arrays = {array.name: array for array in run.agreed.arrays}
        for name, row, *_ in waiting:
            axis = arrays[name].spec.steps
            if not axis.at_most or axis.step(arrays[name].layout.bounds(0, row)[0]) <= last:
                return False
        new = [key for key in waiting if key not in run.absent]
        if new:
            logger.info("Run %s: the simulation ended at step %d", run.state.run, last)
        run.absent.update(new)
        self._resolve(run, new)
        return bool(waiting)

    def _resolve(self, run: CoordinatedRun, keys: list[Any], missing: bool = False) -> None:
        """Have every worker hold what stands for chunks that will not come."""
        for number, array in enumerate(run.agreed.arrays):
            mine = [array.layout.ravel(key[1:]) for key in keys if key[0] == array.name]
            if mine:
                self._outbox.send(run, ResolveAbsent(number, mine, missing))

    def _has_come_between(self, run: CoordinatedRun, last: int, newest: int) -> bool:
        """Return whether a chunk has come of steps that some ranks have put and others have not."""
        if run.with_windows or not run.has_tasks:
            return False
        waiting = set(self._tasks.waiting(run.state.run))
        for array in run.agreed.arrays:
            axis = array.spec.steps
            # Chunks of one step each, see `ChunkLayout.from_spec`.
            first, stop = axis.index_from(last + 1), axis.index_from(newest + 1)
            if axis.at_most and first < stop:
                needed = array.needed_ids(first, stop).tolist()
                if any(array.key(chunk) not in waiting for chunk in needed):
                    return True
        return False

    def _still_to_come(self, run: CoordinatedRun) -> bool:
        """Whether ranks are sending something again that they had put."""
        if not run.again:
            return False
        newest = -1 if run.state.newest_step is None else run.state.newest_step
        arrays = {array.name: array for array in run.agreed.arrays}
        return any(
            arrays[key[0]].spec.steps.step(arrays[key[0]].layout.bounds(0, key[1])[0]) <= newest
            for key in run.again.intersection(self._tasks.waiting(run.state.run))
        )

    def _are_on_their_way(self, run: CoordinatedRun) -> bool:
        """Whether a chunk waits of which every rank has put all steps, by its own account."""
        last = run.state.last_common_step
        if last is None or not run.has_tasks:
            return False
        accounts = run.state.ledger.accounts()
        arrays = {array.name: array for array in run.agreed.arrays}
        for name, row, *_ in self._tasks.waiting(run.state.run):
            array = arrays[name]
            account = accounts.get(array.spec.name)
            if account is None or not account.blocks["delivered"]:
                continue
            if array.spec.steps.step(array.layout.bounds(0, row)[1] - 1) <= last:
                return True
        return False

    # -- failure -----------------------------------------------------------------------

    def fail(
        self, run: CoordinatedRun, who: str, what: str, cause: str, policy: str | None = None
    ) -> None:
        """Fail the run, whatever its components answer; later causes are only noted.

        A simulation that may be left out does not fail its run.
        """
        if run.settings.get("leave_out") and who not in ("analysis", "analytics"):
            self._leave_out(run, who, what, cause)
            return
        first = run.state.phase != "failed"
        run.state.fail(who, what, cause)
        if first:
            logger.error("Run %s failed: %s %s: %s", run.state.run, who, what, cause)
            if run.has_tasks:
                error = AnalyticsLost if who == "analysis" else SimulationLost
                text = f"{who} {what}: {cause}"
                if policy is None:  # else it has not ended: what it says of itself is wrong
                    text = f"{run.state.ending(run.settings.get('n_steps'))}: {text}"
                self._tasks.fail_remaining(run.state.run, error(text))
            if (
                who == "analysis"
                and not run.answered
                and run.settings.get("on_analytics_loss") == "continue"
            ):
                self._continue_alone(run)
            self._outbox.send(run, SendFault(f"{who} {what}: {cause}", policy))
            self._outbox.send(run, ReleaseRanks())
            self.retire_if_over(run)
        run.notify()

    # -- without the simulation --------------------------------------------------------

    def _leave_out(self, run: CoordinatedRun, who: str, what: str, cause: str) -> None:
        """Go on without the simulation: what it has not delivered will be NaN.

        Chunks may be on their way. The workers drop those that are complete after this, and say
        when all that came before is announced, so that no chunk is filled that has come.
        """
        if run.state.left_out is not None or run.over:
            if what != "lost":  # which is noted already
                run.state.fault(who, what, cause)
            return
        logger.error("Run %s is left out: %s %s: %s", run.state.run, who, what, cause)
        run.state.leave_out(who, what, cause)
        self._outbox.send(run, SendFault(f"{who} {what}: {cause}", None))
        self._outbox.send(run, DropChunks())
        self._outbox.send(run, ReleaseRanks())
        if run.graph_is_there:
            self.committed(run)
        run.notify()

    def committed(self, run: CoordinatedRun) -> None:
        """The graph of a run is registered; its simulation may have failed before."""
        if run.state.left_out is not None:
            if not run.answered:  # the workers need the contract
                self._placer.answer(run)
            self._flush(run)

    def fill(self, run: CoordinatedRun, keys: list[Any] | None = None) -> None:
        """Put NaN for chunks of a simulation that is left out; for all that wait by default."""
        if keys is None:
            keys = self._tasks.waiting(run.state.run) if run.has_tasks else []
        self._resolve(run, keys, missing=True)

    def _continue_alone(self, run: CoordinatedRun) -> None:
        """The analysis failed while the ranks waited for a contract: send one without arrays."""
        if run.contract is None:
            run.agree(Contract(run.state.run, ()))
        self._placer.answer(run)

    def give_up(self, run: CoordinatedRun, keys: list[Any]) -> None:
        """Err chunks that were lost with their worker when no rank is left to send them again."""
        self._tasks.fail(keys, self._lost_with_worker(run))

    def _lost_with_worker(self, run: CoordinatedRun) -> Callable[[Any], SimulationLost]:
        """Return what makes the error of a chunk that has been there."""
        arrays = {array.name: array for array in run.agreed.arrays}
        ending = run.state.ending(run.settings.get("n_steps"))

        def failure(key: Any) -> SimulationLost:
            array = arrays[key[0]]
            where = describe_chunk(array, array.layout.ravel(key[1:]))
            return SimulationLost(
                f"array {array.spec.name!r}, {where}: lost with its worker, and cannot be sent "
                f"again: {ending}"
            )

        return failure

    def give_up_passed(self, run: CoordinatedRun, first: int) -> None:
        """Err the chunks all steps of which are below the first one that is still to come."""
        arrays = {array.name: array for array in run.agreed.arrays}

        def last_of(key: Any) -> int:
            array = arrays[key[0]]
            return array.spec.steps.step(array.layout.bounds(0, key[1])[1] - 1)

        def failure(key: Any) -> StepPassed:
            array = arrays[key[0]]
            where = describe_chunk(array, array.layout.ravel(key[1:]))
            return StepPassed(f"array {array.spec.name!r}, {where}: passed before it was asked for")

        waiting = self._tasks.waiting(run.state.run)
        self._tasks.fail([key for key in waiting if last_of(key) < first], failure)

    # -- after the end -----------------------------------------------------------------

    def retire_if_over(self, run: CoordinatedRun) -> None:
        """Have the receivers closed, once nothing needs them any more.

        A rank that counts as lost may only be cut off: as long as it tries to reconnect, the
        receivers stay, so that it gets the reason of the end.
        """
        if run.retiring or not run.over or not run.analysis_over or not run.state.simulation_over:
            return
        if run.settings.get("launches") and not run.closed and launches.goes_on(run):
            return  # the ranks of the next launch learn here that nothing is analysed any more
        run.retiring = True
        if run.state.lost_ranks:
            connect = run.settings["deadlines"]["connect"]
            self._tasks.scheduler.loop.call_later(connect, self.close_receivers, run)
        else:
            self.close_receivers(run)

    def close_receivers(self, run: CoordinatedRun) -> None:
        """Have the receivers of a run closed; idempotent."""
        if run.retired:
            return
        run.retiring = run.retired = True
        run.departing = set(run.workers)
        self._outbox.send(run, Retire(RETIRE_LIMIT))
        if not run.departing:
            self._retire(run)

    def ranks_left(self, run: CoordinatedRun, worker: str) -> None:
        """No rank is connected to the receiver of a worker, or the worker is gone."""
        if worker in run.departing:
            run.departing.discard(worker)
            if not run.departing:
                self._retire(run)


def describe_chunk(array: ArrayContract, chunk: int) -> str:
    """Return the steps and the index of a chunk, for messages."""
    index = array.layout.unravel(chunk)
    first, stop = array.layout.bounds(0, index[0])
    steps = [array.spec.steps.step(i) for i in (first, stop - 1)]
    span = f"step {steps[0]}" if steps[0] == steps[1] else f"steps {steps[0]} to {steps[1]}"
    return f"{span}, chunk {index}"
