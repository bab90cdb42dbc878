"""Putting blocks: from the caller's array, or in place, into slots and on their way."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from math import prod
from typing import Any

import numpy as np

from ips_components.bridge._arrays import Cells, Outgoing
from ips_components.bridge._link import Link
from ips_components.bridge._shortcut import Shortcut
from ips_components.bridge._slots import CACHE_LINE, Loan, Place, Ring, Slot, Stored
from ips_components.bridge._transport import Find, Transport
from ips_components.errors import BridgeError
from ips_components.model.pieces import BlockPlan, Piece
from ips_components.wire import framing
from ips_components.wire import messages as m

_WORTH_LENDING = 1 << 18  # bytes
_SHORT_NS = 200_000
_ACCOUNT_EVERY = 0.05  # seconds between two accounts that travel with the end of a step
_SIGN_EVERY = 1.0  # seconds between two signs of a rank that puts only what nobody wants


class Putting:
    """The part of a `Bridge` that puts; the state belongs to the bridge."""

    rank: int
    size: int
    first_step: int
    _launch: int
    _shift: int  # from the caller's steps to those of the run
    _transport: Transport
    _outgoing: dict[str, Outgoing]
    _agreed: list[Outgoing]
    _described: bool
    _replay: int
    _lends: bool  # nothing is replayed: blocks may be sent from the caller's memory
    _shared: bool
    _closed: bool
    _pid: int

    def _begin(self) -> None:
        """Set the counters to their beginning."""
        self.first_step = self._launch = self._shift = 0
        self._newest = -1
        self._step: int | None = None
        self._step_waited: deque[tuple[int, float]] = deque(maxlen=4096)
        self._step_began_waited = 0
        self._put_began = self._put_ended = self._put_took = 0
        self._accounted = 0.0
        self._shown = time.monotonic()  # when this rank last sent anything about its steps
        self._scratch: dict[tuple[Any, ...], list[Cells]] = {}  # not in use, by array and shape

    # -- putting -------------------------------------------------------------------------------

    def put(
        self,
        name: str,
        step: int,
        block: Cells,
        *,
        offset: tuple[int, ...] | None = None,
    ) -> None:
        """Offer a block of one step; what the contract names of it is sent.

        Parameters
        ----------
        name
            Array.
        step
            Simulation step; steps of an array rise.
        block
            This rank's cells, halo included, any memory order. Ragged: this rank's rows.
        offset
            Global index of the block's first cell (without halo), when it is not the one
            described.

        Raises
        ------
        BridgeError
            When dtype or shape are not what was described, when the step is below one that was
            put, or when this block was put at this step (see `rewind`).
        DeadlineExceeded, AnalyticsLost
            When the analytics do not take data any more and the policy is to end with them.
        """
        step += self._shift
        self._newest = step
        self._put(name, step, block, offset)

    def _put(self, name: str, step: int, block: Cells, offset: tuple[int, ...] | None) -> None:
        """Offer a block of a step of the run."""
        out = self._outgoing.get(name)
        if out is None:
            out = self._find(name)
        if step <= out.put_step:
            out.check_step(step, offset)
        if step not in out.wanted:
            out.mark_step(step, offset)
            out.skipped_blocks += 1
            own = out.own_bytes
            out.skipped_bytes += out.owned_bytes(block) if own is None else own
            if time.monotonic() - self._shown > _SIGN_EVERY:
                self._show_progress(step)
            return
        if self._closed:
            self._check_open()
        if step != self._step:
            self._end_step(following=step)
        short = out.shortcut
        if short is not None and offset is None and short.put(step, block):
            out.mark_step(step, None)
            return
        t = (step - out.first) // out.every
        if out.rows is not None:
            self._put_rows(out, step, t, out.row_cells(out.cells(block, step), step))
            out.mark_step(step, None)
            return
        cells = out.cells(block, step)
        plan = out.plan(cells, offset, step)
        if out.told is False:
            self._tell_block(out, plan)
        pieces = self._send(out, step, t, plan.at, cells, plan.size * cells.itemsize)
        out.mark_step(step, offset)
        if plan is not out.fixed:
            out.note(t, pieces)
        elif out.short and short is None:
            self._shorten(out, plan)
        if self._lends:
            self._put_ended = time.perf_counter_ns()
            self._put_took = self._put_ended - self._put_began

    def _shorten(self, out: Outgoing, plan: BlockPlan) -> None:
        """Let the next steps of an array take the short way."""
        with self._transport.lock:  # for the placement may change
            out.shortcut = Shortcut(self, out, plan, out.rings[0])

    def _put_rows(self, out: Outgoing, step: int, t: int, cells: Cells) -> None:
        """Put this rank's rows of a ragged array."""
        rows = out.rows
        if rows is None:
            return

        def find(t: int) -> Sequence[Piece]:
            one = rows.at(t)
            if one is None:
                return ()
            count = len(cells)
            dst = ((0, 1, 1), (0, count, 1), *((0, n, 1) for n in one.row_shape))
            size = count * prod(one.row_shape)
            return (Piece(one.chunk, one.receiver, one.src, dst, size),)

        self._send(out, step, t, find, cells, cells.nbytes)

    def _send(
        self,
        out: Outgoing,
        step: int,
        t: int,
        find: Find,
        cells: Cells,
        total: int,
    ) -> Sequence[Piece]:
        """Copy the wanted cells into a slot and send it."""
        transport = self._transport
        ring = self._ring(out, step)
        if self._lends:
            self._put_began = time.perf_counter_ns()
        pieces, links, admitted = transport.admit(out, find, t)
        if not pieces:
            out.skipped_blocks += 1
            out.skipped_bytes += total
            return ()
        itemsize = cells.itemsize
        wanted = room = 0
        for piece in pieces:
            nbytes = piece.cells * itemsize
            wanted += nbytes
            room += -(-nbytes // CACHE_LINE) * CACHE_LINE
        out.skipped_bytes += total - wanted
        if admitted and self._lends and self._flat_out(wanted, links):
            pieces = self._lend(out, find, t, cells, pieces, links, wanted)
            out.last_step = step
            return pieces
        slot = transport.slot(ring, room) if admitted else None
        if slot is None:
            self._not_sent(out, pieces, wanted)
            out.last_step = step
            return pieces
        stored = []
        at = 0
        for i, piece in enumerate(pieces):
            source = cells[piece.src]
            place = slot.place(i, out.ordinal, piece, source, at)
            place.cells[...] = source
            stored.append(Stored(out.ordinal, t, piece, place))
            at += -(-piece.cells * itemsize // CACHE_LINE) * CACHE_LINE
        self._publish(out, step, t, find, slot, stored, links, wanted)
        return pieces

    def _publish(
        self,
        out: Outgoing,
        step: int,
        t: int,
        find: Find,
        slot: Slot,
        stored: Sequence[Stored],
        links: Sequence[Link],
        wanted: int,
    ) -> None:
        """Send a slot, to whoever owns its chunks by now, and account for it."""
        transport = self._transport
        while not transport.publish(slot, stored, links, out, step):
            pieces, links, admitted = transport.admit(out, find, t)
            if not admitted:
                transport.unused(slot)
                self._not_sent(out, pieces, wanted)
                out.last_step = step
                return
        out.delivered_blocks += 1
        out.delivered_bytes += wanted

    def _flat_out(self, nbytes: int, links: Sequence[Link]) -> bool:
        """Tell whether waiting for TCP costs less than a copy that nothing hides.

        A copy and a thread pay when the rank computes while it is sent. When one put follows the
        other they only take the memory's bandwidth.
        """
        idle, last = self._put_began - self._put_ended, self._put_took
        return (
            nbytes >= _WORTH_LENDING
            and idle < max(last // 2, _SHORT_NS)
            and all(link.lane == "tcp" for link in links)
        )

    def _lend(
        self,
        out: Outgoing,
        find: Find,
        t: int,
        cells: Cells,
        pieces: Sequence[Piece],
        links: Sequence[Link],
        wanted: int,
    ) -> Sequence[Piece]:
        """Send from the caller's memory and wait until all is taken."""
        transport = self._transport
        admitted = True
        while admitted:
            loan = Loan(wanted)
            stored = [
                Stored(out.ordinal, t, piece, Place(piece.src, cells[piece.src]))
                for piece in pieces
            ]
            if transport.lend(loan, stored, links):
                out.delivered_blocks += 1
                out.delivered_bytes += wanted
                return pieces
            pieces, links, admitted = transport.admit(out, find, t)
        self._not_sent(out, pieces, wanted)
        return pieces

    def _not_sent(self, out: Outgoing, pieces: Sequence[Piece], wanted: int) -> None:
        """Account for a block that nobody took."""
        if self._transport.quiet:
            out.lost_blocks += 1
            out.lost_bytes += wanted
            return
        if self._transport.stop is not None:  # the analysis has all that it wants
            out.skipped_blocks += 1
            out.skipped_bytes += wanted
            return
        out.dropped_blocks += 1
        out.dropped_bytes += wanted
        for piece in pieces:
            link = self._transport.link(piece.receiver)
            if link is not None:
                self._transport.tell(link, partial(m.Dropped, out.ordinal, piece.chunk))

    def _ring(self, out: Outgoing, step: int) -> Ring:
        """Return the ring of this put: the n-th put of an array in a step has the n-th ring."""
        rings = out.rings
        nth = out.nth if out.last_step == step else 0
        out.nth = nth + 1
        while len(rings) <= nth:
            rings.append(Ring(self._replay, self._shared, self._transport.replay))
        return rings[nth]

    def block(
        self, name: str, step: int, *, offset: tuple[int, ...] | None = None
    ) -> AbstractContextManager[Cells]:
        """Give memory inside the transport to compute a block into; it is put on leaving.

        Parameters
        ----------
        name, step, offset
            As in `put`.

        Returns
        -------
        context manager
            Of an array of the block's shape with halo, C order, cells unspecified. It belongs to
            the bridge after the ``with``. When the body raises, nothing is put.
        """
        if self._closed:
            self._check_open()
        out = self._outgoing.get(name)
        if out is None:
            out = self._find(name)
        if out.dtype is None or (out.spec is not None and out.spec.ragged):
            raise BridgeError(f"array {name!r} cannot be computed in place; use put")
        step += self._shift
        self._newest = step
        return _InPlace(self, out, step, offset)

    # -- steps ---------------------------------------------------------------------------------

    def rewind(self, step: int) -> None:
        """Go back: the next puts of all arrays may begin at this step again.

        For a solver that has rejected steps. What was sent cannot be taken back, since the
        analysis may have used it; steps that were put and that nobody wanted can be put anew.

        Parameters
        ----------
        step
            The first step that will be put again.

        Raises
        ------
        BridgeError
            When this step or a later one of some array was sent, or a block is being computed in
            place. Nothing has changed then.
        """
        self._check_open()
        step += self._shift
        for out in self._outgoing.values():
            where = f"rank {self.rank} cannot go back to step {step}"
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
        for out in self._outgoing.values():
            out.put_step = min(out.put_step, step - 1)
            out.put_blocks = []

    def _tell_block(self, out: Outgoing, plan: BlockPlan) -> None:
        """Tell where a block is whose place nobody could know before it was put."""
        if out.told is False:
            box = (plan.block.offset, plan.block.shape)
            self._transport.riding.append(framing.pack(m.Blocks(out.ordinal, (box,))))
            out.told = True

    def _end_step(self, following: int | None = None) -> None:
        """End the present step, if any; when another follows, it tells so with its first piece."""
        if following is not None and following < self.first_step:
            raise BridgeError(self._too_early(following))
        step, self._step = self._step, following
        if step is None:
            return
        transport = self._transport
        waited = transport.waited_ns
        if waited != self._step_began_waited:
            self._step_waited.append((step, (waited - self._step_began_waited) / 1e9))
            self._step_began_waited = waited
        if transport.fault is not None or transport.lost is not None:
            return
        numbers: Sequence[int] = ()
        moment = self._shown = time.monotonic()
        if following is None or moment - self._accounted > _ACCOUNT_EVERY:  # they are cumulative
            self._accounted = moment
            numbers = [n for out in self._agreed for n in out.numbers()]
        frame = framing.pack_step_end(step, waited, numbers)
        if following is None:
            transport.report(frame)
        else:
            transport.riding.append(frame)

    def step_end(self, step: int) -> None:
        """Say that this rank has put all of a step; the next step's first put implies it."""
        self._check_open()
        step += self._shift
        self._newest = max(self._newest, step)
        if self._step is None:
            self._step = step
        if self._step == step:
            self._end_step()

    def _show_progress(self, step: int) -> None:
        """Send the account, or end the step before: the run knows that this rank goes on.

        Without a connection nothing is sent, since a put that nobody wants does not wait.
        """
        self._shown = time.monotonic()
        transport = self._transport
        if self._closed or transport.quiet or not transport.any_open():
            return
        if self._step is not None and step > self._step:
            self._end_step()
            return
        numbers = [n for out in self._agreed for n in out.numbers()]
        transport.report(framing.pack_step_end(m.StepEnd.NO_STEP, transport.waited_ns, numbers))

    def _too_early(self, step: int) -> str:
        return (
            f"step {step} was put, but launch {self._launch} goes on at step {self.first_step} "
            "(bridge.first_step); count from there, or say RENUMBER = True in the simulation's "
            "section of the config if the program counts from 0 at every launch"
        )

    def _find(self, name: str) -> Outgoing:
        out = self._outgoing.get(name)
        if out is None:
            if self._described:
                raise BridgeError(
                    f"array {name!r} was not described; described are {sorted(self._outgoing)}"
                )
            # The config may offer arrays that nobody wants.
            out = Outgoing(name, None, None, len(self._outgoing), self.rank, self.size)
            self._outgoing[name] = out
        return out

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise BridgeError("a bridge cannot be used in a forked process")
        if self._closed:
            raise BridgeError("the bridge is closed")


class _InPlace(AbstractContextManager[Cells]):
    """A block that is computed inside a slot."""

    __slots__ = (
        "_bridge",
        "_cells",
        "_link",
        "_links",
        "_offset",
        "_out",
        "_pieces",
        "_plan",
        "_short",
        "_slot",
        "_step",
        "_t",
    )

    _cells: Cells
    _link: Link
    _links: Sequence[Link]
    _pieces: Sequence[Piece]
    _plan: BlockPlan
    _t: int

    def __init__(
        self, bridge: Putting, out: Outgoing, step: int, offset: tuple[int, ...] | None
    ) -> None:
        self._bridge, self._out, self._step, self._offset = bridge, out, step, offset
        self._slot: Slot | None = None
        self._short: Shortcut | None = None

    def __enter__(self) -> Cells:
        if self._step <= self._out.put_step:
            self._out.check_step(self._step, self._offset)
        cells = self._open()
        self._out.open_blocks += 1
        return cells

    def _open(self) -> Cells:
        bridge, out, step = self._bridge, self._out, self._step
        short = out.shortcut
        if short is not None and self._offset is None and step in out.wanted:
            taken = short.take(step, in_place=True)
            if taken is not None:
                self._short, (self._slot, self._link) = short, taken
                return self._slot.whole  # type: ignore[return-value]
        shape, dtype = out.block_shape(self._offset, step), out.dtype
        if dtype is None:
            raise BridgeError(f"array {out.name!r} cannot be computed in place; use put")
        if step in out.wanted:
            plan = out.plan_at(self._offset, step)
            if plan is not None:
                self._plan, self._t = plan, (step - out.first) // out.every
                if self._admit() and self._pieces:
                    nbytes = prod(shape) * dtype.itemsize
                    self._slot = bridge._transport.slot(bridge._ring(out, step), nbytes)
        if self._slot is not None:
            self._cells = self._slot.block(shape, dtype)
        else:
            # Of this array and of this block alone, as long as it is open: what is computed must
            # not depend on which steps the analysis wants.
            unused = bridge._scratch.get((out.name, shape, dtype))
            self._cells = unused.pop() if unused else np.empty(shape, dtype)
        return self._cells

    def _admit(self) -> bool:
        """Wait until the pieces may be sent; tell whether they may."""
        transport = self._bridge._transport
        self._pieces, self._links, admitted = transport.admit(self._out, self._plan.at, self._t)
        return admitted

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        bridge, out, step, slot = self._bridge, self._out, self._step, self._slot
        out.open_blocks -= 1
        if slot is None:
            if error is None:
                bridge._put(out.name, step, self._cells, self._offset)
            key = (out.name, self._cells.shape, self._cells.dtype)
            bridge._scratch.setdefault(key, []).append(self._cells)
            return
        transport = bridge._transport
        if error is not None:
            transport.unused(slot)
            return
        if step <= out.put_step:  # others may have been put since this one was opened
            try:
                out.check_step(step, self._offset)
            except BaseException:
                transport.unused(slot)
                raise
        out.mark_step(step, self._offset)
        if step != bridge._step:
            bridge._end_step(following=step)
        if self._short is not None:
            self._short.send(step, slot, self._link)
            return
        plan = self._plan
        if out.told is False:
            bridge._tell_block(out, plan)
        # Credit was given on entering; only the death of a receiver makes it void.
        admitted = transport.still(self._links) or self._admit()
        itemsize = self._cells.itemsize
        wanted = 0
        stored = []
        for i, piece in enumerate(self._pieces):
            wanted += piece.cells * itemsize
            place = slot.part(i, out.ordinal, piece)
            stored.append(Stored(out.ordinal, self._t, piece, place))
        out.skipped_bytes += plan.size * itemsize - wanted
        if plan is not out.fixed:
            out.note(self._t, self._pieces)
        elif out.short and out.shortcut is None:
            bridge._shorten(out, plan)
        if not admitted:
            transport.unused(slot)
            bridge._not_sent(out, self._pieces, wanted)
            out.last_step = step
            return
        bridge._publish(out, step, self._t, plan.at, slot, stored, self._links, wanted)
