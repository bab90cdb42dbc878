"""Bytes of one socket, in the order in which a conversation asks for them.

A conversation is a generator that yields the memory it wants to have filled and is resumed with
the number of bytes that came. It holds no thread while it waits: a thread of its own may drive it
with calls that block, or one thread may drive many of them as their sockets become readable, in the
middle of a piece as well.
"""

from __future__ import annotations

import array
import os
import socket
import time
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any, TypeAlias

import numpy as np

from ips_components.errors import ProtocolError
from ips_components.wire.tls import TlsSocket

Steps: TypeAlias = Generator[memoryview | None, int, Any]
"""Yields memory to be filled, `READABLE`, or `PAUSED`; is sent the number of bytes."""

READABLE = memoryview(b"")
"""Yielded by a conversation that reads the socket by itself once there is something to read."""
JOINED = memoryview(bytearray())
"""Yielded once, when the rank was taken in: the conversation may go on in another thread."""
PAUSED = None
"""Yielded by a conversation that waits for something else than its socket."""

FIRST_BUFFER = 1 << 10  # a connection that has not said a hello yet costs little
READ_AHEAD = 64 << 10
SCRATCH = 1 << 20  # strided pieces pass through this much, which stays in the cache
PART = 16 << 20  # of a large piece; between parts the connection is seen to be alive
MAX_FDS = 16
AT_ONCE = int(socket.MSG_DONTWAIT)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_FD_SPACE = socket.CMSG_SPACE(MAX_FDS * 4)


class Closed(Exception):
    """The other side is gone; not an error by itself."""


class Input:
    """Read-ahead buffer and descriptors of one connection; used by its reader only.

    Parameters
    ----------
    sock
        The socket.
    local
        Whether descriptors may come with the bytes.
    """

    __slots__ = (
        "_buffer",
        "_end",
        "_fds",
        "_local",
        "_scratch",
        "_sock",
        "_start",
        "last",
        "whole",
    )

    def __init__(self, sock: socket.socket | TlsSocket, local: bool) -> None:
        self._sock = sock
        self._local = local
        self._buffer = memoryview(bytearray(FIRST_BUFFER))
        self._start = self._end = 0
        self._fds: deque[int] = deque()
        self._scratch: memoryview | None = None
        self.whole = False  # the memory that was yielded is wanted whole
        self.last = time.monotonic()  # when something came last

    @property
    def empty(self) -> bool:
        """Whether nothing is at hand."""
        return self._start == self._end

    def grow(self) -> None:
        """Read more ahead from now on: the peer is known."""
        buffer = memoryview(bytearray(READ_AHEAD))
        n = self._end - self._start
        buffer[:n] = self._buffer[self._start : self._end]
        self._buffer, self._start, self._end = buffer, 0, n

    def take(self, n: int) -> Generator[memoryview, int, memoryview]:
        """Return the next ``n`` bytes, at most the read-ahead."""
        while self._end - self._start < n:
            if self._start and self._start + n > len(self._buffer):
                rest = self._end - self._start
                self._buffer[:rest] = bytes(self._buffer[self._start : self._end])
                self._start, self._end = 0, rest
            self._end += yield self._buffer[self._end :]
        start = self._start
        self._start += n
        taken = self._buffer[start : start + n]
        if self._start == self._end:
            self._start = self._end = 0
        return taken

    def fits(self, n: int) -> bool:
        """Return whether `take` can return so many bytes."""
        return n <= len(self._buffer)

    def read_into(self, target: memoryview) -> Generator[memoryview, int, None]:
        """Fill ``target`` with the next bytes."""
        have = min(len(target), self._end - self._start)
        target[:have] = self._buffer[self._start : self._start + have]
        self._start += have
        if self._start == self._end:
            self._start = self._end = 0
        at = have
        self.whole = True
        while at < len(target):
            at += yield target[at : at + PART]
            self.last = time.monotonic()
        self.whole = False

    def read_cells(self, target: np.ndarray[Any, Any]) -> Generator[memoryview, int, None]:
        """Fill a part of a chunk, strided or not."""
        for part in _parts(target, SCRATCH):
            if part.flags.c_contiguous:
                yield from self.read_into(part.reshape(-1).view(np.uint8).data)
                continue
            cells = self._scratch_memory()[: part.nbytes]
            yield from self.read_into(cells)
            part[...] = np.frombuffer(cells, part.dtype).reshape(part.shape)

    def discard(self, nbytes: int) -> Generator[memoryview, int, None]:
        """Read bytes that are not needed."""
        while nbytes:
            part = min(nbytes, SCRATCH)
            yield from self.read_into(self._scratch_memory()[:part])
            nbytes -= part

    def pop_fd(self) -> int | None:
        """Return the oldest descriptor that came, if there is one; the caller closes it."""
        return self._fds.popleft() if self._fds else None

    def receive(self, target: memoryview, flags: int) -> int:
        """Receive into memory.

        Raises
        ------
        Closed
            At the end of the connection.
        """
        sock = self._sock
        if not self._local or isinstance(sock, TlsSocket):
            n = sock.recv_into(target, 0, flags)
        else:
            n, ancillary, _, _ = sock.recvmsg_into([target], _FD_SPACE, flags | _CLOEXEC)
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds = array.array("i")
                    fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                    self._fds.extend(fds)
            if len(self._fds) > MAX_FDS:
                raise ProtocolError(f"more than {MAX_FDS} descriptors that were not announced")
        if not n:
            raise Closed("the connection was closed by the rank's side")
        return n

    def close(self) -> None:
        """Close descriptors that were not used, and free the memory."""
        while self._fds:
            os.close(self._fds.popleft())
        self._scratch = None
        self._buffer = memoryview(b"")
        self._start = self._end = 0

    def _scratch_memory(self) -> memoryview:
        if self._scratch is None:
            self._scratch = memoryview(bytearray(SCRATCH))
        return self._scratch


def _parts(target: np.ndarray[Any, Any], nbytes: int) -> Iterator[np.ndarray[Any, Any]]:
    """Cut an array along its first dimensions into parts of at most ``nbytes``, in C order."""
    if target.nbytes <= nbytes or target.flags.c_contiguous:
        yield target
        return
    per_row = target[0].nbytes
    if per_row > nbytes:
        for row in target:
            yield from _parts(row, nbytes)
        return
    rows = max(1, nbytes // per_row)
    for start in range(0, len(target), rows):
        yield target[start : start + rows]
