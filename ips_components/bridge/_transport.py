"""All links of this rank, the thread that listens on them, and what is common to them."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from ips_components._version import __version__
from ips_components.bridge._arrays import Array, Outgoing
from ips_components.bridge._leaving import Leaving
from ips_components.bridge._link import Item, Link, Socket, Standing
from ips_components.bridge._listening import FIRST_RETRY, HEARTBEAT, LAST_RETRY
from ips_components.bridge._slots import Loan, ReplayMemory, Ring, Slot, Stored
from ips_components.errors import (
    AnalyticsLost,
    BridgeError,
    ContractError,
    DeadlineExceeded,
    IPSComponentsError,
    ProtocolError,
)
from ips_components.model.pieces import Piece
from ips_components.wire import framing
from ips_components.wire import messages as m
from ips_components.wire.contact import Contact
from ips_components.wire.leases import SlotEvent

Find: TypeAlias = Callable[[int], Sequence[Piece]]
"""Returns what a block gives at a time index."""
_Returned = TypeVar("_Returned")
_Given = ParamSpec("_Given")


def waiting(
    method: Callable[Concatenate[Transport, _Given], _Returned],
) -> Callable[Concatenate[Transport, _Given], _Returned]:
    """Count the time that a method takes as waited."""

    @wraps(method)
    def timed(self: Transport, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Returned:
        began = time.perf_counter_ns()
        try:
            return method(self, *args, **kwargs)
        finally:
            self.waited_ns += time.perf_counter_ns() - began

    return timed


class Transport(Leaving):
    """Carries pieces to receivers and news from them.

    Parameters
    ----------
    contact
        Run, token, endpoints, deadlines, options.
    rank, size
        Of this process in the simulation.
    """

    def __init__(self, contact: Contact, rank: int, size: int) -> None:
        self.contact = contact
        self.rank, self.size = rank, size
        self.deadlines = contact.deadlines
        lane = os.environ.get("IPS_COMPONENTS_LANE")
        self.lanes: tuple[str, ...] = (lane,) if lane else tuple(contact.options["lanes"])
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.closed = False
        self.asking = False  # for the contract, of somebody who has been reached
        self.links: dict[int, Link] = {e.ordinal: Link(self, e) for e in contact.endpoints}
        self.contract: m.ContractIs | None = None
        self.digest = bytes(32)
        self.epoch = 0
        self.outgoing: dict[int, Outgoing] = {}
        self.rings: dict[int, list[Ring]] = {}
        self.replay = ReplayMemory(int(contact.options["replay_bytes"]))
        self.blocks: Mapping[str, Any] = {}
        self.described: Sequence[Array] = ()
        self.hosts: Sequence[Any] = ()
        self.fault: m.Fault | None = None
        self.lost: str | None = None
        self.stop: str | None = None
        self.feedback: dict[str, dict[int, m.Feedback]] = {}
        self.said_bye: set[int] = set()
        self.riding: deque[bytes] = deque(maxlen=4096)  # to go with the next piece
        self.waited_ns = 0  # for credit and buffers
        self._session = int.from_bytes(os.urandom(8), "little")
        self._home: Link | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._by_fd: dict[int, tuple[Link, Socket]] = {}
        self._thread = threading.Thread(target=self._listen, name="bridge", daemon=True)
        self._thread.start()

    # -- connections ---------------------------------------------------------------------------

    def hello(self) -> m.Hello:
        """Return this rank's first words."""
        wants_contract = self.contract is None
        info: dict[str, Any] = {"host": socket.gethostname(), "version": __version__}
        if wants_contract:
            info["arrays"] = [array.to_json() for array in self.described]
            info["hosts"] = self.hosts
        else:
            info["blocks"] = self.blocks
        return m.Hello(
            token=self.contact.secret,
            run=self.contact.run,
            rank=self.rank,
            size=self.size,
            pid=os.getpid(),
            session=self._session,
            digest=self.digest,
            epoch=self.epoch,
            heartbeat_ms=int(HEARTBEAT * 1000),
            info=json.dumps(info).encode(),
            flags=m.Hello.WANTS_CONTRACT if wants_contract else 0,
        )

    def ask_contract(self) -> m.ContractIs:
        """Return the contract, once the analysis has made it (rank 0)."""
        link = self._first_reachable()
        self.asking = True
        deadline = time.monotonic() + self.deadlines["contract"]
        with self.changed:
            while self.contract is None:
                if self.fault is not None:
                    raise ContractError(
                        f"the run failed before there was a contract: {self.fault.text}"
                    )
                self.check()
                if self.lost is not None:
                    raise AnalyticsLost(f"there was no contract yet; {self.lost}")
                if not self._wait(deadline):
                    raise DeadlineExceeded(
                        f"{link.endpoint} gave no contract within {self.deadlines['contract']:g} s:"
                        " the analysis has not submitted its graph; see the analysis' log"
                    )
            contract = self.contract
        # The data connection is made with all that the contract tells this rank about itself.
        self._disconnect(link)
        return contract

    def _first_reachable(self) -> Link:
        """Connect to some receiver: on this machine if possible, this rank's own turn first."""
        with self.changed:
            links = [link for _, link in sorted(self.links.items())]
        start = self.rank % len(links) if links else 0
        links = sorted(links[start:] + links[:start], key=lambda link: not link.endpoint.local)
        errors = []
        deadline = time.monotonic() + self.deadlines["connect"]
        pause = FIRST_RETRY
        while links:
            for link in links:
                try:
                    link.connect(max(0.1, deadline - time.monotonic()))
                    return link
                except (OSError, ProtocolError) as error:
                    errors.append(f"{link.endpoint}: {error}")
            with self.changed:
                if time.monotonic() + pause > deadline:
                    break
                self.changed.wait(pause)
            pause = min(LAST_RETRY, 2 * pause)
        raise DeadlineExceeded(
            f"no receiver could be reached within {self.deadlines['connect']:g} s: "
            f"{'; '.join(errors[-len(links) :]) or 'the contact file names none'}; "
            "are the Dask workers running, and their addresses reachable from this node?"
        )

    def home(self) -> Link:
        """Return the link over which this rank reports, connected if at all possible."""
        home = self._home
        if home is not None and home.standing is Standing.OPEN:
            return home
        with self.changed:
            open_links = [k for k in self.links.values() if k.standing is Standing.OPEN]
        self._home = open_links[0] if open_links else self._first_reachable()
        return self._home

    def opened(self, link: Link, early: Sequence[m.Message]) -> None:
        """Begin to listen on a link that has connected."""
        sock = link.sock
        if sock is None:
            return
        with self.changed:
            self._by_fd[sock.fileno()] = (link, sock)
            self._poll.register(sock.fileno(), select.POLLIN)
            for message in early:
                self._take(link, message)
            self.changed.notify_all()
        self.wake()

    def _disconnect(self, link: Link) -> None:
        with link.send_lock, self.changed:
            if link.sock is not None:
                self._forget(link.sock)
                link.sock = None
            link.lose_leases()
            link.standing = Standing.NEW

    # -- sending -------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise what makes the simulation end."""
        if self.fault is not None and self.fault.policy == m.Fault.ABORT:
            raise AnalyticsLost(f"the analysis failed: {self.fault.text}")
        if self.lost is not None and self.contact.options["on_analytics_loss"] == "abort":
            raise AnalyticsLost(self.lost)

    def link(self, ordinal: int) -> Link | None:
        """Return the open link to a receiver, connected if it is new; None: wait and see."""
        link = self.links.get(ordinal)
        if link is None or link.standing is Standing.OPEN:
            return link
        if link.standing is Standing.NEW:
            try:
                link.connect(self.deadlines["connect"])
                return link
            except (OSError, ProtocolError, BridgeError) as error:
                with self.changed:
                    if link.standing is Standing.NEW:
                        link.standing = Standing.BROKEN
                        link.why = str(error)
                        link.broken_since = link.retry_at = time.monotonic()
                self.wake()
        return None

    def admit(self, out: Outgoing, find: Find, t: int) -> tuple[Sequence[Piece], list[Link], bool]:
        """Wait until all pieces may be sent; return them, their links, and whether they may.

        Under policy ``drop`` it does not wait for credit. The pieces are found anew whenever
        something has changed, since their receivers may.
        """
        if self.fault is None and self.lost is None:
            pieces = find(t)
            links = []
            n_space = out.n_space
            for piece in pieces:
                link = self.links.get(piece.receiver)
                if (
                    link is None
                    or link.standing is not Standing.OPEN
                    or link.admitted.get(out.ordinal, 0) <= piece.chunk // n_space
                ):
                    break
                links.append(link)
            else:
                return pieces, links, True
        return self._admit_in_time(out, out.n_space, partial(find, t))

    def still(self, links: Sequence[Link]) -> bool:
        """Tell whether what was admitted may be sent as it was found."""
        if self.fault is not None or self.lost is not None:
            return False
        for link in links:  # noqa: SIM110 - of every block that is computed in place
            if link.standing is not Standing.OPEN:
                return False
        return True

    @waiting
    def _admit_in_time(
        self, out: Outgoing, n_space: int, find: Callable[[], Sequence[Piece]]
    ) -> tuple[Sequence[Piece], list[Link], bool]:
        deadline = gone_since = None
        while True:
            self.check()
            pieces = find()
            if self.quiet:
                return pieces, [], False
            links: list[Link] = []
            lacking: Link | None = None
            row = 0
            for piece in pieces:
                link = self.link(piece.receiver)
                if link is None:
                    break
                links.append(link)
                row = piece.chunk // n_space
                if (
                    link.admitted.get(out.ordinal, 0) <= row
                    and (out.ordinal, piece.chunk) not in link.welcome
                ):
                    lacking = link
                    break
            else:
                return pieces, links, True
            if lacking is None and self._nobody_for(pieces[len(links)].receiver):
                gone_since = gone_since or time.monotonic()
                if time.monotonic() - gone_since > self.deadlines["connect"]:
                    with self.changed:
                        self.lost = self.lost or (
                            f"receiver {pieces[len(links)].receiver} is gone, and nobody else took "
                            f"its chunks within {self.deadlines['connect']:g} s"
                        )
                    continue
            else:
                gone_since = None
            if lacking is not None and (out.drop or self.stop is not None):
                return pieces, links, False
            if lacking is not None and lacking.wanted.get(out.ordinal) != row:
                with self.changed:
                    lacking.wanted[out.ordinal] = row
                    want = framing.pack(m.Want(out.ordinal, row))
                    lacking.to_send.append(Item(want))
                lacking.pump()
            with self.changed:
                if deadline is None:
                    deadline = time.monotonic() + self.deadlines["step"]
                ready = lacking is not None and (
                    lacking.admitted.get(out.ordinal, 0) > row
                    or lacking.standing is not Standing.OPEN
                )
                if not ready and not self._wait(deadline):
                    if lacking is None:  # not slow but unreachable: what follows is the policy's
                        ordinal = pieces[len(links)].receiver
                        self.lost = self.lost or (
                            f"array {out.name!r}, rank {self.rank}: receiver {ordinal} could not "
                            f"be reached within {self.deadlines['step']:g} s"
                        )
                        continue
                    raise DeadlineExceeded(
                        f"array {out.name!r}, rank {self.rank}: {lacking.endpoint} gave no credit "
                        f"within {self.deadlines['step']:g} s; the analysis holds its memory or "
                        "has stopped; give workers more memory, or raise the deadline"
                    )

    def _nobody_for(self, ordinal: int) -> bool:
        link = self.links.get(ordinal)
        return link is None or link.standing is Standing.GONE

    def slot(self, ring: Ring, nbytes: int) -> Slot | None:
        """Return a slot that may be written, marked busy; None when the analytics are lost."""
        with self.lock:
            slot = ring.next(nbytes)
            if slot is None and (slot := self._slot_in_time(ring, nbytes)) is None:
                return None
            if ring.retired:
                self._retire(ring)
        return slot

    @waiting
    def _slot_in_time(self, ring: Ring, nbytes: int) -> Slot | None:
        deadline = time.monotonic() + self.deadlines["step"]
        while (slot := ring.next(nbytes)) is None:
            self.check()
            if self.quiet:
                return None
            if not self._wait(deadline) and not self._lost_while_waiting(
                {ordinal for slot in ring.slots for ordinal, _ in slot.uses}
            ):
                raise DeadlineExceeded(
                    f"rank {self.rank}: no buffer came back from the receivers within "
                    f"{self.deadlines['step']:g} s; the analysis holds the data or has stopped"
                )
        return slot

    def _lost_while_waiting(self, ordinals: Iterable[int]) -> bool:
        """Return whether one of these receivers is unreachable, and note that it is (locked).

        A receiver that cannot be reached is not slow: what follows is ``on_analytics_loss``.
        """
        for ordinal in ordinals:
            link = self.links.get(ordinal)
            if link is None or link.standing is not Standing.OPEN:
                self.lost = self.lost or (
                    f"rank {self.rank}: receiver {ordinal} could not be reached within "
                    f"{self.deadlines['step']:g} s"
                )
                return True
        return False

    def _retire(self, ring: Ring) -> None:
        """Let receivers unmap slots that are used no more (the condition is held)."""
        for link in self.links.values():
            for number in ring.retired:
                if number in link.announced:
                    link.announced.discard(number)
                    link.to_send.append(Item(framing.pack(m.SlotDrop(number))))
        ring.retired.clear()

    def publish(
        self, slot: Slot, stored: Sequence[Stored], links: Sequence[Link], out: Outgoing, step: int
    ) -> bool:
        """Send what lies in a slot; False: chunks have moved meanwhile, so find their owners.

        From here on the step counts as put: who asks for its chunks again finds them in the slot.
        """
        with self.lock:
            if self.epoch and not self._current(stored, links):
                return False
            slot.stored = stored
            slot.move(SlotEvent.PUBLISH)
            out.last_step = step
            home = self._home
            if home is not None:
                self._board(home)
            for one, link in zip(stored, links, strict=True):
                link.queue(slot, one)
        for link in links:
            if link.to_send:
                self._go(link)
        if home is not None and home.to_send:
            self._go(home)
        return True

    def _current(self, stored: Sequence[Stored], links: Sequence[Link]) -> bool:
        """Tell whether these links still lead to the owners (the lock is held).

        Whoever owns a chunk by now may have asked for it while it was nowhere, and asks but once.
        """
        return all(
            self.links.get(link.ordinal) is link
            and self.outgoing[one.array].owner(one.piece.chunk) == link.ordinal
            for one, link in zip(stored, links, strict=True)
        )

    def lend(self, loan: Loan, stored: Sequence[Stored], links: Sequence[Link]) -> bool:
        """Send the caller's own cells and wait until they are taken; False: to be sent anew."""
        with self.changed:
            if self.epoch and not self._current(stored, links):
                return False
            for one, link in zip(stored, links, strict=True):
                link.queue(loan, one)
            if links and self.riding:
                self._board(links[0] if self._home is None else self._home)
        for link in links:
            if link.to_send:
                link.pump()
        deadline = time.monotonic() + self.deadlines["step"]
        with self.changed:
            while loan.uses and not self.quiet:
                self.check()
                if not self._wait(deadline) and not self._lost_while_waiting(
                    ordinal for ordinal, _ in loan.uses
                ):
                    self._withdraw(loan, links)
                    raise DeadlineExceeded(
                        f"rank {self.rank}: receivers did not take a block within "
                        f"{self.deadlines['step']:g} s"
                    )
            if loan.uses:
                self._withdraw(loan, links)
            taken = not loan.abandoned and not loan.uses
            return taken and (not self.epoch or self._current(stored, links))

    def _withdraw(self, loan: Loan, links: Sequence[Link]) -> None:
        """Forget borrowed memory that was not sent (locked): its owner is about to write it."""
        for link in links:
            link.to_send = deque(item for item in link.to_send if item.slot is not loan)
            link.unacked = deque(item for item in link.unacked if item.slot is not loan)

    def _go(self, link: Link) -> None:
        """Send what is queued: at once, or by a thread if that would hold up the rank."""
        if link.takes_long():
            link.start_sender()
        else:
            link.pump()

    def tell(self, link: Link, build: Callable[[int], m.Message]) -> None:
        """Send a numbered message without cells."""
        with self.changed:
            seq = link.number()
            link.to_send.append(Item(framing.pack(build(seq)), seq))
        self._go(link)

    def report(self, frame: bytes) -> None:
        """Send something that needs no number over the home link, after what was to ride along."""
        home = self._home
        if home is None or home.standing is not Standing.OPEN:
            try:
                home = self.home()
            except (OSError, IPSComponentsError) as error:
                with self.changed:
                    self.lost = self.lost or str(error)
                self.check()
                return
        self.riding.append(frame)
        with self.changed:
            self._board(home)
        self._go(home)

    def send_riding(self, home: Link) -> None:
        """Send what was to ride along, when it cannot."""
        with self.lock:
            self._board(home)
        self._go(home)

    def _board(self, home: Link) -> None:
        """Queue what was to ride along (the condition is held)."""
        while self.riding:
            home.to_send.append(Item(self.riding.popleft()))

    def unused(self, slot: Slot) -> None:
        """Take back a slot that was not published; it is the next one again."""
        with self.changed:
            slot.ring.unused(slot)
