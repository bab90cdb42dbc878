"""The connection of this rank to one receiver: what was sent, what was taken, what may be sent."""

from __future__ import annotations

import array
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import cast

import numpy as np

from ips_components.bridge.dialing import Dialed, Socket
from ips_components.bridge.link import ConnectionContext, Item, LinkState
from ips_components.bridge.outgoing import Cells
from ips_components.bridge.slots import BorrowedMemory, Slot, Stored
from ips_components.bridge.sockets import RankSocket
from ips_components.errors import BridgeError, DeadlineExceeded, ProtocolError
from ips_components.wire import framing
from ips_components.wire import messages as m
from ips_components.wire.contact import Endpoint
from ips_components.wire.leases import Lease, SlotEvent
from ips_components.wire.protocol import Connection as ConnectionState

FIRST_RETRY, LAST_RETRY = 0.05, 1.0  # seconds between two attempts to reconnect
_ATTEMPT = 1.0  # seconds that one of them may take
_AT_ONCE = 64 << 10  # bytes of cells that are sent while the caller waits
_SMALL = 64 << 10  # below this a copy into one message is cheaper than a second call


class Connection:
    """One receiver, over one socket after the other.

    Parameters
    ----------
    endpoint
        Where the receiver listens.
    context
        What it needs of the rank.

    Notes
    -----
    Threads: the caller's, the I/O thread of `Connections`, and ``_thread``, which reconnects and
    sends what takes long; it is started when it is first needed and ends with the connection.

    Locks, in this order: ``connect_lock`` (one attempt at a time), ``send_lock`` (writing to the
    socket; held while a send waits), the bridge's lock (all fields but those of the socket's
    writing side).
    """

    def __init__(self, endpoint: Endpoint, context: ConnectionContext[Connection]) -> None:
        self.endpoint = endpoint
        self.ordinal = endpoint.ordinal
        self.link = LinkState.NEW
        self.lane = "tcp"
        self.sock: Socket | None = None
        self.send_lock = threading.Lock()
        self.connect_lock = threading.Lock()
        self.to_send: deque[Item] = deque()
        self.unacked: deque[Item] = deque()
        self.seq = 0
        self.in_slots: dict[int, Slot | BorrowedMemory] = {}  # uses: pieces by number
        self.leases: dict[Lease, int] = {}  # of this socket, with the piece's number
        self.admitted: dict[int, int] = {}  # rows of chunks by array: the receiver's credit
        self.asked_for: dict[tuple[int, int], int] = {}  # (array, chunk) -> row, beyond the credit
        self.credit_asked: dict[int, int] = {}  # row by array
        self.placed = 0  # epoch of the newest placement that came over this socket
        self.announced: set[int] = set()  # slots that the receiver has mapped
        self.goodbye_sent = False
        self.heard = self.sent = 0.0
        self.silence_limit = 30.0
        self.heartbeat = 2.0
        self.reconnecting_since = self.retry_at = 0.0
        self.why_closed = ""
        self.not_read = ""  # the link broke since the receiver read nothing for a step's time
        self._deserted = False  # no receiver listened when it was dialed last
        self._context = context
        self._state = ConnectionState.of_rank()
        self._decoder = framing.Decoder()
        self._thread: threading.Thread | None = None
        self._rest = b""  # of a sign of life that was sent in part (`send_lock`)

    # -- connecting ----------------------------------------------------------------------------

    def connect(self, timeout: float) -> None:
        """Connect, exchange hello and welcome, and go on where the receiver says.

        Raises
        ------
        OSError, ProtocolError, BridgeError
            When the receiver cannot be reached or refuses this rank.
        """
        context = self._context
        with self.connect_lock:
            if self.link is LinkState.OPEN:
                return
            if self.link is LinkState.CLOSED:
                raise ConnectionAbortedError(self.why_closed or "the connection was closed")
            dialed = context.dial(self.endpoint, timeout)
            with self.send_lock, context.changed:
                self._resume(dialed)
                context.opened(self, dialed.sock, dialed.early)
                context.changed.notify_all()
        if self.to_send:
            self.send_in_background()

    def _resume(self, dialed: Dialed) -> None:
        """Begin with a new socket; what the receiver has not got is sent again (both locks)."""
        if self.link is LinkState.CLOSED:
            dialed.sock.close()
            raise ConnectionAbortedError(self.why_closed or "closed meanwhile")
        welcome = dialed.welcome
        self.sock, self.lane = dialed.sock, dialed.lane
        self._state, self._decoder = dialed.state, dialed.decoder
        self.heard = self.sent = time.monotonic()
        self.silence_limit = welcome.silence_ms / 1000 or 30.0
        self.heartbeat = welcome.heartbeat_ms / 1000 or 2.0
        self.admitted.clear()
        self.credit_asked.clear()
        self.announced.clear()
        self.placed = 0
        again = [item for item in self.unacked if item.seq > welcome.last_seq]
        self.unacked.clear()
        self.to_send.extendleft(reversed(again))
        self._end_uses(except_for={item.seq for item in self.to_send})
        self._rest = b""
        self.not_read = ""
        self.goodbye_sent = self._deserted = False
        self.link = LinkState.OPEN

    def broken(self, sock: Socket, why: str) -> None:
        """Note that a socket has ended; the background thread reconnects if that is of use."""
        context = self._context
        with context.changed:
            if self.sock is not sock:
                return
            self._end_socket(sock)
            self.why_closed = why
            if context.is_final(self):
                self.link = LinkState.CLOSED
            else:
                self.reconnect()
            context.changed.notify_all()

    def _end_socket(self, sock: Socket) -> None:
        self._context.closed(sock)
        self.sock = None
        self._lose_leases()

    def reconnect(self) -> None:
        """Have the background thread connect (the lock is held)."""
        if self.link is not LinkState.CLOSED:
            self.link = LinkState.RECONNECTING
            self.reconnecting_since = self.retry_at = time.monotonic()
            self._start_thread()

    @property
    def may_return(self) -> bool:
        """Whether it was open before, is being repaired, and its receiver has not ended."""
        return self.link is LinkState.RECONNECTING and self.heard > 0 and not self._deserted

    def restart(self) -> None:
        """Drop the socket, so that the next use connects with a new hello."""
        with self.send_lock, self._context.changed:
            if self.sock is not None:
                self._end_socket(self.sock)
            self.link = LinkState.NEW

    def close(self, why: str = "") -> None:
        """End the connection for good (the lock is held); `join` waits for its thread."""
        if self.sock is not None:
            self._end_socket(self.sock)
        self.why_closed = self.why_closed or why
        self.link = LinkState.CLOSED
        self._context.changed.notify_all()

    def abandon(self) -> None:
        """Give up what the receiver was to be sent (the lock is held)."""
        self.close("the analysis goes on without this receiver")
        self._end_uses(except_for=set())
        self.unacked.clear()
        self.to_send.clear()

    def join(self, timeout: float) -> None:
        """Wait until the background thread has ended."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _lose_leases(self) -> None:
        """Retire the slots leased to a socket that has ended (the lock is held).

        Its receiver may read them for as long as it likes, and cannot return them any more.
        """
        for seq in self.leases.values():
            cast(Slot, self.in_slots[seq]).move(SlotEvent.LEASE_LOST)
        self.leases.clear()

    def _end_uses(self, except_for: set[int]) -> None:
        """Forget what was sent over a socket that has ended, unless it will be sent again."""
        for seq in [seq for seq in self.in_slots if seq not in except_for]:
            slot = self.in_slots.pop(seq)
            slot.done((self.ordinal, seq))
            if isinstance(slot, BorrowedMemory):
                slot.abandoned = True

    # -- the background thread -----------------------------------------------------------------

    def send_in_background(self) -> None:
        """Have the background thread send what is queued, so that the caller may go on."""
        with self._context.changed:
            self._start_thread()
            self._context.changed.notify_all()

    def _start_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name=f"bridge to {self.ordinal}", daemon=True
            )
            self._thread.start()

    def _work(self) -> None:
        while (link := self._wait_for_work()) is not LinkState.CLOSED:
            if link is LinkState.OPEN:
                with suppress(DeadlineExceeded):  # the link is broken, and is made anew
                    self.pump()
            else:
                self._try_again()

    def _wait_for_work(self) -> LinkState:
        """Wait for something to send, or until it is time to reconnect; return the link's state."""
        changed = self._context.changed
        with changed:
            while self.link is not LinkState.CLOSED:
                if self.link is LinkState.OPEN and self.to_send:
                    return self.link
                pause = None
                if self.link is LinkState.RECONNECTING:
                    pause = self.retry_at - time.monotonic()
                    if pause <= 0:
                        return self.link
                changed.wait(pause)
            self._thread = None
            return LinkState.CLOSED

    def _try_again(self) -> None:
        try:
            self.connect(_ATTEMPT)
            return
        except (OSError, ProtocolError, BridgeError) as error:
            why, deserted = str(error), isinstance(error, ConnectionRefusedError)
        with self._context.changed:
            if self.link is not LinkState.RECONNECTING:
                return
            self.why_closed, self._deserted = why, deserted
            self._context.changed.notify_all()
            now = time.monotonic()
            trying = now - self.reconnecting_since
            if trying > self._context.give_up_after:
                self.link = LinkState.CLOSED
            else:
                self.retry_at = now + min(LAST_RETRY, max(FIRST_RETRY, trying))

    # -- sending -------------------------------------------------------------------------------

    def number(self) -> int:
        """Return the next number (the lock is held)."""
        self.seq += 1
        return self.seq

    def queue(self, slot: Slot | BorrowedMemory, stored: Stored) -> None:
        """Queue a piece (the lock is held)."""
        seq = self.number()
        slot.use((self.ordinal, seq))
        self.in_slots[seq] = slot
        self.to_send.append(Item(b"", seq, slot, stored))

    def queue_message(self, message: m.Message) -> None:
        """Queue a message that needs no number (the lock is held)."""
        self.queue_packed(framing.pack(message))

    def queue_packed(self, frame: bytes) -> None:
        """Queue a frame that needs no number (the lock is held)."""
        self.to_send.append(Item(frame))

    def queue_numbered(self, build: Callable[[int], m.Message]) -> None:
        """Queue a message without cells that must arrive exactly once (the lock is held)."""
        seq = self.number()
        self.to_send.append(Item(framing.pack(build(seq)), seq))

    def withdraw(self, memory: BorrowedMemory) -> None:
        """Forget pieces of memory that its owner is about to write, one under way as well."""
        with self._context.lock:
            sock, began = self.sock, any(item.slot is memory for item in self.unacked)
            self.to_send = deque(item for item in self.to_send if item.slot is not memory)
            self.unacked = deque(item for item in self.unacked if item.slot is not memory)
        if began and sock is not None and self.send_lock.locked():
            self.broken(sock, "the put whose cells were being sent has failed")
            with self.send_lock:  # until the thread that sends has noticed
                pass

    def send(self) -> None:
        """Send what is queued: now, or by the background thread if that would hold up the rank."""
        if self.takes_long():
            self.send_in_background()
        else:
            self.pump()

    def takes_long(self) -> bool:
        """Return whether sending what is queued has to wait, for cells or for another thread.

        Over shared memory no cells are sent.
        """
        if self.lane == "shm":
            return False
        if self.send_lock.locked():
            return True
        with self._context.lock:
            cells = [item.stored.place.cells for item in self.to_send if item.stored is not None]
        return sum(each.nbytes for each in cells) > _AT_ONCE

    def pump(self) -> None:
        """Send what is queued, from this thread; a failure breaks the link, and nothing is lost.

        Raises
        ------
        DeadlineExceeded
            When the receiver has read nothing for the time of a step.
        """
        lock = self._context.lock
        with self.send_lock:
            while True:
                with lock:
                    sock = self.sock
                    if not self.to_send or sock is None or self.link is not LinkState.OPEN:
                        return
                    items = list(self.to_send)
                    self.to_send.clear()
                    self.unacked.extend(item for item in items if item.seq)
                    granted = self._grant(items)
                try:
                    self._send(sock, items, granted)
                except BaseException as error:
                    self._not_sent(sock, error)
                    return
                if not self.to_send:  # a thread that adds to it from now on sends it
                    return

    def send_packed(self, message: bytes) -> None:
        """Send what is packed (``send_lock`` is held); a failure breaks the link."""
        sock = self.sock
        if sock is None:  # broken a moment ago
            return
        self.sent = time.monotonic()
        try:
            self._send_rest(sock)
            sock.sendall(message)
        except BaseException as error:
            self._not_sent(sock, error)

    def _not_sent(self, sock: Socket, error: BaseException) -> None:
        """Break the link, since nothing may follow a part of a message; raise what a signal did."""
        if isinstance(error, DeadlineExceeded):
            self.not_read = f"{self.endpoint} {error}"
        self.broken(sock, f"sending failed: {error or type(error).__name__}")
        if isinstance(error, DeadlineExceeded):
            raise DeadlineExceeded(self.not_read) from None
        if not isinstance(error, OSError):
            raise error

    def _send_rest(self, sock: Socket) -> None:
        """Send what the socket did not take of a sign of life (``send_lock`` is held)."""
        if self._rest:
            sock.sendall(self._rest)
            self._rest = b""

    def _grant(self, items: Sequence[Item]) -> dict[int, int]:
        """Lease the slots of what is about to be sent: generations by number (the lock is held)."""
        granted: dict[int, int] = {}
        if self.lane == "shm":
            for item in items:
                stored = item.stored
                if stored is not None and stored.place.frame is not None:
                    slot = cast(Slot, item.slot)
                    generation = granted[item.seq] = slot.lease()
                    self.leases[slot.number, generation] = item.seq
        return granted

    def _send(self, sock: Socket, items: Sequence[Item], granted: dict[int, int]) -> None:
        """Send items in order, small ones together."""
        self.sent = time.monotonic()
        self._send_rest(sock)
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
                    self._announce(sock, cast(Slot, slot))
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
                    flags=m.Piece.ANSWER_NOW if isinstance(slot, BorrowedMemory) else 0,
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

    def _announce(self, sock: Socket, slot: Slot) -> None:
        """Give the receiver the descriptor of a slot's segment."""
        segment = slot.segment
        if segment is None:  # the connection was given up meanwhile, and with it this use
            raise ConnectionAbortedError("the slot was given up")
        self.announced.add(slot.number)
        ring = slot.ring
        spare = ring.spare_for(self.ordinal)
        where = (segment.number, slot.offset)
        message = m.Slot(slot.number, ring.number, slot.size, ring.length, spare, *where)
        head = framing.pack(message)
        fds = array.array("i", [segment.fd])
        cast(RankSocket, sock).sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])

    def ping(self, now: float) -> None:
        """Give a sign of life, unless a thread is sending anyway."""
        is_due = self._rest or now - self.sent >= self.heartbeat
        if not is_due or not self.send_lock.acquire(blocking=False):
            return
        try:
            sock = self.sock
            if sock is not None and self.link is LinkState.OPEN:
                self.sent = now
                frame = self._rest or framing.pack(m.Ping())
                try:
                    # Never waits: a full socket is no reason to stop reading.
                    self._rest = frame[sock.send(frame, socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    pass
                except OSError as error:
                    self.broken(sock, f"sending failed: {error}")
        finally:
            self.send_lock.release()

    # -- receiving (the I/O thread, the lock held) -------------------------------------------------

    def decode(self, received: bytes) -> list[m.Message]:
        """Return the messages that these bytes complete."""
        return self._decoder.feed(received)

    def receive(self, message: m.Message) -> bool:
        """Act on an answer to this rank's data; False: the message is not one."""
        self._state.received(message)
        match message:
            case m.Ack():
                self.taken(message.seq)
            case m.Release():
                self.released(message.leases, message.seq)
            case m.Credit():
                self._credit(message.array, message.rows)
            case m.Refused():
                raise ProtocolError(f"refused: {message.text}")
            case _:
                return False
        return True

    def leave(self, bye: m.Bye) -> None:
        """Queue the goodbye (the lock is held)."""
        self.goodbye_sent = True
        self._state.leave()
        self.queue_message(bye)

    def _credit(self, array: int, rows: int) -> None:
        self.admitted[array] = max(rows, self.admitted.get(array, 0))
        self.credit_asked.pop(array, None)
        if self.asked_for:  # what the credit now covers needs no exception
            self.asked_for = {
                key: row
                for key, row in self.asked_for.items()
                if row >= self.admitted.get(key[0], 0)
            }

    def ask_for(self, array: int, chunk: int, row: int) -> None:
        """Note that the receiver wants a chunk whether it has given credit or not."""
        if row >= self.admitted.get(array, 0):
            self.asked_for[array, chunk] = row

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
