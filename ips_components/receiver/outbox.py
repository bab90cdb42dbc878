"""What a connection has to send: never waits for the rank."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable

from ips_components.wire.tls import TlsSocket

MAX_UNSENT = 256 << 20
# Sums of the socket module's flags cost more than the calls that take them.
_AT_ONCE = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class Outbox:
    """Frames in order; what the socket does not take now is sent by `flush`.

    Parameters
    ----------
    sock
        The socket, shut down here and closed by `close` only.
    unsent
        Called, with the lock held, when something is left: `flush` must be called again.

    Notes
    -----
    Safe from any thread. `_lock` guards all fields. Frames are sent whole and in order, also where
    the socket takes a part of one.
    """

    def __init__(self, sock: socket.socket | TlsSocket, unsent: Callable[[], None]) -> None:
        self._sock = sock
        self._unsent = unsent
        self._lock = threading.Lock()
        self._frames: deque[memoryview] = deque()
        self._nbytes = 0
        self._complete = False  # the last message is among the frames, or was sent
        self.closed = False
        self.why = ""

    def enqueue(self, frame: bytes) -> None:
        """Queue packed messages; `flush` sends them."""
        with self._lock:
            self._append(frame)

    def send(self, frame: bytes, *, last: bool = False) -> None:
        """Send packed messages; none that comes after the last ones."""
        with self._lock:
            self._append(frame)
            self._complete |= last
            self._send()
            if self._frames:
                self._unsent()

    def flush(self) -> bool:
        """Try to send what is left; return whether something still is."""
        with self._lock:
            self._send()
            return bool(self._frames)

    def shut(self, why: str) -> None:
        """End the connection: nothing more is sent, and its reader finds its end."""
        with self._lock:
            self._shut(why)

    def close(self) -> None:
        """Close the socket; called by the thread that reads it."""
        with self._lock:
            self.closed = True
            self._clear()
            self._sock.close()

    def _append(self, frame: bytes) -> None:
        if self.closed or self._complete or not frame:
            return
        if self._nbytes > MAX_UNSENT:
            self._shut("it does not read what it is sent")
            return
        self._frames.append(memoryview(frame))
        self._nbytes += len(frame)

    def _send(self) -> None:
        while self._frames and not self.closed:
            head = self._frames[0]
            try:
                sent = self._sock.send(head, _AT_ONCE)
            except BlockingIOError:
                return
            except OSError as error:
                self._shut(f"sending failed: {error}")
                return
            self._nbytes -= sent
            if sent == len(head):
                self._frames.popleft()
            else:
                self._frames[0] = head[sent:]

    def _shut(self, why: str) -> None:
        if not self.closed:
            self.closed = True
            self.why = self.why or why
            self._clear()
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def _clear(self) -> None:
        self._frames.clear()
        self._nbytes = 0
