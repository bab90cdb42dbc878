"""A worker's part in a run: opens the receiver, and translates between it and Dask.

The receiver works in threads and knows no Dask; the coordinator sits behind the worker's
stream to the scheduler, which only the event loop may touch.  This module connects the two:
every callback of the receiver continues on the loop, every action of the coordinator goes to
the receiver.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import psutil
from distributed.comm.addressing import get_address_host

from ips_components.coordination import messages as m
from ips_components.coordination.coordinator import RunCoordinator
from ips_components.coordination.loading import load_analysis
from ips_components.coordination.settings import RunSettings
from ips_components.coordination.step_report import StepTally
from ips_components.coordination.task_exits import refuse_exits
from ips_components.coordination.watchdog import GRACE
from ips_components.errors import ConfigError
from ips_components.external.worker_plugin import ExternalDataPlugin
from ips_components.model.absent import ABSENT
from ips_components.model.contract import Contract
from ips_components.receiver.receiver import Receiver
from ips_components.receiver.sink import Boxes, ByeInfo, HelloInfo, StepInfo
from ips_components.wire.contact import Endpoint
from ips_components.wire.messages import Counters, Feedback
from ips_components.wire.values import decode

if TYPE_CHECKING:
    from distributed import Worker

    from ips_components.external.worker_plugin import ExternalWorker

logger = logging.getLogger(__name__)

#: Seconds between two reports of memory and credits, and between two batches of steps.
SAMPLE_INTERVAL = 1.0
STEP_INTERVAL = 0.1
#: Seconds between two looks whether everything is announced.
FLUSH_INTERVAL = 0.02
#: Name in ``worker.extensions`` under which a worker keeps its runs.
EXTENSION = "external-runs"


class RunWorker:
    """Companion of `ExternalDataPlugin` for one run.

    Parameters
    ----------
    settings : mapping
        The `RunSettings` of the run, as a dict; it travels pickled from the IPS component to
        every worker.
    plugin : str
        Name of the worker plugin, by which the scheduler closes the receivers at the end.
    """

    def __init__(self, settings: Mapping[str, Any], plugin: str = "") -> None:
        self.settings = dict(settings)
        self.plugin = plugin
        self._session: WorkerSession | None = None

    async def setup(self, worker: Worker, external: ExternalWorker) -> None:
        sessions = worker.extensions.setdefault(EXTENSION, {})
        self._session = WorkerSession(
            RunSettings.from_dict(self.settings), worker, external, self.plugin
        )
        sessions[self._session.run] = self._session
        worker.stream_handlers[m.STREAM_OP] = _Dispatcher(sessions)
        refuse_exits(worker)
        await asyncio.to_thread(_import_early, self._session.settings.analysis)
        self._session.open()

    async def teardown(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            session.worker.extensions[EXTENSION].pop(session.run, None)
            await session.close()


def run_plugin(settings: RunSettings) -> ExternalDataPlugin:
    """Return the one worker plugin that a coupled run needs.

    Parameters
    ----------
    settings : RunSettings
        Each of its partners, the runs of other simulations, gets receivers of its own.
    """
    own = {**settings.to_dict(), "partners": ()}
    name = f"external-data-{settings.run}"
    return ExternalDataPlugin(
        [RunWorker(each, name) for each in (own, *settings.partners)],
        [f"{RunCoordinator.__module__}:{RunCoordinator.__qualname__}"],
        name=name,
    )


def _import_early(analysis: str) -> None:
    """Import the analysis before there is work: Dask unpickles tasks on the event loop.

    A worker that imported large packages there would not serve its ranks for seconds.  What is
    wrong with the analysis, the analysis task itself reports.
    """
    for each in analysis.replace(",", " ").split():
        with contextlib.suppress(Exception):
            load_analysis(each)


class _Dispatcher:
    """Stream handler that finds the session of a message's run."""

    def __init__(self, sessions: Mapping[str, WorkerSession]) -> None:
        self.sessions = sessions

    def __call__(self, run: str, action: str, **arguments: Any) -> None:
        session = self.sessions.get(run)
        if session is None:
            return
        try:
            session.act(m.parse_action(action, arguments))
        except Exception as error:
            # An exception here would cut the worker off from its scheduler.
            logger.exception("Run %s: cannot do %r", run, action)
            session.fault(f"cannot do {action!r}: {error!r}")


class WorkerSession:
    """One run on one worker; the sink of its receiver."""

    def __init__(
        self, settings: RunSettings, worker: Worker, external: ExternalWorker, plugin: str = ""
    ) -> None:
        self.plugin = plugin
        self.run = settings.run
        self.settings = settings
        self.worker = worker
        self.external = external
        self.contract: Contract | None = None
        self.receiver: Receiver
        self._names: list[str] = []
        self._accounted: list[str] = []  # and of arrays that are not needed
        self._peers: list[Endpoint] = []
        self._tally = StepTally()
        self._process = psutil.Process()
        self._drops = False  # chunks come too late, see `DropChunks`; event loop only
        # By array; written by the event loop before rows beyond may come, read by any thread.
        self._wanted: dict[int, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()
        self._last: dict[str, Any] = {}

    def open(self) -> None:
        """Start listening and send the coordinator the address."""
        limit = self.worker.memory_manager.memory_limit or psutil.virtual_memory().total
        silence = self.settings.deadlines["silence"]
        self.receiver = Receiver(
            self,
            run=self.run,
            token=self.settings.token,
            budget=int(limit * self.settings.memory_share),
            host=get_address_host(self.worker.address),
            lanes=self.settings.lanes,
            tls=_tls_of(self.worker.security) if self.settings.security == "tls" else None,
            silence=silence,
            grace=silence * GRACE,
            heartbeat=min(2.0, silence / 6),
            on_pressure=self._on_pressure,
            hold_byes=True,
        )
        facts = {"nthreads": self.worker.state.nthreads, "memory_limit": limit}
        settings = {
            name: getattr(self.settings, name)
            for name in ("deadlines", "on_analytics_loss", "n_steps", "n_ranks", "launches")
        }
        endpoint = {**asdict(self.receiver.endpoint), **facts}
        self._send(m.ReceiverOpened(endpoint, settings, self.plugin))
        self._later("sample", SAMPLE_INTERVAL, self._sample)

    async def close(self) -> None:
        """Close the receiver without stalling the event loop."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await asyncio.to_thread(self.receiver.close)

    # -- actions of the coordinator: event loop ----------------------------------------

    def act(self, action: m.Action) -> None:
        """Carry out an action of the coordinator."""
        receiver = self.receiver
        match action:
            case m.SetContract():
                self._set_contract(action)
            case m.ExpectLaunch(size, launch, first_step, flags):
                receiver.begin_launch(size, launch, first_step, flags)
                self._send(m.LaunchExpected(launch))
            case m.SetHorizon():
                if action.wanted is not None:
                    self._wanted = {**self._wanted, action.array: action.wanted}
                receiver.set_horizon({action.array: action.rows})
            case m.SetPlacement():
                self._set_placement(action)
            case m.RequestResend():
                receiver.set_placement({}, self._peers, [tuple(each) for each in action.chunks])
            case m.SendFeedback():
                shape = tuple(action.message["shape"])
                feedback = Feedback(**{**action.message, "shape": shape})
                receiver.feedback(feedback.name, decode(feedback), feedback.step)
            case m.SendFault():
                receiver.fault(action.text, action.policy or self.settings.on_analytics_loss)
            case m.SendStop():
                receiver.stop(action.reason)
            case m.ReleaseRanks():
                receiver.release_ranks()
            case m.Flush():
                self._flush()
            case m.ReportWaiting():
                self._report_waiting()
            case m.ResolveAbsent():
                self._resolve_absent(action)
            case m.DropChunks():
                self._drops = True
            case m.Invite():
                receiver.attach(action.contact)
            case m.Uninvite():
                receiver.detach(action.attached)
            case m.Retire():
                self._retire(self._loop.time() + action.within)
            case _:
                raise ValueError(f"no handler for {action!r}")

    def _set_contract(self, action: m.SetContract) -> None:
        self.contract = Contract.from_bytes(action.blob)
        self._names = [array.spec.name for array in self.contract.arrays]
        self._accounted = self._names + [spec.name for spec in self.contract.unneeded]
        self._peers = _endpoints(action.endpoints)
        self.receiver.ordinal = action.ordinal
        if action.size is not None:
            self.receiver.set_size(action.size)
        self._wanted = dict(action.wanted or ())
        if action.horizon is not None:
            self.receiver.set_horizon(dict(enumerate([0] * len(self._names))))
            self.receiver.set_horizon(dict(action.horizon))
        self.receiver.set_contract(self.contract, self._peers, action.first_step)

    def _set_placement(self, action: m.SetPlacement) -> None:
        self.contract = Contract.from_bytes(action.blob)
        placements = {i: array.placement for i, array in enumerate(self.contract.arrays)}
        self._peers = _endpoints(action.endpoints)
        self.receiver.set_placement(
            placements,
            self._peers,
            [tuple(each) for each in action.resend],
            epoch=action.epoch,
            rows={array: (since, beyond) for array, since, beyond in action.rows},
            skip=[tuple(each) for each in action.skip],
        )

    def _flush(self) -> None:
        """Answer once everything that the receiver has handed over is announced."""
        if self.external.pending:
            self._later("flush", FLUSH_INTERVAL, self._flush)
            return
        self._flush_steps()
        self._send(m.Flushed())

    def _report_waiting(self) -> None:
        waiting = self.receiver.waiting()
        if waiting.wants:
            self._collect_garbage()
        self._flush_steps()
        self._send(
            m.WaitingRanks(
                waiting.connected,
                [list(each) for each in waiting.wants],
                [[array, chunk, came] for array, chunk, came in waiting.oldest],
            )
        )

    def _collect_garbage(self) -> None:
        """Free chunks that only reference cycles hold; an idle worker may not do so for minutes."""
        held = self.receiver.statistics().held
        gc.collect()
        if freed := held - self.receiver.statistics().held:
            logger.warning(
                "Run %s: ranks waited for %d bytes of chunks in reference cycles of the analysis, "
                "which Python frees late; do not keep blocks, or exceptions, in objects that "
                "refer to each other",
                self.settings.run,
                freed,
            )

    def _resolve_absent(self, action: m.ResolveAbsent) -> None:
        assert self.contract is not None
        array = self.contract.arrays[action.array]
        for chunk in action.chunks:
            value = array.missing(chunk) if action.missing else ABSENT
            self.external.deliver({array.key(chunk): value})

    def _retire(self, deadline: float) -> None:
        """Answer once no rank is connected, or at the deadline."""
        if self.receiver.statistics().ranks and self._loop.time() < deadline:
            self._later("retire", STEP_INTERVAL, lambda: self._retire(deadline))
            return
        self._send(m.RanksLeft())

    # -- the sink: receiver threads ----------------------------------------------------

    def hello(self, info: HelloInfo) -> None:
        self._from_thread(
            m.RankHello(
                rank=info.rank,
                size=info.size,
                host=info.host,
                pid=info.pid,
                lane=info.lane,
                asks=info.asks,
                blocks=_plain(info.blocks),
                step=info.step,
                hosts=[[host, _plain(blocks)] for host, blocks in info.hosts],
            )
        )

    def described(self, arrays: list[dict[str, Any]]) -> None:
        self._from_thread(m.ArraysDescribed(arrays))

    def chunk(self, array: int, chunk: int, value: Any, nbytes: int) -> None:
        assert self.contract is not None
        contract = self.contract.arrays[array]
        wanted = self._wanted.get(array)
        if wanted is not None and chunk // contract.layout.n_space >= wanted:
            return  # the analysis has seen enough
        key = contract.key(chunk)
        if self.settings.leave_out:
            self._on_loop(self._deliver_unless_dropped, key, value)
        else:
            self.external.deliver({key: value})

    def _deliver_unless_dropped(self, key: Any, value: Any) -> None:
        """On the loop, where the decision to drop is made, so that none comes after it."""
        if not self._drops:
            self.external.deliver({key: value})

    def missing(self, array: int, chunk: int, rank: int, why: str) -> None:
        self._from_thread(m.ChunkMissing(array, chunk, rank, why))

    def blocks(self, rank: int, array: int, blocks: Boxes) -> None:
        name = self._names[array]
        self._from_thread(m.RankBlocks(rank, name, _plain({name: blocks})[name]))

    def step_end(self, rank: int, info: StepInfo) -> None:
        # Steps travel in batches: one message per worker and interval, however many ranks.
        if self._tally.add(rank, info):
            self._on_loop(self._later, "steps", STEP_INTERVAL, self._flush_steps)

    def step_time(self, rank: int, step: int, time: float) -> None:
        if self._tally.add_time(step, time):
            self._on_loop(self._later, "steps", STEP_INTERVAL, self._flush_steps)

    def bye(self, rank: int, info: ByeInfo) -> None:
        self._after_steps(
            m.RankBye(
                rank=rank,
                status=info.status,
                reason=info.reason,
                last_step=info.last_step,
                counters=self._counters(info.counters),
            )
        )

    def lost(self, rank: int, why: str) -> None:
        self._after_steps(m.RankLost(rank, why))

    def fault(self, text: str) -> None:
        self._from_thread(m.ReceiverNote(text))

    def _on_pressure(self, nbytes: int) -> None:
        """Ranks wait for credit and nothing moves: let Dask spill, if it can.

        A graph that needs more chunks together than fit into the receiver's share (a whole
        time series, say) would otherwise wait for itself.
        """
        self._on_loop(self._spill, nbytes)

    def _spill(self, nbytes: int) -> None:
        if self.worker.state.executing_count or self.worker.state.ready:
            return  # consumers are at work; what they finish comes back as credit
        data: Any = self.worker.data
        freed = 0
        while freed < nbytes and getattr(data, "fast", None):  # it has a disk, and holds something
            weight = data.evict()
            if weight <= 0:
                break
            freed += weight

    # -- internals ---------------------------------------------------------------------

    def _counters(self, counters: tuple[Counters, ...]) -> dict[str, Any]:
        return {
            self._accounted[each.array]: {
                "blocks": dict(zip(Counters.NAMES, each.blocks, strict=True)),
                "bytes": dict(zip(Counters.NAMES, each.bytes, strict=True)),
                "beyond": each.beyond,
            }
            for each in counters
        }

    def _flush_steps(self) -> None:
        report = self._tally.take(self._accounted)
        if report is not None:
            self._send(m.StepsEnded(report.to_message()))

    def _sample(self) -> None:
        statistics = self.receiver.statistics()
        sample = {
            "rss": self._process.memory_info().rss,
            "managed": getattr(self.worker.data, "total_weight", 0),
            "held": statistics.held,
            "credits": max(0, statistics.budget - statistics.held - statistics.reserved),
        }
        if sample != self._last:
            self._last = sample
            self._send(m.Sample(sample))
        self._later("sample", SAMPLE_INTERVAL, self._sample)

    def _later(self, name: str, delay: float, function: Callable[[], None]) -> None:
        """Call `function` after `delay`, unless a call of that name is under way already."""

        def fire() -> None:
            del self._timers[name]
            function()

        if name not in self._timers:
            self._timers[name] = self._loop.call_later(delay, fire)

    def _send(self, event: m.Event) -> None:
        message = {"op": m.STREAM_OP, "event": event.NAME, "run": self.run, **event.to_plain()}
        self.worker.batched_send(message)

    def _from_thread(self, event: m.Event) -> None:
        self._on_loop(self._send, event)

    def _after_steps(self, event: m.Event) -> None:
        """Report the end of a rank, after the steps that it has ended."""

        def send() -> None:
            self._flush_steps()
            self._send(event)

        self._on_loop(send)

    def _on_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            logger.debug("The worker's event loop is closed; dropping a report")


def _tls_of(security: Any) -> ssl.SSLContext | None:
    """Return the worker's own certificates where the cluster's traffic must be encrypted."""
    if not security.require_encryption:
        return None
    context: ssl.SSLContext | None = security.get_listen_args("worker")["ssl_context"]
    if context is None:
        raise ConfigError(
            "the Dask cluster requires encryption, but its workers have no certificate of their "
            "own: give them --tls-ca-file, --tls-cert and --tls-key"
        )
    context.num_tickets = 0  # sessions are not resumed
    return context


def _plain(blocks: Mapping[str, Boxes]) -> dict[str, list[Any]]:
    """Blocks as lists, which is what Dask's streams carry."""
    return {name: [[list(o), list(n)] for o, n in boxes] for name, boxes in blocks.items()}


def _endpoints(items: list[dict[str, Any]]) -> list[Endpoint]:
    fields = Endpoint.__dataclass_fields__
    return [Endpoint(**{k: v for k, v in item.items() if k in fields}) for item in items]
