"""What the analysis and the IPS components ask of the coordinator.

Each ``_call_<method>`` answers ``client.scheduler.external_run(method=..., run=..., ...)``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any

from tornado.ioloop import PeriodicCallback

from ips_components.coordination import launches
from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.live_page import open_live_page
from ips_components.coordination.published import is_quiet
from ips_components.coordination.task_counts import task_counts
from ips_components.errors import ContractError, DeadlineExceeded
from ips_components.model.contract import ArrayContract, Contract

_POLL = 0.05


class Calls:
    """The part of a `RunCoordinator` that answers calls; the runs belong to the coordinator."""

    scheduler: Any
    tasks: Any
    _tell: Callable[..., None]
    _fail: Callable[..., None]
    _simulation_over: Callable[[CoordinatedRun], None]
    _lookout: PeriodicCallback

    async def _call_open(self, run: CoordinatedRun, settings: dict[str, Any]) -> dict[str, Any]:
        """An analysis starts, or starts again after its worker died."""
        run.settings = settings
        run.state.attempts += 1
        if settings.get("task_log"):
            self._log_into(run, settings["task_log"])
        if not self._lookout.is_running():
            self._lookout.start()
        return {"results": run.results, "outcome": run.outcome}

    def _log_into(self, run: CoordinatedRun, path: str) -> None:
        try:
            self.tasks.log.write_to(path, group=run.state.run)
        except OSError as error:  # a run is worth more than its log
            run.state.fault("scheduler", "cannot write", f"{path}: {error.strerror}")

    async def _call_receivers(
        self, run: CoordinatedRun, n: int, timeout: float
    ) -> list[dict[str, Any]]:
        # Who has died since has been replaced, or the others do its work.
        await run.until(
            lambda: run.workers and len(run.state.endpoints) >= n,
            timeout,
            f"{n} receivers ({len(run.workers)} are there)",
        )
        return [run.state.endpoints[ordinal] for ordinal in sorted(run.workers.values())]

    async def _call_described(self, run: CoordinatedRun, timeout: float) -> list[dict[str, Any]]:
        await self._first_launch(run)
        return await run.until(
            lambda: run.state.described or self._raise_if_failed(run),
            timeout,
            "rank 0 of the simulation to describe its arrays (neither the config nor "
            "the simulation has done so)",
        )

    async def _first_launch(self, run: CoordinatedRun) -> None:
        """Wait until the workflow launches the simulation, which may be long after the start."""
        while run.settings.get("launches") and not (run.launches or run.closed):
            self._raise_if_failed(run)
            await run.changed.wait()

    async def _call_contract(self, run: CoordinatedRun, blob: bytes, ahead: bool = False) -> int:
        """Declare the external tasks of a contract.  Idempotent for the same contract.

        With `ahead`, tasks are declared piecemeal by ``declare_ahead``: nobody knows how many
        steps there will be.
        """
        self._raise_if_failed(run)
        contract = Contract.from_bytes(blob)
        if run.contract is not None:
            again = f"run {run.state.run}: the analysis was started again after its worker died"
            if ahead:
                raise ContractError(f"{again}; one that works with windows cannot be resumed")
            if run.contract.digest() == contract.digest():
                return 0
            raise ContractError(
                f"{again} and now asks for something else than its first contract; make the "
                "analysis deterministic so that it can be resumed"
            )
        run.agree(contract, blob)
        run.state.ledger.declare(array.spec.name for array in contract.arrays)
        declared = 0
        run.ahead = ahead
        for array in () if ahead else contract.arrays:
            declared += self.tasks.declare(
                array.name,
                array.layout.numblocks,
                array.needed,
                group=run.state.run,
                on_event=self._task_event,
            )
        run.state.phase = "contracted"
        run.notify()
        return declared

    async def _call_committed(
        self,
        run: CoordinatedRun,
        keys: list[Any],
        timeout: float,
        hold: bool = False,
        names: Iterable[str] = (),
    ) -> None:
        """The graph is on its way: hold its results, let the external chunks go, tell the ranks.

        Results are held by a client of the run's own, so that they survive the death of the
        worker that runs the analysis, which finds them by their `names` when it runs again.
        With `hold`, the external chunks stay held as well: for programs that submit their graphs
        piecemeal.
        """
        run.graph_keys = {key for key in keys if key not in self.scheduler.tasks}
        await run.until(
            lambda: not run.graph_keys - self.scheduler.tasks.keys(),
            timeout,
            f"the scheduler to register the graph of {len(keys)} results",
        )
        run.graph_keys = None
        run.results = dict(zip(names, keys, strict=False))
        self.scheduler.client_desires_keys(keys=keys, client=run.holder)
        if not hold and run.has_tasks:
            self.tasks.let_go(run.state.run)
        if run.state.phase == "contracted":
            run.state.phase = "running"
            if run.asked:
                self._answer(run)
        run.notify()

    async def _call_declare_ahead(
        self, run: CoordinatedRun, array: int, first: int, stop: int
    ) -> None:
        """Declare the tasks of some time indices, then let the receivers take their data."""
        keys, last_row = _keys_between(self._contract(run).arrays[array], first, stop)
        self.tasks.declare_keys(keys, group=run.state.run, on_event=self._task_event)
        run.horizon = {**run.horizon, array: last_row}
        self._tell(run, {"action": "horizon", "array": array, "rows": last_row})

    async def _call_let_go_steps(
        self, run: CoordinatedRun, array: int, first: int, stop: int
    ) -> None:
        keys, _ = _keys_between(self._contract(run).arrays[array], first, stop)
        self.tasks.let_go_keys(keys)

    async def _call_release(self, run: CoordinatedRun, keys: list[Any]) -> None:
        """Leave single chunks to the graphs that need them."""
        self.tasks.let_go_keys([tuple(key) for key in keys])

    async def _call_check(self, run: CoordinatedRun) -> None:
        self._raise_if_failed(run)

    async def _call_begin_launch(self, run: CoordinatedRun, size: int) -> tuple[int, int]:
        """Another launch begins; its number, and the step at which it goes on."""
        record = launches.begin(run, size)
        run.notify()
        run.expecting = set(run.workers)
        self._tell(run, record.message(run.settings.get("launches", {})))
        await run.until(
            lambda: not run.expecting,
            run.settings["deadlines"]["connect"],
            f"the workers {', '.join(sorted(run.expecting))} to expect launch {record.number}",
        )
        return record.number, record.first_step

    async def _call_end_launch(
        self, run: CoordinatedRun, launch: int, ok: bool, again: bool = False
    ) -> None:
        """The program of a launch has ended; with `ok` all of its ranks have closed by now.

        With `again`, one that has failed is launched again.
        """
        if ok and run.state.phase not in ("ended", "failed"):
            # Goodbyes travel through other processes than the program's exit status.
            with contextlib.suppress(DeadlineExceeded):
                await run.until(
                    lambda: run.idle or run.state.phase == "failed" or not run.state.ranks,
                    run.settings["deadlines"]["drain"],
                    "the ranks to close their bridges",
                )
        wrong = launches.end(run, launch, ok)
        if wrong:
            self._fail(run, "simulation", "ended wrongly", wrong)
            raise ContractError(wrong)
        if not ok and not again:
            self._fail(run, "simulation", "failed", f"launch {launch} failed")
        run.notify()

    async def _call_end_simulation(self, run: CoordinatedRun) -> None:
        """Nothing will be launched any more; idempotent."""
        if run.closed or not run.settings.get("launches"):
            return
        run.closed = True
        if not run.launches:
            self._fail(run, "simulation", "was never launched", "no launch has begun in this run")
        elif run.state.phase not in ("ended", "failed"):
            self._simulation_over(run)
        run.notify()

    async def _call_publish(self, run: CoordinatedRun, step: int, values: bytes) -> None:
        """Keep values of the analysis until the workflow takes them."""
        run.published.add(step, values)

    async def _call_published(self, run: CoordinatedRun) -> list[tuple[int, bytes]]:
        """Return what was published since the last call."""
        return run.published.take()

    async def _call_awaits(self, run: CoordinatedRun, keys: list[Any]) -> None:
        """The analysis waits for one of these results."""
        run.awaited = keys

    async def _call_quiet(self, run: CoordinatedRun, timeout: float) -> None:
        """Wait until all that depends only on data which have come is computed."""
        deadline = time.monotonic() + timeout
        while not is_quiet(self.scheduler, run.awaited):
            self._raise_if_failed(run)
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"run {run.state.run}: what depends on the data put until now was not computed "
                    f"within {timeout:g} s (STEP_TIME_OUT)"
                )
            await asyncio.sleep(_POLL)  # Dask has no signal for a scheduler without work

    async def _call_results_done(
        self, run: CoordinatedRun, outcome: dict[str, Any] | None = None
    ) -> None:
        """The analysis has all it will ever get; nothing needs to be held any more."""
        run.outcome = outcome
        if run.holder in self.scheduler.clients:
            self.scheduler.remove_client(run.holder)

    async def _call_feedback(self, run: CoordinatedRun, message: dict[str, Any]) -> None:
        self._tell(run, {"action": "feedback", "message": message})

    async def _call_stop(self, run: CoordinatedRun, reason: str) -> None:
        """End the simulation early and cleanly: the analysis has what it wants."""
        run.state.stop_reason = reason
        self._tell(run, {"action": "stop", "reason": reason})

    async def _call_abort(self, run: CoordinatedRun, who: str, cause: str) -> None:
        """The run cannot succeed any more: fail what waits and tell the ranks why."""
        self._fail(run, who, "failed", cause)

    async def _call_ended(self, run: CoordinatedRun, timeout: float) -> dict[str, Any]:
        """Wait until every rank has said goodbye, or the run has failed."""
        await run.until(
            lambda: run.state.simulation_over or run.state.phase == "failed",
            timeout,
            "the simulation's ranks to close their bridges",
        )
        return run.state.record()

    async def _call_progress(self, run: CoordinatedRun) -> dict[str, Any]:
        return self.progress(run.state.run)

    async def _call_live_page(self, run: CoordinatedRun, token: str, host: str, port: int) -> str:
        """Open the live page; its address.  A second call returns the first one's page."""
        if run.page is None:
            run.page = open_live_page(self.scheduler, self, run.state.run, token, host, port)
        return run.page.url

    async def _call_terms(self, run: CoordinatedRun) -> list[dict[str, Any]]:
        """The table of the contract; empty as long as there is none."""
        return run.contract.table() if run.contract is not None else []

    async def _call_record(self, run: CoordinatedRun) -> dict[str, Any]:
        if run.settings.get("task_log"):
            self.tasks.log.flush()
        rows = await self._call_terms(run)
        launched = [record.to_json() for record in run.launches]
        more = {"launches": launched} if launched else {}
        return {
            **run.state.record(),
            **more,
            "states": self._states(run),
            "contract": {"arrays": rows},
        }

    def progress(self, name: str) -> dict[str, Any]:
        """How far a run is, for the terminal and the live page."""
        run = self._run(name)
        return {
            **run.state.progress(),
            "joining": self._are_joining(run),
            "launch": run.launches[-1].number if run.launches else None,
            "lost": dict(run.state.lost_ranks),
            "fatal": None if run.state.fatal is None else run.state.fatal.to_json(),
            "n_steps": run.settings.get("n_steps"),
            "tasks": task_counts(self.scheduler),
            "states": self._states(run),
        }

    def _are_joining(self, run: CoordinatedRun) -> bool:
        """Whether ranks still come for their contract after the analysis has failed."""
        fatal = run.state.fatal
        failed = fatal is not None and fatal.who == "analysis"
        return failed and len(run.joined) != run.state.n_ranks


def _keys_between(array: ArrayContract, first: int, stop: int) -> tuple[list[Any], int]:
    """Keys of the chunks with time indices ``first .. stop - 1``, and the row after them."""
    rows = array.layout.chunk_of(0, first), array.layout.chunk_of(0, stop - 1) + 1
    return [array.key(int(chunk)) for chunk in array.needed_ids(*rows)], rows[1]
