"""Calls of the workflow, the IPS components: launches, the end, progress, the live page."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from ips_components.coordination import launches
from ips_components.coordination.attaching import Attaching
from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.ending import Ending
from ips_components.coordination.gaps import furthest_behind
from ips_components.coordination.live_page import LivePage
from ips_components.coordination.messages import (
    CHECKPOINT_TOPIC,
    Abort,
    AwaitEnd,
    AwaitQuiet,
    AwaitReceivers,
    BeginLaunch,
    EndLaunch,
    EndSimulation,
    GetProgress,
    GetRecord,
    GetTerms,
    GetTimes,
    OpenLivePage,
    ReleaseRanks,
    ShowPicture,
    TakeCheckpoint,
    TakePublished,
)
from ips_components.coordination.outbox import Outbox
from ips_components.coordination.progress import Progress
from ips_components.coordination.published import is_quiet
from ips_components.coordination.window_saves import NO_CHECKPOINT
from ips_components.deadlines import Deadline
from ips_components.errors import ContractError, DeadlineExceeded

#: Seconds between two looks whether the scheduler has work.
_POLL = 0.05
#: Seconds after which the windows are asked again for their state.
_AGAIN = 1.0


class WorkflowCalls:
    """Answers the workflow around a run.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    outbox : Outbox
    progress : Progress
    ending : Ending
    attaching : Attaching
    open_page : callable
        ``open_page(run, call)`` opens the live page.
    """

    def __init__(
        self,
        scheduler: Any,
        outbox: Outbox,
        progress: Progress,
        ending: Ending,
        attaching: Attaching,
        open_page: Callable[[CoordinatedRun, OpenLivePage], LivePage],
    ) -> None:
        self._attaching = attaching
        self._scheduler = scheduler
        self._outbox = outbox
        self._progress = progress
        self._ending = ending
        self._open_page = open_page

    async def receivers(self, run: CoordinatedRun, call: AwaitReceivers) -> list[dict[str, Any]]:
        # Receivers that have died since have been replaced, or the others do their work.
        await run.until(
            lambda: run.workers and len(run.state.endpoints) >= call.n,
            call.timeout,
            f"{call.n} receivers ({len(run.workers)} are there)",
        )
        return run.open_endpoints()

    async def begin_launch(self, run: CoordinatedRun, call: BeginLaunch) -> tuple[int, int]:
        """Begin another launch; its number, and the step at which it goes on."""
        if call.group:
            await _turn(run, call)
        record = launches.join(run, call.size, call.group)
        if record is None:
            record = launches.begin(run, call.size, call.group)
            record.time = call.time
            self._attaching.begin_launch(run, record)  # first: workers answer in this order
            run.notify()
            run.expecting = set(run.workers)
            self._outbox.send(run, record.message(run.settings.get("launches", {})))
            if run.over:  # nothing is awaited of ranks that go on alone
                self._outbox.send(run, ReleaseRanks())
        await run.until(
            lambda: not run.expecting,
            run.settings["deadlines"]["connect"],
            f"the workers {', '.join(sorted(run.expecting))} to expect launch {record.number}",
        )
        return record.number, record.first_step

    async def end_launch(self, run: CoordinatedRun, call: EndLaunch) -> bool:
        """End a launch; if its program ended well, all of its ranks have closed by now."""
        if call.group and not launches.leave(run, call.launch, call.group, call.ok):
            return True
        if call.silent and not run.state.ranks and not run.over:
            launches.forget(run)
            run.notify()
            return False
        if call.ok:
            # Goodbyes travel through other processes than the program's exit status.
            with contextlib.suppress(DeadlineExceeded):
                await run.until(
                    lambda: launches.has_closed(run),
                    run.settings["deadlines"]["drain"],
                    "the ranks to close their bridges",
                )
        wrong = launches.end(run, call.launch, call.ok)
        self._attaching.end_launch(run, run.launches[-1])
        run.notify()
        if wrong:
            self._ending.fail(run, "simulation", "ended wrongly", wrong)
            raise ContractError(wrong)
        if not call.ok and not call.again:
            self._ending.fail(run, "simulation", "failed", f"launch {call.launch} failed")
        return True

    async def end_simulation(self, run: CoordinatedRun, call: EndSimulation) -> None:
        """Launch nothing any more; idempotent."""
        if run.closed or not run.settings.get("launches"):
            return
        run.closed = True
        self._attaching.close(run)
        if not run.launches:
            why = "no launch has begun in this run"
            self._ending.fail(run, "simulation", "was never launched", why)
        elif not run.over:
            self._ending.ranks_closed(run)
        self._ending.retire_if_over(run)
        run.notify()

    async def published(
        self, run: CoordinatedRun, call: TakePublished
    ) -> list[tuple[int, bytes, float]]:
        """What was published, each with its step and the step's physical time (nan: unknown)."""
        taken = run.published.take()
        known = launches.times(run).of(step for step, _ in taken).tolist()
        return [(step, values, t) for (step, values), t in zip(taken, known, strict=True)]

    async def times(self, run: CoordinatedRun, call: GetTimes) -> dict[str, Any]:
        """Physical times; how many steps a launch has is known at its end."""
        with contextlib.suppress(DeadlineExceeded):
            await run.until(
                lambda: run.over or not launches.is_under_way(run),
                run.settings["deadlines"]["drain"],
                "the launch to end",
            )
        return launches.times(run).to_plain()

    async def quiet(self, run: CoordinatedRun, call: AwaitQuiet) -> None:
        deadline = Deadline(call.timeout)
        while not is_quiet(self._scheduler, run.awaited):
            run.raise_if_failed()
            deadline.raise_if_expired(
                f"run {run.state.run}: what depends on the data put until now was not computed "
                f"within {call.timeout:g} s (STEP_TIME_OUT)"
            )
            await asyncio.sleep(_POLL)  # Dask has no signal for a scheduler without work

    async def checkpoint(self, run: CoordinatedRun, call: TakeCheckpoint) -> dict[str, Any]:
        """Have the windows save their state, with all data until now.

        Returns
        -------
        dict
            ``first_step``, ``first_launch``, ``published`` for the settings of the run that goes
            on, and ``windows``: whether there is a state of windows.
        """
        deadline = Deadline(call.timeout)
        run.raise_if_failed()
        position = launches.position(run)
        if run.contract is not None and not run.with_windows:
            raise ContractError(NO_CHECKPOINT)
        if not run.launches:
            return {**position, "windows": False}
        await self.quiet(run, AwaitQuiet(call.timeout))
        number = run.windows.ask()
        request = {"number": number, "first_step": position["first_step"]}
        while not run.windows.answered(number):
            run.raise_if_failed()
            deadline.raise_if_expired(
                f"run {run.state.run}: the windows of the analysis did not save their state "
                f"within {call.timeout:g} s (STEP_TIME_OUT); they do so while the analysis waits "
                "for the next one: functions given to run.rolling must return lazy values, not "
                "compute"
            )
            # Again and again, since a subscription takes its time.
            self._scheduler.log_event(CHECKPOINT_TOPIC + run.state.run, request)
            with contextlib.suppress(DeadlineExceeded):
                await run.until(
                    lambda: run.windows.answered(number) or run.over, _AGAIN, "the windows"
                )
        if run.windows.wrong:
            raise ContractError(run.windows.wrong)
        return {**position, "windows": True}

    async def abort(self, run: CoordinatedRun, call: Abort) -> None:
        """Fail what waits, and send the cause to the ranks."""
        if call.who == "analysis":
            run.analysis_over = True
        behind = furthest_behind(run) if call.who == "simulation" else ""
        self._ending.fail(run, call.who, "failed", "; ".join(filter(None, [call.cause, behind])))

    async def ended(self, run: CoordinatedRun, call: AwaitEnd) -> dict[str, Any]:
        await run.until(
            lambda: run.state.simulation_over or run.state.phase == "failed",
            call.timeout,
            "the simulation's ranks to close their bridges",
        )
        return run.state.record()

    async def progress(self, run: CoordinatedRun, call: GetProgress) -> dict[str, Any]:
        return self._progress.progress(run)

    async def terms(self, run: CoordinatedRun, call: GetTerms) -> list[dict[str, Any]]:
        return self._progress.terms(run)

    async def record(self, run: CoordinatedRun, call: GetRecord) -> dict[str, Any]:
        return self._progress.record(run)

    async def live_page(self, run: CoordinatedRun, call: OpenLivePage) -> str:
        if run.page is None:
            run.page = self._open_page(run, call)
        return run.page.url

    async def picture(self, run: CoordinatedRun, call: ShowPicture) -> None:
        if run.page is not None:
            run.page.pictures.show(call.array, call.picture)


async def _turn(run: CoordinatedRun, call: BeginLaunch) -> None:
    """Wait until no launch is under way, or this is one of its ranks.

    Many tasks may come before: the deadline is for a time without progress of theirs.
    """

    def free() -> bool:
        return not launches.is_under_way(run) or _may_join(run, call)

    def progress() -> tuple[Any, ...]:
        return run.state.newest_step, len(run.launches), run.state.signs

    while not free():
        seen = progress()

        def turned(seen: tuple[Any, ...] = seen) -> bool:
            return free() or seen != progress()

        await run.until(
            turned,
            call.timeout,
            "a step or the end of the launch before this one: the tasks of a pool are launched "
            "one after another, unless each is one of as many ranks",
        )


def _may_join(run: CoordinatedRun, call: BeginLaunch) -> bool:
    record = run.launches[-1]
    return record.group == call.group and record.size == call.size > record.members
