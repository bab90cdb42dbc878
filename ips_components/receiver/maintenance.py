"""The threads of a receiver that belong to no rank: one accepts, one keeps."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, cast

from ips_components.model.contract import Contract
from ips_components.receiver.assembly import ChunkAssembler
from ips_components.receiver.connection import Connection
from ips_components.receiver.sink import Sink
from ips_components.wire import messages as m
from ips_components.wire.framing import pack
from ips_components.wire.threads import be_patient

if TYPE_CHECKING:
    from ips_components.receiver.receiver import Receiver

logger = logging.getLogger(__name__)

TICK = 0.25
SHORT_TICK = 0.004  # while a rank has not taken all that it was sent, or waits for an answer
CREDIT_TICK = 0.016  # while no rank waits for credit; who waits gets it at once
NEVER = float("inf")
MAX_STRANGERS = 128
_UCRED = struct.Struct("3i")


@dataclass(slots=True)
class Peer:
    """A rank, across its connections."""

    rank: int
    session: int
    connection: Connection | None = None
    last_seq: int = 0
    gone_since: float | None = None
    why: str = ""
    left: bool = False
    wants_contract: bool = False


class Keeping:
    """The part of a `Receiver` that its own threads run; the state belongs to the receiver."""

    sink: Sink
    intake: ChunkAssembler
    watermarks: list[int]
    _events: SimpleQueue[tuple[Any, ...]]
    _handshake: float
    _silence: float
    _grace: float
    _heartbeat: float
    _on_pressure: Callable[[int], None] | None
    _pressure_after: float
    _lock: threading.Lock
    _pumping: threading.Lock
    _peers: dict[int, Peer]
    _connections: set[Connection]
    _contract: Contract | None
    _notices: list[m.Message]
    _closed: bool
    _answering: bool
    _pump_due: bool
    _hungry: bool
    _drops: bool
    _freed: SimpleQueue[int]
    _last_release: float
    _listeners: list[socket.socket]
    _tls: ssl.SSLContext | None
    _wake: int

    def _accept(self) -> None:
        """Take connections in until the receiver is closed."""
        poll = select.poll()
        by_fd = {listener.fileno(): listener for listener in self._listeners}
        for fd in (*by_fd, self._wake):
            poll.register(fd, select.POLLIN)
        while not self._closed:
            for fd, _ in poll.poll():
                if fd in by_fd:
                    with contextlib.suppress(OSError):
                        self._welcome(by_fd[fd])

    def _welcome(self, listener: socket.socket) -> None:
        sock, address = listener.accept()
        local = sock.family == socket.AF_UNIX
        try:
            sock.setblocking(True)
            if local:
                credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
                pid, uid, _ = _UCRED.unpack(credentials)
                name = f"process {pid}"
                if uid != os.geteuid():
                    logger.warning("Refused %s of user %s on the Unix socket", name, uid)
                    sock.close()
                    return
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                name = f"{address[0]}:{address[1]}"
        except OSError:
            sock.close()
            raise
        tls = None if local else self._tls
        connection = Connection(cast("Receiver", self), sock, local, name, tls)
        with self._lock:
            strangers = sum(c.peer is None for c in self._connections)
            refused = self._closed or strangers >= MAX_STRANGERS
            if not refused:
                self._connections.add(connection)
        if refused:
            sock.close()
            return
        connection.thread.start()

    def _keep(self) -> None:
        """Do what the queue of events and the clock ask for, until the receiver is closed."""
        be_patient()
        next_tick = time.monotonic() + TICK
        unsent, answer_at, pump_at = False, 0.0, NEVER
        while not self._closed:
            wait = max(0.0, min(next_tick, pump_at) - time.monotonic())
            try:
                event = self._events.get(timeout=min(wait, SHORT_TICK) if unsent else wait)
            except Empty:
                event = ("tick",)
            pump = False
            returned: set[Connection] = set()
            while True:
                if event[0] == "pump":
                    pump = True
                elif event[0] == "later":
                    pump_at = time.monotonic() + CREDIT_TICK
                elif event[0] == "answer":
                    answer_at = time.monotonic() + SHORT_TICK
                elif event[0] == "slot":
                    returned.add(event[1])
                try:
                    event = self._events.get_nowait()
                except Empty:
                    break
            for connection in returned:
                connection.answer()
            if pump or time.monotonic() >= pump_at:
                pump_at, self._pump_due = NEVER, False
                self._take_freed()
                self._pump()
            with self._lock:
                connections = list(self._connections)
            if self._answering and time.monotonic() >= answer_at:
                self._answering = False
                for connection in connections:
                    connection.answer()
            unsent = sum(connection.flush() for connection in connections) > 0
            unsent |= self._answering
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK
                self._tick()

    def _take_freed(self) -> None:
        """Account for the chunks that were let go."""
        freed = 0
        with contextlib.suppress(Empty):
            while True:
                freed += self._freed.get_nowait()
                self._last_release = time.monotonic()
        if freed:
            self.intake.freed(freed)

    def _tick(self) -> None:
        now = time.monotonic()
        with self._lock:
            connections = list(self._connections)
            lost = [
                peer
                for peer in self._peers.values()
                if peer.gone_since is not None
                and not peer.left
                and now - peer.gone_since >= self._grace
            ]
            for peer in lost:
                peer.left = True
        for connection in connections:
            if connection.peer is None:
                if now - connection.opened > self._handshake:
                    connection.shut(f"no hello within {self._handshake:g} s")
            elif connection.silence is not None and now - connection.heard > connection.silence:
                connection.shut(f"no sign of life for {connection.silence:g} s")
            else:
                connection.beat(now, self._heartbeat)
        for peer in lost:
            why = peer.why or "connection lost"
            self.sink.lost(peer.rank, f"{why}; not back within {self._grace:g} s")
        self._press(now, connections)

    def _press(self, now: float, connections: list[Connection]) -> None:
        """Ask the owner for memory when ranks wait and nothing is released."""
        if self._on_pressure is None or not self.intake.blocked:
            return
        waiting = any(connection.wanted for connection in connections)
        if waiting and now - self._last_release >= self._pressure_after:
            self._last_release = now
            try:
                self._on_pressure(self.intake.needed)
            except Exception:  # the keeper serves all ranks: it outlives its owner's mistakes
                logger.exception("Making room for %s bytes failed", self.intake.needed)

    def _pump(self) -> None:
        if self._contract is None:
            return
        with self._pumping:
            ask = self.intake.admit()
            with self._lock:
                connections = [
                    p.connection for p in self._peers.values() if p.connection is not None
                ]
            for ordinal, chunk in ask:
                frame = pack(m.Resend(ordinal, chunk))
                for connection in connections:
                    connection.send_bytes(frame)
            self._credit(connections)
            self._hungry = self._drops or any(connection.wanted for connection in connections)
        for complete in self.intake.pop_empty_chunks():
            self.deliver(complete)

    def _credit(self, connections: Iterable[Connection]) -> None:
        """Tell ranks up to where their pieces are welcome."""
        self.watermarks = self.intake.watermarks()
        for connection in connections:
            connection.credit(self.watermarks)

    def _notice(self, message: m.Message) -> None:
        with self._lock:
            self._notices.append(message)
        self._broadcast(message)

    def _broadcast(self, message: m.Message, rank: int | None = None) -> None:
        with self._lock:
            connections = [
                p.connection
                for p in self._peers.values()
                if p.connection is not None and rank in (None, p.rank)
            ]
        frame = pack(message)
        for connection in connections:
            connection.send_bytes(frame)
