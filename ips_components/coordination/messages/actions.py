"""What the coordinator has a worker do, on the scheduler's stream to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ips_components.coordination.messages.message import Message


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
