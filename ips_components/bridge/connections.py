"""All connections of this rank, and the I/O thread that reads from them."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from ips_components.bridge.connection import FIRST_RETRY, LAST_RETRY, Connection
from ips_components.bridge.dialing import Dialed, Socket
from ips_components.bridge.link import ConnectionContext as Context
from ips_components.bridge.link import LinkState
from ips_components.bridge.mailbox import Mailbox
from ips_components.deadlines import Deadline
from ips_components.errors import (
    BridgeError,
    DeadlineExceeded,
    IPSComponentsError,
    ProtocolError,
)
from ips_components.wire import messages as m
from ips_components.wire.contact import Endpoint
from ips_components.wire.threads import be_patient

HEARTBEAT = 2.0  # seconds
_FIRST_ATTEMPT = 1.0  # seconds given to a receiver before the next one is tried

Handler: TypeAlias = Callable[[Connection, m.Message], None]
"""Acts, with the lock held, on what concerns the arrays: `Resend` and `PlacementIs`."""


class Connections:
    """One connection per receiver.

    Parameters
    ----------
    endpoints
        Of the receivers.
    dial
        Connects to an endpoint within seconds.
    mailbox
        Takes what is no answer to data; its lock guards everything here.
    handle
        Takes requests to send again and placements.
    deadlines
        ``connect`` in seconds.
    first
        The rank: so that ranks begin with different receivers.
    patient
        Whether a put may wait for a connection.

    Notes
    -----
    The I/O thread only reads, pings and looks for silence, and waits for nothing else: whatever
    takes time is done by the background threads of connections. If it fails for an
    unforeseen reason, the analytics count as lost.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        dial: Callable[[Endpoint, float], Dialed],
        mailbox: Mailbox,
        handle: Handler,
        deadlines: Mapping[str, float],
        first: int = 0,
        *,
        patient: bool = True,
    ) -> None:
        self._mailbox, self._handle, self._first = mailbox, handle, first
        self._patient = patient
        self._connect_within = deadlines["connect"]
        self._context = Context(
            mailbox.lock,
            mailbox.changed,
            dial,
            self._opened,
            self._closed_socket,
            self._is_final,
            deadlines["connect"],
        )
        self.by_ordinal = {each.ordinal: Connection(each, self._context) for each in endpoints}
        self.closed = False
        self._deaf = False  # the I/O thread has failed: no answer will be heard
        self.needed = False  # the rank waits for receivers, or sends to them
        self.home: Connection | None = None  # over which this rank reports
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake_fd, select.POLLIN)
        self._by_fd: dict[int, tuple[Connection, Socket]] = {}
        self._thread = threading.Thread(target=self._run, name="bridge", daemon=True)
        self._thread.start()

    # -- reaching receivers ------------------------------------------------------------------------

    def get(self, ordinal: int) -> Connection | None:
        """Return the open connection to a receiver, connected if it is new; None: not now."""
        connection = self.by_ordinal.get(ordinal)
        if connection is None or connection.link is LinkState.OPEN:
            return connection
        return self._connect(connection) if connection.link is LinkState.NEW else None

    def _connect(self, connection: Connection) -> Connection | None:
        """Connect, in the background where the rank may not wait for it or it fails."""
        why = ""
        if self._patient:
            try:
                connection.connect(self._connect_within)
                return connection
            except (OSError, ProtocolError, BridgeError) as error:
                why = str(error)
        with self._mailbox.changed:
            if connection.link is LinkState.NEW:
                connection.why_closed = why or connection.why_closed
                connection.reconnect()
        return None

    def is_closed(self, ordinal: int) -> bool:
        """Return whether a receiver cannot be reached any more."""
        connection = self.by_ordinal.get(ordinal)
        return connection is None or connection.link is LinkState.CLOSED

    def is_open(self, ordinal: int) -> bool:
        """Return whether a receiver is connected."""
        connection = self.by_ordinal.get(ordinal)
        return connection is not None and connection.link is LinkState.OPEN

    def open(self) -> list[Connection]:
        """Return the open connections."""
        with self._mailbox.lock:
            return [c for c in self.by_ordinal.values() if c.link is LinkState.OPEN]

    def connect_home(self) -> Connection:
        """Return the connection over which this rank reports.

        Raises
        ------
        DeadlineExceeded
            When no receiver can be reached in time.
        """
        home = self.home
        if home is not None and home.link is LinkState.OPEN:
            return home
        already = self.open()
        self.home = already[0] if already else self.first_reachable()
        return self.home

    def first_reachable(self) -> Connection:
        """Connect to some receiver: on this machine if possible, this rank's own turn first.

        A receiver that hangs costs little: each gets a part of the time in turn, which grows from
        round to round.

        Raises
        ------
        DeadlineExceeded
            When none answers in time.
        """
        errors: dict[int, str] = {}
        deadline = Deadline(self._connect_within)
        attempt, pause = _FIRST_ATTEMPT, FIRST_RETRY
        while candidates := self._candidates():
            for connection in candidates:
                try:
                    connection.connect(max(0.1, min(attempt, deadline.left)))
                    return connection
                except (OSError, ProtocolError) as error:
                    errors[connection.ordinal] = f"{connection.endpoint}: {error}"
            with self._mailbox.changed:
                if deadline.left < pause:
                    break
                self._mailbox.changed.wait(pause)
            attempt, pause = 2 * attempt, min(LAST_RETRY, 2 * pause)
        raise DeadlineExceeded(
            f"no receiver could be reached within {self._connect_within:g} s: "
            f"{'; '.join(errors.values()) or 'the contact file names none'}; "
            "are the Dask workers running, and their addresses reachable from this node?"
        )

    def _candidates(self) -> list[Connection]:
        with self._mailbox.lock:
            found = [c for _, c in sorted(self.by_ordinal.items())]
        start = self._first % len(found) if found else 0
        found = [c for c in found[start:] + found[:start] if c.link is not LinkState.CLOSED]
        return sorted(found, key=lambda connection: not connection.endpoint.local)

    def follow(self, endpoints: Sequence[Endpoint]) -> list[Connection]:
        """Follow the receivers of a run (the lock is held); return connections that have ended."""
        staying = {each.ordinal: each for each in endpoints}
        for ordinal, endpoint in staying.items():
            if ordinal not in self.by_ordinal and not self.closed:
                self.by_ordinal[ordinal] = Connection(endpoint, self._context)
        ended = [c for ordinal, c in self.by_ordinal.items() if ordinal not in staying]
        for connection in ended:
            connection.goodbye_sent = True
            connection.abandon()
            del self.by_ordinal[connection.ordinal]
        return ended

    # -- goodbye and end -----------------------------------------------------------------------

    def without_goodbye(self) -> list[Connection]:
        """Return the open connections over which the goodbye was not sent, or is to be again."""
        return [connection for connection in self.open() if not connection.goodbye_sent]

    def say_goodbye(self, bye: m.Bye) -> None:
        """Send the goodbye to all receivers that have not had it."""
        with self._mailbox.changed:
            leaving = self.without_goodbye()
            for connection in leaving:
                connection.leave(bye)
        for connection in leaving:
            with contextlib.suppress(DeadlineExceeded):  # no longer open, and not waited for
                connection.pump()

    def goodbye_answered(self) -> bool:
        """Return whether all receivers that know this rank have answered its goodbye.

        A broken connection is waited for, since its receiver would count the rank as lost, unless
        the receiver has ended.
        """
        mailbox = self._mailbox
        return self._deaf or not any(
            each.link is LinkState.OPEN or (each.may_return and not mailbox.disconnected)
            for each in self.by_ordinal.values()
            if each.ordinal not in mailbox.goodbyes_answered
        )

    def drained(self) -> bool:
        """Return whether all that was sent was taken."""
        with self._mailbox.lock:
            return all(
                not connection.to_send and not connection.unacked
                for connection in self.by_ordinal.values()
                if connection.link is not LinkState.CLOSED
            )

    def untaken(self) -> dict[int, tuple[int, int]]:
        """Return, per array, blocks and bytes that were sent and not taken."""
        slots: dict[int, set[int]] = {}
        nbytes: dict[int, int] = {}
        with self._mailbox.lock:
            for connection in self.by_ordinal.values():
                for item in (*connection.unacked, *connection.to_send):
                    if item.stored is not None and item.slot is not None:
                        array = item.stored.array
                        slots.setdefault(array, set()).add(item.slot.number)
                        nbytes[array] = nbytes.get(array, 0) + item.stored.place.cells.nbytes
        return {array: (len(of), nbytes[array]) for array, of in slots.items()}

    def close(self) -> None:
        """End threads and connections at once."""
        with self._mailbox.changed:
            self.closed = True
            connections = list(self.by_ordinal.values())
            for connection in connections:
                connection.close("the bridge was closed")
        self.wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(5.0)
        for connection in connections:
            connection.join(5.0)
        os.close(self._wake_fd)

    def release_in_child(self) -> None:
        """Close a forked child's copies of the descriptors, and touch nothing that is shared."""
        self.closed = True
        for connection in self.by_ordinal.values():
            if connection.sock is not None:
                connection.sock.close()
        os.close(self._wake_fd)

    # -- callbacks of connections (the lock is held) -----------------------------------------------

    def _opened(self, connection: Connection, sock: Socket, early: Sequence[m.Message]) -> None:
        self._by_fd[sock.fileno()] = (connection, sock)
        self._poll.register(sock.fileno(), select.POLLIN)
        for message in early:
            self._take(connection, message)
        self.wake()

    def _closed_socket(self, sock: Socket) -> None:
        fd = sock.fileno()
        if fd >= 0 and self._by_fd.pop(fd, None) is not None:
            self._poll.unregister(fd)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # wakes a thread that is sending
        sock.close()

    def _is_final(self, connection: Connection) -> bool:
        return self.closed or connection.ordinal in self._mailbox.goodbyes_answered

    # -- the I/O thread ----------------------------------------------------------------------------

    def wake(self) -> None:
        """Have the I/O thread look again at once."""
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake_fd, 1)

    def _run(self) -> None:
        be_patient()
        try:
            while not self.closed:
                self._read()
                self._maintain(time.monotonic())
        except Exception as error:
            import logging  # 4 ms that no rank has to pay at import

            logging.getLogger(__name__).exception("The bridge's I/O thread has failed")
            self._deaf = True
            self._mailbox.lose(
                f"the bridge's I/O thread failed with {error!r}: this is an error of "
                "ips_components, please report it"
            )

    def _read(self) -> None:
        for fd, _ in self._poll.poll(HEARTBEAT / 4 * 1000):
            if fd == self._wake_fd:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)
                continue
            known = self._by_fd.get(fd)
            if known is not None:
                self._readable(*known)

    def _readable(self, connection: Connection, sock: Socket) -> None:
        try:
            received = sock.recv(1 << 18, socket.MSG_DONTWAIT)
            if not received:
                raise ConnectionResetError("closed by the receiver")
            connection.heard = time.monotonic()
            with self._mailbox.changed:
                if connection.sock is not sock:  # what an ended connection says counts no more
                    return
                for message in connection.decode(received):
                    self._take(connection, message)
                self._mailbox.changed.notify_all()
        except BlockingIOError:
            return
        except (OSError, IPSComponentsError) as error:
            connection.broken(sock, str(error))

    def _take(self, connection: Connection, message: m.Message) -> None:
        """Act on a message (the lock is held)."""
        if connection.receive(message):
            return
        match message:
            case m.Resend() | m.PlacementIs():
                if isinstance(message, m.PlacementIs):
                    connection.placed = message.epoch
                self._handle(connection, message)
            case m.ByeAck():
                self._mailbox.goodbyes_answered.add(connection.ordinal)
            case _:
                self._mailbox.add(message)

    def _maintain(self, now: float) -> None:
        with self._mailbox.lock:
            connections = list(self.by_ordinal.values())
        for connection in connections:
            sock = connection.sock
            if connection.link is LinkState.OPEN and sock is not None:
                limit = connection.silence_limit
                if now - connection.heard > limit:
                    connection.broken(sock, f"no sign of life for {limit:g} s")
                else:
                    connection.ping(now)
        if self.needed and not self.closed:
            self._look_for_others(connections)

    def _look_for_others(self, connections: Sequence[Connection]) -> None:
        """When none is open, try those never used; when all are closed, the analytics are lost."""
        links = {connection.link for connection in connections}
        if LinkState.OPEN in links:
            return
        if links & {LinkState.RECONNECTING, LinkState.CLOSED}:
            with self._mailbox.changed:
                for connection in connections:
                    if connection.link is LinkState.NEW:
                        connection.reconnect()
        if links <= {LinkState.CLOSED} and self._mailbox.lost is None:
            causes = "; ".join(f"{c.endpoint}: {c.why_closed}" for c in connections)
            self._mailbox.lose(f"no receiver is left: {causes or 'none was named'}")
