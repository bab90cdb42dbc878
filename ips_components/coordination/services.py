"""The services of the runs of one scheduler, wired together, and which of them answers what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from ips_components.coordination import messages as m
from ips_components.coordination.attaching import Attaching
from ips_components.coordination.calls import AnalysisCalls
from ips_components.coordination.chunk_events import ChunkEvents
from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.ending import Ending
from ips_components.coordination.live_page import LivePage
from ips_components.coordination.membership import Membership
from ips_components.coordination.outbox import Outbox
from ips_components.coordination.placement import Placer
from ips_components.coordination.progress import Progress
from ips_components.coordination.stalls import Stalls
from ips_components.coordination.workflow_calls import WorkflowCalls

EventHandler = Callable[[CoordinatedRun, str, Any], None]
CallHandler = Callable[[CoordinatedRun, Any], Awaitable[Any]]


class Runs(Protocol):
    """What services need of the coordinator that dispatches to them."""

    tasks: Any
    scheduler: Any

    def run(self, run: str) -> CoordinatedRun: ...
    def retire(self, run: CoordinatedRun) -> None: ...
    def watch(self) -> None: ...
    def open_page(self, run: CoordinatedRun, call: m.OpenLivePage) -> LivePage: ...


class Services:
    """The services of runs; each uses only those that are made before it.

    Parameters
    ----------
    runs : Runs
        The coordinator.
    find : callable
        From the id of a run to the run, None for one that is not known.
    """

    def __init__(self, runs: Runs, find: Callable[[str], CoordinatedRun | None]) -> None:
        tasks, scheduler = runs.tasks, runs.scheduler
        outbox = Outbox(scheduler)
        placer = Placer(tasks, outbox)
        self.ending = ending = Ending(tasks, outbox, placer, runs.retire)
        self.membership = Membership(
            scheduler,
            outbox,
            placer,
            ending,
            lambda run, worker: self.attaching.receiver_opened(run, worker),
            lambda run: self.attaching.ranks_gone(run),
        )
        self.chunk_events = ChunkEvents(find, tasks, placer, ending)
        self.stalls = Stalls(outbox, ending)
        self.progress = Progress(scheduler, tasks)
        self.analysis = AnalysisCalls(
            tasks, outbox, placer, ending, self.chunk_events.observe, runs.watch
        )
        self.attaching = Attaching(
            scheduler,
            outbox,
            ending,
            self.progress,
            runs.run,
            self.analysis.described,
            runs.watch,
        )
        self.workflow = WorkflowCalls(
            scheduler, outbox, self.progress, ending, self.attaching, runs.open_page
        )

    def event_handlers(self) -> dict[type[m.Event], EventHandler]:
        """Return what each event of a receiver is handed to."""
        return {
            m.ReceiverOpened: self.membership.receiver_opened,
            m.ArraysDescribed: self.membership.described,
            m.RankHello: self.membership.hello,
            m.RankBlocks: self.membership.blocks,
            m.RankBye: self.membership.bye,
            m.RankLost: self.membership.lost,
            m.ChunkMissing: self.chunk_events.missing,
            m.StepsEnded: self.progress.steps_ended,
            m.ReceiverNote: self.progress.note,
            m.Sample: self.progress.sample,
            m.LaunchExpected: self.membership.launch_expected,
            m.WaitingRanks: self.stalls.answered,
            m.Flushed: lambda run, worker, event: self.ending.flushed(run, worker),
            m.RanksLeft: lambda run, worker, event: self.ending.ranks_left(run, worker),
        }

    def call_handlers(self) -> dict[type[m.Call], CallHandler]:
        """Return what answers each call."""
        return {
            m.Open: self.analysis.open,
            m.AwaitDescription: self.analysis.described,
            m.Sign: self.analysis.sign,
            m.Commit: self.analysis.commit,
            m.DeclareAhead: self.analysis.declare_ahead,
            m.EndWindows: self.analysis.end_windows,
            m.ReleaseSteps: self.analysis.release_steps,
            m.ReleaseKeys: self.analysis.release_keys,
            m.Publish: self.analysis.publish,
            m.Await: self.analysis.awaits,
            m.WindowsSaved: self.analysis.windows_saved,
            m.Check: self.analysis.check,
            m.Finish: self.analysis.finish,
            m.Feedback: self.analysis.feedback,
            m.Stop: self.analysis.stop,
            m.AwaitReceivers: self.workflow.receivers,
            m.BeginLaunch: self.workflow.begin_launch,
            m.EndLaunch: self.workflow.end_launch,
            m.EndSimulation: self.workflow.end_simulation,
            m.TakePublished: self.workflow.published,
            m.GetTimes: self.workflow.times,
            m.AwaitQuiet: self.workflow.quiet,
            m.TakeCheckpoint: self.workflow.checkpoint,
            m.Abort: self.workflow.abort,
            m.AwaitEnd: self.workflow.ended,
            m.GetProgress: self.workflow.progress,
            m.GetTerms: self.workflow.terms,
            m.GetRecord: self.workflow.record,
            m.OpenLivePage: self.workflow.live_page,
            m.ShowPicture: self.workflow.picture,
            m.Attach: self.attaching.attach,
            m.Renew: self.attaching.renew,
            m.Amend: self.attaching.amend,
            m.AwaitRanks: self.attaching.ranks,
            m.EndAmendment: self.attaching.end_amendment,
            m.Detach: self.attaching.detach,
        }
