"""A fixed number of threads that read many connections."""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from ips_components.deadlines import Deadline
from ips_components.receiver.connection import Connection, Progress
from ips_components.wire.threads import be_patient

logger = logging.getLogger(__name__)

MAX_OWN_THREADS = 32
"""Ranks that have a thread of their own, which is the fastest way to receive."""
N_SHARED = 2
"""Threads per lane that share the other connections, among them all that said no hello yet."""


class ConnectionThreads:
    """Runs connections: each begins in a shared thread; the first ranks get one of their own.

    Notes
    -----
    `add` is called by the listener's thread only. `_lock` guards `_own`.
    """

    def __init__(self, max_own: int = MAX_OWN_THREADS, n_shared: int = N_SHARED) -> None:
        self._max_own, self._n_shared = max_own, n_shared
        self._lock = threading.Lock()
        self._own: set[threading.Thread] = set()
        self._shared: dict[bool, list[_SharedThread]] = {True: [], False: []}  # by locality
        self._turns = {True: 0, False: 0}

    def add(self, connection: Connection) -> None:
        """Read a connection from now on."""
        local = connection.local
        shared, turn = self._shared[local], self._turns[local]
        self._turns[local] += 1
        if len(shared) < self._n_shared:
            shared.append(_SharedThread(self._promote, local, len(shared)))
        shared[turn % self._n_shared].add(connection)

    def _promote(self, connection: Connection) -> bool:
        """Give a rank's connection a thread of its own, if there is one left."""
        with self._lock:
            if len(self._own) >= self._max_own:
                return False
            thread = threading.Thread(
                target=self._run,
                args=(connection,),
                name=f"receiver {connection.name}",
                daemon=True,
            )
            self._own.add(thread)
        try:
            thread.start()
        except RuntimeError:  # as many as this process may have
            with self._lock:
                self._own.discard(thread)
            return False
        return True

    def _run(self, connection: Connection) -> None:
        try:
            connection.run()
        finally:
            with self._lock:
                self._own.discard(threading.current_thread())

    def join(self, deadline: Deadline) -> None:
        """Wait until all connections, which were shut, have ended."""
        for shared in (*self._shared[True], *self._shared[False]):
            shared.stop(deadline.left)
        with self._lock:
            threads = list(self._own)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(deadline.left)


class _SharedThread:
    """Reads the connections that have something to read, each for a while."""

    def __init__(self, promote: Callable[[Connection], bool], local: bool, number: int) -> None:
        self._promote = promote
        self._local = local
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._commands: SimpleQueue[tuple[Connection, bool] | None] = SimpleQueue()
        self._by_fd: dict[int, Connection] = {}
        self._ready: dict[int, None] = {}  # descriptors, in the order of their turns
        self._thread = threading.Thread(
            target=self._run,
            name=f"receiver shared {'shm' if local else 'tcp'} {number}",
            daemon=True,
        )
        self._thread.start()

    def add(self, connection: Connection) -> None:
        """Read a connection from now on."""
        connection.wake = self._resume
        self._command((connection, True))

    def _resume(self, connection: Connection) -> None:
        self._command((connection, False))

    def stop(self, timeout: float) -> None:
        """End when the connections, which were shut, have ended."""
        self._command(None)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _command(self, command: tuple[Connection, bool] | None) -> None:
        self._commands.put(command)
        try:
            os.eventfd_write(self._wake, 1)
        except OSError:
            logger.debug("A shared thread has ended")

    def _run(self) -> None:
        stopping = False
        if self._local:
            be_patient()
        try:
            while not (stopping and not self._by_fd):
                stopping |= self._poll()
                for fd in list(self._ready):
                    self._turn(fd)
        finally:
            self._epoll.close()
            os.close(self._wake)

    def _poll(self) -> bool:
        """Note which connections have something to read; return whether the thread is to stop."""
        stopping = False
        for fd, _ in self._epoll.poll(0 if self._ready else None):
            if fd == self._wake:
                os.eventfd_read(self._wake)
                stopping |= self._take_commands()
            else:
                self._ready[fd] = None
        return stopping

    def _take_commands(self) -> bool:
        """Carry out what was queued; return whether the thread is to stop."""
        stopping = False
        while True:
            try:
                command = self._commands.get_nowait()
            except Empty:
                return stopping
            if command is None:
                stopping = True
                continue
            connection, fresh = command
            fd = connection.fileno()
            if fresh:
                self._by_fd[fd] = connection
                self._epoll.register(fd, select.EPOLLIN)
            elif self._by_fd.get(fd) is connection:
                self._epoll.modify(fd, select.EPOLLIN)
                self._ready[fd] = None  # what it has read ahead makes no socket readable

    def _turn(self, fd: int) -> None:
        connection = self._by_fd.get(fd)
        if connection is None:
            self._ready.pop(fd, None)
            return
        progress = connection.on_readable()
        if progress is Progress.JOINED:
            # Out of the poll first: from then on the other thread reads it, and may close it.
            self._epoll.unregister(fd)
            del self._by_fd[fd]
            if self._promote(connection):
                self._ready.pop(fd, None)
                return
            self._by_fd[fd] = connection
            self._epoll.register(fd, select.EPOLLIN)
            return
        if progress is Progress.MORE:
            return
        self._ready.pop(fd, None)
        if progress is Progress.ENDED:
            del self._by_fd[fd]  # its socket is closed, and with that no longer polled
        elif progress is Progress.PAUSED:
            self._epoll.modify(fd, 0)
