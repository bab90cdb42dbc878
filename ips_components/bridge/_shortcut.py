"""The way of nearly every put: one piece, for a receiver on this machine that expects it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ips_components.bridge._link import Item, Link, Standing
from ips_components.bridge._slots import Ring, Slot, Stored
from ips_components.model.pieces import BlockPlan, Piece
from ips_components.wire.leases import SlotState

if TYPE_CHECKING:
    from ips_components.bridge._arrays import Cells, Outgoing
    from ips_components.bridge._putting import Putting

_OPEN = Standing.OPEN
_FREE, _WRITING, _SENT = SlotState.FREE, SlotState.WRITING, SlotState.SENT
_new = tuple.__new__  # makes a named tuple without a call of Python's


class Shortcut:
    """Puts a block that gives a single piece to each chunk.

    A rank that has computed for milliseconds comes back to cold caches, and every function and
    object that a put touches then holds it. Here is as little of them as can be: what does not
    change from step to step is worked out once, and nothing is made, waited for, or found out.
    Whatever is not as usual goes the long way (`Putting._send`, `Transport.publish`), which serves
    all cases; it also lays out the slots that a shortcut uses again.

    Parameters
    ----------
    bridge
        Of this rank.
    out
        The array; it gives the shortcut up when its chunks move.
    plan
        Of the block.
    ring
        Of the first block that is put in a step.
    """

    __slots__ = (
        "_bridge",
        "_cut",
        "_dst",
        "_n_space",
        "_nbytes",
        "_out",
        "_owners",
        "_plan",
        "_ring",
        "_skipped",
        "_src",
    )

    def __init__(self, bridge: Putting, out: Outgoing, plan: BlockPlan, ring: Ring) -> None:
        cut = plan.single
        if cut is None or out.dtype is None or out.placement is None:
            raise ValueError(f"array {out.name!r}: a step is not one piece of a chunk of its own")
        self._bridge, self._out, self._plan, self._ring = bridge, out, plan, ring
        self._cut = cut
        self._src, self._dst = self._cut.src, ((0, 1, 1), *self._cut.dst)
        self._owners, self._n_space = out.placement.owners, out.n_space
        self._nbytes = self._cut.cells * out.dtype.itemsize
        self._skipped = plan.size * out.dtype.itemsize - self._nbytes

    def put(self, step: int, block: Cells) -> bool:
        """Put a block; False: it has to go the long way."""
        out = self._out
        if (
            type(block) is not np.ndarray
            or block.shape != out.put_shape
            or block.dtype is not out.dtype  # equal ones go the long way
            or (taken := self.take(step, in_place=False)) is None
        ):
            return False
        taken[0].places[0].cells[...] = block[self._src]
        self.send(step, *taken)
        return True

    def take(self, step: int, in_place: bool) -> tuple[Slot, Link] | None:
        """Take a slot, marked busy, for a step that is wanted; None: go the long way."""
        out, transport, ring = self._out, self._bridge._transport, self._ring
        t = (step - out.first) // out.every
        if step == out.last_step:
            return None
        owners = self._owners
        link = transport.links.get(owners[(t * self._n_space + self._cut.space) % len(owners)])
        if (
            link is None
            or link.lane != "shm"
            or link.standing is not _OPEN
            or link.admitted.get(out.ordinal, 0) <= t
            or transport.fault is not None
            or transport.lost is not None
        ):
            return None
        with transport.lock:
            slots = ring.slots
            if len(slots) < ring.length and self._nbytes < ring.refused:  # one more is to be made
                return None
            slot = slots[0]
            places = slot.places
            if (
                slot.state is not _FREE
                or len(places) != 1
                or places[0].src is not self._src
                or (slot.whole is not None) is not in_place
            ):
                return None
            slots.append(slots.pop(0))
            slot.state = _WRITING  # SlotEvent.TAKE
            slot.stored = ()
        return slot, link

    def send(self, step: int, slot: Slot, link: Link) -> None:
        """Send what lies in a slot that was taken, with what is to ride along, as one message."""
        out, transport = self._out, self._bridge._transport
        t = (step - out.first) // out.every
        chunk, ordinal = t * self._n_space + self._cut.space, link.ordinal
        piece = _new(Piece, (chunk, ordinal, self._src, self._dst, self._cut.cells))
        place = slot.places[0]
        frame = place.frame
        stored = _new(Stored, (out.ordinal, t, piece, place))
        message = None
        out.skipped_bytes += self._skipped
        out.nth = 1
        with link.send_lock:
            with transport.lock:
                if (
                    out.shortcut is self
                    and link.standing is _OPEN
                    and not link.to_send
                    and frame is not None
                    and slot.number in link.announced
                ):
                    seq = link.seq = link.seq + 1
                    slot.stored = (stored,)
                    slot.state = _SENT  # SlotEvent.PUBLISH, and USE
                    slot.uses.add((ordinal, seq))
                    generation = slot.lease()
                    link.in_slots[seq] = slot
                    link.leases[slot.number, generation] = seq
                    link.unacked.append(_new(Item, (b"", seq, slot, stored)))
                    out.last_step = step
                    message = frame.pack(seq, chunk, t, 0, generation)
                    riding, home = transport.riding, transport._home
                    if riding and link is home:
                        message = b"".join((*riding, message))
                        riding.clear()
            if message is not None:
                link.say(message)
        if message is None:
            at = self._plan.at
            self._bridge._publish(out, step, t, at, slot, (stored,), (link,), self._nbytes)
            return
        if riding and home is not None:
            transport.send_riding(home)
        out.delivered_blocks += 1
        out.delivered_bytes += self._nbytes
