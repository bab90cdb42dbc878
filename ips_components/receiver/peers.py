"""The ranks of a run and their connections, under one lock."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ips_components.errors import ProtocolError
from ips_components.receiver.bulletin import Bulletin
from ips_components.receiver.connection import Connection
from ips_components.receiver.peer import Peer
from ips_components.wire import messages as m

logger = logging.getLogger(__name__)

MAX_UNAUTHENTICATED = 512
"""Connections per lane that have not said a valid hello yet."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A rank that was taken in."""

    peer: Peer
    returning: bool
    replaced: Connection | None


class PeerTable:
    """The ranks that are connected, and what all of them must know.

    Notes
    -----
    `_lock` guards the tables, the bulletin and all fields of peers but those that `Peer.lock`
    guards. Order of locks: `_lock`, then `Peer.lock`, then the outbox of a connection. Nothing
    waits for a rank while it holds `_lock`.
    """

    def __init__(self) -> None:
        self.bulletin = Bulletin()
        self._lock = threading.Lock()
        self._peers: dict[int, Peer] = {}
        self._current: dict[int, Connection] = {}  # by rank
        self._connections: dict[Connection, None] = {}  # all, the oldest first
        self._strangers = {True: 0, False: 0}  # connections without a valid hello, by locality
        self._leaving: list[Connection] = []
        self._may_leave = False
        self._closed = False

    # -- connections come and go ---------------------------------------------------------------

    def add(self, connection: Connection) -> bool:
        """Take a fresh connection in; False when no more are taken.

        Where too many have not said a hello, the oldest of them on the same lane is closed: a
        rank says its hello at once. Those on a Unix socket are processes of the same user, which
        nothing that comes over the network keeps out.
        """
        oldest = None
        with self._lock:
            if self._closed:
                return False
            local = connection.local
            if self._strangers[local] >= MAX_UNAUTHENTICATED:
                strangers = (c for c in self._connections if c.local is local and c.peer is None)
                oldest = next((c for c in strangers if c.alive), None)
            self._connections[connection] = None
            self._strangers[local] += 1
        if oldest is not None:
            oldest.shut("more connections than may be without a hello, this one is the oldest")
        return True

    def join(
        self,
        connection: Connection,
        hello: m.Hello,
        host: str,
        greet: Callable[[Peer], bytes],
    ) -> Joined:
        """Make a connection that of a rank, and queue its greeting before anything else.

        Parameters
        ----------
        connection, hello
            A connection whose hello had the right token.
        host
            Where the rank is, for messages.
        greet
            Returns the greeting of a peer; called with the locks of the table and of the peer.

        Raises
        ------
        ProtocolError
            When the rank cannot take part: it belongs to another simulation than the others.
        """
        with self._lock:
            if not connection.alive:
                raise ProtocolError("the connection was closed while its hello was read")
            refusal = self.bulletin.refusal(hello) or self._second_session(hello, host)
            if refusal is not None:
                raise ProtocolError(refusal)
            peer = self._peers.get(hello.rank)
            returning = peer is not None and peer.session == hello.session
            if peer is None or not returning:
                peer = self._peers[hello.rank] = Peer(hello.rank, hello.session, hello.pid, host)
            replaced = self._current.get(hello.rank)
            peer.gone_since, peer.left = None, False
            peer.wants_contract = bool(hello.flags & m.Hello.WANTS_CONTRACT)
            with peer.lock:
                peer.generation += 1
                connection.join(peer, peer.generation, greet(peer))
            self._current[hello.rank] = connection
            self._strangers[connection.local] -= 1
        return Joined(peer, returning, replaced)

    def _second_session(self, hello: m.Hello, host: str) -> str | None:
        """Return why a rank is refused whose number another process has (the lock is held)."""
        peer, current = self._peers.get(hello.rank), self._current.get(hello.rank)
        if peer is None or current is None or peer.session == hello.session or peer.left:
            return None
        if current.hung_up():  # the process has ended; its connection has not noticed yet
            return None
        return (
            f"rank {hello.rank} of {hello.size} is connected already, by process {peer.pid} on "
            f"{peer.host or 'an unknown host'}, and process {hello.pid} on "
            f"{host or 'an unknown host'} says that it is the same rank. A run takes one "
            "simulation with one bridge per rank: is mpiexec of another MPI than the one that the "
            "program is linked to (every process is then rank 0 of 1), or do two communicators "
            "open a bridge each?"
        )

    def ended(self, connection: Connection) -> None:
        """Note that a connection is over."""
        with self._lock:
            if self._connections.pop(connection, self) is self:
                return
            peer = connection.peer
            if peer is None:
                self._strangers[connection.local] -= 1
            elif self._current.get(peer.rank) is connection:
                del self._current[peer.rank]
                peer.gone_since, peer.why = time.monotonic(), connection.why
            if connection in self._leaving:
                self._leaving.remove(connection)

    def all(self) -> list[Connection]:
        """Return all connections, also those without a hello."""
        with self._lock:
            return list(self._connections)

    def current(self, rank: int | None = None) -> list[Connection]:
        """Return the connections of the ranks, or that of one."""
        with self._lock:
            return self._of(rank)

    def _of(self, rank: int | None) -> list[Connection]:
        if rank is None:
            return list(self._current.values())
        return [self._current[rank]] if rank in self._current else []

    # -- what every rank has to know -----------------------------------------------------------

    def publish(self, message: m.Message, rank: int | None = None) -> None:
        """Send a message to all ranks (or one), also to those that connect later."""
        with self._lock:
            frame = self.bulletin.add(message)
            receivers = self._of(rank)
            if isinstance(message, m.ContractIs):
                receivers = [c for c in receivers if c.peer and c.peer.wants_contract]
        for connection in receivers:
            connection.send_bytes(frame)

    def forget(self, run: str) -> None:
        """Invite no further rank to an attached run, and have none wait for it."""
        with self._lock:
            frame = self.bulletin.forget(run)
            receivers = self._of(None) if frame else []
        for connection in receivers:
            connection.send_bytes(frame)

    def set_size(self, size: int) -> bool:
        """Set the number of ranks, unless it is known; return whether it was set."""
        with self._lock:
            if self.bulletin.size is not None:
                return False
            self.bulletin.size = size
            return True

    def begin_launch(
        self, size: int, launch: tuple[int, int, int], hold_byes: bool
    ) -> list[Connection]:
        """Expect the ranks of another launch; return the connections of those before."""
        with self._lock:
            ended = list(self._current.values())
            for peer in self._peers.values():
                peer.left = True
                with peer.lock:
                    peer.generation += 1  # nothing of these connections is taken any more
            self._peers.clear()
            self._current.clear()
            self._leaving.clear()
            self._may_leave = not hold_byes
            self.bulletin.begin_launch(size, launch)
        return ended

    # -- the end of ranks ----------------------------------------------------------------------

    def leave(self, connection: Connection) -> None:
        """Answer the goodbye of a rank, now or when ranks are released."""
        with self._lock:
            if connection.peer is not None and self._is_current(connection):
                connection.peer.left = True
            if not self._may_leave:
                self._leaving.append(connection)
                return
        connection.answer_goodbye()

    def _is_current(self, connection: Connection) -> bool:
        peer = connection.peer
        return peer is not None and self._current.get(peer.rank) is connection

    def release_ranks(self) -> None:
        """Answer the goodbyes that were said, and those that will be."""
        with self._lock:
            self._may_leave = True
            leaving, self._leaving = self._leaving, []
        for connection in leaving:
            connection.answer_goodbye()

    def pop_lost(self, before: float) -> list[Peer]:
        """Return the ranks without a connection since a moment, each once."""
        with self._lock:
            lost = [
                peer
                for peer in self._peers.values()
                if not peer.left and peer.gone_since is not None and peer.gone_since <= before
            ]
            for peer in lost:
                peer.left = True
        return lost

    def close(self) -> list[Connection]:
        """Take no more connections; return those that are there."""
        with self._lock:
            self._closed = True
            return list(self._connections)
