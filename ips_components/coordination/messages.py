"""The messages of a coupled run inside the Dask cluster; this module lists all of them.

::

    worker      --Event-->  coordinator   on the worker's stream to the scheduler
    coordinator --Action--> worker        on the scheduler's stream to the worker
    analysis, IPS components --Call--> coordinator   as an RPC of the scheduler

Dask's comms carry plain dicts. `to_plain` and the ``parse_*`` functions convert at the edge of a
process; everything inside handles these classes. A message belongs to one run, whose id travels
beside it. New fields are appended, with defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from ips_components.errors import ProtocolError

#: Op of the worker streams in both directions.
STREAM_OP = "external-run"
#: Name of the RPC handler on the scheduler.
RPC = "external_run"
#: Topic, with the run id behind it, of the checkpoints that windows are asked for.
CHECKPOINT_TOPIC = "external-checkpoint-"


@dataclass(frozen=True, slots=True)
class Message:
    """Base of all messages; ``NAME`` stands for the class on the wire."""

    NAME: ClassVar[str] = ""

    def to_plain(self) -> dict[str, Any]:
        """Return the fields by name, as Dask's comms carry them."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


# -- a worker reports ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event(Message):
    """What a receiver of a worker reports to the coordinator."""


@dataclass(frozen=True, slots=True)
class ReceiverOpened(Event):
    """The receiver of a worker listens.

    ``settings`` are those that hold until an analysis opens the run; ``plugin`` is the name of the
    worker plugin that opened it.
    """

    NAME: ClassVar[str] = "open"
    endpoint: Mapping[str, Any]
    settings: Mapping[str, Any] | None = None
    plugin: str = ""


@dataclass(frozen=True, slots=True)
class ArraysDescribed(Event):
    """Rank 0 offers these arrays."""

    NAME: ClassVar[str] = "described"
    arrays: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class RankHello(Event):
    """A rank has connected; see `receiver.sink.HelloInfo`."""

    NAME: ClassVar[str] = "hello"
    rank: int
    size: int
    host: str = ""
    pid: int = 0
    lane: str = ""
    asks: bool = False
    blocks: Mapping[str, Any] = field(default_factory=dict)
    hosts: Sequence[Any] = ()
    step: int = -1


@dataclass(frozen=True, slots=True)
class RankBlocks(Event):
    """Blocks of an array that a rank holds, said with its first put."""

    NAME: ClassVar[str] = "blocks"
    rank: int
    name: str
    blocks: Any


@dataclass(frozen=True, slots=True)
class StepsEnded(Event):
    """Ends of steps, of many ranks; the plain form of a `StepReport`."""

    NAME: ClassVar[str] = "steps"
    report: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RankBye(Event):
    """A rank has closed its bridge; its final account."""

    NAME: ClassVar[str] = "bye"
    rank: int
    status: str
    reason: str = ""
    last_step: int = -1
    counters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RankLost(Event):
    """A rank has gone without a goodbye."""

    NAME: ClassVar[str] = "lost"
    rank: int
    why: str


@dataclass(frozen=True, slots=True)
class ChunkMissing(Event):
    """A chunk will stay incomplete: dropped by policy, or too old for a replay buffer."""

    NAME: ClassVar[str] = "missing"
    array: int
    chunk: int
    rank: int
    why: str


@dataclass(frozen=True, slots=True)
class ReceiverNote(Event):
    """A fault of a receiver that no rank can be blamed for."""

    NAME: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True, slots=True)
class Sample(Event):
    """Memory and credit of a worker."""

    NAME: ClassVar[str] = "sample"
    sample: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Flushed(Event):
    """Everything that the worker's receiver has completed is announced (answers `Flush`)."""

    NAME: ClassVar[str] = "flushed"


@dataclass(frozen=True, slots=True)
class WaitingRanks(Event):
    """Which ranks wait for credit, and what the oldest chunks have (answers `ReportWaiting`).

    Attributes
    ----------
    connected : list of int
        Ranks that are connected to the worker's receiver.
    wants : list of (rank, array, row)
        Ranks that wait to put into a row of chunks.
    oldest : list of (array, chunk, came)
        By array, the oldest chunk that is incomplete; ``came`` lists what it has, as (rank, time
        index within the chunk).
    """

    NAME: ClassVar[str] = "waiting"
    connected: list[int]
    wants: list[Any]
    oldest: list[Any]


@dataclass(frozen=True, slots=True)
class RanksLeft(Event):
    """No rank is connected to the worker's receiver any more (answers `Retire`)."""

    NAME: ClassVar[str] = "ranks_left"


@dataclass(frozen=True, slots=True)
class LaunchExpected(Event):
    """The worker's receiver expects the ranks of a launch (answers `ExpectLaunch`)."""

    NAME: ClassVar[str] = "launch_expected"
    launch: int


# -- the coordinator directs ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Action(Message):
    """What the coordinator has a worker do."""


@dataclass(frozen=True, slots=True)
class SetContract(Action):
    """The contract in its binary form, and the worker's own number in placements."""

    NAME: ClassVar[str] = "contract"
    ordinal: int
    blob: bytes
    endpoints: list[dict[str, Any]]
    horizon: list[Any] | None = None
    size: int | None = None
    first_step: int = 0
    wanted: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class SetHorizon(Action):
    """Rows of an array below ``rows`` may be sent (open-ended runs).

    Those from ``wanted`` on are dropped: the analysis has seen enough.
    """

    NAME: ClassVar[str] = "horizon"
    array: int
    rows: int
    wanted: int | None = None


@dataclass(frozen=True, slots=True)
class SetPlacement(Action):
    """Chunks have other receivers; see `Receiver.set_placement`."""

    NAME: ClassVar[str] = "placement"
    epoch: int
    blob: bytes
    endpoints: list[dict[str, Any]]
    resend: list[Any]
    rows: list[Any]
    skip: list[Any]


@dataclass(frozen=True, slots=True)
class RequestResend(Action):
    """Ask ranks for (array, chunk) once more."""

    NAME: ClassVar[str] = "resend"
    chunks: list[Any]


@dataclass(frozen=True, slots=True)
class SendFeedback(Action):
    """A value for the simulation: the fields of `wire.messages.Feedback`."""

    NAME: ClassVar[str] = "feedback"
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SendFault(Action):
    """The run has failed; ``policy`` is that of the run when it is None."""

    NAME: ClassVar[str] = "fault"
    text: str
    policy: str | None = None


@dataclass(frozen=True, slots=True)
class SendStop(Action):
    """The simulation may end, successfully."""

    NAME: ClassVar[str] = "stop"
    reason: str


@dataclass(frozen=True, slots=True)
class ReleaseRanks(Action):
    """Answer the goodbyes of ranks: nothing will be asked of them any more."""

    NAME: ClassVar[str] = "release_ranks"


@dataclass(frozen=True, slots=True)
class Flush(Action):
    """Report `Flushed` when all that the receiver has completed is announced."""

    NAME: ClassVar[str] = "flush"


@dataclass(frozen=True, slots=True)
class ReportWaiting(Action):
    """Report `WaitingRanks`: nothing has come for a while."""

    NAME: ClassVar[str] = "report_waiting"


@dataclass(frozen=True, slots=True)
class ResolveAbsent(Action):
    """Chunks of an array that will never come: put what stands for them into memory.

    That is a mark where their steps never came, and with ``missing`` an array of NaN.
    """

    NAME: ClassVar[str] = "absent"
    array: int
    chunks: list[int]
    missing: bool = False


@dataclass(frozen=True, slots=True)
class DropChunks(Action):
    """Hand over no chunk any more: the simulation is left out of the run from now on."""

    NAME: ClassVar[str] = "drop_chunks"


@dataclass(frozen=True, slots=True)
class Retire(Action):
    """Report `RanksLeft` when no rank is connected, ``within`` so many seconds at most."""

    NAME: ClassVar[str] = "retire"
    within: float


@dataclass(frozen=True, slots=True)
class ExpectLaunch(Action):
    """Expect the ranks of another launch; see `Receiver.begin_launch`."""

    NAME: ClassVar[str] = "launch"
    size: int
    launch: int
    first_step: int
    flags: int


@dataclass(frozen=True, slots=True)
class Invite(Action):
    """Have all ranks join the attached run whose contact this is, in its binary form."""

    NAME: ClassVar[str] = "invite"
    contact: bytes


@dataclass(frozen=True, slots=True)
class Uninvite(Action):
    """Have no further rank join an attached run."""

    NAME: ClassVar[str] = "uninvite"
    attached: str


# -- the analysis and the IPS components ask -----------------------------------------------


@dataclass(frozen=True, slots=True)
class Call(Message):
    """A request that the coordinator answers."""


@dataclass(frozen=True, slots=True)
class Open(Call):
    """An analysis starts, or starts again after its worker died."""

    NAME: ClassVar[str] = "open"
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AwaitReceivers(Call):
    """Wait until ``n`` receivers have opened; their endpoints."""

    NAME: ClassVar[str] = "receivers"
    n: int
    timeout: float


@dataclass(frozen=True, slots=True)
class AwaitDescription(Call):
    """Wait until rank 0 has described its arrays."""

    NAME: ClassVar[str] = "described"
    timeout: float


@dataclass(frozen=True, slots=True)
class Sign(Call):
    """Declare the external tasks of a contract; with ``ahead`` they are declared piecemeal."""

    NAME: ClassVar[str] = "contract"
    blob: bytes
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class Commit(Call):
    """The graph is on its way.

    ``keys`` and ``names`` are those of its results; with ``hold``, the external chunks stay held
    for graphs that are submitted piecemeal.
    """

    NAME: ClassVar[str] = "committed"
    keys: list[Any]
    timeout: float
    hold: bool = False
    names: Iterable[str] = ()


@dataclass(frozen=True, slots=True)
class DeclareAhead(Call):
    """Declare the tasks of the time indices ``first .. stop - 1``, and take their data."""

    NAME: ClassVar[str] = "declare_ahead"
    array: int
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class EndWindows(Call):
    """Let the simulation go on: of what it puts beyond what is declared nothing is needed."""

    NAME: ClassVar[str] = "end_windows"


@dataclass(frozen=True, slots=True)
class ReleaseSteps(Call):
    """Leave the chunks of the time indices ``first .. stop - 1`` to the graphs that need them."""

    NAME: ClassVar[str] = "release_steps"
    array: int
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class ReleaseKeys(Call):
    """Leave single chunks to the graphs that need them."""

    NAME: ClassVar[str] = "release"
    keys: list[Any]


@dataclass(frozen=True, slots=True)
class Publish(Call):
    """Keep values of the analysis until the workflow takes them."""

    NAME: ClassVar[str] = "publish"
    step: int
    values: bytes


@dataclass(frozen=True, slots=True)
class Await(Call):
    """The analysis waits for the first of these results."""

    NAME: ClassVar[str] = "awaits"
    keys: list[Any]


@dataclass(frozen=True, slots=True)
class Check(Call):
    """Raise the run's first fault, if it has failed."""

    NAME: ClassVar[str] = "check"


@dataclass(frozen=True, slots=True)
class Finish(Call):
    """The analysis has all that it will ever get; ``outcome`` is None if it failed."""

    NAME: ClassVar[str] = "results_done"
    outcome: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Feedback(Call):
    """Send a value to the simulation."""

    NAME: ClassVar[str] = "feedback"
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stop(Call):
    """End the simulation early and successfully."""

    NAME: ClassVar[str] = "stop"
    reason: str


@dataclass(frozen=True, slots=True)
class Abort(Call):
    """Fail the run."""

    NAME: ClassVar[str] = "abort"
    who: str
    cause: str


@dataclass(frozen=True, slots=True)
class AwaitEnd(Call):
    """Wait until every rank has closed its bridge, or the run has failed; the record."""

    NAME: ClassVar[str] = "ended"
    timeout: float


@dataclass(frozen=True, slots=True)
class BeginLaunch(Call):
    """The program of the simulation is started with ``size`` ranks; (launch, first step).

    ``time`` is the physical one of the driver's call.

    Tasks of one ``group`` that are ranks of one program share a launch; others of it wait, at most
    ``timeout`` seconds, until no launch is under way.
    """

    NAME: ClassVar[str] = "begin_launch"
    size: int
    group: str = ""
    timeout: float = 0.0
    time: float | None = None


@dataclass(frozen=True, slots=True)
class EndLaunch(Call):
    """The program of a launch has ended; with ``again``, one that failed is launched again.

    With ``silent`` a program that has opened no bridge was no launch; the answer says whether it
    was one.
    """

    NAME: ClassVar[str] = "end_launch"
    launch: int
    ok: bool
    again: bool = False
    group: str = ""
    silent: bool = False


@dataclass(frozen=True, slots=True)
class EndSimulation(Call):
    """Nothing will be launched any more."""

    NAME: ClassVar[str] = "end_simulation"


@dataclass(frozen=True, slots=True)
class TakePublished(Call):
    """Return what the analysis has published since the last call."""

    NAME: ClassVar[str] = "published"


@dataclass(frozen=True, slots=True)
class GetTimes(Call):
    """Physical times of the steps that have come, as `model.step_times.StepTimes` tells them."""

    NAME: ClassVar[str] = "times"


@dataclass(frozen=True, slots=True)
class AwaitQuiet(Call):
    """Wait until all that depends only on data which have come is computed."""

    NAME: ClassVar[str] = "quiet"
    timeout: float


@dataclass(frozen=True, slots=True)
class TakeCheckpoint(Call):
    """Have the windows save what they need to go on; where launches and published values are."""

    NAME: ClassVar[str] = "checkpoint"
    timeout: float


@dataclass(frozen=True, slots=True)
class WindowsSaved(Call):
    """The windows have saved their state; ``number`` 0: for good, since they are over."""

    NAME: ClassVar[str] = "windows_saved"
    number: int
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class GetProgress(Call):
    """How far the run is."""

    NAME: ClassVar[str] = "progress"


@dataclass(frozen=True, slots=True)
class GetTerms(Call):
    """The table of the contract; empty as long as there is none."""

    NAME: ClassVar[str] = "terms"


@dataclass(frozen=True, slots=True)
class GetRecord(Call):
    """The coordinator's part of the record of the run."""

    NAME: ClassVar[str] = "record"


@dataclass(frozen=True, slots=True)
class OpenLivePage(Call):
    """Open the live page of the run; its address. A second call returns the first page's."""

    NAME: ClassVar[str] = "live_page"
    token: str = field(repr=False)
    host: str
    port: int


# -- attached clients ask ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attach(Call):
    """A client attaches, by a name of its own choice; what it must know of the run.

    ``client_id`` is that of Dask: when that client is gone, so is this one.
    """

    NAME: ClassVar[str] = "attach"
    token: str = field(repr=False)
    name: str
    client_id: str


@dataclass(frozen=True, slots=True)
class Renew(Call):
    """An attached client is alive; how far the run is."""

    NAME: ClassVar[str] = "renew"
    name: str


@dataclass(frozen=True, slots=True)
class Amend(Call):
    """Have the ranks join the attached run whose contact this is, in its binary form."""

    NAME: ClassVar[str] = "amend"
    name: str
    contact: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AwaitRanks(Call):
    """Wait until all ranks have joined an attached run; the newest step that each has begun.

    With ``joined``, until all have its contract.
    """

    NAME: ClassVar[str] = "ranks"
    timeout: float
    joined: bool = False


@dataclass(frozen=True, slots=True)
class EndAmendment(Call):
    """An attached client needs one of its attached runs no more."""

    NAME: ClassVar[str] = "end_amendment"
    name: str
    attached: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Detach(Call):
    """An attached client leaves."""

    NAME: ClassVar[str] = "detach"
    name: str
    why: str = ""


# -- from plain values ---------------------------------------------------------------------

M = TypeVar("M", bound=Message)


def _by_name(base: type[M]) -> dict[str, type[M]]:
    return {each.NAME: each for each in base.__subclasses__()}


EVENTS = _by_name(Event)
ACTIONS = _by_name(Action)
CALLS = _by_name(Call)


def _parse(kinds: Mapping[str, type[M]], what: str, name: Any, values: Mapping[str, Any]) -> M:
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"external_run has no {what} {name!r}; it has {', '.join(sorted(kinds))}")
    try:
        return kind(**values)
    except TypeError as error:
        expected = ", ".join(each.name for each in fields(kind)) or "nothing"
        raise ProtocolError(
            f"{what} {name!r} has the fields {expected}; got {', '.join(values) or 'nothing'}: are "
            "all processes of the run of one release of ips_components?"
        ) from error


def parse_event(name: Any, values: Mapping[str, Any]) -> Event:
    """Return the event that a worker has sent."""
    return _parse(EVENTS, "event", name, values)


def parse_action(name: Any, values: Mapping[str, Any]) -> Action:
    """Return the action that the coordinator has sent."""
    return _parse(ACTIONS, "action", name, values)


def parse_call(name: Any, values: Mapping[str, Any]) -> Call:
    """Return the call of an analysis or of an IPS component."""
    return _parse(CALLS, "method", name, values)
