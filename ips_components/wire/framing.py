"""Frames: a header of 32 bytes, a bounded body, raw cells. See `messages` for the layout."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from ips_components.errors import ProtocolError
from ips_components.wire.messages import (
    BY_OP,
    NO_SLOT,
    VERSION,
    Axes,
    Message,
    Piece,
    StepEnd,
)

MAGIC = b"IPSc"
HEADER = struct.Struct("<4sBBHQIIQ")
HEADER_BYTES = HEADER.size
MAX_DATA = 1 << 40
_new = tuple.__new__  # makes a named tuple without a call of Python's


class Header(NamedTuple):
    """The checked head of a frame."""

    op: int
    flags: int
    seq: int
    body: int
    array: int
    data: int


def pack(message: Message, data: int = 0) -> bytes:
    """Return header and body of a message; ``data`` bytes of raw cells will follow.

    Examples
    --------
    >>> from ips_components.wire.messages import Ack
    >>> frame = pack(Ack(seq=7))
    >>> frame[:4], frame[5], len(frame)
    (b'IPSc', 36, 40)
    """
    body = message.pack()
    names = message.HEADER_FIELDS
    flags = getattr(message, "flags", 0) if "flags" in names else 0
    seq = getattr(message, "seq", 0) if "seq" in names else 0
    array = getattr(message, "array", 0) if "array" in names else 0
    return HEADER.pack(MAGIC, VERSION, message.OP, flags, seq, len(body), array, data) + body


_PIECES: dict[tuple[int, bool], struct.Struct] = {}


def pack_piece(
    array: int,
    seq: int,
    chunk: int,
    t: int,
    dst: Axes,
    data: int = 0,
    slot: int = NO_SLOT,
    slot_offset: int = 0,
    strides: tuple[int, ...] = (),
    flags: int = 0,
    generation: int = 0,
) -> bytes:
    """Return the frame of a `Piece`, as `pack` does, in a single step: the rank's quick path."""
    shared = slot != NO_SLOT
    layout = _PIECES.get((len(dst), shared))
    if layout is None:
        numbers = f"{3 * len(dst)}Q" + (f"{len(dst)}q" if shared else "")
        layout = _PIECES[len(dst), shared] = struct.Struct(f"{HEADER.format}QQIIIIQ{numbers}")
    body = layout.size - HEADER_BYTES
    head = (MAGIC, VERSION, Piece.OP, flags, seq, body, array, data)
    place = (chunk, t, generation, 0, slot, len(dst), slot_offset)
    return layout.pack(*head, *place, *(n for axis in dst for n in axis), *strides)


class SlotFrame:
    """The frame of a `Piece` in a slot: from step to step number, time and lease change.

    Examples
    --------
    >>> dst = ((0, 1, 1), (2, 3, 1))
    >>> frame = SlotFrame(5, dst, slot=7, slot_offset=64, strides=(0, 8))
    >>> again = pack_piece(5, 21, 9, 3, ((1, 1, 1), (2, 3, 1)), 0, 7, 64, (0, 8), 0, 6)
    >>> frame.pack(seq=21, chunk=9, t=3, start=1, generation=6) == again
    True
    """

    __slots__ = ("_layout", "_parts")

    def __init__(
        self, array: int, dst: Axes, slot: int, slot_offset: int, strides: tuple[int, ...]
    ) -> None:
        frame = pack_piece(array, 0, 0, 0, dst, 0, slot, slot_offset, strides)
        self._parts = frame[:8], frame[16:32], frame[52:72], frame[80:]
        self._layout = struct.Struct(f"<8sQ16sQQI20sQ{len(self._parts[3])}s")

    def pack(self, seq: int, chunk: int, t: int, start: int, generation: int) -> bytes:
        """Return the frame of a piece whose part of the chunk begins at time ``start``."""
        head, size, slot, rest = self._parts
        return self._layout.pack(head, seq, size, chunk, t, generation, slot, start, rest)


_STEP_ENDS: dict[int, struct.Struct] = {}
_STEP_END = struct.Struct(f"<{HEADER_BYTES}sqQQ")
_STEP_END_HEAD = HEADER.pack(MAGIC, VERSION, StepEnd.OP, 0, 0, _STEP_END.size - HEADER_BYTES, 0, 0)


def pack_step_end(step: int, waited_ns: int, counters: Sequence[int]) -> bytes:
    """Return the frame of a `StepEnd` whose counters are given as numbers, 12 per array."""
    if not counters:
        return _STEP_END.pack(_STEP_END_HEAD, step, waited_ns, 0)
    layout = _STEP_ENDS.get(len(counters))
    if layout is None:
        layout = _STEP_ENDS[len(counters)] = struct.Struct(f"{HEADER.format}qQII{len(counters)}Q")
    head = (MAGIC, VERSION, StepEnd.OP, 0, 0, layout.size - HEADER_BYTES, 0, 0)
    return layout.pack(*head, step, waited_ns, len(counters) // 12, 0, *counters)


def parse_header(buffer: memoryview | bytes, offset: int = 0) -> Header:
    """Return the header at an offset of a buffer.

    Raises
    ------
    ProtocolError
        Not a frame of this protocol and version, or longer than such a message may be.
    """
    magic, version, op, flags, seq, body, array, data = HEADER.unpack_from(buffer, offset)
    if magic != MAGIC:
        raise ProtocolError(f"a frame must begin with {MAGIC!r}, got {magic!r}")
    if version != VERSION:
        raise ProtocolError(
            f"the peer speaks version {version} of the protocol, this side {VERSION}: "
            "install the same release of ips_components on both sides"
        )
    kind = BY_OP.get(op)
    if kind is None:
        raise ProtocolError(f"unknown message {op}")
    if body > kind.MAX_BODY:
        raise ProtocolError(f"{kind.__name__}: body of {body} bytes, at most {kind.MAX_BODY}")
    if data and (kind is not Piece or data > MAX_DATA):
        raise ProtocolError(f"{kind.__name__}: {data} bytes of cells are not allowed")
    return _new(Header, (op, flags, seq, body, array, data))


def parse(header: Header, body: memoryview) -> Message:
    """Return the message of a header and its body.

    Raises
    ------
    ProtocolError
        When the body is shorter than its message, or its values are impossible.
    """
    kind = BY_OP[header.op]
    try:
        message = kind.parse(body)
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise ProtocolError(f"{kind.__name__}: damaged body of {len(body)} bytes") from error
    for name in kind.HEADER_FIELDS:
        object.__setattr__(message, name, getattr(header, name))
    return message


class Decoder:
    """Bytes in, messages out; for the side that receives control messages only.

    Examples
    --------
    >>> from ips_components.wire.messages import Ack, Ping
    >>> frames = pack(Ack(seq=7)) + pack(Ping())
    >>> decoder = Decoder()
    >>> decoder.feed(frames[:50]), decoder.feed(frames[50:])
    ([Ack(seq=7)], [Ping()])
    """

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, received: bytes | memoryview) -> list[Message]:
        """Take some bytes and return the messages that are now complete."""
        buffer = self._buffer
        buffer += received
        messages = []
        at = 0
        with memoryview(buffer) as view:
            while len(buffer) - at >= HEADER_BYTES:
                header = parse_header(view, at)
                if header.data:
                    raise ProtocolError("raw cells were sent to a rank")
                end = at + HEADER_BYTES + header.body
                if end > len(buffer):
                    break
                with view[at + HEADER_BYTES : end] as body:
                    messages.append(parse(header, body))
                at = end
        del buffer[:at]
        return messages
