"""Memory between `put` and the receiver: rings of slots, one ring per block that a rank puts.

A slot holds the wanted cells of one put until all receivers have taken them, and longer: until it
is overwritten it is the replay buffer for chunks that are asked for again. To replay k steps a ring
has k + 3 slots: one is written, k are replayed, and two may be lent to a receiver that uses them in
place as chunks for as long as the analysis likes. All slots of a rank are bounded in bytes, and so
are those that are kept only for replay: a ring has fewer slots when more would pass a bound, with
the first block that is put, but always one.

Slots that receivers may map are parts of the array's `Segments`. Where there is no shared memory,
and beyond `MAX_SLOTS` of a rank, slots are private, and their cells are sent.
"""

from __future__ import annotations

import itertools
import math
import mmap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ips_components.bridge.segments import Segment, Segments
from ips_components.errors import BridgeError
from ips_components.model.pieces import Piece
from ips_components.wire import mapping
from ips_components.wire.framing import SlotFrame
from ips_components.wire.leases import MAX_SLOTS, SlotEvent, SlotLife, SlotState, Use

CACHE_LINE = 64
_PAGE = mmap.PAGESIZE
_HELD = 2  # slots of a ring that receivers may keep as chunks
_NEEDED = 1 + _HELD  # slots of a ring without any replay
_SMALL = 64  # rings that would take less than this part have all their slots
_numbers, _ring_numbers = itertools.count(), itertools.count()


class Place:
    """Where a piece lies: the same at every step that cuts the block in the same way.

    Parameters
    ----------
    src
        What is cut out of the block.
    cells
        The piece itself.
    offset
        Of its first byte in the slot.
    frame
        Message for a receiver that maps the slot; None: the cells have to be sent.
    """

    __slots__ = ("cells", "frame", "offset", "src")

    def __init__(
        self,
        src: tuple[slice, ...],
        cells: np.ndarray[Any, Any],
        offset: int = 0,
        frame: SlotFrame | None = None,
    ) -> None:
        self.src, self.cells, self.offset, self.frame = src, cells, offset, frame


class Stored(NamedTuple):
    """A piece of a step in its place."""

    array: int
    t: int
    piece: Piece
    place: Place


class Slot(SlotLife):
    """Some memory; part of a segment when receivers on this machine may map it.

    Its `SlotLife` states which side may read or write it. ``places`` are those of the last step's
    pieces, one after the other, or parts of the ``whole`` block when it was computed in place.
    """

    __slots__ = (
        "memory",
        "number",
        "offset",
        "places",
        "ring",
        "segment",
        "size",
        "stored",
        "whole",
    )

    def __init__(self, nbytes: int, ring: Ring) -> None:
        super().__init__()
        self.ring = ring
        self.size = size = slot_size(nbytes)
        self.number = next(_numbers)
        self.segment: Segment | None = None
        self.offset = 0  # in the segment
        part = None
        if ring.segments is not None and _shared.count < MAX_SLOTS:
            part = ring.segments.take(size, ring.length)
        if part is not None:
            self.segment, self.offset = part
            self.memory = self.segment.memory[self.offset : self.offset + size]
            _shared.count += 1
        else:
            self.memory = mapping.private(size)
        # Touch every page now: the first step must not pay for it.
        np.frombuffer(self.memory, np.uint8)[::_PAGE] = 0
        self.stored: Sequence[Stored] = ()
        self.places: list[Place] = []
        self.whole: np.ndarray[Any, Any] | None = None

    @property
    def usable(self) -> bool:
        """Whether the slot can be written again when it is free."""
        segment = self.segment
        return self.state is SlotState.FREE and (segment is None or not segment.given_up)

    def block(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """Return the slot's memory as a block that is computed in place."""
        whole = self.whole
        if whole is None or whole.shape != shape:
            self.places.clear()
            whole = self.whole = np.ndarray(shape, dtype, self.memory)
        return whole

    def part(self, i: int, array: int, piece: Piece) -> Place:
        """Return the place of the i-th piece inside the whole block."""
        places, whole = self.places, self.whole
        if i < len(places) and places[i].src is piece.src:
            return places[i]
        if whole is None:
            raise BridgeError("a part of a block that is not computed in place")
        starts = [cut.start * stride for cut, stride in zip(piece.src, whole.strides, strict=True)]
        return self._lay(i, array, piece, view(whole, piece.src), sum(starts))

    def place(
        self, i: int, array: int, piece: Piece, source: np.ndarray[Any, Any], at: int
    ) -> Place:
        """Return the place of the i-th piece, which is copied to ``at``."""
        if self.whole is not None:
            self.whole = None
            self.places.clear()
        if i < len(self.places):
            place = self.places[i]
            if (
                place.src is piece.src
                and place.offset == at
                and place.cells.shape == source.shape  # rows vary
            ):
                return place
        cells = np.ndarray(source.shape, source.dtype, self.memory, at)
        return self._lay(i, array, piece, cells, at)

    def _lay(self, i: int, array: int, piece: Piece, cells: np.ndarray[Any, Any], at: int) -> Place:
        frame = None
        if self.segment is not None and cells.nbytes:
            frame = SlotFrame(array, piece.dst, self.number, at, (0, *cells.strides))
        place = Place(piece.src, cells, at, frame)
        self.places[i:] = [place]
        return place

    def close(self) -> None:
        """Give the memory up; it goes with its last array."""
        segment, segments = self.segment, self.ring.segments
        if segment is not None and segments is not None:
            self.segment = None
            _shared.count -= 1
            segments.give_back(segment, self.offset, self.size, self.state is SlotState.FREE)


class _Shared:
    """Slots of this process that receivers may map."""

    count = 0


_shared = _Shared()


class BorrowedMemory:
    """The caller's own memory, sent while the caller waits: no copy, and nothing to replay."""

    __slots__ = ("abandoned", "number", "size", "uses")

    def __init__(self, nbytes: int) -> None:
        self.size = nbytes
        self.number = next(_numbers)
        self.uses: set[Use] = set()
        self.abandoned = False

    def use(self, use: Use) -> None:
        """Add a piece that is to be sent."""
        self.uses.add(use)

    def done(self, use: Use) -> None:
        """End a use."""
        self.uses.discard(use)


class SlotMemory:
    """What all rings of a rank may take.

    Parameters
    ----------
    limit
        Bytes of all slots. A ring has one slot at least, whatever its size.
    replay_limit
        Bytes of those that are kept only for replay; the three largest slots of each ring do not
        count.

    Examples
    --------
    Two arrays of which a step takes a page, one of which has been put:

    >>> memory = SlotMemory(limit=8 * 4096, replay_limit=1 << 30)
    >>> memory.expect("t", 4096, replay=2)
    >>> memory.expect("u", 4096, replay=2)
    >>> ring = Ring(2, None, memory, "t")
    >>> memory.settle(ring, 4096)
    >>> ring.length, ring.held, memory.settled
    (4, 2, 16384)
    """

    __slots__ = (
        "_expected",
        "_passed",
        "_ragged",
        "limit",
        "replay_limit",
        "settled",
        "taken",
        "wished",
    )

    def __init__(self, limit: int, replay_limit: int) -> None:
        self.limit, self.replay_limit = limit, replay_limit
        self.taken = 0  # for replay, by all rings
        self.settled = self.wished = 0  # by all rings: with the slots they have at most, or would
        # Of rings to come, by array; None: of a ragged one, whatever has come.
        self._expected: dict[str, int | None] = {}
        self._ragged = 0  # of what is settled, by ragged arrays
        self._passed = False

    def expect(self, array: str, nbytes: int | None, replay: int) -> None:
        """Note that an array will be put, about so many bytes in a step; None: it is ragged."""
        self._expected[array] = None if nbytes is None else nbytes * (replay + _NEEDED)

    def settle(self, ring: Ring, size: int) -> None:
        """Decide how many slots of a size a ring has at most, and how many receivers may keep.

        What is there for this ring and for those to come is shared out by what each would take
        without a limit. Of ragged arrays that is not known: they have equal shares. A ring is
        settled with its first block, and again when blocks grow.
        """
        wish = ring.full * size
        more = self._expected.pop(ring.array, 0)
        is_ragged = more is None
        if more is not None and not ring.size:
            more = max(0, more - wish)
        if more is not None and 2 * more > wish:  # the array has further blocks in a step
            self._expected[ring.array] = more
        self._count(ring, -1, is_ragged)
        free = max(0, self.limit - self.settled)
        pool = free + self._ragged
        others = sum(wish if one is None else one for one in self._expected.values())
        share = pool
        if wish + others > pool and wish * _SMALL > pool:
            share = int(pool * (wish / (wish + others)))
        if is_ragged:
            self._expected[ring.array] = None
        ring.size, ring.length = size, min(ring.full, max(1, min(share, free) // size))
        # One slot is written, and one can be sent again: no receiver keeps them.
        ring.held = max(0, min(_HELD, ring.length - 1 - bool(ring.replay)))
        self._count(ring, 1, is_ragged)
        if self.settled > self.limit and not self._passed:
            self._passed = True
            import logging  # 4 ms that no rank has to pay at import

            logging.getLogger(__name__).warning(
                "Array %r: a block of %d bytes does not fit into what SLOT_BYTES = %d leaves; it "
                "is sent all the same, and the blocks of this rank take %d bytes. None would have "
                "to wait for another with SLOT_BYTES = %d",
                ring.array,
                size,
                self.limit,
                self.settled,
                self.wished + others,
            )

    def _count(self, ring: Ring, sign: int, is_ragged: bool) -> None:
        self.settled += sign * ring.length * ring.size
        self.wished += sign * ring.full * ring.size
        if is_ragged:
            self._ragged += sign * ring.length * ring.size

    def allows_replay(self, ring: Ring, nbytes: int) -> bool:
        """Return whether a ring may have one more slot for replay."""
        sizes = [*(slot.size for slot in ring.slots), slot_size(nbytes)]
        return self.taken - ring.for_replay + _for_replay(sizes) <= self.replay_limit

    def update(self, ring: Ring) -> None:
        """Count the slots of a ring anew."""
        before, ring.for_replay = ring.for_replay, _for_replay([slot.size for slot in ring.slots])
        self.taken += ring.for_replay - before


class Ring:
    """The slots of one block.

    Parameters
    ----------
    replay
        Number of steps that can be sent again.
    segments
        Shared memory of the array, where receivers may map the slots.
    memory
        What this ring and the others may take.
    array
        Name of the array.

    Attributes
    ----------
    length, size, held : int
        Number of slots at most, their size, and how many of them receivers may keep as chunks: as
        `SlotMemory.settle` has decided with the first block.
    """

    __slots__ = (
        "array",
        "for_replay",
        "full",
        "held",
        "keeper",
        "length",
        "memory",
        "number",
        "refused",
        "replay",
        "retired",
        "segments",
        "size",
        "slots",
    )

    def __init__(
        self, replay: int, segments: Segments | None, memory: SlotMemory, array: str = ""
    ) -> None:
        self.replay, self.segments, self.memory, self.array = replay, segments, memory, array
        self.number = next(_ring_numbers)
        self.slots: list[Slot] = []  # the one used longest ago comes first
        self.retired: list[int] = []  # numbers of slots that receivers may unmap
        self.refused = math.inf  # bytes that were too many for another slot
        self.full = replay + _NEEDED  # slots without a limit in bytes
        self.length, self.size, self.held = 0, 0, 0
        self.keeper: int | None = None  # the receiver that may keep slots as chunks
        self.for_replay = 0  # bytes, as `SlotMemory` counts them

    def spare_for(self, receiver: int) -> int:
        """Return the number of slots that a receiver must leave free.

        The bound on what receivers may keep is that of the ring, whichever of them keep it: the
        first one may keep some slots, the others copy what they want to keep.
        """
        if self.keeper is None:
            self.keeper = receiver
        return self.length - self.held if self.keeper == receiver else self.length

    def next(self, nbytes: int) -> Slot | None:
        """Return the slot that is written next, marked so; None: none is free.

        It is the free slot that was used longest ago, or a new one.
        """
        slots = self.slots
        if nbytes > self.size or not self.size:
            self.memory.settle(self, slot_size(nbytes))
        while not self._may_grow(nbytes):
            for slot in slots:
                if slot.discardable:
                    break
            else:
                return None
            slots.remove(slot)
            if slot.usable and slot.size >= nbytes:
                slots.append(slot)
                slot.move(SlotEvent.TAKE)
                slot.stored = ()
                return slot
            slot.close()
            self.retired.append(slot.number)
            self.refused = math.inf
            self.memory.update(self)
        slot = Slot(nbytes, self)
        slots.append(slot)
        self.memory.update(self)
        slot.move(SlotEvent.TAKE)
        return slot

    def _may_grow(self, nbytes: int) -> bool:
        if len(self.slots) >= self.full:
            return False
        # Slots that became too small do not count: receivers may keep them for long.
        if sum(slot.size >= self.size for slot in self.slots) >= self.length:
            return False
        if len(self.slots) < _NEEDED:
            return True
        if nbytes >= self.refused:
            return False
        if not self.memory.allows_replay(self, nbytes):
            self.refused = nbytes
            return False
        return True

    def unused(self, slot: Slot) -> None:
        """Take back a slot that was not written: it is the next one again."""
        slot.move(SlotEvent.CANCEL)
        self.slots.remove(slot)
        self.slots.insert(0, slot)

    def find(self, array: int, chunk: int) -> list[tuple[Slot, Stored]]:
        """Return what is still there of a chunk."""
        return [
            (slot, stored)
            for slot in self.slots
            if slot.state is not SlotState.WRITING
            for stored in slot.stored
            if stored.array == array and stored.piece.chunk == chunk
        ]


def view(cells: np.ndarray[Any, Any], src: tuple[slice, ...]) -> np.ndarray[Any, Any]:
    """Return a part of an array; without dimensions too, where NumPy would give a scalar."""
    index: Any = (*src, ...)
    part: np.ndarray[Any, Any] = cells[index]
    return part


def _for_replay(sizes: list[int]) -> int:
    """Return the bytes of all slots but the three largest."""
    return sum(sorted(sizes)[:-_NEEDED])


def slot_size(nbytes: int) -> int:
    """Return the bytes that a slot for so many has: whole pages, huge ones when it is large."""
    unit = mapping.HUGE if nbytes >= mapping.HUGE else _PAGE
    return max(1, -(-nbytes // unit)) * unit
