"""What a receiver reports, and to which object. All methods are called from the receiver's threads.

They must return at once (hand over to an event loop), and must not call back into the receiver
while they run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ips_components.wire.messages import Counters

Boxes = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class HelloInfo:
    """A rank that has said hello.

    ``blocks`` maps array names to the rank's blocks, each an offset and a shape; arrays whose
    blocks move or vary are not in it. ``returning`` is true when the rank had a connection before.
    ``asks``: it waits for the contract, and ``hosts`` says, by rank, on which host which blocks
    are, as far as it knows. ``step`` is the newest step that it has begun, said by ranks that join
    an attached run; else -1.
    """

    rank: int
    size: int
    host: str
    pid: int
    lane: str
    blocks: Mapping[str, Boxes] = field(default_factory=dict)
    returning: bool = False
    asks: bool = False
    hosts: Sequence[tuple[str, Mapping[str, Boxes]]] = ()
    step: int = -1


@dataclass(frozen=True, slots=True)
class StepInfo:
    """A rank has put all of a step; ``waited`` (seconds) and counters are cumulative."""

    step: int
    waited: float
    counters: tuple[Counters, ...]


@dataclass(frozen=True, slots=True)
class ByeInfo:
    """How a rank ended: status ``"ok"`` or ``"aborted"``, with its reason."""

    last_step: int
    status: str
    reason: str
    counters: tuple[Counters, ...]


class Sink(Protocol):
    """The owner of a receiver.

    An array is named by its ordinal in the contract, a chunk by its number. A receiver reports
    what one rank says to it; the same hello may come through several receivers.
    """

    def hello(self, info: HelloInfo) -> None:
        """A rank has connected (or returned)."""

    def described(self, arrays: list[dict[str, Any]]) -> None:
        """Rank 0 offers these arrays, as `model.ArraySpec` fields; before there is a contract."""

    def chunk(self, array: int, chunk: int, value: Any, nbytes: int) -> None:
        """A chunk is complete: a read-only array; its memory returns when its last view dies."""

    def missing(self, array: int, chunk: int, rank: int, why: str) -> None:
        """A chunk will not become complete: dropped by policy, or no longer in replay buffers."""

    def blocks(self, rank: int, array: int, blocks: Boxes) -> None:
        """A rank says with its first put which blocks (offset, extent) of an array it holds."""

    def step_end(self, rank: int, info: StepInfo) -> None:
        """A rank has put all of a step."""

    def step_time(self, rank: int, step: int, time: float) -> None:
        """A rank says the physical time of a step."""

    def bye(self, rank: int, info: ByeInfo) -> None:
        """A rank has closed its bridge."""

    def lost(self, rank: int, why: str) -> None:
        """A rank has gone without a bye and did not return within the grace period."""

    def fault(self, text: str) -> None:
        """Something is wrong that no rank can be blamed for silently: read it, it is for people."""
