"""Shared memory of an array: few descriptors, however many slots.

Receivers on the same machine map what a rank writes. A descriptor for each slot would be five for
each block of a rank, and a program with many blocks would run out of them. The slots of an array
are parts of *segments* instead: one that has room for the slots of the first block, and when it is
full another one, each as large as all before it together. Memory that no slot has used yet takes
no space.

A slot that was leased to a connection which has ended may still be read by the receiver. Its part
is never used again, and the segment is given up: it ends when all its slots have been replaced by
slots elsewhere.
"""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
import resource

from ips_components.wire import mapping
from ips_components.wire.leases import MAX_SEGMENTS

F_ADD_SEALS = getattr(fcntl, "F_ADD_SEALS", 1033)
_SEAL, _SHRINK, _GROW, _FUTURE_WRITE = 0x1, 0x2, 0x4, 0x10
_PAGE = mmap.PAGESIZE
_FIRST = 16  # slots for which the first segment has room at most
_numbers = itertools.count()


class Segment:
    """One piece of shared memory.

    Parameters
    ----------
    fd
        Of a new memory file; the segment closes it.
    size
        Bytes: whole pages.

    Attributes
    ----------
    given_up
        Whether a receiver may read parts of it for ever, so that it should end soon.
    """

    __slots__ = ("_free", "fd", "given_up", "memory", "number", "slots")

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.number = next(_numbers)
        self.memory = mapping.shared(fd, size, writable=True)
        # After this mapping no process can make another writable one, or change the size.
        seals = _SEAL | _SHRINK | _GROW
        try:
            fcntl.fcntl(fd, F_ADD_SEALS, seals | _FUTURE_WRITE)
        except OSError:  # kernels before 5.1
            fcntl.fcntl(fd, F_ADD_SEALS, seals)
        self.slots = 0
        self.given_up = False
        self._free = [(0, size)]  # parts by offset, never two that touch

    def take(self, size: int) -> int | None:
        """Return the offset of a part that is used from now on; None: there is no room."""
        for i, (offset, room) in enumerate(self._free):
            if room >= size:
                self._free[i : i + 1] = [(offset + size, room - size)] if room > size else []
                self.slots += 1
                return offset
        return None

    def give_back(self, offset: int, size: int, reuse: bool) -> None:
        """End the use of a part, which has no readers if it may be used again."""
        self.slots -= 1
        if not reuse:
            self.given_up = True
            return
        parts = sorted([*self._free, (offset, size)])
        self._free = parts[:1]
        for start, room in parts[1:]:
            last, length = self._free[-1]
            if last + length == start:
                self._free[-1] = (last, length + room)
            else:
                self._free.append((start, room))

    def close(self) -> None:
        """Give the descriptor up; the memory goes with its last view."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            _in_use.count -= 1


class Segments:
    """The segments of one array.

    Examples
    --------
    >>> segments = Segments()
    >>> first, offset = segments.take(4096, 5)
    >>> second, further = segments.take(4096, 5)
    >>> first is second, offset, further, len(first.memory)
    (True, 0, 4096, 20480)
    >>> segments.give_back(first, offset, 4096)
    >>> segments.give_back(second, further, 4096)
    >>> first.fd
    -1
    """

    __slots__ = ("_segments",)

    def __init__(self) -> None:
        self._segments: list[Segment] = []

    def take(self, size: int, slots: int) -> tuple[Segment, int] | None:
        """Return a segment and the offset in it where so many bytes are free.

        Parameters
        ----------
        size
            Whole pages, in bytes.
        slots
            Number of slots of this size that are to be expected.

        Returns
        -------
        tuple of Segment and int, or None
            None where there is no shared memory.
        """
        for segment in self._segments:
            if not segment.given_up:
                offset = segment.take(size)
                if offset is not None:
                    return segment, offset
        in_use = sum(len(segment.memory) for segment in self._segments if not segment.given_up)
        # Half of the address space could be missing: less is enough.
        for room in (max(min(slots, _FIRST) * size, in_use), size):
            new = _new_segment(room)
            if new is not None:
                self._segments.append(new)
                return new, new.take(size) or 0
        return None

    def give_back(self, segment: Segment, offset: int, size: int, reuse: bool = True) -> None:
        """End the use of a part; ``reuse`` if it has no readers."""
        segment.give_back(offset, size, reuse)
        if not segment.slots:
            self._segments.remove(segment)
            segment.close()


class _Descriptors:
    """Of segments, in this process."""

    count = 0
    warned = False


_in_use = _Descriptors()


def _new_segment(size: int) -> Segment | None:
    """Return new memory that others may map; None when there cannot be any."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _in_use.count >= MAX_SEGMENTS:
        _warn_once(f"there are more than {MAX_SEGMENTS} segments of it")
        return None
    if limit != resource.RLIM_INFINITY and _in_use.count >= limit // 2:
        _warn_once(f"it takes half of the {limit} descriptors (ulimit -n)")
        return None
    try:
        fd = os.memfd_create("ips-components-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        _warn_once(f"there is none ({error})")
        return None
    try:
        os.ftruncate(fd, size)
        segment = Segment(fd, size)
    except OSError as error:
        os.close(fd)
        _warn_once(f"there are no {size} bytes of it ({error})")
        return None
    _in_use.count += 1
    return segment


def _warn_once(why: str) -> None:
    if not _in_use.warned:
        _in_use.warned = True
        import logging  # 4 ms that no rank has to pay at import

        logging.getLogger(__name__).warning(
            "Blocks are sent instead of being read in shared memory, which takes longer: %s", why
        )
