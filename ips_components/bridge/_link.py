"""The connection of this rank to one receiver: what was sent, what was taken, what may be sent."""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import numpy as np

from ips_components.bridge._arrays import Cells
from ips_components.bridge._slots import Loan, Slot, Stored
from ips_components.errors import BridgeError, DeadlineExceeded, ProtocolError, TlsError
from ips_components.wire import framing
from ips_components.wire import messages as m
from ips_components.wire.contact import Endpoint
from ips_components.wire.leases import Lease, SlotEvent
from ips_components.wire.protocol import Connection as State

if TYPE_CHECKING:
    from ips_components.bridge._transport import Transport
    from ips_components.wire.tls import TlsSocket

Socket: TypeAlias = "socket.socket | TlsSocket"
_UCRED = struct.Struct("3i")
_AT_ONCE = 64 << 10  # bytes of cells that are sent while the caller waits
_SMALL = 64 << 10  # below this a copy into one message is cheaper than a second call


class Standing(Enum):
    """What a link is good for."""

    NEW = auto()
    OPEN = auto()
    BROKEN = auto()  # and being repaired
    GONE = auto()


class Item(NamedTuple):
    """Something to send; with a number if the receiver must get it exactly once."""

    message: bytes = b""
    seq: int = 0
    slot: Slot | Loan | None = None
    stored: Stored | None = None


class Link:
    """See the module. State is guarded by the transport's condition, writing by ``send_lock``."""

    def __init__(self, transport: Transport, endpoint: Endpoint) -> None:
        self.transport = transport
        self.endpoint = endpoint
        self.ordinal = endpoint.ordinal
        self.standing = Standing.NEW
        self.lane = "tcp"
        self.sock: Socket | None = None
        self.state = State.of_rank()
        self.decoder = framing.Decoder()
        self.send_lock = threading.Lock()
        self.connect_lock = threading.Lock()
        self.to_send: deque[Item] = deque()
        self.unacked: deque[Item] = deque()
        self.seq = 0
        self.in_slots: dict[int, Slot | Loan] = {}  # uses: pieces by number
        self.leases: dict[Lease, int] = {}  # of this connection, with the piece's number
        self.admitted: dict[int, int] = {}
        self.welcome: set[tuple[int, int]] = set()
        self.wanted: dict[int, int] = {}
        self.announced: set[int] = set()
        self.heard = self.said = 0.0
        self.silence = 30.0
        self.heartbeat = 2.0
        self.broken_since = 0.0
        self.retry_at = 0.0
        self.why = ""
        self.left = False
        self._sender: threading.Thread | None = None

    # -- connecting ----------------------------------------------------------------------------

    def connect(self, timeout: float) -> None:
        """Connect, say hello, and take the welcome; resume where the receiver says.

        Raises
        ------
        OSError, ProtocolError
            When the receiver cannot be reached or will not have us.
        """
        transport = self.transport
        deadline = time.monotonic() + timeout
        with self.connect_lock:
            if self.standing is Standing.OPEN:
                return
            state, decoder = State.of_rank(), framing.Decoder()
            try:
                sock, lane = self._dial(timeout)
                first, early = self._introduce(sock, state, decoder, deadline)
            except TlsError as error:  # a receiver may say so in answer to the hello only
                raise self._no_trust(error) from error
            sock.settimeout(None)
            with self.send_lock, transport.changed:
                if transport.closed:
                    sock.close()
                    raise ConnectionAbortedError("the bridge was closed meanwhile")
                self.sock, self.lane = sock, lane
                self.state, self.decoder = state, decoder
                self.heard = self.said = time.monotonic()
                self.silence = first.silence_ms / 1000 or 30.0
                self.heartbeat = first.heartbeat_ms / 1000 or 2.0
                self.admitted.clear()
                self.wanted.clear()
                self.announced.clear()
                again = [item for item in self.unacked if item.seq > first.last_seq]
                self.unacked.clear()
                self.to_send.extendleft(reversed(again))
                transport.reconcile(self, {item.seq for item in self.to_send})
                self.left = False
                self.standing = Standing.OPEN
            transport.opened(self, early)
        if self.to_send:
            self.start_sender()

    def _introduce(
        self, sock: Socket, state: State, decoder: framing.Decoder, deadline: float
    ) -> tuple[m.Welcome, list[m.Message]]:
        """Say hello; return the welcome, and what came with it. The socket is closed on failure."""
        try:
            sock.sendall(framing.pack(self.transport.hello()))
            early = _receive(sock, decoder, deadline, str(self.endpoint))
            for message in early:
                state.received(message)
            first = early.pop(0)
            if isinstance(first, m.Refused):
                rank = self.transport.rank
                raise BridgeError(f"{self.endpoint} refused rank {rank}: {first.text}")
            if not isinstance(first, m.Welcome):
                raise ProtocolError(f"{self.endpoint} did not answer the hello")
        except BaseException:
            sock.close()
            raise
        return first, early

    def _dial(self, timeout: float) -> tuple[Socket, str]:
        endpoint = self.endpoint
        if endpoint.unix and endpoint.local and "shm" in self.transport.lanes:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout)
                name = "\0" + endpoint.unix[1:] if endpoint.unix[0] == "@" else endpoint.unix
                sock.connect(name)
                credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
                uid = _UCRED.unpack(credentials)[1]
                if uid != os.geteuid():
                    raise ProtocolError(
                        f"{endpoint}: its Unix socket belongs to user {uid}, not {os.geteuid()}"
                    )
                return sock, "shm"
            except OSError:
                # Another network namespace (a container): TCP may still reach it.
                sock.close()
                if "tcp" not in self.transport.lanes:
                    raise
            except BaseException:
                sock.close()
                raise
        elif "tcp" not in self.transport.lanes:
            raise BridgeError(
                f"{endpoint} is not on this machine, and only the lane 'shm' is allowed"
            )
        sock = socket.create_connection((endpoint.host, endpoint.port), timeout)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._secure(sock), "tcp"
        except BaseException:
            sock.close()
            raise

    def _secure(self, sock: socket.socket) -> Socket:
        """Encrypt a connection over TCP where the contact file says so."""
        files = self.transport.contact.tls
        if files is None:
            return sock
        from ips_components.wire import tls  # many milliseconds, only where it is needed

        secured = tls.TlsSocket(sock, tls.context_of_rank(files), server_side=False)
        secured.handshake()
        return secured

    def _no_trust(self, error: TlsError) -> BridgeError:
        """Return what to raise when trying again would not help."""
        return BridgeError(
            f"{self.endpoint} and rank {self.transport.rank} do not trust each other: {error}; the "
            "contact file may be of another run, or another process has taken the port"
        )

    # -- sending -------------------------------------------------------------------------------

    def number(self) -> int:
        """Return the next number (the transport's condition is held)."""
        self.seq += 1
        return self.seq

    def queue(self, slot: Slot | Loan, stored: Stored) -> None:
        """Queue a piece (the transport's lock is held)."""
        seq = self.number()
        slot.use((self.ordinal, seq))
        self.in_slots[seq] = slot
        self.to_send.append(Item(b"", seq, slot, stored))

    def _grant(self, items: Sequence[Item]) -> dict[int, int]:
        """Lease the slots of what is about to be sent: generations by number (lock held)."""
        granted: dict[int, int] = {}
        if self.lane == "shm":
            for item in items:
                stored = item.stored
                if stored is not None and stored.place.frame is not None:
                    slot = cast(Slot, item.slot)
                    generation = granted[item.seq] = slot.lease()
                    self.leases[slot.number, generation] = item.seq
        return granted

    def lose_leases(self) -> None:
        """Retire the slots leased to a connection that has ended (the lock is held).

        Its receiver may read them for as long as it likes, and cannot return them any more.
        """
        for seq in self.leases.values():
            cast(Slot, self.in_slots[seq]).move(SlotEvent.LEASE_LOST)
        self.leases.clear()

    def say(self, message: bytes) -> None:
        """Send what is packed (``send_lock`` is held); a failure breaks the link."""
        sock = self.sock
        if sock is None:  # broken a moment ago
            return
        self.said = time.monotonic()
        try:
            sock.sendall(message)
        except OSError as error:
            self.transport.broken(self, sock, f"sending failed: {error}")

    def takes_long(self) -> bool:
        """Tell whether who sends what is queued has to wait, for its cells or for another thread.

        Over shared memory no cells are sent.
        """
        if self.lane == "shm":
            return False
        if self.send_lock.locked():
            return True
        with self.transport.lock:
            cells = [item.stored.place.cells for item in self.to_send if item.stored is not None]
        return sum(each.nbytes for each in cells) > _AT_ONCE

    def pump(self) -> None:
        """Send what is queued, from this thread; a failure breaks the link, and nothing is lost."""
        lock = self.transport.lock
        with self.send_lock:
            while True:
                with lock:
                    sock = self.sock
                    if not self.to_send or sock is None or self.standing is not Standing.OPEN:
                        return
                    items = list(self.to_send)
                    self.to_send.clear()
                    for item in items:
                        if item.seq:
                            self.unacked.append(item)
                    granted = self._grant(items)
                try:
                    self._send(sock, items, granted)
                except OSError as error:
                    self.transport.broken(self, sock, f"sending failed: {error}")
                    return
                if not self.to_send:  # whoever adds to it now pumps for himself
                    return

    def _send(self, sock: Socket, items: Sequence[Item], granted: dict[int, int]) -> None:
        """Send items in order, small ones together."""
        self.said = time.monotonic()
        frames: list[bytes] = []
        for item in items:
            stored, slot = item.stored, item.slot
            if stored is None or slot is None:
                frames.append(item.message)
                continue
            piece, place = stored.piece, stored.place
            generation = granted.get(item.seq)
            if place.frame is not None and generation is not None:  # read where it lies
                if slot.number not in self.announced:
                    sock.sendall(b"".join(frames))
                    frames.clear()
                    self._announce(sock, slot)
                start = piece.dst[0][0]
                frames.append(place.frame.pack(item.seq, piece.chunk, stored.t, start, generation))
                continue
            cells = place.cells
            frames.append(
                framing.pack_piece(
                    stored.array,
                    item.seq,
                    piece.chunk,
                    stored.t,
                    piece.dst,
                    data=cells.nbytes,
                    flags=m.Piece.ANSWER_NOW if isinstance(slot, Loan) else 0,
                )
            )
            if cells.nbytes <= _SMALL:
                frames.append(cells.tobytes())
                continue
            sock.sendall(b"".join(frames), socket.MSG_MORE)
            frames.clear()
            sock.sendall(_bytes_of(cells))
        if frames:
            sock.sendall(frames[0] if len(frames) == 1 else b"".join(frames))

    def _announce(self, sock: Socket, slot: Slot | Loan) -> None:
        """Give the receiver a slot's descriptor."""
        self.announced.add(slot.number)
        ring = cast(Slot, slot).ring
        spare = ring.spare_for(self.ordinal)
        head = framing.pack(m.Slot(slot.number, ring.number, slot.size, ring.length, spare))
        fds = array.array("i", [slot.fd])
        cast(socket.socket, sock).sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])

    def start_sender(self) -> None:
        """Have a thread send what is queued, so that the caller may go on computing."""
        with self.transport.changed:
            if self._sender is None:
                self._sender = threading.Thread(
                    target=self._send_loop, name=f"bridge to {self.ordinal}", daemon=True
                )
                self._sender.start()
            else:
                self.transport.changed.notify_all()

    def _send_loop(self) -> None:
        changed = self.transport.changed
        while True:
            with changed:
                while not (self.to_send and self.standing is Standing.OPEN):
                    if self.transport.closed or self.standing is Standing.GONE:
                        self._sender = None
                        return
                    changed.wait()
            self.pump()

    def ping(self, now: float) -> None:
        """Give a sign of life, unless a thread is sending anyway."""
        if now - self.said < self.heartbeat or not self.send_lock.acquire(blocking=False):
            return
        try:
            sock = self.sock
            if sock is not None and self.standing is Standing.OPEN:
                self.said = now
                try:
                    # Never waits: a full socket is no reason to stop reading.
                    sock.send(framing.pack(m.Ping()), socket.MSG_DONTWAIT)
                except BlockingIOError:
                    pass
                except OSError as error:
                    self.transport.broken(self, sock, f"sending failed: {error}")
        finally:
            self.send_lock.release()

    # -- receiving (the transport's thread, its condition held) ----------------------------------

    def taken(self, seq: int) -> None:
        """Note that the receiver took everything up to a number."""
        while self.unacked and self.unacked[0].seq <= seq:
            item = self.unacked.popleft()
            if item.slot is None or item.stored is None:
                continue
            # The use of a leased slot ends when its lease is returned.
            if item.stored.place.frame is None or self.lane != "shm":
                self.in_slots.pop(item.seq, None)
                item.slot.done((self.ordinal, item.seq))

    def released(self, leases: Sequence[Lease], seq: int) -> None:
        """Take leases back; whatever was sent before such a piece, up to ``seq``, was taken too."""
        for lease in leases:
            number = self.leases.pop(lease, None)
            if number is not None:
                self.in_slots.pop(number).done((self.ordinal, number))
                seq = max(seq, number)
        self.taken(seq)


def _bytes_of(cells: Cells) -> memoryview:
    """Return the bytes of an array in C order; a strided one is copied."""
    return np.ascontiguousarray(cells).reshape(-1).view(np.uint8).data


def _receive(sock: Socket, decoder: framing.Decoder, deadline: float, who: str) -> list[m.Message]:
    """Return the first messages that arrive."""
    poll = select.poll()  # unlike select, for any descriptor
    poll.register(sock, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise DeadlineExceeded(
                f"{who} did not answer the hello in time: it may be stopped or overloaded"
            )
        received = sock.recv(1 << 16)
        if not received:
            raise ConnectionResetError(f"{who} closed the connection: its token may be another")
        if messages := decoder.feed(received):
            return messages
