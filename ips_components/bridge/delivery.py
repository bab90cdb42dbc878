"""From a slot to the receivers: credit, buffers, sending, and sending again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, TypeAlias, TypeVar

from ips_components.bridge.connection import Connection
from ips_components.bridge.connections import Connections
from ips_components.bridge.dialing import Dialed
from ips_components.bridge.link import LinkState
from ips_components.bridge.mailbox import Mailbox
from ips_components.bridge.outgoing import OutgoingArray
from ips_components.bridge.slots import BorrowedMemory, Ring, Slot, SlotMemory, Stored
from ips_components.bridge.sockets import WAITS
from ips_components.deadlines import Deadline
from ips_components.errors import BridgeError, DeadlineExceeded, IPSComponentsError
from ips_components.model.pieces import Piece
from ips_components.model.placement import Placement
from ips_components.wire import messages as m
from ips_components.wire.contact import Endpoint
from ips_components.wire.leases import SlotEvent, SlotState

Find: TypeAlias = Callable[[int], Sequence[Piece]]
"""Returns what a block gives at a time index."""
_Returned = TypeVar("_Returned")
_Given = ParamSpec("_Given")
_PIGGYBACKED = 4096
_BEHIND = 64  # messages on their way to a receiver that a put which may not wait adds nothing to


def waiting(
    method: Callable[Concatenate[Delivery, _Given], _Returned],
) -> Callable[Concatenate[Delivery, _Given], _Returned]:
    """Count the time that a method takes as waited."""

    @wraps(method)
    def timed(self: Delivery, /, *args: _Given.args, **kwargs: _Given.kwargs) -> _Returned:
        began = time.perf_counter_ns()
        try:
            return method(self, *args, **kwargs)
        finally:
            self.waited_ns += time.perf_counter_ns() - began

    return timed


class Delivery:
    """Brings pieces to the receivers that own their chunks.

    Parameters
    ----------
    mailbox
        Of this rank; its lock guards everything here.
    endpoints, dial
        Of the receivers, see `Connections`.
    deadlines
        ``connect`` and ``step`` in seconds.
    memory
        What the slots of this rank may take.
    rank
        For messages.
    patient
        Whether a put may wait. Otherwise what cannot be sent at once is dropped: for attached
        runs, which must not hold up the simulation.

    Attributes
    ----------
    arrays : dict
        Those of the contract, by ordinal.
    piggybacked
        Frames that travel with the next piece to the home receiver.
    waited_ns : int
        For credit, for buffers, and for receivers to read.
    epoch : int
        Of the newest placement.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        endpoints: Sequence[Endpoint],
        dial: Callable[[Endpoint, float], Dialed],
        deadlines: Mapping[str, float],
        memory: SlotMemory,
        rank: int,
        *,
        patient: bool = True,
    ) -> None:
        self._patient = patient
        self.mailbox, self.rank, self._deadlines = mailbox, rank, deadlines
        self.arrays: dict[int, OutgoingArray] = {}
        self.memory = memory
        self.piggybacked: deque[bytes] = deque(maxlen=_PIGGYBACKED)
        self.waited_ns = 0
        self.epoch = 0
        self.connections = Connections(
            endpoints, dial, mailbox, self.handle, deadlines, rank, patient=patient
        )

    # -- before sending: credit and a buffer -------------------------------------------------------

    def admit(
        self, out: OutgoingArray, find: Find, t: int
    ) -> tuple[Sequence[Piece], list[Connection], bool]:
        """Wait until all pieces may be sent.

        Under policy ``drop`` it does not wait for credit. The pieces are found anew whenever
        something has changed, since their receivers may.

        Returns
        -------
        pieces, connections, admitted
            What the block gives, the connections of its pieces, and whether they may be sent.
        """
        mailbox = self.mailbox
        if not self._patient:
            return self._admit_now(out, find, t)
        if mailbox.fault is None and mailbox.lost is None:
            pieces = find(t)
            open_to = []
            n_space = out.n_space
            by_ordinal = self.connections.by_ordinal
            for piece in pieces:
                connection = by_ordinal.get(piece.receiver)
                if (
                    connection is None
                    or connection.link is not LinkState.OPEN
                    or connection.admitted.get(out.ordinal, 0) <= piece.chunk // n_space
                ):
                    break
                open_to.append(connection)
            else:
                return pieces, open_to, True
        return self._admit_in_time(out, find, t)

    def _admit_now(
        self, out: OutgoingArray, find: Find, t: int
    ) -> tuple[Sequence[Piece], list[Connection], bool]:
        """Admit what can be sent without waiting for anything."""
        pieces, mailbox = find(t), self.mailbox
        if mailbox.disconnected or mailbox.stop is not None:
            return pieces, [], False
        found, _ = self._open_to(out, pieces)
        behind = any(len(each.unacked) + len(each.to_send) > _BEHIND for each in found)
        return pieces, found, len(found) == len(pieces) and not behind

    @waiting
    def _admit_in_time(
        self, out: OutgoingArray, find: Find, t: int
    ) -> tuple[Sequence[Piece], list[Connection], bool]:
        mailbox = self.mailbox
        deadline: Deadline | None = None
        takeover: Deadline | None = None  # of a receiver that is gone, by another one
        while True:
            mailbox.check()
            pieces = find(t)
            if mailbox.disconnected:
                return pieces, [], False
            found, full = self._open_to(out, pieces)
            if full is None and len(found) == len(pieces):
                return pieces, found, True
            deadline = deadline or Deadline(self._deadlines["step"])
            if full is not None:
                takeover = None
                # A receiver that has not said yet that it follows the newest placement may have
                # room for what it owns since: its credit is on its way.
                drops = out.drops_when_full and full.placed >= self.epoch
                if drops or (mailbox.stop is not None and not out.keeps_on):
                    return pieces, found, False
                row = pieces[len(found)].chunk // out.n_space
                self._ask_for_credit(full, out, row)
                self._wait_for_credit(full, out, row, deadline)
                continue
            receiver = pieces[len(found)].receiver
            if not self.connections.is_closed(receiver):
                takeover = None
            else:  # until a placement names another one
                takeover = takeover or Deadline(self._deadlines["connect"])
                if takeover.expired:
                    mailbox.lose(
                        f"receiver {receiver} is gone, and no other took over its chunks within "
                        f"{takeover.seconds:g} s"
                    )
                    continue
            with mailbox.changed:
                if not self.connections.is_open(receiver) and not mailbox.wait(deadline):
                    self._lose_unreachable(receiver, f"array {out.name!r}, ")

    def _open_to(
        self, out: OutgoingArray, pieces: Sequence[Piece]
    ) -> tuple[list[Connection], Connection | None]:
        """Return connections up to the first piece that cannot be sent, and that one if it is open.

        It then lacks credit.
        """
        found: list[Connection] = []
        for piece in pieces:
            connection = self.connections.get(piece.receiver)
            if connection is None:
                break
            row = piece.chunk // out.n_space
            if (
                connection.admitted.get(out.ordinal, 0) <= row
                and (out.ordinal, piece.chunk) not in connection.asked_for
            ):
                return found, connection
            found.append(connection)
        return found, None

    def _ask_for_credit(self, connection: Connection, out: OutgoingArray, row: int) -> None:
        if connection.credit_asked.get(out.ordinal) != row:
            with self.mailbox.changed:
                connection.credit_asked[out.ordinal] = row
                connection.queue_message(m.Want(out.ordinal, row))
                home = self.connections.home
                if home is not None:  # what is waited for may depend on the steps of this rank
                    self._board(home)
            connection.send()
            if home is not None and home is not connection:
                home.send()

    def _wait_for_credit(
        self, connection: Connection, out: OutgoingArray, row: int, deadline: Deadline
    ) -> None:
        with self.mailbox.changed:
            if (
                connection.admitted.get(out.ordinal, 0) > row
                or connection.link is not LinkState.OPEN
                or self.mailbox.wait(deadline)
            ):
                return
        raise DeadlineExceeded(
            f"array {out.name!r}, rank {self.rank}: {connection.endpoint} gave no credit "
            f"within {deadline.seconds:g} s; the analysis holds its memory or has stopped; give "
            "workers more memory, or raise the deadline"
        )

    def may_still_send(self, connections: Sequence[Connection]) -> bool:
        """Return whether what was admitted may be sent as it was found."""
        if self.mailbox.fault is not None or self.mailbox.lost is not None:
            return False
        for connection in connections:  # noqa: SIM110 - of every block that is computed in place
            if connection.link is not LinkState.OPEN:
                return False
        return True

    def slot(self, ring: Ring, nbytes: int) -> Slot | None:
        """Return a slot that may be written; None when the analytics are lost."""
        dropping: list[Connection] = []
        with self.mailbox.lock:
            slot = ring.next(nbytes)
            if slot is None and self._patient:
                slot = self._slot_in_time(ring, nbytes)
            if slot is None:
                return None
            if ring.retired:
                dropping = self._retire(ring)
        self._send(dropping)
        return slot

    @waiting
    def _slot_in_time(self, ring: Ring, nbytes: int) -> Slot | None:
        deadline = Deadline(self._deadlines["step"])
        while (slot := ring.next(nbytes)) is None:
            self.mailbox.check()
            if self.mailbox.disconnected:
                return None
            if all(slot.state is SlotState.WRITING for slot in ring.slots):
                raise BridgeError(
                    f"rank {self.rank}: all {len(ring.slots)} buffers are blocks of array "
                    f"{ring.array!r} that are being computed in place; leave the `with` of one "
                    "first, or allow for more by SLOT_BYTES"
                )
            if not self.mailbox.wait(deadline) and not self._unreachable(
                ordinal for slot in ring.slots for ordinal, _ in slot.uses
            ):
                raise DeadlineExceeded(
                    f"rank {self.rank}: no buffer came back from the receivers within "
                    f"{deadline.seconds:g} s; the analysis holds the data or has stopped"
                )
        return slot

    def _unreachable(self, ordinals: Iterable[int]) -> bool:
        """Return whether one of these receivers is not connected, and note that it is lost.

        A receiver that cannot be reached is not slow: what follows is ``on_analytics_loss``.
        """
        for ordinal in ordinals:
            if not self.connections.is_open(ordinal):
                self._lose_unreachable(ordinal)
                return True
        return False

    def _lose_unreachable(self, ordinal: int, where: str = "") -> None:
        connection = self.connections.by_ordinal.get(ordinal)
        if connection is not None and connection.not_read:  # it was there, and slow
            raise DeadlineExceeded(connection.not_read)
        self.mailbox.lose(
            f"{where}rank {self.rank}: receiver {ordinal} could not be reached within "
            f"{self._deadlines['step']:g} s"
        )

    def _retire(self, ring: Ring) -> list[Connection]:
        """Let receivers unmap slots that are used no more (the lock is held)."""
        informed = []
        for connection in self.connections.by_ordinal.values():
            dropped = connection.announced.intersection(ring.retired)
            if dropped:
                connection.announced -= dropped
                for number in sorted(dropped):
                    connection.queue_message(m.SlotDrop(number))
                informed.append(connection)
        ring.retired.clear()
        return informed

    def unused(self, slot: Slot) -> None:
        """Take back a slot that was not published; it is the next one again."""
        with self.mailbox.lock:
            slot.ring.unused(slot)

    # -- sending -----------------------------------------------------------------------------------

    def publish(
        self,
        slot: Slot,
        stored: Sequence[Stored],
        connections: Sequence[Connection],
        out: OutgoingArray,
        step: int,
    ) -> bool:
        """Send what lies in a slot; False: chunks have moved meanwhile, so find their owners.

        From here on the step counts as put: a receiver that asks for its
        chunks again gets them from the slot.
        """
        home = self.connections.home
        with self.mailbox.lock:
            if self.epoch and not self._current(stored, connections):
                return False
            slot.stored = stored
            slot.move(SlotEvent.PUBLISH)
            out.last_step = step
            if home is not None:
                self._board(home)
            for one, connection in zip(stored, connections, strict=True):
                connection.queue(slot, one)
        self._send(connections if home is None else (*connections, home))
        return True

    def _send(self, connections: Iterable[Connection]) -> None:
        """Send what is queued, and count how long that has waited."""
        before = WAITS.ns
        try:
            for connection in connections:
                if connection.to_send:
                    connection.send()
        finally:
            self.waited_ns += WAITS.ns - before

    @waiting
    def send_borrowed(
        self,
        memory: BorrowedMemory,
        stored: Sequence[Stored],
        connections: Sequence[Connection],
    ) -> bool:
        """Send the caller's own cells and wait until they are taken; False: to be sent anew."""
        mailbox = self.mailbox
        with mailbox.changed:
            if self.epoch and not self._current(stored, connections):
                return False
            for one, connection in zip(stored, connections, strict=True):
                connection.queue(memory, one)
            if connections and self.piggybacked:
                self._board(self.connections.home or connections[0])
        try:
            for connection in connections:
                if connection.to_send:
                    connection.pump()
            self._wait_until_taken(memory)
        finally:
            if memory.uses:  # its owner is about to write it
                for connection in connections:
                    connection.withdraw(memory)
        with mailbox.lock:
            taken = not memory.abandoned and not memory.uses
            return taken and (not self.epoch or self._current(stored, connections))

    def _wait_until_taken(self, memory: BorrowedMemory) -> None:
        mailbox = self.mailbox
        deadline = Deadline(self._deadlines["step"])
        with mailbox.changed:
            while memory.uses and not mailbox.disconnected:
                mailbox.check()
                if not mailbox.wait(deadline) and not self._unreachable(
                    ordinal for ordinal, _ in memory.uses
                ):
                    late = {self.connections.by_ordinal[ordinal] for ordinal, _ in memory.uses}
                    raise DeadlineExceeded(
                        f"{', '.join(str(each.endpoint) for each in late)} did not take a block "
                        f"within {deadline.seconds:g} s"
                    )

    def _current(self, stored: Sequence[Stored], connections: Sequence[Connection]) -> bool:
        """Return whether these connections still lead to the owners (the lock is held).

        The present owner of a chunk may have asked for it while it was nowhere, and asks only once.
        """
        return all(
            self.connections.by_ordinal.get(connection.ordinal) is connection
            and self.arrays[one.array].owner(one.piece.chunk) == connection.ordinal
            for one, connection in zip(stored, connections, strict=True)
        )

    def send_numbered(self, connection: Connection, build: Callable[[int], m.Message]) -> None:
        """Send a numbered message without cells."""
        with self.mailbox.changed:
            connection.queue_numbered(build)
            behind = len(connection.unacked) + len(connection.to_send) > _BEHIND
        if self._patient or not behind:
            self._send((connection,))
        else:
            connection.send_in_background()

    def report(self, frame: bytes) -> None:
        """Send a frame to the home receiver, after what was piggybacked."""
        home = self.connections.home
        if home is None or home.link is not LinkState.OPEN:
            if not self._patient:
                self.piggybacked.append(frame)
                return
            try:
                home = self.connections.connect_home()
            except (OSError, IPSComponentsError) as error:
                self.mailbox.lose(str(error))
                self.mailbox.check()
                return
        self.piggybacked.append(frame)
        self.send_piggybacked(home)

    def send_piggybacked(self, home: Connection) -> None:
        """Send what has no piece to travel with."""
        with self.mailbox.lock:
            self._board(home)
        self._send((home,))

    def _board(self, home: Connection) -> None:
        """Queue what was piggybacked (the lock is held)."""
        while self.piggybacked:
            home.queue_packed(self.piggybacked.popleft())

    # -- what receivers ask for (the lock is held) -------------------------------------------------

    def handle(self, connection: Connection, message: m.Message) -> None:
        """Send a chunk again, or follow a new placement."""
        match message:
            case m.Resend():
                self._send_again(connection, message.array, message.chunk)
            case m.PlacementIs() if message.epoch >= self.epoch:
                self._follow(message)

    def _send_again(self, connection: Connection, array: int, chunk: int) -> None:
        """Send a chunk's pieces from the slots that still hold them."""
        out = self.arrays.get(array)
        if out is None:
            return
        connection.ask_for(array, chunk, chunk // out.n_space)
        found = [hit for ring in out.rings for hit in ring.find(array, chunk)]
        for slot, stored in found:
            connection.queue(slot, stored)
        if out.is_gone(chunk, [stored for _, stored in found]):
            connection.queue_message(m.Gone(array, chunk))
        if connection.to_send:
            connection.send_in_background()

    def _follow(self, message: m.PlacementIs) -> None:
        self.epoch = message.epoch
        for owners in message.owners:
            out = self.arrays.get(owners.array)
            if out is not None:
                out.place(Placement(owners.epoch, owners.period, owners.owners))
        ended = self.connections.follow(message.endpoints)
        gone = {connection.ordinal for connection in ended}
        has_sent = any(connection.seq for connection in ended)
        new_owners: set[int] = set()
        for out in self.arrays.values():
            if has_sent and out.last_step is not None and out.placement is not None:
                new_owners.update(out.placement.owners)
            for ring in out.rings:
                if ring.keeper in gone:
                    ring.keeper = None
                held = {stored.piece.chunk for slot in ring.slots for stored in slot.stored}
                new_owners.update(map(out.owner, held))
        # The new owners of what the slots hold will ask for it, and those of what was sent to a
        # receiver that is gone, which has to be said to be gone too: stay connected.
        for ordinal in new_owners:
            owner = self.connections.by_ordinal.get(ordinal)
            if owner is not None and owner.link is LinkState.NEW:
                owner.reconnect()

    # -- the end -----------------------------------------------------------------------------------

    def drain(self, timeout: float) -> bool:
        """Wait until all was taken, or no receiver is left; return whether it was."""
        self.mailbox.wait_for(
            lambda: self.mailbox.disconnected or self.connections.drained(), timeout
        )
        return self.connections.drained()

    def write_off(self) -> None:
        """Move what no receiver took from delivered to lost."""
        for ordinal, (blocks, nbytes) in self.connections.untaken().items():
            self.arrays[ordinal].account.lose(blocks, nbytes)

    def close(self) -> None:
        """End connections and give slots up."""
        self.connections.close()
        for out in self.arrays.values():
            for ring in out.rings:
                for slot in ring.slots:
                    slot.close()
