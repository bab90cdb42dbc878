"""The run coordinator: dispatches what workers, the analysis and the workflow send.

It lives in the scheduler process beside :class:`~.external.tasks.ExternalTasks`, because the
scheduler outlives every worker. Receivers report over Dask's own worker streams, the analysis
and the IPS components call over Dask's own RPC; `messages` lists what they may say.

::

    receiver --Event--> coordinator --Action--> receivers --> ranks
    analysis --Call --> coordinator --declare/fail--> external tasks
    attached client --Call--> coordinator --Invite--> receivers --> ranks

The state of a run is a `CoordinatedRun`; the services act on it, each using only those before it:
`Outbox`, `Placer` (placement), `Ending` (success, failure, closing), `Membership` (receivers and
ranks), `ChunkEvents`, `Progress`, `Stalls`, `AnalysisCalls`, `Attaching`, `WorkflowCalls`.

Concurrency: everything here runs in the scheduler's event loop, without threads and locks. A
handler of an event never waits; a call may, for a change of the run or its deadline.

==============================  ==============================================================
runs in                         what it may touch
==============================  ==============================================================
scheduler's event loop          all of this package but `worker`, `step_report.StepTally`
worker's event loop             `worker.WorkerSession`, all of its fields
threads of the receiver         `WorkerSession.contract` and the names of arrays (read only), the
                                tally (its own lock); the rest is handed to the loop
==============================  ==============================================================
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.ioloop import PeriodicCallback

from ips_components.coordination import messages as m
from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.live_page import LivePage, open_live_page
from ips_components.coordination.messages import RPC, STREAM_OP
from ips_components.coordination.services import Services
from ips_components.coordination.watchdog import INTERVAL
from ips_components.errors import ContractError, IPSComponentsError
from ips_components.external._compat_groups import forget_groups
from ips_components.external.groups import BoundedDict

logger = logging.getLogger(__name__)

#: Runs whose receivers are closed and whose record is still kept.
MAX_RETIRED = 16
#: Ids of runs that are remembered to refuse what comes late.
MAX_FORGOTTEN = 10_000


def surplus(runs: Mapping[str, CoordinatedRun]) -> list[str]:
    """Return the ids of the oldest runs that are over, which are to be forgotten.

    Attached runs are counted apart: the run that they belong to began before them, and outlives
    them.
    """
    over = [each for each in runs.values() if each.retired]
    own = [each.state.run for each in over if not each.main]
    attached = [each.state.run for each in over if each.main]
    return [run for names in (own, attached) for run in names[: max(0, len(names) - MAX_RETIRED)]]


class RunCoordinator(SchedulerPlugin):
    """Scheduler-side companion of the external tasks: dispatches to the services of runs.

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
        self._forgotten = BoundedDict(MAX_FORGOTTEN)
        self.services = services = Services(self, self.runs.get)
        self.chunk_events = services.chunk_events
        self._events, self._calls = services.event_handlers(), services.call_handlers()
        self.scheduler.handlers[RPC] = self.call
        self.scheduler.stream_handlers[STREAM_OP] = self.event
        self.scheduler.add_plugin(self, name=self.name)
        self._watchdog = PeriodicCallback(self._check_liveness, 1000 * INTERVAL)

    async def close(self) -> None:
        """Called by the scheduler when it ends."""
        self._watchdog.stop()
        for run in self.runs.values():
            if run.page is not None:
                await run.page.close()

    # -- the edge: plain values in -----------------------------------------------------

    async def call(self, method: str, run: str, **arguments: Any) -> Any:
        """RPC entry: ``await client.scheduler.external_run(method=..., run=..., ...)``."""
        record = self.run(run)
        request = m.parse_call(method, arguments)
        return await self._calls[type(request)](record, request)

    def event(self, worker: str, event: str, run: str, **info: Any) -> None:
        """Stream entry: one event of one receiver. An exception would cut the worker off."""
        try:
            parsed = m.parse_event(event, info)
            if isinstance(parsed, m.ReceiverOpened):
                record = self.run(run)
            elif run in self.runs and worker in self.runs[run].workers:
                record = self.runs[run]
            else:
                logger.info("Ignoring %r of %s: it has no receiver of run %r", event, worker, run)
                return
        except (ValueError, IPSComponentsError) as error:
            logger.error("Refused a message of the receiver of %s: %s", worker, error)
            return
        try:
            self._events[type(parsed)](record, worker, parsed)
        finally:
            record.notify()

    def run(self, run: str) -> CoordinatedRun:
        """Return the run of an id, a new one when the id is new.

        Raises
        ------
        ContractError
            When the run was forgotten.
        """
        if not isinstance(run, str) or not 0 < len(run) <= 200:
            raise ValueError(f"a run id is a short string, got {run!r}")
        if run in self._forgotten:
            raise ContractError(
                f"run {run} is over and its record is not kept any more; a new run needs a new id"
            )
        if run not in self.runs:
            self.runs[run] = CoordinatedRun(run)
        return self.runs[run]

    # -- events from Dask --------------------------------------------------------------

    def update_graph(self, scheduler: Any, **kwargs: Any) -> None:
        for run in self.runs.values():
            if run.graph_keys is not None:
                run.notify()

    def remove_worker(self, scheduler: Any, worker: str, **kwargs: Any) -> None:
        for run in list(self.runs.values()):
            self.services.membership.worker_left(run, worker)

    def remove_client(self, scheduler: Any, client: str, **kwargs: Any) -> None:
        for run in list(self.runs.values()):
            self.services.attaching.client_left(run, client)

    # -- for live page and services ----------------------------------------------------

    def progress(self, run: str) -> dict[str, Any]:
        """Return how far a run is."""
        return self.services.progress.progress(self.run(run))

    def open_page(self, run: CoordinatedRun, call: m.OpenLivePage) -> LivePage:
        """Open the live page of a run."""
        return open_live_page(self.scheduler, self, run.state.run, call.token, call.host, call.port)

    def watch(self) -> None:
        """Look after runs until none is under way."""
        if not self._watchdog.is_running():
            self._watchdog.start()

    async def _check_liveness(self) -> None:
        active = [run for run in self.runs.values() if not run.retired]
        if not active:
            self._watchdog.stop()
        for run in active:
            if run.ahead:
                forget_groups(self.scheduler)
            self.services.attaching.check_liveness(run)
            await self.services.membership.check_liveness(run)
            self.services.stalls.look(run)

    def retire(self, run: CoordinatedRun) -> None:
        """Close what a run that is over has left on the workers, and forget the oldest runs."""
        if run.plugin and run.plugin in self.scheduler.worker_plugins:
            others = [r for r in self.runs.values() if r.plugin == run.plugin and not r.retired]
            if not others:
                self.scheduler.loop.add_callback(
                    self.scheduler.unregister_worker_plugin, None, name=run.plugin
                )
        if path := run.settings.get("task_log"):
            self.tasks.log.close(path)
        for name in surplus(self.runs):
            gone = self.runs.pop(name)
            self._forgotten[name] = None
            if gone.page is not None:
                self.scheduler.loop.add_callback(gone.page.close)
