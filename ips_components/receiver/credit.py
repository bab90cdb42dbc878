"""Credit: when chunks are admitted, and how far ranks may send."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from ips_components.receiver.assembly import ChunkAssembler
from ips_components.receiver.connection import Connection
from ips_components.receiver.peers import PeerTable
from ips_components.wire import messages as m
from ips_components.wire.framing import pack


class CreditPump:
    """Admits chunks as far as there is room, and sends credit for them.

    Parameters
    ----------
    assembler
        The chunks under way.
    peers
        The ranks.
    schedule
        Called from any thread, at any moment and without a lock, when `pump` should be called:
        at once (True), or a little later, so that several releases make one message (False).

    Notes
    -----
    ======================== ============================== =======================================
    field                    written by                     without a lock because
    ======================== ============================== =======================================
    ``watermarks``           under `_pumping`       replaced as a whole; they only rise
    ``credit_wanted``        `pump` and `want`              a stale False costs one batch interval
    ``_scheduled``           `release`, `pump`              a lost one is followed by a later event
    ``last_release``         `collect` (maintenance)        one writer
    ======================== ============================== =======================================
    """

    def __init__(
        self, assembler: ChunkAssembler, peers: PeerTable, schedule: Callable[[bool], None]
    ) -> None:
        self.assembler = assembler
        self.watermarks: list[int] = []
        self.credit_wanted = False  # a rank waits for credit, or would drop without
        self.any_drop_policy = False
        self.last_release = time.monotonic()
        self._peers = peers
        self._schedule = schedule
        self._scheduled = False
        self._requests: list[tuple[int, int]] = []  # chunks to be requested again
        self._freed: SimpleQueue[int] = SimpleQueue()
        self._pumping = threading.Lock()

    def release(self, nbytes: int) -> None:
        """Note that bytes became free (any thread, any moment: no lock)."""
        self._freed.put(nbytes)
        self.pump_soon()

    def pump_soon(self) -> None:
        """Have credit given: at once if a rank waits for it, else for several chunks together."""
        if self.credit_wanted:
            self._schedule(True)
        elif not self._scheduled:
            self._scheduled = True
            self._schedule(False)

    def want(self, connection: Connection, message: m.Want) -> None:
        """Note that a rank waits for credit."""
        connection.credit.want(message)
        self.credit_wanted = True
        self._schedule(True)
        connection.send_credit(self.watermarks)

    def collect(self) -> None:
        """Account for the chunks that were released."""
        freed = 0
        try:
            while True:
                freed += self._freed.get_nowait()
                self.last_release = time.monotonic()
        except Empty:
            pass
        if freed:
            self.assembler.freed(freed)

    def admit(self, send: bool = False) -> None:
        """Admit what fits; credit for it is in greetings from now on, and sent where asked."""
        with self._pumping:
            self._admit()
            for connection in self._peers.current() if send else ():
                connection.send_credit(self.watermarks, at_once=True)

    def _admit(self) -> None:
        self.collect()
        self._requests += self.assembler.admit()
        self.watermarks = self.assembler.watermarks()

    def pump(self) -> None:
        """Admit what fits, ask for lost chunks, and send credit."""
        self._scheduled = False
        with self._pumping:
            self._admit()
            requests, self._requests = self._requests, []
            connections = self._peers.current()
            for ordinal, chunk in requests:
                frame = pack(m.Resend(ordinal, chunk))
                for connection in connections:
                    connection.send_bytes(frame)
            for connection in connections:
                connection.send_credit(self.watermarks)
            self.credit_wanted = self.any_drop_policy or any(c.credit.wanted for c in connections)

    def greeting(self, connection: Connection) -> list[m.Message]:
        """Return the first credit of a connection, and the chunks that are requested again."""
        requests = [m.Resend(array, chunk) for array, chunk in self.assembler.asked()]
        return [*connection.credit.first(self.watermarks), *requests]
