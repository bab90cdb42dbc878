"""What ranks say to receivers; the bytes are described in `messages`."""

from __future__ import annotations

import struct
from typing import ClassVar, Self

from ips_components.errors import ProtocolError
from ips_components.wire._parts import (
    COUNTERS,
    MAX_NDIM,
    NO_SLOT,
    Axes,
    Counters,
    Fixed,
    Message,
    need,
    pack_counters,
    parse_counters,
)

_HELLO = struct.Struct("<32s64s32sIIQQII")
HELLO_BYTES = _HELLO.size
_PIECE = struct.Struct("<QQIIIIQ")
_MOVING = struct.Struct("<QQI")  # what changes from step to step: chunk, time and generation
_AXIS = struct.Struct("<QQQ")
_STEP_END = struct.Struct("<qQII")
_BLOCKS = struct.Struct("<II")
_BYE = struct.Struct("<qII")
_KNOWN: dict[bytes, tuple[Axes, int, int, int, tuple[int, ...]]] = {}
"""What the rest of a piece says: where it belongs, and where it lies."""
_MAX_KNOWN = 4096


class Greeting(Fixed):
    """The first message of a rank on every connection; see `proof`."""

    nonce: bytes
    session: int

    OP: ClassVar[int] = 13
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<32sQ")
    FIELDS: ClassVar[tuple[str, ...]] = ("nonce", "session")


class Hello(Message):
    """The identity of a rank, with the proof that it knows the token of the run."""

    run: str
    rank: int
    size: int
    pid: int
    session: int
    proof: bytes = bytes(32)
    digest: bytes = bytes(32)
    epoch: int = 0
    heartbeat_ms: int = 0
    info: bytes = b"{}"
    flags: int = 0

    OP: ClassVar[int] = 1
    MAX_BODY: ClassVar[int] = 16 << 20
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("flags",)
    WANTS_CONTRACT: ClassVar[int] = 1

    def pack(self) -> bytes:
        fixed = _HELLO.pack(
            self.proof,
            self.run.encode(),
            self.digest,
            self.rank,
            self.size,
            self.pid,
            self.session,
            self.epoch,
            self.heartbeat_ms,
        )
        return fixed + self.info

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        proof, run, digest, rank, size, pid, session, epoch, heartbeat = _HELLO.unpack_from(body)
        if not 0 <= rank < size:
            raise ProtocolError(f"hello of rank {rank} in a simulation of {size} ranks")
        return cls(
            proof=proof,
            run=run.rstrip(b"\0").decode(),
            rank=rank,
            size=size,
            pid=pid,
            session=session,
            digest=digest,
            epoch=epoch,
            heartbeat_ms=heartbeat,
            info=bytes(body[_HELLO.size :]),
        )


class Piece(Message):
    """Cells of one block that belong to one chunk; they follow as data or lie in a slot."""

    array: int
    chunk: int
    t: int
    dst: Axes
    block: int = 0
    slot: int = NO_SLOT
    slot_offset: int = 0
    strides: tuple[int, ...] = ()
    generation: int = 0
    seq: int = 0
    flags: int = 0

    OP: ClassVar[int] = 2
    MAX_BODY: ClassVar[int] = _PIECE.size + MAX_NDIM * (_AXIS.size + 8) + 64
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("array", "seq", "flags")
    ANSWER_NOW: ClassVar[int] = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells per dimension."""
        return tuple([count for _, count, _ in self.dst])

    def pack(self) -> bytes:
        ndim = len(self.dst)
        parts = [
            _PIECE.pack(
                self.chunk,
                self.t,
                self.generation,
                self.block,
                self.slot,
                ndim,
                self.slot_offset,
            ),
            *(_AXIS.pack(*axis) for axis in self.dst),
        ]
        if self.slot != NO_SLOT:
            parts.append(struct.pack(f"<{ndim}q", *self.strides))
        return b"".join(parts)

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        chunk, t, generation = _MOVING.unpack_from(body)
        rest = bytes(body[_MOVING.size :])
        known = _KNOWN.get(rest)
        if known is None:
            known = _where(body)
            if len(_KNOWN) >= _MAX_KNOWN:
                _KNOWN.clear()
            _KNOWN[rest] = known
        dst, block, slot, slot_offset, strides = known
        return cls.made((0, chunk, t, dst, block, slot, slot_offset, strides, generation, 0, 0))


def _where(body: memoryview) -> tuple[Axes, int, int, int, tuple[int, ...]]:
    """Return a piece's place in its chunk, its block, and slot, offset and strides."""
    _, _, _, block, slot, ndim, slot_offset = _PIECE.unpack_from(body)
    if not 1 <= ndim <= MAX_NDIM:
        raise ProtocolError(f"a piece must have 1 to {MAX_NDIM} dimensions, got {ndim}")
    numbers = struct.unpack_from(f"<{3 * ndim}Q", body, _PIECE.size)
    strides: tuple[int, ...] = ()
    if slot != NO_SLOT:
        strides = struct.unpack_from(f"<{ndim}q", body, _PIECE.size + ndim * _AXIS.size)
    dst = tuple(zip(numbers[0::3], numbers[1::3], numbers[2::3], strict=True))
    return dst, block, slot, slot_offset, strides


class Rows(Fixed):
    """A rank has no rows of a ragged chunk (rows that exist are announced by their piece)."""

    array: int = 0
    chunk: int = 0
    t: int = 0
    rows: int = 0
    seq: int = 0

    OP: ClassVar[int] = 3
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("array", "seq")
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QQQ")
    FIELDS: ClassVar[tuple[str, ...]] = ("chunk", "t", "rows")


class StepEnd(Message):
    """A rank has put all that it has for a step; counters are cumulative.

    A rank whose puts are not wanted sends its account now and then: with `NO_STEP` and the number
    of steps that are behind it.
    """

    NO_STEP: ClassVar[int] = -(1 << 63)

    step: int
    waited_ns: int = 0
    counters: tuple[Counters, ...] = ()

    OP: ClassVar[int] = 4
    MAX_BODY: ClassVar[int] = 1 << 20

    def pack(self) -> bytes:
        head = _STEP_END.pack(self.step, self.waited_ns, len(self.counters), 0)
        return head + pack_counters(self.counters)

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        step, waited, count, _ = _STEP_END.unpack_from(body)
        counters = parse_counters(body, _STEP_END.size, count) if count else ()
        return cls.made((step, waited, counters))


class StepTime(Fixed):
    """The physical time of a step, where the simulation says it."""

    step: int
    time: float

    OP: ClassVar[int] = 14
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<qd")
    FIELDS: ClassVar[tuple[str, ...]] = ("step", "time")


class Want(Fixed):
    """The rank waits: it has something for this chunk row and no credit for it."""

    array: int = 0
    row: int = 0

    OP: ClassVar[int] = 5
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("array",)
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Q")
    FIELDS: ClassVar[tuple[str, ...]] = ("row",)


class Dropped(Fixed):
    """The rank dropped its part of the chunk by policy: the chunk will never be complete.

    With `PASSED`, it had put the steps of the chunk before it got the contract.
    """

    array: int = 0
    chunk: int = 0
    seq: int = 0
    flags: int = 0

    OP: ClassVar[int] = 6
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("array", "seq", "flags")
    PASSED: ClassVar[int] = 1
    WHY_PASSED: ClassVar[str] = "it had put this step before it got the contract"
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Q")
    FIELDS: ClassVar[tuple[str, ...]] = ("chunk",)


class Gone(Fixed):
    """A chunk that was asked for again is no longer in the rank's replay buffer."""

    array: int = 0
    chunk: int = 0

    OP: ClassVar[int] = 7
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("array",)
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Q")
    FIELDS: ClassVar[tuple[str, ...]] = ("chunk",)


class Slot(Fixed):
    """A part of a sealed memfd in which pieces will lie; its descriptor travels with this frame."""

    slot: int = 0
    ring: int = 0
    size: int = 0
    length: int = 0
    spare: int = 0
    segment: int = 0
    offset: int = 0

    OP: ClassVar[int] = 8
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIQIIQQ")
    FIELDS: ClassVar[tuple[str, ...]] = (
        "slot",
        "ring",
        "size",
        "length",
        "spare",
        "segment",
        "offset",
    )


class SlotDrop(Fixed):
    """The rank uses this slot no more."""

    slot: int = 0
    zero: int = 0

    OP: ClassVar[int] = 9
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<II")
    FIELDS: ClassVar[tuple[str, ...]] = ("slot", "zero")


class Bye(Message):
    """A rank's last words: its last step, how it ended, its final account."""

    last_step: int
    status: int = 0
    counters: tuple[Counters, ...] = ()
    reason: str = ""

    OP: ClassVar[int] = 10
    MAX_BODY: ClassVar[int] = 1 << 20

    def pack(self) -> bytes:
        head = _BYE.pack(self.last_step, self.status, len(self.counters))
        return head + pack_counters(self.counters) + self.reason.encode()[:65536]

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        last_step, status, count = _BYE.unpack_from(body)
        counters = parse_counters(body, _BYE.size, count)
        text = body[_BYE.size + count * COUNTERS.size :]
        return cls(last_step, status, counters, str(text, "utf-8", "replace"))


class Ping(Message):
    """A sign of life, either way."""

    OP: ClassVar[int] = 11


class Blocks(Message):
    """What a rank holds of an array, sent with its first put when only an offset was described."""

    array: int
    blocks: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()

    OP: ClassVar[int] = 12
    MAX_BODY: ClassVar[int] = 1 << 20
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("array",)

    def pack(self) -> bytes:
        ndim = len(self.blocks[0][0]) if self.blocks else 0
        numbers = [
            number
            for offset, extent in self.blocks
            for pair in zip(offset, extent, strict=True)
            for number in pair
        ]
        return _BLOCKS.pack(len(self.blocks), ndim) + struct.pack(f"<{len(numbers)}Q", *numbers)

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        count, ndim = _BLOCKS.unpack_from(body)
        if ndim > MAX_NDIM:
            raise ProtocolError(f"a block must have at most {MAX_NDIM} dimensions, got {ndim}")
        need(body, _BLOCKS.size + count * ndim * 16)
        numbers = struct.unpack_from(f"<{2 * count * ndim}Q", body, _BLOCKS.size)
        rows = (numbers[i * 2 * ndim : (i + 1) * 2 * ndim] for i in range(count if ndim else 0))
        return cls(array=0, blocks=tuple((row[0::2], row[1::2]) for row in rows))
