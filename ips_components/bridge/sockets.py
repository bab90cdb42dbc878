"""A socket of a rank: what it sends ends when the receiver has taken nothing for some time."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ips_components.errors import DeadlineExceeded

_LOOK_AGAIN = 1.0  # seconds at most for which the kernel waits without a look at the clock
_AT_ONCE = int(socket.MSG_DONTWAIT)
_TIMEVAL = struct.Struct("@ll")


class _Waits(threading.local):
    ns = 0


WAITS = _Waits()
"""``ns``: nanoseconds for which sends of this thread have waited for receivers to read."""


class RankSocket(socket.socket):
    """Blocking, but with a limit for the time in which no byte moves (`limit_sends`).

    A receiver may give signs of life and read nothing, so that silence does not show it. The time
    counts from the last byte that the kernel took: a large block over a slow network goes on.
    """

    __slots__ = ("_limit",)
    _limit: float

    @classmethod
    def of(cls, sock: socket.socket) -> RankSocket:
        """Return the same connection; the other object is closed."""
        timeout = sock.gettimeout()
        made = cls(fileno=sock.detach())
        made.settimeout(timeout)
        return made

    def limit_sends(self, seconds: float) -> None:
        """Raise `DeadlineExceeded` when a call that blocks has made no progress for so long."""
        self._limit = seconds
        look = max(1e-3, min(seconds / 8, _LOOK_AGAIN))
        timeval = _TIMEVAL.pack(int(look), int(look % 1 * 1e6))
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send everything."""
        rest = memoryview(data)
        try:  # noqa: SIM105 - of every message
            rest = rest[self.send(rest, flags | _AT_ONCE) :]
        except BlockingIOError:
            pass
        if rest:
            began = time.perf_counter_ns()
            try:
                while rest:
                    rest = rest[self._later(partial(self.send, rest, flags)) :]
            finally:
                WAITS.ns += time.perf_counter_ns() - began

    def sendmsg(self, *args: Any) -> int:
        """Send data and descriptors."""
        try:
            return super().sendmsg(*args)
        except BlockingIOError:
            return self._later(partial(super().sendmsg, *args))

    def _later(self, send: Callable[[], int]) -> int:
        """Send what the kernel has no room for now; return how much it took."""
        began = time.monotonic()
        while True:
            try:
                return send()
            except BlockingIOError:
                if time.monotonic() - began >= self._limit:
                    raise DeadlineExceeded(
                        f"did not read what was sent within {self._limit:g} s: its worker may be "
                        "stopped or overloaded"
                    ) from None
