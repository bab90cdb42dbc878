"""What ranks and receivers say to each other, with the exact bytes of every message.

Every message is one frame: a header of 32 bytes, a body, then raw cells where the message carries
any. All integers are little-endian. What a rank *receives* is binary with fixed offsets, so that a
C bridge needs nothing but libc; JSON occurs only in texts that a rank writes (``Hello.info``).

Header (``framing.HEADER``)

====== ===== ======== ====================================================================
offset type  field    meaning
====== ===== ======== ====================================================================
0      4s    magic    ``b"IPSc"``
4      u8    version  version of this protocol, `VERSION`
5      u8    op       code of the message, see below
6      u16   flags    `Hello`: 1 = asks for the contract; `Welcome`: 1 = contract is there;
                      `Piece`: 1 = the rank waits for the answer
8      u64   seq      `Piece`, `Rows`, `Dropped`: 1, 2, 3, ... per rank and receiver; else 0
16     u32   body     bytes of the body
20     u32   array    ordinal of the array in the contract, where the message is about one
24     u64   data     bytes of raw cells after the body (`Piece` only, else 0)
====== ===== ======== ====================================================================

Bodies from rank to receiver

========== == =============================================================================
message    op body
========== == =============================================================================
Hello      1  token 32s, run 64s (UTF-8, NUL padded), contract digest 32s (zeros: unknown),
              rank u32, size u32, pid u64, session u64, placement epoch u32,
              heartbeat u32 (ms; 0: none promised), info (JSON text to the end)
Piece      2  chunk u64, t u64, block u32, slot u32 (0xFFFFFFFF: cells follow as data),
              slot offset u64, ndim u32, zero u32, ndim x (start u64, count u64, step u64)
              and, in a slot, ndim x stride i64 (bytes)
Rows       3  chunk u64, t u64, rows u64 (0: the rank has no row of this ragged chunk)
StepEnd    4  step i64, waited u64 (ns), n u32, zero u32, n x counters (11 u64: array ordinal,
              then produced, skipped, delivered, dropped, lost as blocks, then as bytes)
Want       5  chunk row u64: the rank waits for credit for it
Dropped    6  chunk u64: the rank dropped its part by policy
Gone       7  chunk u64: asked for again, but no longer in the replay buffer
Slot       8  slot u32, ring u32, size u64, length u32, spare u32; one memfd travels with the
              frame. A ring has ``length`` slots, of which the receiver leaves ``spare`` free
SlotDrop   9  slot u32, zero u32
Bye        10 last step i64, status u32 (0 ok, 1 aborted), n u32, n x counters, reason (UTF-8)
Ping       11 empty (both ways)
Blocks     12 n u32, ndim u32, n x ndim x (offset u64, extent u64): what this rank holds of the
              array, where the hello could not say it yet
========== == =============================================================================

Bodies from receiver to rank

========== == =============================================================================
message    op body
========== == =============================================================================
Welcome    32 last seq u64, ordinal u32, heartbeat u32 (ms), silence u32 (ms), zero u32
ContractIs 33 digest 32s, endpoints length u32, contract length u32, endpoints, contract
Credit     34 chunk rows u64: pieces of chunk rows below it are welcome
Resend     35 chunk u64: send your part of it (again)
Ack        36 seq u64: all messages up to it were taken
Release    37 n x seq u64: the slots of these pieces are no longer read
Placement  38 epoch u32, n u32, n x (array u32, epoch u32, period u32, length u32,
              length x owner u32), endpoints (to the end)
Feedback   39 step i64, kind u8, ndim u8, name length u16, data length u32, ndim x u64,
              name (UTF-8), data; kind 0 float64, 1 int64, 2 text (UTF-8), 3 JSON
Fault      40 policy u32 (0 continue, 1 abort), zero u32, text (UTF-8)
Stop       41 reason (UTF-8)
ByeAck     42 empty
Refused    43 why (UTF-8); the receiver closes after it
========== == =============================================================================

Endpoints are written as `contact.pack_endpoints` says.

A *chunk row* is the index of a chunk along time: ``chunk // chunks per row``. New fields are
appended; a reader ignores the bytes after those that it knows.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import ClassVar, Self

from ips_components.errors import ProtocolError
from ips_components.wire._record import Record
from ips_components.wire.contact import Endpoint, pack_endpoints, parse_endpoints

VERSION = 1
TOKEN_BYTES = 32
NO_SLOT = 0xFFFFFFFF
MAX_NDIM = 16
COUNTERS = struct.Struct("<11Q")

_HELLO = struct.Struct("<32s64s32sIIQQII")
HELLO_BYTES = _HELLO.size
_PIECE = struct.Struct("<QQIIQII")
_AXIS = struct.Struct("<QQQ")
_STEP_END = struct.Struct("<qQII")
_BLOCKS = struct.Struct("<II")
_BYE = struct.Struct("<qII")
_CONTRACT = struct.Struct("<32sII")
_PLACEMENT = struct.Struct("<II")
_OWNERS = struct.Struct("<IIII")
_FEEDBACK = struct.Struct("<qBBHI")

Axes = tuple[tuple[int, int, int], ...]


class Message(Record):
    """A frame's meaning: `HEADER_FIELDS` travel in the header, all else in the body."""

    OP: ClassVar[int]
    MAX_BODY: ClassVar[int] = 4096
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ()

    def pack(self) -> bytes:
        """Return the body."""
        return b""

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        """Return the message of a body; header fields are set by `framing.parse`."""
        return cls()


class _Fixed(Message):
    """A body of one fixed layout whose values are the message's fields in order."""

    LAYOUT: ClassVar[struct.Struct]
    FIELDS: ClassVar[tuple[str, ...]]

    def pack(self) -> bytes:
        return self.LAYOUT.pack(*(getattr(self, name) for name in self.FIELDS))

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        return cls(**dict(zip(cls.FIELDS, cls.LAYOUT.unpack_from(body), strict=True)))


class _Text(Message):
    """A body that is one UTF-8 text."""

    text: str = ""

    MAX_BODY: ClassVar[int] = 1 << 20

    def pack(self) -> bytes:
        return self.text.encode()[: self.MAX_BODY]

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        return cls(str(body, "utf-8", "replace"))


class Counters(Record):
    """One array's account, cumulative: produced = skipped + delivered + dropped + lost."""

    array: int
    blocks: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    bytes: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)

    NAMES: ClassVar[tuple[str, ...]] = ("produced", "skipped", "delivered", "dropped", "lost")

    @property
    def closed(self) -> bool:
        """Whether everything produced is accounted for."""
        return all(c[0] == sum(c[1:]) for c in (self.blocks, self.bytes))


# --- rank -> receiver ---------------------------------------------------------------------------


class Hello(Message):
    """The first words of a rank on every connection."""

    token: bytes
    run: str
    rank: int
    size: int
    pid: int
    session: int
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
            self.token,
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
        token, run, digest, rank, size, pid, session, epoch, heartbeat = _HELLO.unpack_from(body)
        if not 0 <= rank < size:
            raise ProtocolError(f"hello of rank {rank} in a simulation of {size} ranks")
        return cls(
            token=token,
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
    seq: int = 0
    flags: int = 0

    OP: ClassVar[int] = 2
    MAX_BODY: ClassVar[int] = _PIECE.size + MAX_NDIM * (_AXIS.size + 8) + 64
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("array", "seq", "flags")
    ANSWER_NOW: ClassVar[int] = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells per dimension."""
        return tuple(count for _, count, _ in self.dst)

    def pack(self) -> bytes:
        ndim = len(self.dst)
        parts = [
            _PIECE.pack(self.chunk, self.t, self.block, self.slot, self.slot_offset, ndim, 0),
            *(_AXIS.pack(*axis) for axis in self.dst),
        ]
        if self.slot != NO_SLOT:
            parts.append(struct.pack(f"<{ndim}q", *self.strides))
        return b"".join(parts)

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        chunk, t, block, slot, slot_offset, ndim, _ = _PIECE.unpack_from(body)
        if not 1 <= ndim <= MAX_NDIM:
            raise ProtocolError(f"a piece must have 1 to {MAX_NDIM} dimensions, got {ndim}")
        numbers = struct.unpack_from(f"<{3 * ndim}Q", body, _PIECE.size)
        strides: tuple[int, ...] = ()
        if slot != NO_SLOT:
            strides = struct.unpack_from(f"<{ndim}q", body, _PIECE.size + ndim * _AXIS.size)
        return cls(
            array=0,
            chunk=chunk,
            t=t,
            dst=tuple(zip(numbers[0::3], numbers[1::3], numbers[2::3], strict=True)),
            block=block,
            slot=slot,
            slot_offset=slot_offset,
            strides=strides,
        )


class Rows(_Fixed):
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
    """A rank has put all that it has for a step; counters are cumulative."""

    step: int
    waited_ns: int = 0
    counters: tuple[Counters, ...] = ()

    OP: ClassVar[int] = 4
    MAX_BODY: ClassVar[int] = 1 << 20

    def pack(self) -> bytes:
        head = _STEP_END.pack(self.step, self.waited_ns, len(self.counters), 0)
        return head + _pack_counters(self.counters)

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        step, waited, count, _ = _STEP_END.unpack_from(body)
        return cls(step, waited, _parse_counters(body, _STEP_END.size, count))


class Want(_Fixed):
    """The rank waits: it has something for this chunk row and no credit for it."""

    array: int = 0
    row: int = 0

    OP: ClassVar[int] = 5
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("array",)
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Q")
    FIELDS: ClassVar[tuple[str, ...]] = ("row",)


class Dropped(_Fixed):
    """The rank dropped its part of the chunk by policy: the chunk will never be complete."""

    array: int = 0
    chunk: int = 0
    seq: int = 0

    OP: ClassVar[int] = 6
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("array", "seq")
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Q")
    FIELDS: ClassVar[tuple[str, ...]] = ("chunk",)


class Gone(_Fixed):
    """A chunk that was asked for again is no longer in the rank's replay buffer."""

    array: int = 0
    chunk: int = 0

    OP: ClassVar[int] = 7
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("array",)
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Q")
    FIELDS: ClassVar[tuple[str, ...]] = ("chunk",)


class Slot(_Fixed):
    """A sealed memfd in which pieces will lie; its descriptor travels with this frame."""

    slot: int = 0
    ring: int = 0
    size: int = 0
    length: int = 0
    spare: int = 0

    OP: ClassVar[int] = 8
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<IIQII")
    FIELDS: ClassVar[tuple[str, ...]] = ("slot", "ring", "size", "length", "spare")


class SlotDrop(_Fixed):
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
        return head + _pack_counters(self.counters) + self.reason.encode()[:65536]

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        last_step, status, count = _BYE.unpack_from(body)
        counters = _parse_counters(body, _BYE.size, count)
        text = body[_BYE.size + count * COUNTERS.size :]
        return cls(last_step, status, counters, str(text, "utf-8", "replace"))


class Ping(Message):
    """A sign of life, either way."""

    OP: ClassVar[int] = 11


class Blocks(Message):
    """What a rank holds of an array, told with its first put when only an offset was described."""

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
        _need(body, _BLOCKS.size + count * ndim * 16)
        numbers = struct.unpack_from(f"<{2 * count * ndim}Q", body, _BLOCKS.size)
        rows = (numbers[i * 2 * ndim : (i + 1) * 2 * ndim] for i in range(count if ndim else 0))
        return cls(array=0, blocks=tuple((row[0::2], row[1::2]) for row in rows))


# --- receiver -> rank ---------------------------------------------------------------------------


class Welcome(_Fixed):
    """The hello was accepted; ``last_seq`` tells a returning rank where to go on."""

    last_seq: int = 0
    ordinal: int = 0
    heartbeat_ms: int = 0
    silence_ms: int = 0
    zero: int = 0
    flags: int = 0

    OP: ClassVar[int] = 32
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("flags",)
    HAS_CONTRACT: ClassVar[int] = 1
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QIIII")
    FIELDS: ClassVar[tuple[str, ...]] = (
        "last_seq",
        "ordinal",
        "heartbeat_ms",
        "silence_ms",
        "zero",
    )


class ContractIs(Message):
    """The contract of the run, with the endpoints that it names by ordinal."""

    digest: bytes
    contract: bytes
    endpoints: tuple[Endpoint, ...] = ()

    OP: ClassVar[int] = 33
    MAX_BODY: ClassVar[int] = 256 << 20

    def pack(self) -> bytes:
        endpoints = pack_endpoints(self.endpoints)
        head = _CONTRACT.pack(self.digest, len(endpoints), len(self.contract))
        return head + endpoints + self.contract

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        digest, first, second = _CONTRACT.unpack_from(body)
        start = _CONTRACT.size
        _need(body, start + first + second)
        return cls(
            digest=digest,
            contract=bytes(body[start + first : start + first + second]),
            endpoints=parse_endpoints(body[start : start + first]),
        )


class Credit(_Fixed):
    """Pieces of the array's chunk rows below ``rows`` are welcome."""

    array: int = 0
    rows: int = 0

    OP: ClassVar[int] = 34
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("array",)
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Q")
    FIELDS: ClassVar[tuple[str, ...]] = ("rows",)


class Resend(_Fixed):
    """The receiver takes (or takes again) the rank's part of a chunk, whatever the credit."""

    array: int = 0
    chunk: int = 0

    OP: ClassVar[int] = 35
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("array",)
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Q")
    FIELDS: ClassVar[tuple[str, ...]] = ("chunk",)


class Ack(_Fixed):
    """All numbered messages up to ``seq`` were taken."""

    seq: int = 0

    OP: ClassVar[int] = 36
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Q")
    FIELDS: ClassVar[tuple[str, ...]] = ("seq",)


class Release(Message):
    """The pieces with these numbers are read no more: their slots may be written."""

    seqs: tuple[int, ...] = ()

    OP: ClassVar[int] = 37
    MAX_BODY: ClassVar[int] = 1 << 20

    def pack(self) -> bytes:
        return struct.pack(f"<{len(self.seqs)}Q", *self.seqs)

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        return cls(struct.unpack_from(f"<{len(body) // 8}Q", body))


class Owners(Record):
    """The placement of one array: ``owners[(row % period) * chunks per row + s]``."""

    array: int
    epoch: int
    period: int
    owners: tuple[int, ...]


class PlacementIs(Message):
    """Chunks have new owners; the endpoints are the complete new list."""

    epoch: int
    owners: tuple[Owners, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()

    OP: ClassVar[int] = 38
    MAX_BODY: ClassVar[int] = 256 << 20

    def pack(self) -> bytes:
        parts = [_PLACEMENT.pack(self.epoch, len(self.owners))]
        for one in self.owners:
            parts.append(_OWNERS.pack(one.array, one.epoch, one.period, len(one.owners)))
            parts.append(struct.pack(f"<{len(one.owners)}I", *one.owners))
        return b"".join((*parts, pack_endpoints(self.endpoints)))

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        epoch, count = _PLACEMENT.unpack_from(body)
        at = _PLACEMENT.size
        owners = []
        for _ in range(count):
            array, own_epoch, period, length = _OWNERS.unpack_from(body, at)
            at += _OWNERS.size
            _need(body, at + 4 * length)
            owners.append(
                Owners(array, own_epoch, period, struct.unpack_from(f"<{length}I", body, at))
            )
            at += 4 * length
        return cls(epoch, tuple(owners), parse_endpoints(body[at:]))


class Feedback(Message):
    """A value from the analysis for the simulation; see `wire.values` for Python objects."""

    name: str
    step: int
    kind: int
    shape: tuple[int, ...] = ()
    data: bytes = b""

    OP: ClassVar[int] = 39
    MAX_BODY: ClassVar[int] = 64 << 20

    def pack(self) -> bytes:
        name = self.name.encode()
        head = _FEEDBACK.pack(self.step, self.kind, len(self.shape), len(name), len(self.data))
        return head + struct.pack(f"<{len(self.shape)}Q", *self.shape) + name + self.data

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        step, kind, ndim, name_length, data_length = _FEEDBACK.unpack_from(body)
        at = _FEEDBACK.size + 8 * ndim
        _need(body, at + name_length + data_length)
        shape = struct.unpack_from(f"<{ndim}Q", body, _FEEDBACK.size)
        name = str(body[at : at + name_length], "utf-8")
        at += name_length
        return cls(name, step, kind, shape, bytes(body[at : at + data_length]))


class Fault(Message):
    """The analytics side has failed; ``policy`` says what the simulation does about it."""

    text: str
    policy: int = 0

    OP: ClassVar[int] = 40
    MAX_BODY: ClassVar[int] = 1 << 20
    CONTINUE: ClassVar[int] = 0
    ABORT: ClassVar[int] = 1

    def pack(self) -> bytes:
        return struct.pack("<II", self.policy, 0) + self.text.encode()[: self.MAX_BODY - 8]

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        (policy,) = struct.unpack_from("<I", body)
        return cls(str(body[8:], "utf-8", "replace"), policy)


class Stop(_Text):
    """The analysis has what it wants: end at the next convenient step, successfully."""

    OP: ClassVar[int] = 41


class ByeAck(Message):
    """The rank's bye was taken."""

    OP: ClassVar[int] = 42


class Refused(_Text):
    """Why the receiver will not talk to this rank."""

    OP: ClassVar[int] = 43


# --- parts --------------------------------------------------------------------------------------


def _pack_counters(counters: Sequence[Counters]) -> bytes:
    return b"".join(COUNTERS.pack(c.array, *c.blocks, *c.bytes) for c in counters)


def _parse_counters(body: memoryview, at: int, count: int) -> tuple[Counters, ...]:
    _need(body, at + count * COUNTERS.size)
    rows = (COUNTERS.unpack_from(body, at + i * COUNTERS.size) for i in range(count))
    return tuple(Counters(row[0], row[1:6], row[6:11]) for row in rows)


def _need(body: memoryview | bytes, length: int) -> None:
    if len(body) < length:
        raise ProtocolError(f"a body of {len(body)} bytes, but its lengths ask for {length}")


BY_OP: dict[int, type[Message]] = {
    cls.OP: cls
    for cls in (
        *(Hello, Piece, Rows, StepEnd, Want, Dropped, Gone, Slot, SlotDrop, Bye, Ping, Blocks),
        *(Welcome, ContractIs, Credit, Resend, Ack, Release, PlacementIs, Feedback),
        *(Fault, Stop, ByeAck, Refused),
    )
}
"""Message classes by op code."""
