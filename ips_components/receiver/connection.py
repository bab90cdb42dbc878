"""One rank's connection: frames in, pieces placed, answers out."""

from __future__ import annotations

import logging
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Generator
from enum import Enum, auto
from typing import Any, Protocol

import numpy as np

from ips_components.errors import ProtocolError
from ips_components.receiver.delivery import Delivery
from ips_components.receiver.handshake import encrypt, read_hello
from ips_components.receiver.outbox import Outbox
from ips_components.receiver.peer import Peer
from ips_components.receiver.pieces import PieceReader
from ips_components.receiver.rank_credit import RankCredit
from ips_components.receiver.reading import AT_ONCE, JOINED, PAUSED, READABLE, Closed, Input, Steps
from ips_components.receiver.slots import Acknowledgements, MappedSlots
from ips_components.wire import framing
from ips_components.wire import messages as m
from ips_components.wire.protocol import Connection as State
from ips_components.wire.protocol import check_hello
from ips_components.wire.threads import be_patient
from ips_components.wire.tls import TlsSocket

logger = logging.getLogger(__name__)

ANSWER_AT = 2  # pieces that may go without an answer until the maintenance thread's next turn
READS_PER_TURN = 16  # of a connection that shares its thread with others
_WHOLE = int(socket.MSG_WAITALL)
_HUNG_UP = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Owner(Protocol):
    """What a connection needs of the receiver that it belongs to; safe from any thread."""

    @property
    def token(self) -> bytes:
        """The run's token."""

    @property
    def id(self) -> int:
        """The receiver's, see `contact.Endpoint`."""

    @property
    def run(self) -> str:
        """The run's id."""

    @property
    def watermarks(self) -> list[int]:
        """Per array, the row below which pieces are welcome."""

    def dtype(self, array: int) -> np.dtype[Any]:
        """Return the type of an array's cells."""

    def hello(self, connection: Connection, hello: m.Hello) -> bool:
        """Take a rank in whose token was right; False: not yet, the contract is not known."""

    def message(self, connection: Connection, peer: Peer, message: m.Message) -> None:
        """Act on a control message."""

    def ack_soon(self, connection: Connection) -> None:
        """Have `Connection.answer` called a little later."""

    def ack_now(self, connection: Connection) -> None:
        """Have `Connection.answer` called (at any moment: takes no lock)."""

    def unsent(self, connection: Connection) -> None:
        """Have `Connection.flush` called until nothing is left."""

    def refused(self, connection: Connection, error: Exception) -> None:
        """Note that a connection was closed for what came over it."""

    def failed(self, connection: Connection, error: Exception) -> None:
        """Note that the receiver itself failed on a connection."""

    def ended(self, connection: Connection) -> None:
        """Note that a connection is over."""


class Progress(Enum):
    """What a connection without a thread of its own can do after a turn."""

    MORE = auto()  # there may be more to read
    JOINED = auto()  # there may be more to read, by this thread or by `run`
    DRAINED = auto()  # until its socket is readable
    PAUSED = auto()  # until `resume`
    ENDED = auto()


class Connection:
    """Reads one socket until it ends; writes without ever waiting for the rank.

    It is read by `on_readable`, one of many in a shared thread, and from the welcome on by the
    same or by a thread of its own (`run`).

    Parameters
    ----------
    owner
        The receiver.
    delivery
        Where pieces go.
    sock
        A connected stream socket.
    local
        Whether it is a Unix socket, over which memory may be shared.
    name
        The other side, for messages.
    tls
        Certificates, where the connection must be encrypted.

    Notes
    -----
    ======================== =================== ==================================================
    field                    written by          guarded by
    ======================== =================== ==================================================
    ``peer, generation``     reader, at the join the lock of the `PeerTable`; then constant
    ``credit``               never               see `RankCredit`
    ``_urgent, _steps``      reader              no lock: the reader alone
    ``_ack_scheduled``       reader, maintenance no lock: a lost one is followed by the next piece
    ``last_ping``            maintenance         no lock: the maintenance thread alone
    ======================== =================== ==================================================
    """

    def __init__(
        self,
        owner: Owner,
        delivery: Delivery,
        sock: socket.socket,
        local: bool,
        name: str,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.owner = owner
        self.delivery = delivery
        self.local = local
        self.name = name
        self.peer: Peer | None = None
        self.generation = 0
        self.connected_at = self.last_ping = time.monotonic()
        self.silence: float | None = None  # seconds after which the peer counts as gone
        self.credit = RankCredit()
        self.paused = False
        self._plain = sock
        self._tls = None if tls is None else TlsSocket(sock, tls, server_side=True)
        self._outbox = Outbox(self._tls or sock, lambda: owner.unsent(self))
        self._input = Input(self._tls or sock, local)
        self._state = State.of_receiver()
        self._slots = MappedSlots()
        self._acks = Acknowledgements(lambda: owner.ack_now(self))
        self._urgent = False
        self._ack_scheduled = False
        self._why = ""
        self._resumed = threading.Event()
        self.wake: Callable[[Connection], None] = _do_nothing  # has `on_readable` called
        self._begun = False
        self._target: memoryview | None = READABLE
        self._steps: Steps = self._conversation()

    # -- state: any thread ---------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the connection was not ended from this side."""
        return not self._outbox.closed

    @property
    def why(self) -> str:
        """Why the connection ended."""
        return self._outbox.why or self._why

    @property
    def last_received(self) -> float:
        """When something came last."""
        return self._input.last

    @property
    def slots(self) -> frozenset[int]:
        """Numbers of the slots that the rank has announced."""
        return self._slots.numbers

    def fileno(self) -> int:
        """Return the socket's descriptor, for polling."""
        return self._plain.fileno()

    def hung_up(self) -> bool:
        """Return whether the other side has closed, though not all it sent may be read yet."""
        if not self.alive:
            return True
        poll = select.poll()
        try:
            poll.register(self._plain, _HUNG_UP)
            return bool(poll.poll(0))
        except (OSError, ValueError):  # closed meanwhile
            return True

    # -- writing: any thread -------------------------------------------------------------------

    def send(self, *frames: m.Message) -> None:
        """Send control messages."""
        self.send_bytes(b"".join(framing.pack(frame) for frame in frames))

    def send_bytes(self, frame: bytes) -> None:
        """Send packed messages."""
        self._outbox.send(frame)

    def answer_goodbye(self) -> None:
        """Release the rank: it takes no message after this one, whichever thread sends it."""
        self._outbox.send(framing.pack(m.ByeAck()), last=True)

    def flush(self) -> bool:
        """Try to send what is left; return whether something still is."""
        return self._outbox.flush()

    def join(self, peer: Peer, generation: int, greeting: bytes) -> None:
        """Belong to a rank from now on, with its greeting as the first thing that is sent."""
        self.peer = peer
        self.generation = generation
        self._outbox.enqueue(greeting)

    def send_credit(self, watermarks: list[int], at_once: bool = False) -> None:
        """Send credit: at once, or when half of the last one is used up or the rank waits."""
        if frames := self.credit.due(watermarks, at_once):
            self.send(*frames)

    def ping(self, now: float, interval: float) -> None:
        """Send a sign of life when the last one is old."""
        if now - self.last_ping >= interval:
            self.last_ping = now
            self.send(m.Ping())

    def answer(self) -> None:
        """Acknowledge and give back what came so far."""
        self._ack_scheduled = False
        if self.peer is not None and (frames := self._acks.take(self.peer.last_seq)):
            self.send(*frames)

    def shut(self, why: str) -> None:
        """End the connection; its reader then cleans up."""
        self._outbox.shut(why)
        self._resumed.set()

    # -- reading: the reader only --------------------------------------------------------------

    def run(self) -> None:
        """Read until the end, in a thread of its own, from `Progress.JOINED` on."""
        if self.local:  # over TCP the rank waits for this thread to make room
            be_patient()
        reading = self._input
        try:
            target = self._steps.send(0)
            while target is not None:
                n = reading.receive(target, _WHOLE if reading.whole else 0)
                target = self._steps.send(n)
        except Exception as error:
            self._finish(error)

    def on_readable(self) -> Progress:
        """Take what is there without waiting for more; return how it can go on."""
        try:
            return self._read_at_once()
        except Exception as error:
            self._finish(error)
            return Progress.ENDED

    def _read_at_once(self) -> Progress:
        if not self._begun:
            self._begun = True
            self._target = next(self._steps)
            if self._target is READABLE:
                return Progress.DRAINED
        for _ in range(READS_PER_TURN):
            target = self._target
            if target is PAUSED:
                n = self._after_pause()
            elif target is READABLE or target is JOINED:
                n = 0
            else:
                try:
                    n = self._input.receive(target, AT_ONCE)
                except BlockingIOError:
                    return Progress.DRAINED
            self._target = self._steps.send(n)
            if self._target is PAUSED:
                return Progress.PAUSED
            if self._target is READABLE:
                return Progress.DRAINED
            if self._target is JOINED:
                return Progress.JOINED
        return Progress.MORE

    def resume(self) -> None:
        """Continue a conversation that is paused (any thread)."""
        self._resumed.set()
        self.wake(self)

    def _after_pause(self) -> int:
        if not self.alive or not self._resumed.is_set():
            raise Closed("the connection was closed while the rank waited for its welcome")
        self._resumed.clear()
        return 0

    def _finish(self, error: Exception) -> None:
        """Close everything, for whatever reason."""
        self._steps.close()
        alive = self.alive
        if isinstance(error, Closed):
            self._why = str(error)
        elif isinstance(error, ProtocolError | struct.error):
            self._why = str(error)
            if alive:
                self.owner.refused(self, error)
        elif isinstance(error, OSError):
            self._why = f"connection broken: {error}"
        else:
            self._why = f"receiver failed: {error!r}"
            self.owner.failed(self, error)
        self._outbox.close()
        self._input.close()
        self._slots.clear()
        self.owner.ended(self)

    # -- the conversation ----------------------------------------------------------------------

    def _conversation(self) -> Steps:
        """Read what the rank sends, and act on it."""
        if self._tls is not None:
            yield from encrypt(self._plain, self._tls)
        peer = yield from self._handshake()
        self._input.grow()
        pieces = PieceReader(
            peer,
            self.generation,
            self.delivery,
            self._input,
            self._slots,
            self._acks,
            self.owner.dtype,
        )
        yield JOINED
        while True:
            yield from self._frame(peer, pieces)

    def _handshake(self) -> Generator[memoryview | None, int, Peer]:
        """Take a rank in, once the receiver can."""
        owner = self.owner
        hello = yield from read_hello(self._input, self._state, self.send, owner.token, owner.id)
        self.name = f"rank {hello.rank} ({self.name})"
        try:
            check_hello(hello, owner.run)
            while not owner.hello(self, hello):
                self.paused = True
                yield PAUSED
                self.paused = False
        except ProtocolError as error:
            self.send(m.Refused(str(error)))
            raise
        assert self.peer is not None
        return self.peer

    def _frame(self, peer: Peer, pieces: PieceReader) -> Generator[memoryview, int, None]:
        reading = self._input
        if reading.empty:
            self._settle()
        header = framing.parse_header((yield from reading.take(framing.HEADER_BYTES)))
        if reading.fits(header.body):
            body = yield from reading.take(header.body)
        else:
            body = memoryview(bytearray(header.body))
            yield from reading.read_into(body)
        message = framing.parse(header, body)
        reading.last = time.monotonic()
        self._state.received(message)
        if isinstance(message, m.Piece):
            row = self.delivery.assembler.row(message.array, message.chunk)
            self.credit.note_row(message.array, row)
            if message.slot != m.NO_SLOT:
                pieces.take_slot(message)
            else:
                yield from pieces.receive(message, header.data)
        elif isinstance(message, m.Slot):
            self._slots.add(message, reading.pop_fd())
        elif isinstance(message, m.SlotDrop):
            self._slots.drop(message.slot)
        else:
            self.owner.message(self, peer, message)
        if header.seq:
            with peer.lock:
                peer.check_generation(self.generation)
                peer.last_seq = max(peer.last_seq, header.seq)
            self._acks.note()
            self._urgent |= bool(header.op == m.Piece.OP and header.flags & m.Piece.ANSWER_NOW)

    def _settle(self) -> None:
        """Acknowledge what came, since nothing more is at hand, unless a little later will do.

        An answer interrupts the rank while it computes. The rank can do without one as long as it
        has free slots and buffers, so that the maintenance thread sends most answers, several in
        one.
        """
        self.send_credit(self.owner.watermarks)
        owed = self._acks.owed
        if owed >= ANSWER_AT or (owed and self._urgent):
            self._urgent = False
            self.answer()
        elif owed and not self._ack_scheduled:
            self._ack_scheduled = True
            self.owner.ack_soon(self)


def _do_nothing(connection: Connection) -> None:
    pass
