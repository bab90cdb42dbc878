"""What connections report to their receiver: ranks that come, their control messages, errors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from ips_components.errors import ProtocolError
from ips_components.model.contract import Contract
from ips_components.receiver.bulletin import NO_DIGEST
from ips_components.receiver.connection import Connection
from ips_components.receiver.credit import CreditPump
from ips_components.receiver.delivery import Delivery
from ips_components.receiver.hello import blocks, described, hosts, newest_step, parse_info
from ips_components.receiver.maintenance import AckNow, AckSoon, Maintenance, Timing, Unsent
from ips_components.receiver.peer import Peer
from ips_components.receiver.peers import PeerTable
from ips_components.receiver.rate_limit import LimitedWarnings
from ips_components.receiver.sink import ByeInfo, HelloInfo, Sink, StepInfo
from ips_components.wire import contact
from ips_components.wire import messages as m

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[["Reception", Connection, Peer, Any], None]


class Reception:
    """The owner of all connections of a receiver, see `connection.Owner`.

    Parameters
    ----------
    sink
        Gets every report.
    run, token, ordinal
        See `Receiver`.
    peers, credit, delivery, maintenance, warnings
        Of the receiver.
    timing
        Intervals and deadlines.
    set_size
        Called with the number of ranks that a rank says.

    Notes
    -----
    Safe from any thread. `ordinal` and the contract are set by the receiver's owner, each once
    and before a rank can need it.
    """

    def __init__(
        self,
        sink: Sink,
        run: str,
        token: bytes,
        ordinal: int | None,
        *,
        peers: PeerTable,
        credit: CreditPump,
        delivery: Delivery,
        maintenance: Maintenance,
        warnings: LimitedWarnings,
        timing: Timing,
        set_size: Callable[[int], None],
    ) -> None:
        self.sink, self.run, self.token, self.ordinal = sink, run, token, ordinal
        self.id = contact.new_id()
        self.contract: Contract | None = None
        self._dtypes: list[np.dtype[Any]] = []
        self._peers, self._credit, self._delivery = peers, credit, delivery
        self._maintenance, self._warnings, self._timing = maintenance, warnings, timing
        self._set_size = set_size

    def set_contract(self, contract: Contract) -> None:
        """Set what is agreed."""
        self.contract = contract
        # Rows by ids come as bytes: cells and positions.
        raw = np.dtype(np.uint8)
        self._dtypes = [raw if array.spec.ids else array.dtype for array in contract.arrays]

    @property
    def watermarks(self) -> list[int]:
        """Per array, the row below which pieces are welcome."""
        return self._credit.watermarks

    def dtype(self, array: int) -> np.dtype[Any]:
        """Return the type of an array's cells."""
        try:
            return self._dtypes[array]
        except IndexError:
            raise ProtocolError(f"array number {array} is not in the contract") from None

    def hello(self, connection: Connection, hello: m.Hello) -> bool:
        """Take a rank in whose token was right; False: not yet.

        Rank 0 may have the contract from another receiver before the owner has set it here.
        """
        info = parse_info(hello)
        arrays, own, others = described(info), blocks(info), hosts(info)
        host, step = str(info.get("host", "")), newest_step(info)
        waited = time.monotonic() - connection.connected_at
        if (
            hello.digest != NO_DIGEST
            and not self._peers.bulletin.has_contract
            and waited < self._timing.handshake
        ):
            return False
        self._set_size(hello.size)
        joined = self._peers.join(
            connection, hello, host, lambda p: self._greet(connection, hello, p)
        )
        if joined.replaced is not None:
            joined.replaced.shut("the rank has connected anew")
        connection.silence = self._timing.silence if hello.heartbeat_ms else None
        connection.flush()
        if arrays is not None and self.contract is None:
            self.sink.described(arrays)
        self.sink.hello(
            HelloInfo(
                rank=hello.rank,
                size=hello.size,
                host=host,
                pid=hello.pid,
                lane="shm" if connection.local else "tcp",
                blocks=own,
                returning=joined.returning,
                asks=joined.peer.wants_contract,
                step=step,
                hosts=others,
            )
        )
        return True

    def _greet(self, connection: Connection, hello: m.Hello, peer: Peer) -> bytes:
        bulletin = self._peers.bulletin
        welcome = m.Welcome(
            last_seq=peer.last_seq,
            ordinal=self.ordinal or 0,
            heartbeat_ms=int(self._timing.heartbeat * 1000),
            silence_ms=int(self._timing.silence * 1000),
            flags=m.Welcome.HAS_CONTRACT if bulletin.has_contract else 0,
        )
        return bulletin.greeting(hello, welcome, self._credit.greeting(connection))

    def message(self, connection: Connection, peer: Peer, message: m.Message) -> None:
        """Act on a control message."""
        _HANDLERS[type(message)](self, connection, peer, message)

    def _on_want(self, connection: Connection, _: Peer, message: m.Want) -> None:
        self._credit.want(connection, message)

    def _on_rows(self, _: Connection, peer: Peer, message: m.Rows) -> None:
        self._delivery.no_rows(peer.rank, message.array, message.chunk, message.t)

    def _on_step_end(self, _: Connection, peer: Peer, message: m.StepEnd) -> None:
        waited = message.waited_ns / 1e9
        self.sink.step_end(peer.rank, StepInfo(message.step, waited, message.counters))

    def _on_step_time(self, _: Connection, peer: Peer, message: m.StepTime) -> None:
        self.sink.step_time(peer.rank, message.step, message.time)

    def _on_dropped(self, _: Connection, peer: Peer, message: m.Dropped) -> None:
        if message.flags & m.Dropped.PASSED:
            why = m.Dropped.WHY_PASSED
        else:
            why = f"rank {peer.rank} dropped its part: the receiver was full"
        self._delivery.give_up(message.array, message.chunk, peer.rank, why)

    def _on_gone(self, _: Connection, peer: Peer, message: m.Gone) -> None:
        why = f"rank {peer.rank} no longer has its part in the replay buffer"
        self._delivery.give_up(message.array, message.chunk, peer.rank, why)

    def _on_blocks(self, _: Connection, peer: Peer, message: m.Blocks) -> None:
        self.dtype(message.array)  # refuses an array that is not in the contract
        self.sink.blocks(peer.rank, message.array, message.blocks)

    def _on_bye(self, connection: Connection, peer: Peer, message: m.Bye) -> None:
        status = "ok" if message.status == 0 else "aborted"
        info = ByeInfo(message.last_step, status, message.reason, message.counters)
        self.sink.bye(peer.rank, info)
        connection.send(m.Ack(peer.last_seq))
        self._peers.leave(connection)

    def _on_ping(self, _: Connection, __: Peer, ___: m.Ping) -> None:
        """A sign of life; that it came is noted already."""

    def ack_soon(self, connection: Connection) -> None:
        """Answer a rank that can wait a little."""
        self._maintenance.put(AckSoon(connection))

    def ack_now(self, connection: Connection) -> None:
        """Answer a rank that may wait for a slot (any moment: no lock)."""
        self._maintenance.put(AckNow(connection))

    def unsent(self, connection: Connection) -> None:
        """Send later what a socket did not take."""
        self._maintenance.put(Unsent(connection))

    def refused(self, connection: Connection, error: Exception) -> None:
        """Log why a connection was closed; anything may come over the network, often."""
        self._warnings.warning("Connection of %s closed: %s", connection.name, error)

    def failed(self, connection: Connection, error: Exception) -> None:
        """Report an error of the receiver itself; it concerns the run if a rank is concerned."""
        if connection.peer is None:
            self._warnings.warning("Failed on %s: %r", connection.name, error)
            return
        logger.error("Connection of %s failed", connection.name, exc_info=error)
        self.sink.fault(f"the receiver failed on {connection.name}: {error!r}")

    def ended(self, connection: Connection) -> None:
        """Forget a connection."""
        self._peers.ended(connection)


_HANDLERS: dict[type[m.Message], Handler] = {
    m.Want: Reception._on_want,
    m.Rows: Reception._on_rows,
    m.StepEnd: Reception._on_step_end,
    m.StepTime: Reception._on_step_time,
    m.Dropped: Reception._on_dropped,
    m.Gone: Reception._on_gone,
    m.Blocks: Reception._on_blocks,
    m.Bye: Reception._on_bye,
    m.Ping: Reception._on_ping,
}
