"""Shared memory of a rank, mapped by a receiver; which of it is still read."""

from __future__ import annotations

import fcntl
import os
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import numpy as np

from ips_components.errors import ProtocolError
from ips_components.receiver.buffers import on_last_view
from ips_components.wire import mapping
from ips_components.wire import messages as m
from ips_components.wire.leases import MAX_SEGMENTS, MAX_SLOTS, Lease

_NEEDED_SEALS = fcntl.F_SEAL_SHRINK if hasattr(fcntl, "F_SEAL_SHRINK") else 2
_F_GET_SEALS = getattr(fcntl, "F_GET_SEALS", 1034)


class _Segment:
    """Mapped memory, and how many slots lie in it."""

    __slots__ = ("memory", "slots")

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.slots = 0


class MappedSlots:
    """The slots that one connection has announced; used by its reader only.

    A segment is mapped with its first slot. It is forgotten with the last one, and unmapped when no
    array in it is left.
    """

    def __init__(self) -> None:
        self._slots: dict[int, tuple[memoryview, m.Slot]] = {}
        self._segments: dict[int, _Segment] = {}

    @property
    def numbers(self) -> frozenset[int]:
        """Numbers of the slots."""
        return frozenset(self._slots)

    def add(self, slot: m.Slot, fd: int | None) -> None:
        """Take a slot, whose segment came with it as a descriptor, which is closed."""
        if fd is None:
            raise ProtocolError(f"slot {slot.slot} was announced without a descriptor")
        try:
            self.drop(slot.slot)
            if len(self._slots) >= MAX_SLOTS:
                raise ProtocolError(f"more than {MAX_SLOTS} slots")
            segment = self._segments.get(slot.segment) or self._map(slot, fd)
        except OSError as error:
            raise ProtocolError(f"slot {slot.slot} cannot be mapped: {error}") from error
        finally:
            os.close(fd)
        end = slot.offset + slot.size
        if not slot.offset < end <= len(segment.memory):
            raise ProtocolError(
                f"slot {slot.slot}: {slot.size} bytes at {slot.offset} are outside segment "
                f"{slot.segment} of {len(segment.memory)} bytes"
            )
        self._segments[slot.segment] = segment
        self._slots[slot.slot] = (segment.memory[slot.offset : end], slot)
        segment.slots += 1

    def _map(self, slot: m.Slot, fd: int) -> _Segment:
        # Unsealed memory could be truncated under us, and reading it would be a bus error.
        seals = fcntl.fcntl(fd, _F_GET_SEALS)
        if not seals & _NEEDED_SEALS:
            raise ProtocolError(
                f"slot {slot.slot}: segment {slot.segment} has seals {seals}, expected it sealed "
                "against shrinking"
            )
        if len(self._segments) >= MAX_SEGMENTS:
            raise ProtocolError(f"more than {MAX_SEGMENTS} segments")
        return _Segment(mapping.shared(fd, os.fstat(fd).st_size, writable=False))

    def drop(self, slot: int) -> None:
        """Forget a slot; arrays in it keep its memory."""
        known = self._slots.pop(slot, None)
        if known is not None:
            number = known[1].segment
            segment = self._segments[number]
            segment.slots -= 1
            if not segment.slots:
                del self._segments[number]

    def clear(self) -> None:
        """Forget all slots."""
        self._slots.clear()
        self._segments.clear()

    def cells(self, piece: m.Piece, dtype: np.dtype[Any]) -> tuple[np.ndarray[Any, Any], m.Slot]:
        """Return a piece's cells as they lie in its slot, and the slot."""
        if piece.slot not in self._slots:
            raise ProtocolError(f"a piece in slot {piece.slot}, which was never announced")
        memory, slot = self._slots[piece.slot]
        low = high = piece.slot_offset
        for count, stride in zip(piece.shape, piece.strides, strict=True):
            if count < 1:
                raise ProtocolError(f"a piece of shape {piece.shape}")
            reach = (count - 1) * stride
            low, high = low + min(reach, 0), high + max(reach, 0)
        if low < 0 or high + dtype.itemsize > len(memory):
            raise ProtocolError(
                f"a piece of shape {piece.shape} at {piece.slot_offset} with strides "
                f"{piece.strides} is outside its slot of {len(memory)} bytes"
            )
        return np.ndarray(piece.shape, dtype, memory, piece.slot_offset, piece.strides), slot


class Acknowledgements:
    """What a connection owes its rank: numbers that were taken, slots that are read no more.

    Parameters
    ----------
    soon
        Called in any thread, at any moment and without a lock, when a slot came back that the
        rank may wait for: `take` should be called.

    Notes
    -----
    `_lock` guards all fields but `_returned`, a deque that the death of an array fills from inside
    the garbage collector, where no lock may be taken.
    """

    def __init__(self, soon: Callable[[], None]) -> None:
        self._soon = soon
        self._lock = threading.Lock()
        self._held: Counter[int] = Counter()  # slots in use as chunks, by ring
        self._returned: deque[tuple[int, Lease]] = deque()  # with its ring
        self._releasable: deque[Lease] = deque()
        self.owed = 0

    def note(self) -> None:
        """Count a numbered message that was taken."""
        with self._lock:
            self.owed += 1

    def may_hold(self, slot: m.Slot) -> bool:
        """Return whether the rank can do without one more slot of a ring.

        Some must stay free: a chunk that the analysis keeps must not starve the rank.
        """
        with self._lock:
            self._collect()
            return self._held[slot.ring] + slot.spare < slot.length

    def hold(self, ring: int, lease: Lease, cells: np.ndarray[Any, Any]) -> None:
        """Keep a slot until its cells are read no more."""
        with self._lock:
            self._held[ring] += 1
        returned, soon = self._returned, self._soon

        def gone() -> None:  # in any thread, at any moment: no lock
            returned.append((ring, lease))
            soon()

        on_last_view(cells, gone)

    def release(self, lease: Lease) -> None:
        """Give a slot back with the next answer: its cells were copied."""
        with self._lock:
            self._releasable.append(lease)

    def take(self, last_seq: int) -> list[m.Message]:
        """Return the answer that is due, if one is."""
        with self._lock:
            self._collect()
            if not self.owed:
                return []
            self.owed = 0
            done = tuple(self._releasable)
            self._releasable.clear()
        return [m.Release(done, last_seq) if done else m.Ack(last_seq)]

    def _collect(self) -> None:
        """Account for slots that are no chunks any more (the lock is held)."""
        while self._returned:
            ring, lease = self._returned.popleft()
            self._held[ring] -= 1
            self._releasable.append(lease)
            self.owed += 1
