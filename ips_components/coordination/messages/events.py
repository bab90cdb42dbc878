"""What a worker reports to the coordinator, on its stream to the scheduler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ips_components.coordination.messages.message import Message


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
