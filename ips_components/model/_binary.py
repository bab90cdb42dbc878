"""Little-endian, 8-byte aligned bytes: the writer and the reader of the binary contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct, pack, pack_into, unpack_from

from ips_components.errors import ContractError

_I64 = Struct("<q")


class Writer:
    """Appends items to a message that begins with a magic word and its own length."""

    __slots__ = ("_buffer",)

    def __init__(self, magic: bytes) -> None:
        self._buffer = bytearray(magic + bytes(8))

    def ints(self, *values: int) -> None:
        """Append 64-bit integers."""
        self._buffer += pack(f"<{len(values)}q", *values)

    def string(self, text: str) -> None:
        """Append a length, UTF-8 bytes, and zero bytes up to a multiple of 8."""
        data = text.encode()
        self.ints(len(data))
        self._buffer += data + bytes(-len(data) % 8)

    @contextmanager
    def record(self) -> Iterator[None]:
        """Enclose items in a record that begins with its length."""
        at = len(self._buffer)
        self.ints(0)
        yield
        _I64.pack_into(self._buffer, at, len(self._buffer) - at)

    def finish(self) -> bytes:
        """Return the message."""
        pack_into("<q", self._buffer, 8, len(self._buffer))
        return bytes(self._buffer)


class Reader:
    """Reads what `Writer` wrote and refuses, before it allocates, what cannot be."""

    __slots__ = ("_at", "_end", "_view")

    def __init__(self, data: bytes | bytearray | memoryview, magic: bytes) -> None:
        self._view = memoryview(data).cast("B")
        self._at = 0
        self._end = len(self._view)
        if bytes(self._take(len(magic))) != magic:
            raise ContractError(
                f"expected a contract beginning with {magic!r}, "
                f"got {bytes(self._view[: len(magic)])!r}"
            )
        (length,) = self.ints(1)
        if length != self._end:
            raise ContractError(f"the contract says that it has {length} bytes, got {self._end}")

    @property
    def at_end(self) -> bool:
        """Whether everything has been read."""
        return self._at == self._end

    def ints(self, n: int) -> tuple[int, ...]:
        """Read 64-bit integers."""
        return unpack_from(f"<{n}q", self._take(8 * n))

    def length(self, item_bytes: int) -> int:
        """Read the number of items that follow, each of at least ``item_bytes`` bytes."""
        (n,) = self.ints(1)
        if not 0 <= n <= (self._end - self._at) // item_bytes:
            raise ContractError(
                f"the contract announces {n} items of {item_bytes} bytes or more, "
                f"but {self._end - self._at} bytes are left"
            )
        return n

    def string(self) -> str:
        """Read a string."""
        n = self.length(1)
        text = bytes(self._take(n)).decode()
        self._take(-n % 8)
        return text

    @contextmanager
    def record(self) -> Iterator[None]:
        """Read inside a record, and skip what it holds beyond the items read."""
        at, outer = self._at, self._end
        (n,) = self.ints(1)
        if not 8 <= n <= outer - at or n % 8:
            raise ContractError(f"a record of {n} bytes does not fit the {outer - at} bytes left")
        self._end = at + n
        yield
        self._at, self._end = self._end, outer

    def _take(self, n: int) -> memoryview:
        if n > self._end - self._at:
            raise ContractError(
                f"the contract is cut short: expected {n} more bytes, got {self._end - self._at}"
            )
        part = self._view[self._at : self._at + n]
        self._at += n
        return part
