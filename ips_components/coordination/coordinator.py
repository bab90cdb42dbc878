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
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.ioloop import PeriodicCallback

from ips_components.coordination import messages as m
from ips_components.coordination.attaching import Attaching
from ips_components.coordination.calls import AnalysisCalls
from ips_components.coordination.chunk_events import ChunkEvents
from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.ending import Ending
from ips_components.coordination.live_page import LivePage, open_live_page
from ips_components.coordination.membership import Membership
from ips_components.coordination.messages import RPC, STREAM_OP
from ips_components.coordination.outbox import Outbox
from ips_components.coordination.placement import Placer
from ips_components.coordination.progress import Progress
from ips_components.coordination.stalls import Stalls
from ips_components.coordination.watchdog import INTERVAL
from ips_components.coordination.workflow_calls import WorkflowCalls
from ips_components.errors import ContractError, IPSComponentsError
from ips_components.external._compat_groups import forget_groups
from ips_components.external.groups import BoundedDict

logger = logging.getLogger(__name__)

#: Runs whose receivers are closed and whose record is still kept.
MAX_RETIRED = 16
#: Ids of runs that are remembered to refuse what comes late.
MAX_FORGOTTEN = 10_000

EventHandler = Callable[[CoordinatedRun, str, Any], None]
CallHandler = Callable[[CoordinatedRun, Any], Awaitable[Any]]


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
        outbox = Outbox(self.scheduler)
        placer = Placer(tasks, outbox)
        ending = Ending(tasks, outbox, placer, self._retire)
        self._ending = ending
        self._membership = Membership(
            self.scheduler, outbox, placer, ending, lambda run, w: attaching.receiver_opened(run, w)
        )
        self.chunk_events = ChunkEvents(self.runs.get, tasks, placer, ending)
        self._stalls = Stalls(outbox, ending)
        self._progress = Progress(self.scheduler, tasks)
        analysis = AnalysisCalls(
            tasks, outbox, placer, ending, self.chunk_events.observe, self._watch
        )
        self._attaching = attaching = Attaching(
            self.scheduler,
            outbox,
            ending,
            self._progress,
            self._run,
            analysis.described,
            self._watch,
        )
        workflow = WorkflowCalls(
            self.scheduler, outbox, self._progress, ending, attaching, self._open_page
        )
        self._events: dict[type[m.Event], EventHandler] = {
            m.ReceiverOpened: self._membership.receiver_opened,
            m.ArraysDescribed: self._membership.described,
            m.RankHello: self._membership.hello,
            m.RankBlocks: self._membership.blocks,
            m.RankBye: self._membership.bye,
            m.RankLost: self._membership.lost,
            m.ChunkMissing: self.chunk_events.missing,
            m.StepsEnded: self._progress.steps_ended,
            m.ReceiverNote: self._progress.note,
            m.Sample: self._progress.sample,
            m.LaunchExpected: self._membership.launch_expected,
            m.WaitingRanks: self._stalls.answered,
            m.Flushed: lambda run, worker, event: ending.flushed(run, worker),
            m.RanksLeft: lambda run, worker, event: ending.ranks_left(run, worker),
        }
        self._calls: dict[type[m.Call], CallHandler] = {
            m.Open: analysis.open,
            m.AwaitDescription: analysis.described,
            m.Sign: analysis.sign,
            m.Commit: analysis.commit,
            m.DeclareAhead: analysis.declare_ahead,
            m.EndWindows: analysis.end_windows,
            m.ReleaseSteps: analysis.release_steps,
            m.ReleaseKeys: analysis.release_keys,
            m.Publish: analysis.publish,
            m.Await: analysis.awaits,
            m.WindowsSaved: analysis.windows_saved,
            m.Check: analysis.check,
            m.Finish: analysis.finish,
            m.Feedback: analysis.feedback,
            m.Stop: analysis.stop,
            m.AwaitReceivers: workflow.receivers,
            m.BeginLaunch: workflow.begin_launch,
            m.EndLaunch: workflow.end_launch,
            m.EndSimulation: workflow.end_simulation,
            m.TakePublished: workflow.published,
            m.GetTimes: workflow.times,
            m.AwaitQuiet: workflow.quiet,
            m.TakeCheckpoint: workflow.checkpoint,
            m.Abort: workflow.abort,
            m.AwaitEnd: workflow.ended,
            m.GetProgress: workflow.progress,
            m.GetTerms: workflow.terms,
            m.GetRecord: workflow.record,
            m.OpenLivePage: workflow.live_page,
            m.ShowPicture: workflow.picture,
            m.Attach: attaching.attach,
            m.Renew: attaching.renew,
            m.Amend: attaching.amend,
            m.AwaitRanks: attaching.ranks,
            m.EndAmendment: attaching.end_amendment,
            m.Detach: attaching.detach,
        }
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
        record = self._run(run)
        request = m.parse_call(method, arguments)
        return await self._calls[type(request)](record, request)

    def event(self, worker: str, event: str, run: str, **info: Any) -> None:
        """Stream entry: one event of one receiver. An exception would cut the worker off."""
        try:
            parsed = m.parse_event(event, info)
            if isinstance(parsed, m.ReceiverOpened):
                record = self._run(run)
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

    def _run(self, run: str) -> CoordinatedRun:
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
            self._membership.worker_left(run, worker)

    def remove_client(self, scheduler: Any, client: str, **kwargs: Any) -> None:
        for run in list(self.runs.values()):
            self._attaching.client_left(run, client)

    # -- for live page and services ----------------------------------------------------

    def progress(self, run: str) -> dict[str, Any]:
        """Return how far a run is."""
        return self._progress.progress(self._run(run))

    def _open_page(self, run: CoordinatedRun, call: m.OpenLivePage) -> LivePage:
        return open_live_page(self.scheduler, self, run.state.run, call.token, call.host, call.port)

    def _watch(self) -> None:
        if not self._watchdog.is_running():
            self._watchdog.start()

    async def _check_liveness(self) -> None:
        active = [run for run in self.runs.values() if not run.retired]
        if not active:
            self._watchdog.stop()
        for run in active:
            if run.ahead:
                forget_groups(self.scheduler)
            self._attaching.check_liveness(run)
            await self._membership.check_liveness(run)
            self._stalls.look(run)

    def _retire(self, run: CoordinatedRun) -> None:
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
