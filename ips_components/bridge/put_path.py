"""The way of a block inside a rank: plan, cut, slot, publish."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ips_components.bridge.connection import Connection
from ips_components.bridge.delivery import Delivery, Find
from ips_components.bridge.fast_plan import FastPlan
from ips_components.bridge.link import Item, LinkState
from ips_components.bridge.outgoing import Cells, Offset, OutgoingArray
from ips_components.bridge.rows import Rows
from ips_components.bridge.scratch import Scratch
from ips_components.bridge.slots import (
    CACHE_LINE,
    BorrowedMemory,
    Place,
    Ring,
    Slot,
    Stored,
    view,
)
from ips_components.bridge.steps import Steps
from ips_components.errors import BridgeError
from ips_components.model.amr import table_name
from ips_components.model.pieces import BlockPlan, Piece
from ips_components.wire import framing
from ips_components.wire import messages as m
from ips_components.wire.leases import SlotState

if TYPE_CHECKING:
    from ips_components.model.by_id import IdCut

_WORTH_BORROWING = 1 << 18  # bytes
_SHORT_NS = 200_000
_OPEN = LinkState.OPEN
_FREE, _WRITING, _SENT = SlotState.FREE, SlotState.WRITING, SlotState.SENT
_new = tuple.__new__  # makes a named tuple without a call of Python's


class PutPath:
    """Takes blocks from the caller to `Delivery`.

    Parameters
    ----------
    delivery
        Of this rank.
    steps
        Of this rank.
    arrays
        By name, those that are not needed included.
    replay
        Number of steps that can be sent again; with 0 none, else those of a whole chunk at least.
    shared
        Whether receivers on this machine may map slots.
    rank
        For messages.

    Notes
    -----
    Nearly every put is one piece for a receiver on this machine that expects it. A rank that has
    computed for milliseconds comes back to cold caches, and every function and object that a put
    touches then holds it: for such puts `take_fast` and `send_fast` do as little as can be, with
    what a `FastPlan` has worked out once, and without making, waiting for, or finding out
    anything. Whatever is not as usual goes by `_send` and `publish`, which serve all cases and lay
    out the slots that the fast way uses again.
    """

    def __init__(
        self,
        delivery: Delivery,
        steps: Steps,
        arrays: Mapping[str, OutgoingArray],
        replay: int,
        *,
        shared: bool,
        rank: int,
    ) -> None:
        self.delivery, self.steps = delivery, steps
        self._arrays, self._replay, self._shared, self._rank = arrays, replay, shared, rank
        self._connections, self._mailbox = delivery.connections, delivery.mailbox
        # When nothing is replayed, blocks may be sent from the caller's memory.
        self._may_borrow = replay == 0
        self._put_began = self._put_ended = self._put_took = 0
        self.scratch = Scratch()
        for out in arrays.values():
            if out.contract is not None and out.wanted:
                delivery.memory.expect(out.name, out.step_bytes, self._replayed(out))

    def _replayed(self, out: OutgoingArray) -> int:
        """Return the number of steps of an array that can be sent again."""
        return max(self._replay, out.steps_per_chunk) if self._replay else 0

    # -- a block ---------------------------------------------------------------------------------

    def put(
        self, out: OutgoingArray, step: int, block: Any, offset: Offset, ids: Any = None
    ) -> None:
        """Send what the contract names of a block of a step of the run."""
        if step <= out.put_step:
            out.check_step(step, offset)
        if step not in out.wanted:
            if step >= out.axis_end:
                out.note_beyond(step)
            out.mark_step(step, offset)
            account = out.account
            account.skipped_blocks += 1
            own = out.own_bytes if offset is None else None
            account.skipped_bytes += out.owned_bytes(block, offset) if own is None else own
            self.steps.skipped(step)
            return
        fast = out.fast
        if fast is not None and offset is None and self._put_fast(out, fast, step, block):
            out.mark_step(step, None)
            return
        t = (step - out.first) // out.every
        if out.rows is not None:
            self._put_rows(out, step, t, out.row_cells(out.cells(block, step), step))
            out.mark_step(step, None)
            return
        if out.by_id:
            self._put_ids(out, step, t, out.cells(block, step), ids)
            out.mark_step(step, None)
            return
        cells = out.cells(block, step)
        plan = out.plan(cells, offset, step)
        self._begin(step)
        if not out.block_announced:
            self.announce_block(out, plan)
        pieces = self._send(out, step, t, plan.at, cells, plan.size * cells.itemsize)
        out.mark_step(step, offset)
        if plan is not out.fixed:
            out.note(t, pieces)
        elif out.has_fast_path and fast is None and out.rings:  # none before a block was copied
            self.shorten(out, plan)
        if self._may_borrow:
            self._put_ended = time.perf_counter_ns()
            self._put_took = self._put_ended - self._put_began

    def _begin(self, step: int) -> None:
        """Begin a step, once its first block is known to be as described."""
        if step != self.steps.current:
            self.steps.begin(step)

    def shorten(self, out: OutgoingArray, plan: BlockPlan) -> None:
        """Let the next steps of an array go the fast way."""
        with self._mailbox.lock:  # for the placement may change
            out.shorten(plan)

    def announce_block(self, out: OutgoingArray, plan: BlockPlan) -> None:
        """Say where a block is whose extent was not known before it was put."""
        box = (plan.block.offset, plan.block.shape)
        self.delivery.piggybacked.append(framing.pack(m.Blocks(out.ordinal, (box,))))
        out.block_announced = True

    def _put_rows(self, out: OutgoingArray, step: int, t: int, cells: Cells) -> None:
        """Put this rank's rows of a ragged array."""
        rows = out.rows
        if rows is None:
            return
        self._begin(step)

        def find(t: int) -> Sequence[Piece]:
            one = rows.at(t)
            if one is None:
                return ()
            count = len(cells)
            dst = ((0, 1, 1), (0, count, 1), *((0, n, 1) for n in one.row_shape))
            size = count * prod(one.row_shape)
            return (Piece(one.chunk, one.receiver, one.src, dst, size),)

        self._send(out, step, t, find, cells, cells.nbytes)

    def blocks_of(
        self, out: OutgoingArray, step: int, levels: Any, places: Any
    ) -> tuple[Any, Any] | None:
        """Return levels and places of blocks; None for an unknown array."""
        if out.spec is None:
            return None
        if not out.levels or table_name(out.name) not in self._arrays:
            raise BridgeError(
                f"array {out.name!r} has no levels; describe it by Array(..., levels=...), or say "
                "LEVELS in its section of the config"
            )
        if levels is None or places is None:
            raise BridgeError(
                f"put of array {out.name!r} at step {step} on rank {self._rank}: say level and "
                "place of each block by put(..., levels=..., places=...)"
            )
        return levels, places

    def put_blocks(
        self,
        out: OutgoingArray,
        table: OutgoingArray,
        step: int,
        block: Any,
        levels: Any,
        places: Any,
    ) -> None:
        """Put this rank's blocks of an adaptive mesh, and the table of their levels and places."""
        cells = np.asarray(block)
        if step not in out.wanted and step not in table.wanted:
            self.put(out, step, cells, None)
            self.put(table, step, np.broadcast_to(np.int64(0), (len(cells), cells.ndim)), None)
            return
        cells = out.cells(block, step)
        numbers = out.block_table(cells, levels, places, step)
        for one, rows in ((out, cells), (table, numbers)):
            choice = one.contract.blocks if one.contract is not None else None
            if choice is None or step not in one.wanted:
                self.put(one, step, rows, None)
                continue
            chosen = Rows(rows, choice.accept(numbers, cells.shape[1:]))
            self.put(one, step, chosen, None)
            one.account.skipped_bytes += rows.nbytes - chosen.nbytes

    def _put_ids(self, out: OutgoingArray, step: int, t: int, cells: Cells, ids: Any) -> None:
        """Put this rank's rows of an array that is indexed by ids."""
        plan = out.id_plan(cells, ids, step)
        self._begin(step)
        cuts: list[IdCut] = []

        def find(t: int) -> Sequence[Piece]:
            found = plan.at(t)
            cuts[:] = [one.cut for one in found]
            return [one.piece for one in found]

        pieces, connections, admitted = self.delivery.admit(out, find, t)
        wanted = sum(cut.cell_bytes for cut in cuts)
        out.account.skipped_bytes += cells.nbytes - wanted
        room = sum(-(-cut.nbytes // CACHE_LINE) * CACHE_LINE for cut in cuts)
        slot = self.slot(out, step, room) if admitted else None
        out.note(t, pieces)
        if slot is None:
            self.account_unsent(out, step, pieces, wanted)
            return
        stored = []
        at = 0
        for i, (piece, cut) in enumerate(zip(pieces, cuts, strict=True)):
            place = slot.place(i, out.ordinal, piece, cut.room, at)
            cut.write(cells, place.cells)
            stored.append(Stored(out.ordinal, t, piece, place))
            at += -(-cut.nbytes // CACHE_LINE) * CACHE_LINE
        self.publish(out, step, t, find, slot, stored, connections, wanted)

    def _send(
        self, out: OutgoingArray, step: int, t: int, find: Find, cells: Cells, total: int
    ) -> Sequence[Piece]:
        """Copy the wanted cells into a slot and send it."""
        if self._may_borrow:
            self._put_began = time.perf_counter_ns()
        pieces, connections, admitted = self.delivery.admit(out, find, t)
        if not pieces:
            out.account.skipped_blocks += 1
            out.account.skipped_bytes += total
            return ()
        itemsize = cells.itemsize
        wanted = room = 0
        for piece in pieces:
            nbytes = piece.cells * itemsize
            wanted += nbytes
            room += -(-nbytes // CACHE_LINE) * CACHE_LINE
        out.account.skipped_bytes += total - wanted
        if admitted and self._may_borrow and self._flat_out(wanted, connections):
            return self._send_borrowed(out, step, t, find, cells, pieces, connections, wanted)
        slot = self.slot(out, step, room) if admitted else None
        if slot is None:
            self.account_unsent(out, step, pieces, wanted)
            return pieces
        stored = []
        at = 0
        for i, piece in enumerate(pieces):
            source = view(cells, piece.src)
            place = slot.place(i, out.ordinal, piece, source, at)
            place.cells[...] = source
            stored.append(Stored(out.ordinal, t, piece, place))
            at += -(-piece.cells * itemsize // CACHE_LINE) * CACHE_LINE
        self.publish(out, step, t, find, slot, stored, connections, wanted)
        return pieces

    def publish(
        self,
        out: OutgoingArray,
        step: int,
        t: int,
        find: Find,
        slot: Slot,
        stored: Sequence[Stored],
        connections: Sequence[Connection],
        wanted: int,
    ) -> None:
        """Send a slot to the present owners of its chunks, and account for it."""
        delivery = self.delivery
        while not delivery.publish(slot, stored, connections, out, step):
            pieces, connections, admitted = delivery.admit(out, find, t)
            if not admitted:
                self.unused(out, slot)
                self.account_unsent(out, step, pieces, wanted)
                return
        out.account.delivered_blocks += 1
        out.account.delivered_bytes += wanted

    def account_unsent(
        self, out: OutgoingArray, step: int, pieces: Sequence[Piece], wanted: int
    ) -> None:
        """Account for a block that no receiver took."""
        out.last_step = step
        if self._mailbox.disconnected:
            out.account.lost_blocks += 1
            out.account.lost_bytes += wanted
            self.steps.skipped(step)  # clients may be attached, though the analysis has failed
        elif self._mailbox.stop is not None:  # the analysis has all that it wants
            out.account.skipped_blocks += 1
            out.account.skipped_bytes += wanted
        else:
            out.account.dropped_blocks += 1
            out.account.dropped_bytes += wanted
            for piece in pieces:
                self._connections.get(piece.receiver)  # connects where it is new
                connection = self._connections.by_ordinal.get(piece.receiver)
                if connection is not None:  # sent again after a reconnect, like a piece
                    dropped = partial(m.Dropped, out.ordinal, piece.chunk)
                    self.delivery.send_numbered(connection, dropped)

    def slot(self, out: OutgoingArray, step: int, nbytes: int) -> Slot | None:
        """Return a slot that may be written; None when the analytics are lost.

        The n-th block of an array in a step, put or begun, has the n-th ring.
        """
        rings = out.rings
        nth = out.nth if out.ring_step == step else 0
        while len(rings) <= nth:
            segments = out.segments if self._shared else None
            rings.append(Ring(self._replayed(out), segments, self.delivery.memory, out.name))
        slot = self.delivery.slot(rings[nth], nbytes)
        if slot is not None:
            out.ring_step, out.nth = step, nth + 1
        return slot

    def unused(self, out: OutgoingArray, slot: Slot) -> None:
        """Take back a slot that was not published; it is the next one again, and so is its ring."""
        if out.nth and out.rings[out.nth - 1] is slot.ring:
            out.nth -= 1
        self.delivery.unused(slot)

    # -- from the caller's memory ------------------------------------------------------------------

    def _flat_out(self, nbytes: int, connections: Sequence[Connection]) -> bool:
        """Return whether waiting for TCP costs less than a copy that nothing hides.

        A copy and a thread pay when the rank computes while it is sent. When one put follows the
        other they only take the memory's bandwidth.
        """
        idle, last = self._put_began - self._put_ended, self._put_took
        return (
            nbytes >= _WORTH_BORROWING
            and idle < max(last // 2, _SHORT_NS)
            and all(connection.lane == "tcp" for connection in connections)
        )

    def _send_borrowed(
        self,
        out: OutgoingArray,
        step: int,
        t: int,
        find: Find,
        cells: Cells,
        pieces: Sequence[Piece],
        connections: Sequence[Connection],
        wanted: int,
    ) -> Sequence[Piece]:
        """Send from the caller's memory and wait until all is taken."""
        admitted = True
        while admitted:
            memory = BorrowedMemory(wanted)
            stored = [
                Stored(out.ordinal, t, piece, Place(piece.src, view(cells, piece.src)))
                for piece in pieces
            ]
            if self.delivery.send_borrowed(memory, stored, connections):
                out.account.delivered_blocks += 1
                out.account.delivered_bytes += wanted
                out.last_step = step
                return pieces
            pieces, connections, admitted = self.delivery.admit(out, find, t)
        self.account_unsent(out, step, pieces, wanted)
        return pieces

    # -- the fast way ------------------------------------------------------------------------------

    def _put_fast(self, out: OutgoingArray, fast: FastPlan, step: int, block: Cells) -> bool:
        """Put a block that is one piece; False: it has to go the usual way."""
        if (
            type(block) is not np.ndarray
            or block.shape != out.put_shape
            or block.dtype is not out.dtype  # equal ones go the usual way
        ):
            return False
        self._begin(step)
        taken = self.take_fast(out, fast, step, in_place=False)
        if taken is None:
            return False
        slot, connection = taken
        slot.places[0].cells[...] = block[fast.src]
        self.send_fast(out, fast, step, slot, connection)
        return True

    def take_fast(
        self, out: OutgoingArray, fast: FastPlan, step: int, *, in_place: bool
    ) -> tuple[Slot, Connection] | None:
        """Take a slot for a step that is wanted; None: go the usual way."""
        mailbox = self._mailbox
        t = (step - out.first) // out.every
        if step == out.last_step:
            return None
        owners = fast.owners
        ordinal = owners[(t * fast.n_space + fast.space) % len(owners)]
        connection = self._connections.by_ordinal.get(ordinal)
        if (
            connection is None
            or connection.lane != "shm"
            or connection.link is not _OPEN
            or connection.admitted.get(out.ordinal, 0) <= t
            or mailbox.fault is not None
            or mailbox.lost is not None
        ):
            return None
        ring = fast.ring
        with mailbox.lock:
            slots = ring.slots
            if len(slots) < ring.length and fast.nbytes < ring.refused:  # one more is to be made
                return None
            slot = slots[0]
            places = slot.places
            if (
                slot.state is not _FREE
                or len(places) != 1
                or places[0].src is not fast.src
                or (slot.whole is not None) is not in_place
            ):
                return None
            slots.append(slots.pop(0))
            slot.state = _WRITING  # SlotEvent.TAKE
            slot.stored = ()
        return slot, connection

    def send_fast(
        self, out: OutgoingArray, fast: FastPlan, step: int, slot: Slot, connection: Connection
    ) -> None:
        """Send a slot that was taken, with what is piggybacked, as one message."""
        delivery = self.delivery
        t = (step - out.first) // out.every
        chunk, ordinal = t * fast.n_space + fast.space, connection.ordinal
        piece = _new(Piece, (chunk, ordinal, fast.src, fast.dst, fast.size))
        place = slot.places[0]
        frame = place.frame
        stored = _new(Stored, (out.ordinal, t, piece, place))
        message = None
        out.account.skipped_bytes += fast.skipped
        out.ring_step, out.nth = step, 1
        with connection.send_lock:
            with self._mailbox.lock:
                if (
                    out.fast is fast
                    and connection.link is _OPEN
                    and not connection.to_send
                    and frame is not None
                    and slot.number in connection.announced
                ):
                    seq = connection.seq = connection.seq + 1
                    slot.stored = (stored,)
                    slot.state = _SENT  # SlotEvent.PUBLISH, and USE
                    slot.uses.add((ordinal, seq))
                    generation = slot.lease()
                    connection.in_slots[seq] = slot
                    connection.leases[slot.number, generation] = seq
                    connection.unacked.append(_new(Item, (b"", seq, slot, stored)))
                    out.last_step = step
                    message = frame.pack(seq, chunk, t, 0, generation)
                    piggybacked, home = delivery.piggybacked, self._connections.home
                    if piggybacked and connection is home:
                        message = b"".join((*piggybacked, message))
                        piggybacked.clear()
            if message is not None:
                connection.send_packed(message)
        if message is None:
            at, one = fast.plan.at, (stored,)
            self.publish(out, step, t, at, slot, one, (connection,), fast.nbytes)
            return
        if piggybacked and home is not None:
            delivery.send_piggybacked(home)
        out.account.delivered_blocks += 1
        out.account.delivered_bytes += fast.nbytes

    # -- going back --------------------------------------------------------------------------------

    def rewind(self, step: int) -> None:
        """Let the next puts of all arrays begin at a step again.

        Raises
        ------
        BridgeError
            When this step or a later one of some array was sent, or a block is being computed in
            place. Nothing has changed then.
        """
        for out in self._arrays.values():
            where = f"rank {self._rank} cannot go back to step {step}"
            if out.last_step is not None and out.last_step >= step:
                raise BridgeError(
                    f"{where}: step {out.last_step} of array {out.name!r} was sent, and the "
                    f"analysis may have used it; go back no further than step {out.last_step + 1}"
                )
            if out.open_blocks:
                raise BridgeError(
                    f"{where}: a block of array {out.name!r} is being computed in place; leave "
                    "its `with` first"
                )
        for out in self._arrays.values():
            out.rewind(step)
