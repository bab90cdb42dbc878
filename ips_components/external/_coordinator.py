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

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.ioloop import PeriodicCallback

from ips_components.errors import (
    AnalyticsLost,
    ContractError,
    DeadlineExceeded,
    ExternalTaskError,
    GeometryError,
    SimulationLost,
)
from ips_components.external._live import LivePage, open_live_page
from ips_components.external._replanning import Replanning
from ips_components.external._run_state import RunState
from ips_components.external._settings import DEADLINES
from ips_components.external._silence import INTERVAL, missing_ranks, patience, silent_workers
from ips_components.external._state import State
from ips_components.external._step_report import StepReport
from ips_components.external._task_counts import task_counts
from ips_components.model.block import Block
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.decomposition import Decomposition, dims_create
from ips_components.model.placement import Placement, affinity, place

logger = logging.getLogger(__name__)

#: Op of the worker streams in both directions.
STREAM_OP = "external-run"
#: Name of the RPC handler on the scheduler.
RPC = "external_run"


class _Run:
    """A run's state, with what the scheduler process adds: awaiting and addresses."""

    def __init__(self, run: str) -> None:
        self.state = RunState(run)
        self.changed = asyncio.Event()
        self.workers: dict[str, int] = {}  # address -> receiver ordinal, living ones
        self.contract: Contract | None = None
        self.blob = b""
        self.epoch = 0
        self.blocks: dict[str, dict[int, tuple[Block, ...]]] = {}  # array -> rank -> blocks
        self.graph_keys: set[Any] | None = None
        self.flushing: set[str] = set()
        self.flushed = False  # all ranks have said goodbye, and all that was on its way is there
        self.again: set[Any] = set()  # keys of chunks that ranks were asked to send again
        self.results: dict[str, Any] = {}  # keys of the results, once their graph is registered
        self.outcome: dict[str, Any] | None = None  # of the analysis
        self.asked = self.answered = False  # the ranks ask for the contract; they have got it
        self.joined: set[int] = set()  # ranks that have the contract
        self.hosts: list[Any] = []  # by rank: host, blocks by array
        self.cells: dict[str, Any] = {}
        self.ahead = False  # open-ended: what is declared reaches beyond the last step
        self.horizon: dict[int, int] = {}
        self.shared: dict[int, Placement] = {}  # by array: what newcomers have been given
        self.settings: dict[str, Any] = {"deadlines": DEADLINES}
        self.page: LivePage | None = None

    def notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def until(self, predicate: Callable[[], Any], timeout: float, awaited: str) -> Any:
        """Wait until `predicate` holds; DeadlineExceeded says who was `awaited`."""
        deadline = time.monotonic() + timeout
        while not (value := predicate()):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise DeadlineExceeded(
                    f"run {self.state.run}: waited {timeout:g} s for {awaited}; "
                    "see the simulation's and the workers' logs for the reason, "
                    "or raise the deadline in the config"
                )
            try:
                await asyncio.wait_for(self.changed.wait(), remaining)
            except TimeoutError:
                continue
        return value


class RunCoordinator(Replanning, SchedulerPlugin):
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
        self.runs: dict[str, _Run] = {}
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

    async def _call_open(self, run: _Run, settings: dict[str, Any]) -> dict[str, Any]:
        """An analysis starts, or starts again after its worker died."""
        run.settings = settings
        run.state.attempts += 1
        if not self._lookout.is_running():
            self._lookout.start()
        return {"results": run.results, "outcome": run.outcome}

    async def _call_receivers(self, run: _Run, n: int, timeout: float) -> list[dict[str, Any]]:
        # Who has died since has been replaced, or the others do its work.
        await run.until(
            lambda: run.workers and len(run.state.endpoints) >= n,
            timeout,
            f"{n} receivers ({len(run.workers)} are there)",
        )
        return [run.state.endpoints[ordinal] for ordinal in sorted(run.workers.values())]

    async def _call_described(self, run: _Run, timeout: float) -> list[dict[str, Any]]:
        return await run.until(
            lambda: run.state.described or self._raise_if_failed(run),
            timeout,
            "rank 0 of the simulation to describe its arrays (neither the config nor "
            "the simulation has done so)",
        )

    async def _call_contract(self, run: _Run, blob: bytes, ahead: bool = False) -> int:
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
        run.contract, run.blob = contract, blob
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
        run: _Run,
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
        self.scheduler.client_desires_keys(keys=keys, client=_holder(run))
        if not hold and _has_tasks(run):
            self.tasks.let_go(run.state.run)
        if run.state.phase == "contracted":
            run.state.phase = "running"
            if run.asked:
                self._answer(run)
        run.notify()

    async def _call_declare_ahead(self, run: _Run, array: int, first: int, stop: int) -> None:
        """Declare the tasks of some time indices, then let the receivers take their data."""
        keys, last_row = _keys_between(self._contract(run).arrays[array], first, stop)
        self.tasks.declare_keys(keys, group=run.state.run, on_event=self._task_event)
        run.horizon = {**run.horizon, array: last_row}
        self._tell(run, {"action": "horizon", "array": array, "rows": last_row})

    async def _call_let_go_steps(self, run: _Run, array: int, first: int, stop: int) -> None:
        keys, _ = _keys_between(self._contract(run).arrays[array], first, stop)
        self.tasks.let_go_keys(keys)

    async def _call_check(self, run: _Run) -> None:
        self._raise_if_failed(run)

    async def _call_results_done(self, run: _Run, outcome: dict[str, Any] | None = None) -> None:
        """The analysis has all it will ever get; nothing needs to be held any more."""
        run.outcome = outcome
        if _holder(run) in self.scheduler.clients:
            self.scheduler.remove_client(_holder(run))

    async def _call_feedback(self, run: _Run, message: dict[str, Any]) -> None:
        run.state.feedback.append(
            {"name": message["name"], "step": message["step"], "t": time.time()}
        )
        self._tell(run, {"action": "feedback", "message": message})

    async def _call_stop(self, run: _Run, reason: str) -> None:
        """End the simulation early and cleanly: the analysis has what it wants."""
        run.state.stop_reason = reason
        self._tell(run, {"action": "stop", "reason": reason})

    async def _call_abort(self, run: _Run, who: str, cause: str) -> None:
        """The run cannot succeed any more: fail what waits and tell the ranks why."""
        self._fail(run, who, "failed", cause)

    async def _call_ended(self, run: _Run, timeout: float) -> dict[str, Any]:
        """Wait until every rank has said goodbye, or the run has failed."""
        await run.until(
            lambda: run.state.simulation_over or run.state.phase == "failed",
            timeout,
            "the simulation's ranks to close their bridges",
        )
        return run.state.record()

    async def _call_progress(self, run: _Run) -> dict[str, Any]:
        return self.progress(run.state.run)

    async def _call_live_page(self, run: _Run, token: str, host: str, port: int) -> str:
        """Open the live page; its address.  A second call returns the first one's page."""
        if run.page is None:
            run.page = open_live_page(self.scheduler, self, run.state.run, token, host, port)
        return run.page.url

    async def _call_record(self, run: _Run) -> dict[str, Any]:
        rows = run.contract.table() if run.contract is not None else []
        return {**run.state.record(), "states": self._states(run), "contract": {"arrays": rows}}

    def progress(self, name: str) -> dict[str, Any]:
        """How far a run is, for the terminal and the live page."""
        run = self._run(name)
        return {
            **run.state.progress(),
            "joining": self._are_joining(run),
            "n_steps": run.settings.get("n_steps"),
            "tasks": task_counts(self.scheduler),
            "states": self._states(run),
        }

    def _are_joining(self, run: _Run) -> bool:
        """Whether ranks still come for their contract after the analysis has failed."""
        fatal = run.state.fatal
        failed = fatal is not None and fatal.who == "analysis"
        return failed and len(run.joined) != run.state.n_ranks

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
        run: _Run,
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
        if run.state.phase in ("ended", "failed"):
            self._tell(run, {"action": "let_leave"}, [worker])

    def _event_described(self, run: _Run, worker: str, arrays: list[dict[str, Any]]) -> None:
        if run.state.described is None:
            run.state.described = arrays

    def _event_hello(self, run: _Run, worker: str, rank: int, info: Mapping[str, Any]) -> None:
        run.state.hello(rank, info)
        if not info["asks"]:
            run.joined.add(rank)
        elif not run.asked:
            run.asked, run.hosts = True, info["hosts"]
            if run.state.phase == "running":
                self._answer(run)
        for name, blocks in info["blocks"].items():
            self._event_blocks(run, worker, rank, name, blocks)

    def _event_blocks(self, run: _Run, worker: str, rank: int, name: str, blocks: Any) -> None:
        run.blocks.setdefault(name, {})[rank] = tuple(
            Block(tuple(offset), tuple(shape)) for offset, shape in blocks
        )
        self._check_tiling(run, name)

    def _check_tiling(self, run: _Run, name: str) -> None:
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

    def _event_steps(self, run: _Run, worker: str, report: Mapping[str, Any]) -> None:
        run.state.step_ends(StepReport.from_message(report))

    def _event_bye(self, run: _Run, worker: str, rank: int, info: Mapping[str, Any]) -> None:
        run.state.bye(rank, info["status"], info["counters"])
        if info["status"] != "ok":
            self._fail(run, f"rank {rank}", "ended with an error", info["reason"])
        elif run.state.phase in ("ended", "failed"):
            self._tell(run, {"action": "let_leave"})
        elif run.state.simulation_over:
            self._simulation_over(run)

    def _event_lost(self, run: _Run, worker: str, rank: int, why: str) -> None:
        if run.state.rank_lost(rank, why):
            self._fail(run, f"rank {rank}", "lost", why)

    def _event_missing(
        self, run: _Run, worker: str, array: int, chunk: int, rank: int, why: str
    ) -> None:
        """A chunk will stay incomplete: dropped by policy, or too old for a replay buffer."""
        contract = self._contract(run).arrays[array]
        text = (
            f"array {contract.spec.name!r}, {_where(contract, chunk)}: "
            f"the part of rank {rank} will not come: {why}"
        )
        run.state.fault(f"worker {worker}", "chunk lost", text)
        self.tasks.fail([contract.key(chunk)], ExternalTaskError(text))

    def _event_note(self, run: _Run, worker: str, text: str) -> None:
        run.state.fault(f"receiver on {worker}", "reports", text)

    def _event_sample(self, run: _Run, worker: str, sample: dict[str, Any]) -> None:
        run.state.sample({"worker": worker, **sample})

    # -- events from Dask --------------------------------------------------------------

    def update_graph(self, scheduler: Any, **kwargs: Any) -> None:
        for run in self.runs.values():
            if run.graph_keys is not None:
                run.notify()

    def remove_worker(self, scheduler: Any, worker: str, **kwargs: Any) -> None:
        for run in self.runs.values():
            ordinal = run.workers.pop(worker, None)
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
            if run.state.phase in ("ended", "failed"):
                self._give_up(run, keys)
            else:
                self._ask_again(run, keys)
        run.notify()

    # -- internals ---------------------------------------------------------------------

    def _run(self, run: str) -> _Run:
        if not isinstance(run, str) or not 0 < len(run) <= 200:
            raise ValueError(f"a run id is a short string, got {run!r}")
        if run not in self.runs:
            self.runs[run] = _Run(run)
        return self.runs[run]

    def _contract(self, run: _Run) -> Contract:
        if run.contract is None:
            raise ContractError(f"run {run.state.run} has no contract yet")
        return run.contract

    def _raise_if_failed(self, run: _Run) -> None:
        fault = run.state.fatal
        if fault is not None:
            raise SimulationLost(f"{fault.who} {fault.what}: {fault.cause}")

    def _states(self, run: _Run) -> dict[str, int]:
        return self.tasks.counts(run.state.run) if _has_tasks(run) else {}

    def _endpoints(self, run: _Run) -> list[dict[str, Any]]:
        return [run.state.endpoints[ordinal] for ordinal in sorted(run.workers.values())]

    def _tell(
        self, run: _Run, message: dict[str, Any], workers: Iterable[str] | None = None
    ) -> None:
        for worker in list(run.workers) if workers is None else workers:
            stream = self.scheduler.stream_comms.get(worker)
            if stream is not None:
                stream.send({"op": STREAM_OP, "run": run.state.run, **message})

    def _answer(self, run: _Run) -> None:
        """Give the contract to those who ask for it, placed near the blocks where it matters."""
        contract = self._contract(run)
        hosts = self._hostnames(run)
        if len(set(hosts.values())) > 1 and run.hosts:
            run.cells = {array.spec.name: self._cells(run, array) for array in contract.arrays}
            run.contract = contract.with_placements(
                {
                    array.spec.name: place(
                        array.layout,
                        list(hosts),
                        needed=array.needed_space,
                        hosts=hosts,
                        cells=run.cells[array.spec.name],
                    )
                    for array in contract.arrays
                }
            )
            run.blob = run.contract.to_bytes()
        elif not all(set(a.placement.receivers) <= hosts.keys() for a in contract.arrays):
            self._place_again(run)  # a worker has died since the contract was made
        run.answered = True
        self._tell_contract(run)

    def _hostnames(self, run: _Run) -> dict[int, str]:
        return {o: run.state.endpoints[o]["hostname"] for o in sorted(run.workers.values())}

    def _cells(self, run: _Run, array: ArrayContract) -> dict[str, Any] | None:
        """How many wanted cells of each chunk in space the blocks of each host hold."""
        if array.spec.ragged:
            return None
        blocks: dict[str, list[Block]] = {}
        grid = array.spec.attrs.get("process_grid") or dims_create(
            len(run.hosts), len(array.spec.shape)
        )
        regular = Decomposition.regular(array.spec.shape, grid)
        for rank, (host, boxes) in enumerate(run.hosts):
            if array.spec.name in boxes:
                mine = [Block(tuple(o), tuple(n)) for o, n in boxes[array.spec.name]]
            else:
                mine = list(regular.blocks[rank]) if rank < regular.size else []
            blocks.setdefault(host, []).extend(mine)
        return affinity(array.layout, array.wanted, blocks)

    def _tell_contract(self, run: _Run, workers: Iterable[str] | None = None) -> None:
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

    def _simulation_over(self, run: _Run) -> None:
        """All ranks have closed: what the workers do not hold by now will never come.

        Goodbyes and chunks travel through different workers, so every worker is asked to
        answer after its last delivery before anything is given up.
        """
        run.flushing = set(run.workers)
        self._tell(run, {"action": "flush"})
        drain = run.settings["deadlines"]["drain"]
        self.scheduler.loop.call_later(drain, self._conclude, run, False)

    def _event_flushed(self, run: _Run, worker: str) -> None:
        if worker in run.flushing:
            run.flushing.discard(worker)
            run.flushed = not run.flushing
            self._conclude(run)

    def _conclude(self, run: _Run, in_time: bool = True) -> None:
        """Nothing more is on its way: what is missing will never come, and the ranks may go.

        If a worker has died, the ranks stay until they have sent again what died with it.
        """
        if not run.flushed or run.state.phase in ("ended", "failed"):
            return
        if in_time and self._still_to_come(run):
            return
        ending = run.state.ending(run.settings.get("n_steps"))
        reason = f"{ending} ({run.state.stop_reason})" if run.state.stop_reason else ending
        remaining = 0
        if _has_tasks(run):
            remaining = self.tasks.fail_remaining(run.state.run, SimulationLost(reason))
        if remaining and not run.state.stop_reason and not run.ahead:
            self._fail(run, "simulation", "ended early", f"{ending}; {remaining} chunks never came")
        else:
            run.state.end()
            self._tell(run, {"action": "let_leave"})

    def _still_to_come(self, run: _Run) -> bool:
        """Whether ranks are sending something again that they had put."""
        if not run.again:
            return False
        newest = -1 if run.state.newest_step is None else run.state.newest_step
        arrays = {array.name: array for array in self._contract(run).arrays}
        waiting = (State.DECLARED, State.WANTED, State.LOST)
        return any(
            arrays[key[0]].spec.steps.step(arrays[key[0]].layout.bounds(0, key[1])[0]) <= newest
            and self.tasks.state(key) in waiting
            for key in run.again
        )

    def _fail(self, run: _Run, who: str, what: str, cause: str, policy: str | None = None) -> None:
        first = run.state.phase != "failed"
        run.state.fail(who, what, cause)
        if first:
            logger.error("Run %s failed: %s %s: %s", run.state.run, who, what, cause)
            if _has_tasks(run):
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

    def _let_them_go_on(self, run: _Run) -> None:
        """The analysis failed while the ranks waited for a contract: theirs asks for nothing."""
        if run.contract is None:
            run.contract = Contract(run.state.run, ())
            run.blob = run.contract.to_bytes()
        self._answer(run)

    def _give_up(self, run: _Run, keys: list[Any]) -> None:
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

    def _ask_again(self, run: _Run, keys: list[Any]) -> None:
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

    def _note_analysed(self, run: _Run, keys: list[Any]) -> None:
        """The last consumer of these chunks is done: their steps count as analysed."""
        contract = self._contract(run)
        arrays = {array.name: array for array in contract.arrays}
        for name, row, *_ in keys:
            array = arrays[name]
            first, stop = array.layout.bounds(0, row)
            for index in range(first, stop):
                run.state.analysed(array.spec.steps.step(index))


def _has_tasks(run: _Run) -> bool:
    """Whether the contract names anything; of one simulation of several, it may be nothing."""
    return run.contract is not None and bool(run.contract.arrays)


def _holder(run: _Run) -> str:
    """The pseudo-client that holds a run's results, whoever asked for them may die."""
    return f"external-results-{run.state.run}"


def _keys_between(array: ArrayContract, first: int, stop: int) -> tuple[list[Any], int]:
    """Keys of the chunks with time indices ``first .. stop - 1``, and the row after them."""
    rows = array.layout.chunk_of(0, first), array.layout.chunk_of(0, stop - 1) + 1
    return [array.key(int(chunk)) for chunk in array.needed_ids(*rows)], rows[1]


def _where(array: ArrayContract, chunk: int) -> str:
    index = array.layout.unravel(chunk)
    first, stop = array.layout.bounds(0, index[0])
    steps = [array.spec.steps.step(i) for i in (first, stop - 1)]
    span = f"step {steps[0]}" if steps[0] == steps[1] else f"steps {steps[0]} to {steps[1]}"
    return f"{span}, chunk {index}"
