"""What receivers say to a rank, and the upkeep of its links: the listening thread's part."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from ips_components.bridge._arrays import Outgoing
from ips_components.bridge._link import Item, Link, Socket, Standing
from ips_components.bridge._slots import Loan, Ring
from ips_components.errors import BridgeError, IPSComponentsError, ProtocolError
from ips_components.model.placement import Placement
from ips_components.wire import framing
from ips_components.wire import messages as m
from ips_components.wire.threads import be_patient

if TYPE_CHECKING:
    from ips_components.bridge._transport import Transport

HEARTBEAT = 2.0
FIRST_RETRY, LAST_RETRY = 0.05, 1.0


class Listening:
    """The part of a `Transport` that listens; the state belongs to the transport."""

    lock: threading.RLock  # of all state; held by itself it costs a rank less than `changed`
    changed: threading.Condition
    closed: bool
    asking: bool
    links: dict[int, Link]
    deadlines: Mapping[str, float]
    contract: m.ContractIs | None
    epoch: int
    outgoing: dict[int, Outgoing]
    rings: dict[int, list[Ring]]
    fault: m.Fault | None
    lost: str | None
    stop: str | None
    feedback: dict[str, dict[int, m.Feedback]]
    said_bye: set[int]
    _wake: int
    _poll: select.poll
    _by_fd: dict[int, tuple[Link, Socket]]

    def broken(self, link: Link, sock: Socket, why: str) -> None:
        """Note that a connection is over; the listening thread repairs it."""
        with self.changed:
            if link.sock is not sock:
                return
            self._forget(sock)
            link.sock = None
            link.lose_leases()
            link.why = why
            if self.closed or link.ordinal in self.said_bye:
                link.standing = Standing.GONE
            else:
                link.standing = Standing.BROKEN
                link.broken_since = link.retry_at = time.monotonic()
            self.changed.notify_all()
        self.wake()

    def _forget(self, sock: Socket) -> None:
        fd = sock.fileno()
        if fd >= 0 and self._by_fd.pop(fd, None) is not None:
            self._poll.unregister(fd)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # wakes a thread that is sending
        sock.close()

    def wake(self) -> None:
        """Have the listening thread look up."""
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    def _listen(self) -> None:
        """Take what receivers say, until the transport is closed."""
        be_patient()
        while not self.closed:
            timeout = self._next_duty()
            for fd, _ in self._poll.poll(timeout * 1000):
                if fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(fd)
                    continue
                known = self._by_fd.get(fd)
                if known is not None:
                    self._readable(*known)
            self._duties(time.monotonic())

    def _readable(self, link: Link, sock: Socket) -> None:
        try:
            received = sock.recv(1 << 18, socket.MSG_DONTWAIT)
            if not received:
                raise ConnectionResetError("closed by the receiver")
            link.heard = time.monotonic()
            with self.changed:
                if link.sock is not sock:  # what an ended connection says counts no more
                    return
                for message in link.decoder.feed(received):
                    link.state.received(message)
                    self._take(link, message)
                self.changed.notify_all()
        except BlockingIOError:
            return
        except (OSError, IPSComponentsError) as error:
            self.broken(link, sock, str(error))

    def _take(self, link: Link, message: m.Message) -> None:
        """Act on a message (the condition is held)."""
        if isinstance(message, m.Ack):
            link.taken(message.seq)
        elif isinstance(message, m.Release):
            link.released(message.leases, message.seq)
        elif isinstance(message, m.Credit):
            link.admitted[message.array] = max(message.rows, link.admitted.get(message.array, 0))
            link.wanted.pop(message.array, None)
            if link.welcome:  # in excess of what was admitted then
                link.welcome = {each for each in link.welcome if not self._has_credit(link, *each)}
        elif isinstance(message, m.Resend):
            self._resend(link, message)
        elif isinstance(message, m.ContractIs):
            self.contract = message
        elif isinstance(message, m.PlacementIs):
            self._replace(message)
        elif isinstance(message, m.Feedback):
            steps = self.feedback.setdefault(message.name, {})
            steps[message.step] = message
            while len(steps) > 1024:
                del steps[min(steps)]
        elif isinstance(message, m.Fault):
            self.fault = self.fault or message
        elif isinstance(message, m.Stop):
            self.stop = message.text
        elif isinstance(message, m.ByeAck):
            self.said_bye.add(link.ordinal)
        elif isinstance(message, m.Refused):
            raise ProtocolError(f"refused: {message.text}")

    def _has_credit(self, link: Link, array: int, chunk: int) -> bool:
        return chunk // self.outgoing[array].n_space < link.admitted.get(array, 0)

    def _resend(self, link: Link, message: m.Resend) -> None:
        """Send a chunk's pieces from the slots that still hold them."""
        out = self.outgoing.get(message.array)
        if out is None:
            return
        if not self._has_credit(link, message.array, message.chunk):
            link.welcome.add((message.array, message.chunk))
        found = [
            hit
            for ring in self.rings.get(message.array, ())
            for hit in ring.find(message.array, message.chunk)
        ]
        for slot, stored in found:
            link.queue(slot, stored)
        lacking = out.sent_of(message.chunk) - {stored.t for _, stored in found}
        if lacking:
            gone = framing.pack(m.Gone(message.array, message.chunk))
            link.to_send.append(Item(gone))
        if link.to_send:
            link.start_sender()

    def _replace(self, message: m.PlacementIs) -> None:
        """Follow a new placement."""
        if message.epoch < self.epoch:
            return
        self.epoch = message.epoch
        for owners in message.owners:
            out = self.outgoing.get(owners.array)
            if out is not None:
                out.place(Placement(owners.epoch, owners.period, owners.owners))
        living = {e.ordinal: e for e in message.endpoints}
        for ordinal, endpoint in living.items():
            if ordinal not in self.links:
                self.links[ordinal] = Link(cast("Transport", self), endpoint)
        for ordinal, link in list(self.links.items()):
            if ordinal not in living:
                link.left = True
                self._abandon(link)
                if link.sock is not None:
                    self._forget(link.sock)
                    link.sock = None
                link.standing = Standing.GONE
                del self.links[ordinal]
                for rings in self.rings.values():
                    for ring in rings:
                        if ring.keeper == ordinal:
                            ring.keeper = None
        # Those who now own what our slots hold will ask for it: be there.
        for array, rings in self.rings.items():
            out = self.outgoing[array]
            for ring in rings:
                for slot in ring.slots:
                    for stored in slot.stored:
                        link_to = self.links.get(out.owner(stored.piece.chunk))
                        if link_to is not None and link_to.standing is Standing.NEW:
                            link_to.standing = Standing.BROKEN
                            link_to.broken_since = link_to.retry_at = time.monotonic()

    def reconcile(self, link: Link, unsent: set[int]) -> None:
        """Forget what was sent before a link broke, except what will be sent again.

        The condition is held, and the leases of the connection that ended are lost already.
        """
        for seq in [seq for seq in link.in_slots if seq not in unsent]:
            slot = link.in_slots.pop(seq)
            slot.done((link.ordinal, seq))
            if isinstance(slot, Loan):
                slot.abandoned = True

    def _abandon(self, link: Link) -> None:
        """Give up what a receiver was to be sent."""
        link.lose_leases()
        self.reconcile(link, set())
        link.unacked.clear()
        link.to_send.clear()

    # -- duties of the listening thread -----------------------------------------------------------

    def _next_duty(self) -> float:
        with self.changed:
            if any(link.standing is Standing.BROKEN for link in self.links.values()):
                return FIRST_RETRY
        return HEARTBEAT / 4

    def _duties(self, now: float) -> None:
        with self.changed:
            links = list(self.links.values())
        for link in links:
            sock = link.sock
            if link.standing is Standing.OPEN and sock is not None:
                if now - link.heard > link.silence:
                    self.broken(link, sock, f"no sign of life for {link.silence:g} s")
                else:
                    link.ping(now)
            elif link.standing is Standing.BROKEN and now >= link.retry_at and not self.closed:
                self._repair(link, now)
        self._look_for_company(links)

    def _repair(self, link: Link, now: float) -> None:
        try:
            link.connect(1.0)
            return
        except (OSError, ProtocolError, BridgeError) as error:
            link.why = str(error)
        with self.changed:
            if link.standing is Standing.OPEN:
                return
            if now - link.broken_since > self.deadlines["connect"]:
                link.standing = Standing.GONE
                self.changed.notify_all()
            else:
                pause = min(LAST_RETRY, max(FIRST_RETRY, now - link.broken_since))
                link.retry_at = time.monotonic() + pause

    def _look_for_company(self, links: Sequence[Link]) -> None:
        """When no link is open, try those never used; when all are gone, the analytics are lost."""
        if self.closed or not (self.outgoing or self.asking):
            return
        standings = {link.standing for link in links}
        if Standing.OPEN in standings:
            return
        if standings & {Standing.BROKEN, Standing.GONE}:
            for link in links:
                if link.standing is Standing.NEW:
                    with self.changed:
                        link.standing = Standing.BROKEN
                        link.broken_since = link.retry_at = time.monotonic()
        if standings <= {Standing.GONE} and self.lost is None:
            causes = "; ".join(f"{link.endpoint}: {link.why}" for link in links)
            with self.changed:
                self.lost = f"no receiver is left: {causes or 'none was named'}"
                self.changed.notify_all()
