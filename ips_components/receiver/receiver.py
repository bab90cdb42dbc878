"""The receiver: takes the blocks of simulation ranks and makes the chunks of external arrays.

It knows no Dask. Its owner implements `Sink` and drives it by the methods of `Receiver`.

Threads: one accepts connections, one per connection receives straight into the chunks' memory,
one keeper does all that must not wait for a rank (credit, heartbeats, deadlines). No thread of the
owner ever waits for a rank.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from ips_components.errors import IPSComponentsError, ProtocolError
from ips_components.model.contract import Contract
from ips_components.model.placement import Placement
from ips_components.receiver.assembly import (
    BlocksOverlap,
    ChunkAssembler,
    Claim,
    CompleteChunk,
)
from ips_components.receiver.buffers import BufferPool
from ips_components.receiver.connection import Connection
from ips_components.receiver.hello import blocks, described, hosts, parse_info
from ips_components.receiver.maintenance import Keeping, Peer
from ips_components.receiver.sink import ByeInfo, HelloInfo, Sink, StepInfo
from ips_components.wire import messages as m
from ips_components.wire import values
from ips_components.wire.contact import Endpoint, host_identity
from ips_components.wire.framing import pack as _pack

logger = logging.getLogger(__name__)

FEEDBACK_KEPT = 1024


@dataclass(frozen=True, slots=True)
class ReceiverStatistics:
    """A receiver's numbers: bytes unless said otherwise.

    ``held`` are complete chunks that somebody still has, ``reserved`` what is set aside for those
    under way; their sum is bounded by ``budget``.
    """

    budget: int
    held: int
    reserved: int
    chunks: int
    open_chunks: int
    ranks: int
    waiting_ranks: int
    pool_leased: int
    pool_idle: int
    lanes: Mapping[str, int] = field(default_factory=dict)


class Receiver(Keeping):
    """Listens for the ranks of one run and hands complete chunks to a sink.

    Parameters
    ----------
    sink
        Who is told of everything, see `Sink`.
    run, token
        Run id and the run's token (64 hexadecimal digits); a rank that has not both gets nothing.
    budget
        Bytes that chunks may take, under way and held together.
    ordinal
        Number of this receiver in placements; may be set later, but before the contract.
    host
        Address to listen on and to publish.
    lanes
        ``("shm", "tcp")`` or one of them; shared memory needs the Unix socket.
    tls
        Certificates with which connections over TCP are encrypted and ranks recognised; None:
        neither. Connections on the same node stay as they are, since nothing leaves it.
    unix_path
        Path of the Unix socket; None for an abstract name, which vanishes by itself.
    handshake, silence, grace
        Seconds: for a hello; without a sign of life before a connection counts as broken; for a
        rank to return before it counts as lost.
    on_pressure
        Called with the bytes wanted when ranks wait for credit and nothing is released: the owner
        should move held chunks out of memory.
    pressure_after
        Seconds without any release before `on_pressure`.
    hold_byes
        Whether a rank's goodbye is answered only after `let_leave`: until then it is there to send
        again what dies with a worker.

    Notes
    -----
    All methods are safe from any thread and return at once.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        run: str,
        token: str,
        budget: int,
        ordinal: int | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        lanes: Iterable[str] = ("shm", "tcp"),
        tls: ssl.SSLContext | None = None,
        unix_path: str | None = None,
        handshake: float = 10.0,
        silence: float = 30.0,
        grace: float = 10.0,
        heartbeat: float = 2.0,
        on_pressure: Callable[[int], None] | None = None,
        pressure_after: float = 0.5,
        hold_byes: bool = False,
    ) -> None:
        self.sink = sink
        self.run = run
        self.token = bytes.fromhex(token)
        self.ordinal = ordinal
        self.pool = BufferPool(keep=budget)
        self._events: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        self._freed: SimpleQueue[int] = SimpleQueue()
        self.intake = ChunkAssembler(self.pool, budget, self._note_freed)
        self._handshake, self._silence, self._grace = handshake, silence, grace
        self._heartbeat = heartbeat
        self._on_pressure, self._pressure_after = on_pressure, pressure_after
        self._lock = threading.Lock()
        self._peers: dict[int, Peer] = {}
        self._connections: set[Connection] = set()
        self._contract: Contract | None = None
        self._contract_frame = b""
        self._agreed = threading.Event()  # the contract is here
        self._digest = bytes(32)
        self._dtypes: list[np.dtype[Any]] = []
        self._size: int | None = None
        self._endpoints: tuple[Endpoint, ...] = ()
        self._placement: m.PlacementIs | None = None
        self._feedback: list[m.Feedback] = []
        self.watermarks: list[int] = []
        self._notices: list[m.Message] = []  # faults and the stop, for those who come late
        self._may_leave = not hold_byes
        self._leaving: list[Connection] = []
        self._closed = False
        self._answering = self._pump_due = False
        self._hungry = self._drops = False  # a rank waits for credit; does not, but drops
        self._pumping = threading.Lock()
        self._last_release = time.monotonic()
        self._unix_path = unix_path
        self._tls = tls
        self._listeners = self._listen(host, port, lanes)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._threads = [
            threading.Thread(target=self._accept, name="receiver accept", daemon=True),
            threading.Thread(target=self._keep, name="receiver keeper", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self, host: str, port: int, lanes: Iterable[str]) -> list[socket.socket]:
        lanes = tuple(lanes)
        listeners = []
        self._address, self._unix = (host, 0), ""
        tcp = socket.create_server((host, port), backlog=1024)
        self._address = tcp.getsockname()[:2]
        listeners.append(tcp)
        if "shm" in lanes:
            unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            if self._unix_path is None:
                # The kernel chooses a free abstract name when it is asked to bind to none.
                unix.bind("")
                self._unix = "@" + unix.getsockname()[1:].decode()
            else:
                unix.bind(self._unix_path)
                Path(self._unix_path).chmod(0o600)
                self._unix = self._unix_path
            unix.listen(1024)
            listeners.append(unix)
        for listener in listeners:
            listener.setblocking(False)
        return listeners

    @property
    def endpoint(self) -> Endpoint:
        """The address under which ranks find this receiver."""
        hostname, boot = host_identity()
        host, port = self._address
        return Endpoint(self.ordinal or 0, host, port, self._unix, hostname, boot, os.getpid())

    # -- driven by the owner -------------------------------------------------------------------

    def set_contract(self, contract: Contract, endpoints: Iterable[Endpoint] = ()) -> None:
        """Tell what is wanted and who takes it; ranks that asked get it now."""
        if self.ordinal is None:
            raise IPSComponentsError("a receiver needs its ordinal before it gets a contract")
        digest = bytes.fromhex(contract.digest())
        message = m.ContractIs(digest, contract.to_bytes(), tuple(endpoints) or (self.endpoint,))
        with self._lock:
            if self._contract is not None and digest != self._digest:
                raise IPSComponentsError("the contract of a run cannot be replaced by another")
            self._endpoints = message.endpoints
            self._contract_frame = _pack(message)
            if self._contract is None:
                self._dtypes = [array.dtype for array in contract.arrays]
                self._drops = any(array.policy == "drop" for array in contract.arrays)
                self.intake.set_contract(contract, self.ordinal, self._size)
                self._digest = digest
                self._contract = contract
                self._agreed.set()
            waiting = [
                peer.connection
                for peer in self._peers.values()
                if peer.wants_contract and peer.connection is not None
            ]
        for connection in waiting:
            connection.send_bytes(self._contract_frame)
        self._pump()

    def set_size(self, size: int) -> None:
        """Tell how many ranks there are, unless one has said so; not all talk to all receivers."""
        with self._lock:
            if self._size is not None:
                return
            self._size = size
            self.intake.set_size(size)
        self._pump()

    def set_placement(
        self,
        placements: Mapping[int, Placement],
        endpoints: Iterable[Endpoint],
        resend: Iterable[tuple[int, int]] = (),
        *,
        epoch: int | None = None,
        rows: Mapping[int, tuple[int, int]] | None = None,
        skip: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Give chunks to other receivers.

        Parameters
        ----------
        placements
            New placement per array ordinal. Ranks get it from every receiver and keep the latest.
        endpoints
            All receivers that live now.
        resend
            (array, chunk) of the chunks that are this receiver's now and are not complete
            anywhere; it asks ranks to send them again from their replay buffers. A chunk of this
            receiver that Dask lost may be named as well.
        epoch
            Number of the change, rising; None: the largest epoch of the placements.
        rows
            By array: nothing of the rows (time chunks) below the first number is on its way to
            this receiver, and no rank has sent anything of the rows from the second on.
        skip
            (array, chunk) of the chunks that are this receiver's now and had arrived elsewhere.
        """
        if epoch is None:
            epoch = max((p.epoch for p in placements.values()), default=0)
        message = m.PlacementIs(
            epoch,
            tuple(m.Owners(array, p.epoch, p.period, p.owners) for array, p in placements.items()),
            tuple(endpoints),
        )
        self.intake.set_placement(dict(placements), resend, rows, skip)
        with self._lock:
            self._endpoints = message.endpoints
            if placements:
                self._placement = message
        if placements:
            self._broadcast(message)
        self._pump()

    def set_horizon(self, rows: Mapping[int, int]) -> None:
        """Let ranks send chunk rows below these, by array ordinal; the others wait (open-ended)."""
        self.intake.set_horizon(rows)
        self._pump()

    def feedback(self, name: str, value: Any, step: int) -> None:
        """Send a value to the simulation (to its rank 0, which shares it)."""
        message = values.encode(name, step, value)
        with self._lock:
            self._feedback.append(message)
            del self._feedback[:-FEEDBACK_KEPT]
        self._broadcast(message, rank=0)

    def fault(self, text: str, policy: str = "continue") -> None:
        """Tell all ranks that the analysis failed; ``policy`` is ``"continue"`` or ``"abort"``."""
        self._notice(m.Fault(text, m.Fault.ABORT if policy == "abort" else m.Fault.CONTINUE))

    def stop(self, reason: str) -> None:
        """Tell the simulation that it may end, successfully."""
        self._notice(m.Stop(reason))

    def let_leave(self) -> None:
        """Let the ranks go that have said goodbye, and those that will (see ``hold_byes``)."""
        with self._lock:
            self._may_leave = True
            leaving, self._leaving = self._leaving, []
        for connection in leaving:
            connection.send(m.ByeAck())

    def statistics(self) -> ReceiverStatistics:
        """Return the present numbers."""
        self._take_freed()
        pool = self.pool.statistics()
        with self._lock:
            live = [p.connection for p in self._peers.values() if p.connection is not None]
            lanes = {"shm": sum(c.local for c in live), "tcp": sum(not c.local for c in live)}
            waiting = sum(bool(c.wanted) for c in live)
        intake = self.intake
        return ReceiverStatistics(
            budget=intake.budget,
            held=intake.held,
            reserved=intake.reserved,
            chunks=intake.completed,
            open_chunks=intake.open_chunks(),
            ranks=len(live),
            waiting_ranks=waiting,
            pool_leased=pool.leased,
            pool_idle=pool.idle,
            lanes=lanes,
        )

    def close(self, timeout: float = 5.0) -> None:
        """End all connections and threads; chunks that were handed over stay valid."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            connections = list(self._connections)
        for connection in connections:
            connection.shut("the receiver was closed")
        os.eventfd_write(self._wake, 1)
        self._events.put(("close",))
        deadline = time.monotonic() + timeout
        me = threading.current_thread()
        for thread in (*self._threads, *(c.thread for c in connections)):
            if thread is not me:
                thread.join(max(0.0, deadline - time.monotonic()))
        for listener in self._listeners:
            listener.close()
        if self._unix_path is not None:
            with contextlib.suppress(FileNotFoundError):
                Path(self._unix_path).unlink()
        os.close(self._wake)
        self.pool.close()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- called by connections -----------------------------------------------------------------

    def dtype(self, ordinal: int) -> np.dtype[Any]:
        """Return the type of an array's cells."""
        try:
            return self._dtypes[ordinal]
        except IndexError:
            raise ProtocolError(f"array number {ordinal} is not in the contract") from None

    def hello(self, connection: Connection, hello: m.Hello) -> None:
        """Take a rank in whose token was right."""
        info = parse_info(hello)
        arrays = described(info)
        if hello.digest != bytes(32):
            # Rank 0 may have it from another receiver before our owner has told us.
            self._agreed.wait(self._handshake)
        self.set_size(hello.size)
        with self._lock:
            refusal = self._refusal(hello)
            peer = self._peers.get(hello.rank)
            old = peer.connection if peer is not None else None
            if refusal is None:
                returning = peer is not None and peer.session == hello.session
                if peer is None or not returning:
                    peer = self._peers[hello.rank] = Peer(hello.rank, hello.session)
                peer.connection, peer.gone_since, peer.left = connection, None, False
                peer.wants_contract = bool(hello.flags & m.Hello.WANTS_CONTRACT)
                connection.peer = peer
        if refusal is not None or peer is None:
            connection.send(m.Refused(str(refusal)))
            raise ProtocolError(str(refusal))
        if old is not None and old is not connection:
            old.shut("the rank has connected anew")
        connection.silence = self._silence if hello.heartbeat_ms else None
        self._greet(connection, hello, peer)
        self.sink.hello(
            HelloInfo(
                rank=hello.rank,
                size=hello.size,
                host=str(info.get("host", "")),
                pid=hello.pid,
                lane="shm" if connection.local else "tcp",
                blocks=blocks(info),
                returning=returning,
                asks=peer.wants_contract,
                hosts=hosts(info),
            )
        )
        if arrays is not None and self._contract is None:
            self.sink.described(arrays)

    def _refusal(self, hello: m.Hello) -> str | None:
        """Return why a rank cannot take part, if so."""
        if hello.size != self._size:
            return (
                f"rank {hello.rank} says that there are {hello.size} ranks, others said "
                f"{self._size}: an earlier simulation of this run may still be alive"
            )
        if hello.digest != bytes(32) and hello.digest != self._digest:
            if self._contract is None:
                return f"rank {hello.rank} has a contract that this receiver does not know yet"
            return (
                f"rank {hello.rank} has contract {hello.digest.hex()[:8]}, this receiver "
                f"{self._digest.hex()[:8]}: start the simulation anew"
            )
        return None

    def _greet(self, connection: Connection, hello: m.Hello, peer: Peer) -> None:
        with self._lock:
            ready = self._contract is not None
            frames: list[m.Message] = [
                m.Welcome(
                    last_seq=peer.last_seq,
                    ordinal=self.ordinal or 0,
                    heartbeat_ms=int(self._heartbeat * 1000),
                    silence_ms=int(self._silence * 1000),
                    flags=m.Welcome.HAS_CONTRACT if ready else 0,
                )
            ]
            if self._placement is not None and self._placement.epoch > hello.epoch:
                frames.append(self._placement)
            if hello.rank == 0:
                frames.extend(self._feedback)
            contract = self._contract_frame if ready and peer.wants_contract else b""
            # After the contract: who gets one along with a fault goes on without the analysis.
            notices = list(self._notices)
        connection.send_bytes(b"".join((*map(_pack, frames), contract, *map(_pack, notices))))
        self._credit([connection])
        for ordinal, chunk in self.intake.asked():
            connection.send(m.Resend(ordinal, chunk))

    def message(self, connection: Connection, message: m.Message) -> None:
        """Act on a control message."""
        peer = connection.peer
        if peer is None:
            raise ProtocolError("a message before a hello")
        if isinstance(message, m.Slot):
            connection.add_slot(message)
        elif isinstance(message, m.SlotDrop):
            connection.drop_slot(message.slot)
        elif isinstance(message, m.Want):
            connection.wanted[message.array] = message.row
            self._hungry = True
            self._events.put(("pump",))
            self._credit([connection])
        elif isinstance(message, m.Rows):
            complete = self.intake.no_rows(peer.rank, message.array, message.chunk)
            if complete is not None:
                self.deliver(complete)
        elif isinstance(message, m.StepEnd):
            waited = message.waited_ns / 1e9
            self.sink.step_end(peer.rank, StepInfo(message.step, waited, message.counters))
        elif isinstance(message, m.Dropped):
            if self.intake.give_up(message.array, message.chunk):
                why = f"rank {peer.rank} dropped its part: the receiver was full"
                self.sink.missing(message.array, message.chunk, peer.rank, why)
        elif isinstance(message, m.Gone):
            if self.intake.give_up(message.array, message.chunk):
                why = f"rank {peer.rank} no longer has its part in the replay buffer"
                self.sink.missing(message.array, message.chunk, peer.rank, why)
        elif isinstance(message, m.Blocks):
            self.dtype(message.array)  # refuses an array that is not in the contract
            self.sink.blocks(peer.rank, message.array, message.blocks)
        elif isinstance(message, m.Bye):
            peer.left = True
            status = "ok" if message.status == 0 else "aborted"
            self.sink.bye(
                peer.rank, ByeInfo(message.last_step, status, message.reason, message.counters)
            )
            connection.send(m.Ack(peer.last_seq))
            with self._lock:
                may_leave = self._may_leave
                if not may_leave:
                    self._leaving.append(connection)
            if may_leave:
                connection.send(m.ByeAck())

    def claim(self, peer: Peer, piece: m.Piece) -> Claim | None:
        """Return the place of a piece; None: it is not needed.

        A chunk in which the blocks of two ranks overlap cannot be right: it is given up, and the
        sink gets the reason.
        """
        try:
            return self.intake.begin(peer.rank, piece)
        except BlocksOverlap as error:
            if self.intake.give_up(piece.array, piece.chunk):
                self.sink.missing(piece.array, piece.chunk, peer.rank, str(error))
            return None

    def deliver(self, complete: CompleteChunk) -> None:
        """Hand a complete chunk over."""
        self.sink.chunk(complete.array, complete.chunk, complete.value, complete.nbytes)
        self._pump_soon()

    def _note_freed(self, nbytes: int) -> None:
        """Note that bytes became free (any thread, any moment: no lock)."""
        self._freed.put(nbytes)
        self._pump_soon()

    def _pump_soon(self) -> None:
        """Have the keeper give credit: at once if a rank waits for it, else several in one."""
        if self._hungry:
            self._events.put(("pump",))
        elif not self._pump_due:
            self._pump_due = True
            self._events.put(("later",))

    def answer_later(self) -> None:
        """Have the keeper answer ranks that can wait a little."""
        if not self._answering:
            self._answering = True
            self._events.put(("answer",))

    def answer_now(self, connection: Connection) -> None:
        """Have the keeper answer a rank, which may wait for a slot (any moment: no lock)."""
        self._events.put(("slot", connection))

    def connection_ended(self, connection: Connection) -> None:
        """Note that a connection is over."""
        with self._lock:
            self._connections.discard(connection)
            peer = connection.peer
            if peer is not None and peer.connection is connection:
                peer.connection = None
                peer.gone_since, peer.why = time.monotonic(), connection.why
