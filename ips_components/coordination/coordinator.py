"""The run coordinator: the one place that knows a coupled run while it runs.

It lives in the scheduler process beside :class:`~._tasks.ExternalTasks`, because the
scheduler outlives every worker.  Receivers report to it over Dask's own worker streams
(op ``external-run``), the analysis and the IPS components ask it over Dask's own RPC
(handler ``external_run``), and it tells the receivers what the ranks must know.

::

    receiver --event--> coordinator --action--> receivers --> ranks
    analysis --call --> coordinator --declare/fail--> external tasks
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.ioloop import PeriodicCallback

from ips_components.coordination.calls import Calls
from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.launches import whole_axis
from ips_components.coordination.placement import Replanning
from ips_components.coordination.step_report import StepReport
from ips_components.coordination.watchdog import INTERVAL, missing_ranks, patience, silent_workers
from ips_components.errors import (
    AnalyticsLost,
    ContractError,
    ExternalTaskError,
    GeometryError,
    SimulationLost,
)
from ips_components.external._compat_groups import forget_groups
from ips_components.model.block import Block
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.decomposition import Decomposition

logger = logging.getLogger(__name__)

#: Op of the worker streams in both directions.
STREAM_OP = "external-run"
#: Name of the RPC handler on the scheduler.
RPC = "external_run"


class RunCoordinator(Calls, Replanning, SchedulerPlugin):
    """Scheduler-side companion of the external tasks: runs, contracts, placement, ledger.

    Parameters
    ----------
    tasks : ExternalTasks
        The external tasks of this scheduler.
    """

    name = "ips-components-runs"

    def __init__(self, tasks: Any) -> None:
        self.tasks = tasks
        self.scheduler = tasks.scheduler
        self.runs: dict[str, CoordinatedRun] = {}
        self.scheduler.handlers[RPC] = self.call
        self.scheduler.stream_handlers[STREAM_OP] = self.event
        self.scheduler.add_plugin(self, name=self.name)
        self._lookout = PeriodicCallback(self._look, 1000 * INTERVAL)

    async def close(self) -> None:
        """Called by the scheduler when it ends."""
        self._lookout.stop()
        for run in self.runs.values():
            if run.page is not None:
                await run.page.close()

    # -- calls from the analysis and from the IPS components ---------------------------

    async def call(self, method: str, run: str, **arguments: Any) -> Any:
        """RPC entry: ``await client.scheduler.external_run(method=..., run=..., ...)``."""
        handler = getattr(self, f"_call_{method}", None)
        if handler is None:
            raise ValueError(f"external_run has no method {method!r}")
        return await handler(self._run(run), **arguments)

    # -- events from the receivers -----------------------------------------------------

    def event(self, worker: str, event: str, run: str, **info: Any) -> None:
        """Stream entry: one event of one receiver."""
        handler = getattr(self, f"_event_{event}", None)
        if handler is None:
            logger.error("Unknown event %r from the receiver of %s", event, worker)
            return
        record = self._run(run)
        try:
            handler(record, worker, **info)
        finally:
            record.notify()

    def _event_open(
        self,
        run: CoordinatedRun,
        worker: str,
        endpoint: Mapping[str, Any],
        settings: dict[str, Any] | None = None,
    ) -> None:
        if settings and not run.state.attempts:  # no analysis has said more yet
            run.settings = settings
        ordinal = len(run.state.endpoints)
        run.workers[worker] = ordinal
        run.state.endpoints[ordinal] = {
            **endpoint,
            "ordinal": ordinal,
            "receiver": ordinal,
            "address": worker,
        }
        if run.answered:
            self._tell_contract(run, [worker])
            if run.state.phase == "running":
                self._share(run, ordinal)
        if run.launches:
            self._tell(run, run.launches[-1].message(run.settings["launches"]), [worker])
        if run.state.phase in ("ended", "failed"):
            self._tell(run, {"action": "let_leave"}, [worker])

    def _event_described(
        self, run: CoordinatedRun, worker: str, arrays: list[dict[str, Any]]
    ) -> None:
        if run.state.described is None:
            launches = run.settings.get("launches", {})
            try:
                run.state.described = [whole_axis(array, launches) for array in arrays]
            except ContractError as error:
                self._fail(run, "simulation", "contradicts its config", str(error), policy="abort")

    def _event_hello(
        self, run: CoordinatedRun, worker: str, rank: int, info: Mapping[str, Any]
    ) -> None:
        run.state.hello(rank, info)
        if not info["asks"]:
            run.joined.add(rank)
        elif not run.asked:
            run.asked, run.hosts = True, info["hosts"]
            if run.state.phase == "running":
                self._answer(run)
        for name, blocks in info["blocks"].items():
            self._event_blocks(run, worker, rank, name, blocks)

    def _event_blocks(
        self, run: CoordinatedRun, worker: str, rank: int, name: str, blocks: Any
    ) -> None:
        run.blocks.setdefault(name, {})[rank] = tuple(
            Block(tuple(offset), tuple(shape)) for offset, shape in blocks
        )
        self._check_tiling(run, name)

    def _check_tiling(self, run: CoordinatedRun, name: str) -> None:
        """When all ranks have said what they hold: every cell must belong to exactly one block."""
        blocks = run.blocks[name]
        if run.contract is None or len(blocks) != run.state.n_ranks:
            return
        spec = run.contract[name].spec
        try:
            by_rank = tuple(blocks[rank] for rank in range(len(blocks)))
            Decomposition(spec.shape, by_rank).validate(name)
        except GeometryError as error:
            self._fail(run, "simulation", "described wrong blocks", str(error), policy="abort")

    def _event_steps(self, run: CoordinatedRun, worker: str, report: Mapping[str, Any]) -> None:
        run.state.step_ends(StepReport.from_message(report))

    def _event_bye(
        self, run: CoordinatedRun, worker: str, rank: int, info: Mapping[str, Any]
    ) -> None:
        run.state.bye(rank, info["status"], info["counters"], info.get("last_step", -1))
        if info["status"] != "ok":
            if self._is_retried(run):
                run.state.fault(f"rank {rank}", "ended with an error", info["reason"])
                return
            self._fail(run, f"rank {rank}", "ended with an error", info["reason"])
        elif run.state.phase in ("ended", "failed"):
            self._tell(run, {"action": "let_leave"})
        elif run.state.simulation_over:
            self._simulation_over(run)

    def _event_lost(self, run: CoordinatedRun, worker: str, rank: int, why: str) -> None:
        if run.state.rank_lost(rank, why) and not self._is_retried(run):
            self._fail(run, f"rank {rank}", "lost", why)

    def _is_retried(self, run: CoordinatedRun) -> bool:
        """Whether a launch that fails is launched again, so that its ranks may die."""
        return bool(run.settings.get("launches", {}).get("retry")) and run.between_launches

    def _event_launch_expected(self, run: CoordinatedRun, worker: str, launch: int) -> None:
        if run.launches and run.launches[-1].number == launch:
            run.expecting.discard(worker)

    def _event_missing(
        self, run: CoordinatedRun, worker: str, array: int, chunk: int, rank: int, why: str
    ) -> None:
        """A chunk will stay incomplete: dropped by policy, or too old for a replay buffer."""
        contract = self._contract(run).arrays[array]
        text = (
            f"array {contract.spec.name!r}, {_where(contract, chunk)}: "
            f"the part of rank {rank} will not come: {why}"
        )
        run.state.fault(f"worker {worker}", "chunk lost", text)
        self.tasks.fail([contract.key(chunk)], ExternalTaskError(text))

    def _event_note(self, run: CoordinatedRun, worker: str, text: str) -> None:
        run.state.fault(f"receiver on {worker}", "reports", text)

    def _event_sample(self, run: CoordinatedRun, worker: str, sample: dict[str, Any]) -> None:
        run.state.sample({"worker": worker, **sample})

    # -- events from Dask --------------------------------------------------------------

    def update_graph(self, scheduler: Any, **kwargs: Any) -> None:
        for run in self.runs.values():
            if run.graph_keys is not None:
                run.notify()

    def remove_worker(self, scheduler: Any, worker: str, **kwargs: Any) -> None:
        for run in self.runs.values():
            ordinal = run.workers.pop(worker, None)
            run.expecting.discard(worker)
            if ordinal is None or run.state.phase in ("ended", "failed"):
                continue
            run.state.fault(f"worker {worker}", "lost", "left the Dask cluster")
            if not run.workers:
                self._fail(run, "analytics", "lost", "the last Dask worker is gone")
            elif run.answered:
                self._replan(run)
                self._event_flushed(run, worker)
            run.notify()

    async def _look(self) -> None:
        """Give up the workers and ranks that give no sign of life."""
        now = time.time()
        for run in list(self.runs.values()):
            if run.state.phase == "failed":
                continue
            if run.ahead:
                forget_groups(self.scheduler)
            deadlines = run.settings["deadlines"]
            for rank in missing_ranks(run.state, deadlines["connect"], now):
                why = f"it said no hello within {deadlines['connect']:g} s of the first rank"
                self._event_lost(run, "", rank, why)
            limit = patience(deadlines)
            for worker, seconds in silent_workers(
                self.scheduler.workers, list(run.workers), limit, now
            ):
                run.state.fault(f"worker {worker}", "silent", f"no heartbeat for {seconds:.0f} s")
                await self.scheduler.remove_worker(worker, stimulus_id=f"external-silent-{now}")

    def _task_event(self, kind: str, keys: list[Any], info: Mapping[str, Any]) -> None:
        """Observer of the external tasks: ask again for what was lost."""
        run = self.runs.get(info["group"])
        if run is None or run.contract is None:
            return
        if kind in ("in_memory", "erred"):
            run.again.difference_update(keys)
            self._conclude(run)
        elif kind == "released":
            self._note_analysed(run, keys)
        elif kind in ("lost", "wanted_again"):
            gone = keys
            if run.state.phase not in ("ended", "failed"):
                gone = [key for key in keys if self._is_of_earlier_launch(run, key)]
                self._ask_again(run, [key for key in keys if key not in gone])
            if gone:
                self._give_up(run, gone)
        run.notify()

    # -- internals ---------------------------------------------------------------------

    def _is_of_earlier_launch(self, run: CoordinatedRun, key: Any) -> bool:
        """Whether a chunk has steps of a launch whose ranks are not there any more."""
        if not run.launches:
            return False
        array = next(array for array in self._contract(run).arrays if array.name == key[0])
        first = array.spec.steps.step(array.layout.bounds(0, key[1])[0])
        return run.idle or first < run.launches[-1].first_step

    def _run(self, run: str) -> CoordinatedRun:
        if not isinstance(run, str) or not 0 < len(run) <= 200:
            raise ValueError(f"a run id is a short string, got {run!r}")
        if run not in self.runs:
            self.runs[run] = CoordinatedRun(run)
        return self.runs[run]

    def _contract(self, run: CoordinatedRun) -> Contract:
        if run.contract is None:
            raise ContractError(f"run {run.state.run} has no contract yet")
        return run.contract

    def _raise_if_failed(self, run: CoordinatedRun) -> None:
        fault = run.state.fatal
        if fault is not None:
            raise SimulationLost(f"{fault.who} {fault.what}: {fault.cause}")

    def _states(self, run: CoordinatedRun) -> dict[str, int]:
        return self.tasks.counts(run.state.run) if run.has_tasks else {}

    def _endpoints(self, run: CoordinatedRun) -> list[dict[str, Any]]:
        return [run.state.endpoints[ordinal] for ordinal in sorted(run.workers.values())]

    def _tell(
        self, run: CoordinatedRun, message: dict[str, Any], workers: Iterable[str] | None = None
    ) -> None:
        for worker in list(run.workers) if workers is None else workers:
            stream = self.scheduler.stream_comms.get(worker)
            if stream is not None:
                stream.send({"op": STREAM_OP, "run": run.state.run, **message})

    def _tell_contract(self, run: CoordinatedRun, workers: Iterable[str] | None = None) -> None:
        for worker in list(run.workers) if workers is None else workers:
            message = {
                "action": "contract",
                "ordinal": run.workers[worker],
                "blob": run.blob,
                "endpoints": self._endpoints(run),
                "horizon": list(run.horizon.items()) if run.ahead else None,
                "size": run.state.n_ranks,
            }
            self._tell(run, message, [worker])

    def _simulation_over(self, run: CoordinatedRun) -> None:
        """All ranks have closed: what the workers do not hold by now will never come.

        Goodbyes and chunks travel through different workers, so every worker is asked to
        answer after its last delivery before anything is given up.
        """
        run.flushing = set(run.workers)
        self._tell(run, {"action": "flush"})
        drain = run.settings["deadlines"]["drain"]
        self.scheduler.loop.call_later(drain, self._conclude, run, False)

    def _event_flushed(self, run: CoordinatedRun, worker: str) -> None:
        if worker in run.flushing:
            run.flushing.discard(worker)
            run.flushed = not run.flushing
            self._conclude(run)

    def _conclude(self, run: CoordinatedRun, in_time: bool = True) -> None:
        """Nothing more is on its way: what is missing will never come, and the ranks may go.

        If a worker has died, the ranks stay until they have sent again what died with it.
        """
        if not run.flushed or run.state.phase in ("ended", "failed"):
            return
        if in_time and self._still_to_come(run):
            return
        if run.between_launches:  # their data are here: these ranks may go, others will come
            if not run.idle:
                run.idle = True
                self._tell(run, {"action": "let_leave"})
                run.notify()
            return
        ending = run.state.ending(run.settings.get("n_steps"))
        reason = f"{ending} ({run.state.stop_reason})" if run.state.stop_reason else ending
        remaining = 0
        if run.has_tasks:
            remaining = self.tasks.fail_remaining(run.state.run, SimulationLost(reason))
        if remaining and not run.state.stop_reason and not run.ahead:
            self._fail(run, "simulation", "ended early", f"{ending}; {remaining} chunks never came")
        else:
            run.state.end()
            self._tell(run, {"action": "let_leave"})

    def _still_to_come(self, run: CoordinatedRun) -> bool:
        """Whether ranks are sending something again that they had put."""
        if not run.again:
            return False
        newest = -1 if run.state.newest_step is None else run.state.newest_step
        arrays = {array.name: array for array in self._contract(run).arrays}
        return any(
            arrays[key[0]].spec.steps.step(arrays[key[0]].layout.bounds(0, key[1])[0]) <= newest
            for key in run.again.intersection(self.tasks.waiting(run.state.run))
        )

    def _fail(
        self, run: CoordinatedRun, who: str, what: str, cause: str, policy: str | None = None
    ) -> None:
        first = run.state.phase != "failed"
        run.state.fail(who, what, cause)
        if first:
            logger.error("Run %s failed: %s %s: %s", run.state.run, who, what, cause)
            if run.has_tasks:
                error = AnalyticsLost if who == "analysis" else SimulationLost
                ending = run.state.ending(run.settings.get("n_steps"))
                self.tasks.fail_remaining(run.state.run, error(f"{ending}: {who} {what}: {cause}"))
            if (
                who == "analysis"
                and not run.answered
                and run.settings.get("on_analytics_loss") == "continue"
            ):
                self._let_them_go_on(run)
            text = f"{who} {what}: {cause}"
            self._tell(run, {"action": "fault", "text": text, "policy": policy})
            self._tell(run, {"action": "let_leave"})
        run.notify()

    def _let_them_go_on(self, run: CoordinatedRun) -> None:
        """The analysis failed while the ranks waited for a contract: theirs asks for nothing."""
        if run.contract is None:
            run.agree(Contract(run.state.run, ()))
        self._answer(run)

    def _give_up(self, run: CoordinatedRun, keys: list[Any]) -> None:
        """Chunks were lost with their worker, and nobody is left who could send them again."""
        arrays = {array.name: array for array in self._contract(run).arrays}
        ending = run.state.ending(run.settings.get("n_steps"))

        def failure(key: Any) -> SimulationLost:
            array = arrays[key[0]]
            where = _where(array, array.layout.ravel(key[1:]))
            return SimulationLost(
                f"array {array.spec.name!r}, {where}: lost with its worker, and cannot be sent "
                f"again: {ending}"
            )

        self.tasks.fail(keys, failure)

    def _ask_again(self, run: CoordinatedRun, keys: list[Any]) -> None:
        """Chunks were lost with their worker, or freed and wanted again: ask the ranks."""
        contract = self._contract(run)
        ordinals = {array.name: i for i, array in enumerate(contract.arrays)}
        chunks = []
        for name, *index in keys:
            ordinal = ordinals[name]
            chunks.append((ordinal, contract.arrays[ordinal].layout.ravel(index)))
        resend = self._by_owner(run, chunks)
        for worker, ordinal in run.workers.items():
            if ordinal in resend:
                self._tell(run, {"action": "resend", "chunks": resend[ordinal]}, [worker])

    def _note_analysed(self, run: CoordinatedRun, keys: list[Any]) -> None:
        """The last consumer of these chunks is done: their steps count as analysed."""
        contract = self._contract(run)
        arrays = {array.name: array for array in contract.arrays}
        for name, row, *_ in keys:
            array = arrays[name]
            first, stop = array.layout.bounds(0, row)
            for index in range(first, stop):
                run.state.analysed(array.spec.steps.step(index))


def _where(array: ArrayContract, chunk: int) -> str:
    index = array.layout.unravel(chunk)
    first, stop = array.layout.bounds(0, index[0])
    steps = [array.spec.steps.step(i) for i in (first, stop - 1)]
    span = f"step {steps[0]}" if steps[0] == steps[1] else f"steps {steps[0]} to {steps[1]}"
    return f"{span}, chunk {index}"
