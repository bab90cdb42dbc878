"""What all messages have in common: how a frame's fields become bytes, and the counters."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import ClassVar, Self

from ips_components.errors import ProtocolError
from ips_components.wire._record import Record

VERSION = 5
PROOF_BYTES = 32
NO_SLOT = 0xFFFFFFFF
MAX_NDIM = 16
COUNTERS = struct.Struct("<12Q")
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


class Fixed(Message):
    """A body of one fixed layout whose values are the message's fields in order."""

    LAYOUT: ClassVar[struct.Struct]
    FIELDS: ClassVar[tuple[str, ...]]

    def pack(self) -> bytes:
        return self.LAYOUT.pack(*(getattr(self, name) for name in self.FIELDS))

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        values = list(cls._blank)
        for name, value in zip(cls.FIELDS, cls.LAYOUT.unpack_from(body), strict=True):
            values[cls._fields.index(name)] = value
        return cls.made(values)


class Text(Message):
    """A body that is one UTF-8 text."""

    text: str = ""

    MAX_BODY: ClassVar[int] = 1 << 20

    def pack(self) -> bytes:
        return self.text.encode()[: self.MAX_BODY]

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        return cls(str(body, "utf-8", "replace"))


class Counters(Record):
    """One array's account, cumulative: produced = skipped + delivered + dropped + lost.

    ``beyond`` counts the steps beyond the last one that the contract knows; they are skipped.
    """

    array: int
    blocks: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    bytes: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    beyond: int = 0

    NAMES: ClassVar[tuple[str, ...]] = ("produced", "skipped", "delivered", "dropped", "lost")

    @property
    def closed(self) -> bool:
        """Whether everything produced is accounted for."""
        return all(c[0] == sum(c[1:]) for c in (self.blocks, self.bytes))


def pack_counters(counters: Sequence[Counters]) -> bytes:
    return b"".join(COUNTERS.pack(c.array, *c.blocks, *c.bytes, c.beyond) for c in counters)


def parse_counters(body: memoryview, at: int, count: int) -> tuple[Counters, ...]:
    need(body, at + count * COUNTERS.size)
    rows = (COUNTERS.unpack_from(body, at + i * COUNTERS.size) for i in range(count))
    return tuple(Counters(row[0], row[1:6], row[6:11], row[11]) for row in rows)


def need(body: memoryview | bytes, length: int) -> None:
    if len(body) < length:
        raise ProtocolError(f"a body of {len(body)} bytes, but its lengths ask for {length}")
