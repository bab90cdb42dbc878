"""The sockets on which ranks connect, and the thread that accepts them."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from ips_components.receiver.rate_limit import LimitedWarnings

logger = logging.getLogger(__name__)

BACKLOG = 1024
PAUSE_MS = 100  # without descriptors, before the next attempt
_UCRED = struct.Struct("3i")


class Listener:
    """Listens on the lanes of a receiver; every accepted socket is given to ``accepted``.

    Parameters
    ----------
    accepted
        Called in the listener's thread with a socket, whether it is local, and its name; the
        socket is the callee's from then on.
    warnings
        Where refused connections are logged.
    host, port
        TCP address; not opened at all when ``"tcp"`` is not among the lanes.
    lanes
        ``"shm"`` (a Unix socket), ``"tcp"``, or both.
    unix_path
        Path of the Unix socket; None for an abstract name, which vanishes by itself.

    Raises
    ------
    OSError
        When an address cannot be listened on; nothing is left open then.
    """

    def __init__(
        self,
        accepted: Callable[[socket.socket, bool, str], None],
        warnings: LimitedWarnings,
        *,
        host: str,
        port: int,
        lanes: Collection[str],
        unix_path: str | None,
    ) -> None:
        self._accepted = accepted
        self._warnings = warnings
        self.address = (host, 0)
        self.unix = ""
        self._unix_path: str | None = None
        self._closed = False
        with contextlib.ExitStack() as opened:
            self._sockets: list[socket.socket] = []
            if "tcp" in lanes:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                tcp = opened.enter_context(
                    socket.create_server((host, port), family=family, backlog=BACKLOG)
                )
                self.address = tcp.getsockname()[:2]
                self._sockets.append(tcp)
            if "shm" in lanes:
                unix = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                self.unix = self._bind(unix, unix_path)
                unix.listen(BACKLOG)
                self._sockets.append(unix)
            for listening in self._sockets:
                listening.setblocking(False)
            self._wake = os.eventfd(0, os.EFD_CLOEXEC)
            opened.pop_all()
        self._thread = threading.Thread(target=self._run, name="receiver accept", daemon=True)

    def _bind(self, unix: socket.socket, path: str | None) -> str:
        if path is None:
            # The kernel chooses a free abstract name when it is asked to bind to none.
            unix.bind("")
            return "@" + str(unix.getsockname()[1:], "ascii")
        unix.bind(path)
        self._unix_path = path
        Path(path).chmod(0o600)
        return path

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Accept no more, and close the sockets."""
        self._closed = True
        os.eventfd_write(self._wake, 1)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        for listening in self._sockets:
            listening.close()
        if self._unix_path is not None:
            with contextlib.suppress(FileNotFoundError):
                Path(self._unix_path).unlink()
        os.close(self._wake)

    def _run(self) -> None:
        poll = select.poll()
        by_fd = {listening.fileno(): listening for listening in self._sockets}
        for fd in (*by_fd, self._wake):
            poll.register(fd, select.POLLIN)
        pause = select.poll()
        pause.register(self._wake, select.POLLIN)
        while not self._closed:
            for fd, _ in poll.poll():
                if fd in by_fd and not self._has_room_for_next(by_fd[fd]):
                    # The connection stays in the backlog, which stays readable.
                    pause.poll(PAUSE_MS)

    def _has_room_for_next(self, listening: socket.socket) -> bool:
        """Accept a connection; return False where the machine has no memory or file for it."""
        try:
            self._accept(listening)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                self._warnings.warning("Cannot accept a connection: %s", error)
                return False
        except Exception:
            logger.exception("A connection was not taken")
        return True

    def _accept(self, listening: socket.socket) -> None:
        sock, address = listening.accept()
        local = sock.family == socket.AF_UNIX
        try:
            sock.setblocking(True)
            if local:
                credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
                pid, uid, _ = _UCRED.unpack(credentials)
                name = f"process {pid}"
                if uid != os.geteuid():
                    self._warnings.warning("Refused %s of user %s on the Unix socket", name, uid)
                    sock.close()
                    return
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                name = f"{address[0]}:{address[1]}"
            self._accepted(sock, local, name)
        except BaseException:
            sock.close()
            raise
