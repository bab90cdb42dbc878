"""The thread that does what must not wait for a rank: credit, answers, heartbeats, deadlines."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TypeAlias

from ips_components.receiver.connection import Connection
from ips_components.receiver.credit import CreditPump
from ips_components.receiver.peers import PeerTable
from ips_components.wire.threads import be_patient

logger = logging.getLogger(__name__)

TICK = 0.25
SHORT_TICK = 0.004  # while a rank has not taken all that it was sent, or an answer is owed
CREDIT_TICK = 0.016  # while no rank waits for credit; a rank that waits gets it at once
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class PumpNow:
    """A rank waits for credit."""


@dataclass(frozen=True, slots=True)
class PumpSoon:
    """There is room; no rank waits for it."""


@dataclass(frozen=True, slots=True)
class AckNow:
    """A slot came back that the rank may wait for."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class AckSoon:
    """A connection owes an answer."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Unsent:
    """A socket did not take all that was sent."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Stop:
    """The receiver is being closed."""


Event: TypeAlias = PumpNow | PumpSoon | AckNow | AckSoon | Unsent | Stop


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: for a hello, without a sign of life, until a rank is lost, between heartbeats."""

    handshake: float
    silence: float
    grace: float
    heartbeat: float


class Maintenance:
    """Works off events and the clock until it is stopped.

    Parameters
    ----------
    peers
        The ranks and their connections.
    credit
        Pumped when there is room.
    pump
        Called to admit chunks and send credit.
    timing
        Deadlines.
    lost
        Called with a rank and a reason when it did not return in time.
    on_pressure, pressure_after
        See `Receiver`.
    failed
        Called with a text when something went wrong in here.

    Notes
    -----
    `put` may be called from any thread at any moment, also from inside the garbage collector. All
    other fields are used by the thread only.
    """

    def __init__(
        self,
        peers: PeerTable,
        credit: CreditPump,
        pump: Callable[[], None],
        timing: Timing,
        *,
        lost: Callable[[int, str], None],
        on_pressure: Callable[[int], None] | None,
        pressure_after: float,
        failed: Callable[[str], None],
    ) -> None:
        self._peers = peers
        self._credit = credit
        self._pump = pump
        self._timing = timing
        self._lost = lost
        self._on_pressure, self._pressure_after = on_pressure, pressure_after
        self._failed = failed
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._stopped = False
        self._next_tick = time.monotonic() + TICK
        self._pump_at = self._ack_at = NEVER
        self._acks: dict[Connection, None] = {}  # that owe an answer
        self._unsent: dict[Connection, None] = {}
        self._thread = threading.Thread(target=self._run, name="receiver maintenance", daemon=True)

    def put(self, event: Event) -> None:
        """Hand an event over."""
        self._events.put(event)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """End the thread."""
        self.put(Stop())
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        be_patient()
        while not self._stopped:
            try:
                self._turn()
            except Exception as error:  # it serves all ranks: one mistake must not end it
                logger.exception("Maintenance of the receiver failed")
                self._failed(f"the receiver's maintenance failed: {error!r}")

    def _turn(self) -> None:
        """Wait for an event or a timer, and do all that is due."""
        due = min(self._next_tick, self._pump_at, self._ack_at)
        if self._unsent:
            due = min(due, time.monotonic() + SHORT_TICK)
        pump = False
        answers: dict[Connection, None] = {}
        try:
            event = self._events.get(timeout=max(0.0, due - time.monotonic()))
            while True:
                match event:
                    case PumpNow():
                        pump = True
                    case PumpSoon():
                        self._pump_at = min(self._pump_at, time.monotonic() + CREDIT_TICK)
                    case AckNow(connection):
                        answers[connection] = None
                    case AckSoon(connection):
                        self._acks[connection] = None
                        self._ack_at = min(self._ack_at, time.monotonic() + SHORT_TICK)
                    case Unsent(connection):
                        self._unsent[connection] = None
                    case Stop():
                        self._stopped = True
                        return
                event = self._events.get_nowait()
        except Empty:
            pass
        now = time.monotonic()
        if now >= self._ack_at:
            answers.update(self._acks)
            self._acks, self._ack_at = {}, NEVER
        for connection in answers:
            connection.answer()
        if pump or now >= self._pump_at:
            self._pump_at = NEVER
            self._pump()
        self._unsent = {connection: None for connection in self._unsent if connection.flush()}
        if now >= self._next_tick:
            self._next_tick = now + TICK
            self._tick(now)

    def _tick(self, now: float) -> None:
        connections = self._peers.all()
        timing = self._timing
        for connection in connections:
            if connection.peer is None:
                if now - connection.connected_at <= timing.handshake:
                    continue
                if connection.paused:
                    connection.resume()  # its hello waited long enough for the contract
                else:
                    connection.shut(f"no hello within {timing.handshake:g} s")
            elif (
                connection.silence is not None
                and now - connection.last_received > connection.silence
            ):
                connection.shut(f"no sign of life for {connection.silence:g} s")
            else:
                connection.ping(now, timing.heartbeat)
        for peer in self._peers.pop_lost(now - timing.grace):
            why = peer.why or "connection lost"
            self._lost(peer.rank, f"{why}; not back within {timing.grace:g} s")
        self._press(now, connections)

    def _press(self, now: float, connections: list[Connection]) -> None:
        """Ask the owner for memory when ranks wait and nothing is released."""
        credit = self._credit
        if self._on_pressure is None or not credit.assembler.blocked:
            return
        waiting = any(connection.credit.wanted for connection in connections)
        if waiting and now - credit.last_release >= self._pressure_after:
            credit.last_release = now
            try:
                self._on_pressure(credit.assembler.needed)
            except Exception:
                logger.exception("Making room for %s bytes failed", credit.assembler.needed)
