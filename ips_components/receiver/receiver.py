"""The receiver: takes the blocks of simulation ranks and makes the chunks of external arrays.

It knows no Dask. Its owner implements `Sink` and drives it by the methods of `Receiver`.

What is done in which thread
------------------------------

========================== ======================== ======================================
thread                     runs                     may wait for
========================== ======================== ======================================
owner's (any)              methods of `Receiver`    nothing; `close`: the other threads
``receiver accept``        `Listener`               a connection
``receiver shared N``      `Connection.on_readable` the next bytes of any of its ranks
``receiver NAME``          `Connection.run`         its rank's next bytes
both                       methods of `Reception`   nothing
``receiver maintenance``   `Maintenance`            an event or a timer
========================== ======================== ======================================

Every connection begins in a shared thread. Once its hello was taken it gets a thread of its own,
which is the fastest way to receive, as long as not more than `io_threads.MAX_OWN_THREADS` have one.

========================== ======================== ======================================
state                      object                   guarded by
========================== ======================== ======================================
ranks, connections, what   `PeerTable`              ``PeerTable._lock``
late ranks must know
last number, generation    `Peer`                   ``Peer.lock``
chunks under way           `ChunkAssembler`         ``ChunkAssembler._lock``
rows admitted, budget      `RowAdmission`           ``ChunkAssembler._lock``
buffer, ids of one chunk   `PartialChunk`           ``PartialChunk.buffer_lock``
admission, watermarks      `CreditPump`             ``CreditPump._pumping``
frames to send             `Outbox`                 ``Outbox._lock``
numbers and slots owed     `Acknowledgements`       ``Acknowledgements._lock``
credit of a connection     `RankCredit`             ``RankCredit._lock``
read-ahead, mapped slots   `Input`, `MappedSlots`   the connection's reader alone
timers                     `Maintenance`            its thread alone
idle buffers               `BufferPool`             ``BufferPool._lock``
========================== ======================== ======================================

A thread takes locks from left to right only: ``CreditPump._pumping``, ``PeerTable._lock``,
``Peer.lock``, one of the others. Under none of them does it wait for a rank or call the sink.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ips_components.deadlines import Deadline
from ips_components.errors import IPSComponentsError
from ips_components.model.contract import Contract
from ips_components.model.placement import Placement
from ips_components.receiver.assembly import ChunkAssembler
from ips_components.receiver.buffers import BufferPool
from ips_components.receiver.connection import Connection
from ips_components.receiver.credit import CreditPump
from ips_components.receiver.delivery import Delivery
from ips_components.receiver.io_threads import ConnectionThreads
from ips_components.receiver.listener import Listener
from ips_components.receiver.maintenance import (
    Maintenance,
    PumpNow,
    PumpSoon,
    Timing,
)
from ips_components.receiver.peers import PeerTable
from ips_components.receiver.rate_limit import LimitedWarnings
from ips_components.receiver.reception import Reception
from ips_components.receiver.sink import Sink
from ips_components.wire import messages as m
from ips_components.wire import values
from ips_components.wire.contact import Endpoint, host_identity

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReceiverStatistics:
    """A receiver's numbers: bytes unless said otherwise.

    ``held`` are complete chunks that are still in use, ``reserved`` what is set aside for those
    under way; their sum is bounded by ``budget``. ``chunks`` counts those that were completed.
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


class Waiting(NamedTuple):
    """For what the ranks of a receiver wait, and what has come of its oldest chunks.

    Attributes
    ----------
    connected : list of int
        The ranks that are connected.
    wants : list of (rank, array, row)
        Ranks that wait for credit, and for which row of which array.
    oldest : list of (array, chunk, came)
        See `ChunkAssembler.oldest`.
    """

    connected: list[int]
    wants: list[tuple[int, int, int]]
    oldest: list[tuple[int, int, list[tuple[int, int]]]]


class Receiver:
    """Listens for the ranks of one run and hands complete chunks to a sink.

    Parameters
    ----------
    sink
        Gets every report, see `Sink`.
    run, token
        Run id and the run's token (64 hexadecimal digits); a rank that has not both gets nothing.
    budget
        Bytes that chunks may take, under way and held together.
    ordinal
        Number of this receiver in placements; may be set later, but before the contract.
    host
        Address to listen on and to publish.
    lanes
        ``("shm", "tcp")`` or one of them; shared memory needs the Unix socket, and without
        ``"tcp"`` no port is opened.
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
        Whether a rank's goodbye is answered only after `release_ranks`: until then it is there to
        send again what dies with a worker.

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
        self._tls = tls
        timing = Timing(handshake, silence, grace, heartbeat)
        self._closed = False
        self._warnings = LimitedWarnings(logger)
        self._pool = BufferPool(keep=budget)
        self._peers = PeerTable()
        self._assembler = ChunkAssembler(self._pool, budget, lambda n: self._credit.release(n))
        self._credit = CreditPump(
            self._assembler,
            self._peers,
            lambda now: self._maintenance.put(PumpNow() if now else PumpSoon()),
        )
        self._delivery = Delivery(self._assembler, sink, self._credit.pump_soon)
        self._maintenance = Maintenance(
            self._peers,
            self._credit,
            self._pump,
            timing,
            lost=sink.lost,
            on_pressure=on_pressure,
            pressure_after=pressure_after,
            failed=sink.fault,
        )
        self._reception = Reception(
            sink,
            run,
            bytes.fromhex(token),
            ordinal,
            peers=self._peers,
            credit=self._credit,
            delivery=self._delivery,
            maintenance=self._maintenance,
            warnings=self._warnings,
            timing=timing,
            set_size=self.set_size,
        )
        self._threads = ConnectionThreads()
        self._hold_byes = hold_byes
        if not hold_byes:
            self._peers.release_ranks()
        self._listener = Listener(
            self._accepted,
            self._warnings,
            host=host,
            port=port,
            lanes=tuple(lanes),
            unix_path=unix_path,
        )
        self._maintenance.start()
        self._listener.start()

    @property
    def ordinal(self) -> int | None:
        """Number of this receiver in placements, once it is known."""
        return self._reception.ordinal

    @ordinal.setter
    def ordinal(self, ordinal: int) -> None:
        self._reception.ordinal = ordinal

    @property
    def endpoint(self) -> Endpoint:
        """The address under which ranks find this receiver; port 0: over shared memory only."""
        hostname, boot = host_identity()
        host, port = self._listener.address
        unix = self._listener.unix
        ordinal, id_ = self.ordinal or 0, self._reception.id
        return Endpoint(ordinal, host, port, unix, hostname, boot, os.getpid(), id_)

    # -- driven by the owner -------------------------------------------------------------------

    def set_contract(
        self, contract: Contract, endpoints: Iterable[Endpoint] = (), first_step: int = 0
    ) -> None:
        """Set what is wanted and which receivers take it; ranks that asked get it now.

        A run that goes on from a checkpoint gets nothing before its `first_step`.
        """
        if self.ordinal is None:
            raise IPSComponentsError("a receiver needs its ordinal before it gets a contract")
        digest = bytes.fromhex(contract.digest())
        bulletin = self._peers.bulletin
        if bulletin.has_contract and digest != bulletin.digest:
            raise IPSComponentsError("the contract of a run cannot be replaced by another")
        if self._reception.contract is None:
            self._reception.set_contract(contract)
            self._credit.any_drop_policy = any(a.policy == "drop" for a in contract.arrays)
            self._assembler.set_contract(contract, self.ordinal, bulletin.size, first_step)
            self._credit.admit()  # so that a rank that comes with the contract finds credit
        self._peers.publish(
            m.ContractIs(
                digest,
                contract.to_bytes(),
                tuple(endpoints) or (self.endpoint,),
                *self._peers.bulletin.launch,
            )
        )
        self._pump()
        for connection in self._peers.all():
            if connection.paused:
                connection.resume()

    def set_size(self, size: int) -> None:
        """Set how many ranks there are, unless one has said so; not all talk to all receivers."""
        if self._peers.set_size(size):
            self._assembler.set_size(size)
            self._pump()

    def begin_launch(self, size: int, launch: int, first_step: int, flags: int = 0) -> None:
        """Expect the ranks of another launch of the simulation, which put into the same arrays.

        Parameters
        ----------
        size
            Number of ranks. Those of earlier launches are not expected any more.
        launch
            Number of the launch.
        first_step
            Step at which it goes on. What an earlier launch sent of this step and later ones, and
            no chunk was completed with, is forgotten.
        flags
            As in `ContractIs`.
        """
        ended = self._peers.begin_launch(size, (first_step, launch, flags), self._hold_byes)
        for connection in ended:
            connection.shut("another launch has begun")
        self._assembler.begin_launch(size, first_step)
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
            All receivers that are there now.
        resend
            (array, chunk) of the chunks that belong to this receiver now and are not complete
            anywhere; it asks ranks to send them again from their replay buffers. A chunk of this
            receiver that Dask lost may be named as well.
        epoch
            Number of the change, rising; None: the largest epoch of the placements.
        rows
            By array: nothing of the rows (time chunks) below the first number is on its way to
            this receiver, and no rank has sent anything of the rows from the second on.
        skip
            (array, chunk) of the chunks that belong to this receiver now and had arrived elsewhere.
        """
        if epoch is None:
            epoch = max((p.epoch for p in placements.values()), default=0)
        self._assembler.set_placement(placements, resend, rows, skip)
        # Credit for what it owns from now on comes first: a rank that drops would drop without.
        self._credit.admit(send=True)
        if placements:
            owners = (m.Owners(a, p.epoch, p.period, p.owners) for a, p in placements.items())
            self._peers.publish(m.PlacementIs(epoch, tuple(owners), tuple(endpoints)))
        self._pump()

    def set_horizon(self, rows: Mapping[int, int]) -> None:
        """Admit chunk rows below these, by array ordinal; the others wait (open-ended)."""
        self._assembler.set_horizon(rows)
        self._pump()

    def feedback(self, name: str, value: Any, step: int) -> None:
        """Send a value to the simulation (to its rank 0, which shares it)."""
        self._peers.publish(values.encode(name, step, value), rank=0)

    def fault(self, text: str, policy: str = "continue") -> None:
        """Send all ranks that the analysis failed; ``policy`` is ``"continue"`` or ``"abort"``."""
        code = m.Fault.ABORT if policy == "abort" else m.Fault.CONTINUE
        self._peers.publish(m.Fault(text, code))

    def stop(self, reason: str) -> None:
        """Send the simulation that it may end, successfully."""
        self._peers.publish(m.Stop(reason))

    def attach(self, contact: bytes) -> None:
        """Have all ranks put into an attached run as well, also those that connect later."""
        self._peers.publish(m.Attach(contact))

    def detach(self, run: str) -> None:
        """Invite no further rank to an attached run, and have none wait for it."""
        self._peers.forget(run)

    def release_ranks(self) -> None:
        """Answer the goodbyes of ranks, those that came and those that will (see ``hold_byes``)."""
        self._peers.release_ranks()

    def connections(self) -> list[Connection]:
        """Return the connections that are open, also those that have not said a hello."""
        return self._peers.all()

    def statistics(self) -> ReceiverStatistics:
        """Return the present numbers."""
        self._credit.collect()
        pool = self._pool.statistics()
        current = self._peers.current()
        assembler = self._assembler
        return ReceiverStatistics(
            budget=assembler.budget,
            held=assembler.held,
            reserved=assembler.reserved,
            chunks=assembler.completed,
            open_chunks=assembler.open_chunks(),
            ranks=len(current),
            waiting_ranks=sum(connection.credit.wanted for connection in current),
            pool_leased=pool.leased,
            pool_idle=pool.idle,
            lanes={
                "shm": sum(connection.local for connection in current),
                "tcp": sum(not connection.local for connection in current),
            },
        )

    def waiting(self) -> Waiting:
        """Return which ranks wait for what, and what has come of the oldest chunks."""
        current = [(c.peer.rank, c) for c in self._peers.current() if c.peer is not None]
        return Waiting(
            [rank for rank, _ in current],
            [(rank, *wanted) for rank, connection in current for wanted in connection.credit.rows],
            self._assembler.oldest(),
        )

    def close(self, timeout: float = 5.0) -> None:
        """End all connections and threads; chunks that were handed over stay valid."""
        if self._closed:
            return
        self._closed = True
        deadline = Deadline(timeout)
        for connection in self._peers.close():
            connection.shut("the receiver was closed")
        self._listener.stop(timeout)
        self._maintenance.stop(deadline.left)
        self._threads.join(deadline)
        self._warnings.flush()
        self._pool.close()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- internals -----------------------------------------------------------------------------

    def _accepted(self, sock: socket.socket, local: bool, name: str) -> None:
        tls = None if local else self._tls
        connection = Connection(self._reception, self._delivery, sock, local, name, tls)
        if self._peers.add(connection):
            self._threads.add(connection)
        else:
            sock.close()

    def _pump(self) -> None:
        """Admit what fits, send credit for it, and hand over what needs no rank."""
        self._credit.pump()
        self._delivery.deliver_empty()
