"""What the analysis and the IPS components ask the coordinator, as an RPC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ips_components.coordination.messages.message import Message


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
    """Declare the external tasks of a contract; with ``ahead`` they are declared piecemeal.

    ``remarks`` are shown with the table of the contract: further columns by name of an array.
    """

    NAME: ClassVar[str] = "contract"
    blob: bytes
    ahead: bool = False
    remarks: dict[str, dict[str, Any]] | None = None


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

    Tasks of one ``group`` that are ranks of one program share a launch; others of it wait until no
    launch is under way, at most ``timeout`` seconds without a step of it.
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
    """Physical times of the steps that have come, from `model.step_times.StepTimes`."""

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
