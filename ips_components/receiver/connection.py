"""One rank's connection: a thread that reads frames and puts cells where they belong."""

from __future__ import annotations

import array
import contextlib
import fcntl
import logging
import os
import socket
import ssl
import struct
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

import numpy as np

from ips_components.errors import ProtocolError
from ips_components.receiver.buffers import on_last_view
from ips_components.wire import framing, mapping
from ips_components.wire import messages as m
from ips_components.wire.protocol import Connection as State
from ips_components.wire.protocol import check_hello
from ips_components.wire.threads import be_patient
from ips_components.wire.tls import TlsSocket, speaks_tls

if TYPE_CHECKING:
    from ips_components.receiver.maintenance import Peer
    from ips_components.receiver.receiver import Receiver

logger = logging.getLogger(__name__)

READ_AHEAD = 64 << 10
SCRATCH = 1 << 20  # strided pieces pass through this much, which stays in the cache
PART = 16 << 20  # of a large piece; between parts the connection is seen to be alive
MAX_OUTBOX = 256 << 20
MAX_SLOTS = 4096
MAX_FDS = 16
ANSWER_AT = 2  # pieces that may go without an answer until the keeper's next turn
UNENCRYPTED = (
    "this receiver takes TCP connections with TLS only, but the contact file names no certificates "
    "or the rank is in C or Fortran, which cannot speak TLS: run a Dask worker on the rank's node, "
    "so that shared memory serves, or see SECURITY in the parameters"
)
# Sums of the socket module's flags cost more than the calls that take them.
_QUIET = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_WHOLE = int(socket.MSG_WAITALL)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_FD_SPACE = socket.CMSG_SPACE(MAX_FDS * 4)
_NEEDED_SEALS = fcntl.F_SEAL_SHRINK if hasattr(fcntl, "F_SEAL_SHRINK") else 2
_F_GET_SEALS = getattr(fcntl, "F_GET_SEALS", 1034)


class Closed(Exception):
    """The other side is gone; not an error by itself."""


class Connection:
    """Reads one socket until it ends, in a thread of its own; writes without ever blocking.

    Parameters
    ----------
    receiver
        The owner.
    sock
        A connected stream socket.
    local
        Whether it is a Unix socket, over which memory may be shared.
    name
        Who it is, for messages.
    tls
        Certificates, where the connection must be encrypted.
    """

    def __init__(
        self,
        receiver: Receiver,
        sock: socket.socket,
        local: bool,
        name: str,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.receiver = receiver
        self._plain = sock
        self.sock: Any = sock if tls is None else TlsSocket(sock, tls, server_side=True)
        self.local = local
        self.name = name
        self.state = State.of_receiver()
        self.peer: Peer | None = None
        self.opened = self.heard = time.monotonic()
        self.silence: float | None = None  # seconds after which the peer counts as gone
        self._credited: dict[int, int] = {}
        self._last_row: dict[int, int] = {}
        self._beaten = self.opened
        self.wanted: dict[int, int] = {}  # array -> row for which the rank waits
        self._slots: dict[int, tuple[memoryview, m.Slot]] = {}
        self._held: Counter[int] = Counter()  # slots in use as chunks, by ring
        self._returned: deque[tuple[int, int]] = deque()  # ring and number; filled at any moment
        self._fds: deque[int] = deque()
        self._buffer = bytearray(READ_AHEAD)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._scratch: bytearray | None = None
        self._outbox: deque[memoryview] = deque()
        self._out_lock = threading.Lock()
        self._releasable: deque[int] = deque()
        self._unanswered = 0
        self._urgent = False
        self._answer_lock = threading.Lock()
        self._closed = False
        self.why = ""
        self.thread = threading.Thread(target=self._run, name=f"receiver {name}", daemon=True)

    # -- writing: any thread -----------------------------------------------------------------

    def send(self, *frames: m.Message) -> None:
        """Send control messages; what the socket does not take now is sent by `flush`."""
        self.send_bytes(b"".join(framing.pack(one) for one in frames))

    def send_bytes(self, frame: bytes) -> None:
        """Send packed messages."""
        with self._out_lock:
            if self._closed:
                return
            if sum(map(len, self._outbox)) > MAX_OUTBOX:
                self._shut("it does not read what it is sent")
                return
            self._outbox.append(memoryview(frame))
            self._flush()

    def flush(self) -> bool:
        """Try to send what is left; return whether something still is."""
        with self._out_lock:
            self._flush()
            return bool(self._outbox)

    def _flush(self) -> None:
        while self._outbox and not self._closed:
            head = self._outbox[0]
            try:
                sent = self.sock.send(head, _QUIET)
            except BlockingIOError:
                return
            except OSError as error:
                self._shut(f"sending failed: {error}")
                return
            if sent == len(head):
                self._outbox.popleft()
            else:
                self._outbox[0] = head[sent:]

    def credit(self, watermarks: list[int]) -> None:
        """Tell the rank how far it may send, when half of what it knew is used up or it waits."""
        if not any(self._is_due(array_, mark) for array_, mark in enumerate(watermarks)):
            return  # as a rule: asked for without the lock, which a slow socket may hold
        frames = []
        with self._out_lock:
            for array_, mark in enumerate(watermarks):
                if self._is_due(array_, mark):
                    self._credited[array_] = mark
                    frames.append(m.Credit(array_, mark))
                    waits = self.wanted.get(array_)
                    if waits is not None and waits < mark:
                        del self.wanted[array_]
        if frames:
            self.send(*frames)

    def _is_due(self, array_: int, mark: int) -> bool:
        credited = self._credited.get(array_, 0)
        if mark <= credited:
            return False
        used = self._last_row.get(array_, -1) + 1
        return array_ in self.wanted or credited - used <= (mark - used) // 2

    def beat(self, now: float, interval: float) -> None:
        """Give a sign of life when the last one is old."""
        if now - self._beaten >= interval:
            self._beaten = now
            self.send(m.Ping())

    def shut(self, why: str) -> None:
        """End the connection from any thread; its own thread then cleans up."""
        with self._out_lock:
            self._shut(why)

    def _shut(self, why: str) -> None:
        if not self._closed:
            self._closed = True
            self.why = self.why or why
            self._outbox.clear()
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)

    # -- reading: the connection's own thread -------------------------------------------------

    def _run(self) -> None:
        if self.local:  # over TCP the rank waits for this thread to make room
            be_patient()
        try:
            if self.sock is not self._plain:
                self._encrypt()
            self._handshake()
            while True:
                self._one_frame()
        except Closed as error:
            self.why = self.why or str(error)
        except (ProtocolError, struct.error) as error:
            self.why = self.why or str(error)
            logger.warning("Connection of %s closed: %s", self.name, error)
        except OSError as error:
            self.why = self.why or f"connection broken: {error}"
        except Exception as error:
            self.why = self.why or f"receiver failed: {error!r}"
            logger.exception("Connection of %s closed by an error of the receiver", self.name)
            self.receiver.sink.fault(f"the receiver failed on {self.name}: {error!r}")
        finally:
            with self._out_lock:
                self._closed = True
                self._outbox.clear()
                self.sock.close()
            while self._fds:
                os.close(self._fds.popleft())
            self._slots.clear()
            self._scratch = None
            self.receiver.connection_ended(self)

    def _encrypt(self) -> None:
        """Agree on encryption; who comes without is told in plain words that it must."""
        begins = speaks_tls(self._plain)
        if begins is None:
            raise Closed("the connection was closed by the rank's side")
        if not begins:
            refusal = m.Refused(UNENCRYPTED)
            with contextlib.suppress(OSError):
                # What lies unread when a socket is closed takes the answer with it.
                self._plain.recv(READ_AHEAD, socket.MSG_DONTWAIT)
                self._plain.send(framing.pack(refusal), _QUIET)
            raise ProtocolError("it speaks without TLS, which this receiver requires")
        self.sock.handshake()

    def _handshake(self) -> None:
        header = framing.parse_header(self._take(framing.HEADER_BYTES))
        if header.op != m.Hello.OP or header.body < m.HELLO_BYTES:
            raise ProtocolError(f"the first message must be a hello, got message {header.op}")
        # The token is compared before the rest of the hello is read, let alone allocated.
        fixed = bytes(self._take(m.HELLO_BYTES))
        hello = m.Hello.parse(memoryview(fixed))
        receiver = self.receiver
        try:
            check_hello(hello, receiver.token, receiver.run)
        except ProtocolError as error:
            if hello.token == receiver.token:
                self.send(m.Refused(str(error)))
            raise
        body = bytearray(header.body)
        body[: m.HELLO_BYTES] = fixed
        self._read_into(memoryview(body)[m.HELLO_BYTES :])
        hello = framing.parse(header, memoryview(body))  # type: ignore[assignment]
        self.state.received(hello)
        self.name = f"rank {hello.rank} ({self.name})"
        receiver.hello(self, hello)

    def _one_frame(self) -> None:
        if self._start == self._end:
            self._settle()
        header = framing.parse_header(self._take(framing.HEADER_BYTES))
        if header.body <= READ_AHEAD:
            body = self._take(header.body)
        else:
            body = memoryview(bytearray(header.body))
            self._read_into(body)
        message = framing.parse(header, body)
        self.heard = time.monotonic()
        self.state.received(message)
        if isinstance(message, m.Piece):
            self._piece(message, header.data)
        else:
            self.receiver.message(self, message)
        if header.seq:
            self._numbered(header.seq)
            self._urgent |= bool(header.op == m.Piece.OP and header.flags & m.Piece.ANSWER_NOW)

    def _numbered(self, seq: int) -> None:
        if self.peer is not None and seq > self.peer.last_seq:
            self.peer.last_seq = seq
        self._unanswered += 1

    def _settle(self) -> None:
        """Nothing more is at hand: acknowledge what came, unless a little later will do.

        An answer interrupts the rank while it computes. The rank can do without one as long as it
        has free slots and buffers, so that the keeper sends most answers, several in one.
        """
        self.credit(self.receiver.watermarks)
        if self._unanswered >= ANSWER_AT or (self._unanswered and self._urgent):
            self._urgent = False
            self.answer()
        elif self._unanswered:
            self.receiver.answer_later()

    def answer(self) -> None:
        """Acknowledge and give back what came so far (any thread)."""
        with self._answer_lock:
            self._take_returned()
            if not self._unanswered or self.peer is None:
                return
            self._unanswered = 0
            done = tuple(self._releasable.popleft() for _ in range(len(self._releasable)))
            frames: list[m.Message] = [m.Release(done)] if done else []
            if not done or done[-1] < self.peer.last_seq:
                frames.append(m.Ack(self.peer.last_seq))
        self.send(*frames)

    def _take_returned(self) -> None:
        """Account for slots that are no chunks any more (the answer's lock is held)."""
        while self._returned:
            ring, seq = self._returned.popleft()
            self._held[ring] -= 1
            self._releasable.append(seq)
            self._unanswered += 1

    def _piece(self, piece: m.Piece, nbytes: int) -> None:
        receiver, peer = self.receiver, self.peer
        if peer is None:
            raise ProtocolError("a piece before a hello")
        self._last_row[piece.array] = receiver.intake.row(piece.array, piece.chunk)
        if piece.slot != m.NO_SLOT:
            self._piece_in_slot(piece, peer)
            return
        claim = receiver.claim(peer, piece)
        if claim is None:
            self._discard(nbytes)
            return
        try:
            if claim.cells.nbytes != nbytes:
                raise ProtocolError(
                    f"a piece of {claim.cells.nbytes} bytes came with {nbytes} bytes"
                )
            self._fill(claim.cells)
        except BaseException:
            receiver.intake.abandon(claim)
            raise
        complete = receiver.intake.commit(claim)
        del claim
        if complete is not None:
            receiver.deliver(complete)

    def _fill(self, target: np.ndarray[Any, Any]) -> None:
        """Receive cells into a part of a chunk, strided or not."""
        if target.flags.c_contiguous:
            self._read_into(target.reshape(-1).view(np.uint8).data)
            return
        if self._scratch is None:
            self._scratch = bytearray(SCRATCH)
        scratch = memoryview(self._scratch)
        for part in _parts(target, SCRATCH):
            if part.flags.c_contiguous:
                self._read_into(part.reshape(-1).view(np.uint8).data)
                continue
            cells = scratch[: part.nbytes]
            self._read_into(cells)
            part[...] = np.frombuffer(cells, part.dtype).reshape(part.shape)

    def _piece_in_slot(self, piece: m.Piece, peer: Peer) -> None:
        receiver = self.receiver
        memory, slot = self._slots.get(piece.slot, (None, None))
        if memory is None or slot is None:
            raise ProtocolError(f"a piece in slot {piece.slot}, which was never announced")
        dtype = receiver.dtype(piece.array)
        cells = _slot_array(memory, piece, dtype)
        # Some slots must stay free: a chunk that the analysis keeps must not starve the rank.
        complete = None
        if cells.flags.c_contiguous and self._may_hold(slot):
            complete = receiver.intake.adopt_slot(piece, cells)
        if complete is not None:
            self._hold(slot.ring, piece.seq, cells)
            del cells
            receiver.deliver(complete)
            return
        claim = receiver.claim(peer, piece)
        if claim is not None:
            np.copyto(claim.cells, cells)
            complete = receiver.intake.commit(claim)
            del claim
            if complete is not None:
                receiver.deliver(complete)
        self._releasable.append(piece.seq)

    def _may_hold(self, slot: m.Slot) -> bool:
        """Tell whether the rank can do without one more slot of a ring."""
        with self._answer_lock:
            self._take_returned()
            return self._held[slot.ring] + slot.spare < slot.length

    def _hold(self, ring: int, seq: int, cells: np.ndarray[Any, Any]) -> None:
        """Keep a slot until nobody reads its cells any more."""
        with self._answer_lock:
            self._held[ring] += 1
        returned, soon = self._returned, self.receiver.answer_now

        def gone() -> None:  # in any thread, at any moment: no lock
            returned.append((ring, seq))
            soon(self)

        on_last_view(cells, gone)

    def add_slot(self, slot: m.Slot) -> None:
        """Map the memory that came with an announcement, read-only."""
        if not self._fds:
            raise ProtocolError(f"slot {slot.slot} was announced without a descriptor")
        fd = self._fds.popleft()
        try:
            # Unsealed memory could be truncated under us, and reading it would be a bus error.
            seals = fcntl.fcntl(fd, _F_GET_SEALS)
            size = os.fstat(fd).st_size
            if not seals & _NEEDED_SEALS or not 0 < slot.size <= size:
                raise ProtocolError(
                    f"slot {slot.slot}: {size} bytes with seals {seals}, expected {slot.size} "
                    "sealed against shrinking"
                )
            if slot.slot not in self._slots and len(self._slots) >= MAX_SLOTS:
                raise ProtocolError(f"more than {MAX_SLOTS} slots")
            self._slots[slot.slot] = (mapping.shared(fd, slot.size, writable=False), slot)
        except OSError as error:
            raise ProtocolError(f"slot {slot.slot} cannot be mapped: {error}") from error
        finally:
            os.close(fd)

    def drop_slot(self, slot: int) -> None:
        """Forget a slot; arrays in it keep its memory."""
        self._slots.pop(slot, None)

    def _take(self, n: int) -> memoryview:
        """Return the next ``n`` bytes (at most the read-ahead) from the buffer."""
        while self._end - self._start < n:
            if self._start and self._start + n > READ_AHEAD:
                rest = self._end - self._start
                self._view[:rest] = bytes(self._view[self._start : self._end])
                self._start, self._end = 0, rest
            self._end += self._receive(self._view[self._end :], 0)
        start = self._start
        self._start += n
        taken = self._view[start : start + n]
        if self._start == self._end:
            self._start = self._end = 0
        return taken

    def _read_into(self, target: memoryview) -> None:
        """Fill ``target`` with the next bytes."""
        have = min(len(target), self._end - self._start)
        target[:have] = self._view[self._start : self._start + have]
        self._start += have
        if self._start == self._end:
            self._start = self._end = 0
        at = have
        while at < len(target):
            at += self._receive(target[at : at + PART], _WHOLE)
            self.heard = time.monotonic()

    def _discard(self, nbytes: int) -> None:
        if self._scratch is None:
            self._scratch = bytearray(SCRATCH)
        with memoryview(self._scratch) as scratch:
            while nbytes:
                part = min(nbytes, SCRATCH)
                self._read_into(scratch[:part])
                nbytes -= part

    def _receive(self, target: memoryview, flags: int) -> int:
        if not self.local:
            n = self.sock.recv_into(target, 0, flags)
        else:
            n, ancillary, _, _ = self.sock.recvmsg_into([target], _FD_SPACE, flags | _CLOEXEC)
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds = array.array("i")
                    fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
                    self._fds.extend(fds)
            if len(self._fds) > MAX_FDS:
                raise ProtocolError(f"more than {MAX_FDS} descriptors that nobody announced")
        if not n:
            raise Closed("the connection was closed by the rank's side")
        return n


def _parts(target: np.ndarray[Any, Any], nbytes: int) -> Any:
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


def _slot_array(slot: memoryview, piece: m.Piece, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return a piece's cells as they lie in a slot."""
    low = high = piece.slot_offset
    for count, stride in zip(piece.shape, piece.strides, strict=True):
        if count < 1:
            raise ProtocolError(f"a piece of shape {piece.shape}")
        reach = (count - 1) * stride
        low, high = low + min(reach, 0), high + max(reach, 0)
    if low < 0 or high + dtype.itemsize > len(slot):
        raise ProtocolError(
            f"a piece of shape {piece.shape} at {piece.slot_offset} with strides {piece.strides} "
            f"is outside its slot of {len(slot)} bytes"
        )
    return np.ndarray(piece.shape, dtype, slot, piece.slot_offset, piece.strides)
