"""Recycled memory for chunks: a warm buffer costs a tenth of a fresh one.

A `Lease` hands out the memory as an array. When the last view of that array dies (in any thread,
at any moment, also inside the garbage collector), the memory comes back by itself. The callback
therefore takes no lock: it only puts the buffer into a `SimpleQueue`, which may be re-entered.
"""

from __future__ import annotations

import mmap
import weakref
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

import numpy as np

from ips_components.wire import mapping

_PAGE = mmap.PAGESIZE


def rounded(nbytes: int) -> int:
    """Return the size of the buffer that serves a request: whole pages, if large huge ones.

    Examples
    --------
    >>> rounded(1), rounded(5000), rounded((2 << 20) + 1) >> 20
    (4096, 8192, 4)
    """
    unit = mapping.HUGE if nbytes >= mapping.HUGE else _PAGE
    return max(1, -(-nbytes // unit)) * unit


def on_last_view(root: np.ndarray[Any, Any], callback: Callable[[], None]) -> None:
    """Call back when an array and all views of it are gone.

    Every view keeps the array from which it was made alive as its base, so that one weak
    reference to the root is enough. Arrays cannot be hashed: the reference is kept by identity.
    """
    reference: weakref.ref[Any]

    def gone(reference: weakref.ref[Any]) -> None:
        _watched.pop(id(reference), None)
        callback()

    reference = weakref.ref(root, gone)
    _watched[id(reference)] = reference


_watched: dict[int, weakref.ref[Any]] = {}


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """What a pool holds, in bytes and buffers."""

    leased: int
    idle: int
    made: int
    reused: int


class BufferPool:
    """Anonymous memory in sizes that repeat, given back by the death of the last view.

    Parameters
    ----------
    keep
        A buffer that comes back waits for its next use while idle and leased bytes together are
        not more than this; else it is returned to the system.

    Examples
    --------
    >>> pool = BufferPool()
    >>> cells = pool.array((2, 3), np.dtype("f8"))
    >>> pool.statistics().leased
    4096
    >>> del cells
    >>> pool.statistics()
    PoolStatistics(leased=0, idle=4096, made=1, reused=0)
    """

    def __init__(self, keep: int = 1 << 30) -> None:
        self.keep = keep
        self._free: defaultdict[int, list[memoryview]] = defaultdict(list)
        self._returned: SimpleQueue[memoryview] = SimpleQueue()
        self._lock = Lock()
        self._leased = self._idle = self._made = self._reused = 0
        self._closed = False

    def array(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], *, zeroed: bool = False
    ) -> np.ndarray[Any, Any]:
        """Return a writable array; its memory returns with its last view.

        Its cells are zero if ``zeroed``, else unspecified.
        """
        nbytes = dtype.itemsize
        for n in shape:
            nbytes *= n
        memory, fresh = self._take(rounded(nbytes))
        if zeroed and not fresh:  # the kernel has cleared fresh memory
            np.frombuffer(memory, np.uint8, nbytes)[:] = 0
        root: np.ndarray[Any, Any] = np.ndarray(shape, dtype, buffer=memory)
        returned = self._returned
        on_last_view(root, lambda: returned.put(memory))
        return root

    def statistics(self) -> PoolStatistics:
        """Return the present state."""
        with self._lock:
            self._collect()
            return PoolStatistics(self._leased, self._idle, self._made, self._reused)

    def close(self) -> None:
        """Return idle memory to the system; leased memory goes when its views go."""
        with self._lock:
            self._closed = True
            self._collect()
            self._free.clear()
            self._idle = 0

    def _take(self, size: int) -> tuple[memoryview, bool]:
        """Return a buffer and whether it is fresh."""
        with self._lock:
            self._collect()
            self._leased += size
            free = self._free[size]
            if free:
                self._idle -= size
                self._reused += 1
                return free.pop(), False  # the last one used is the warmest
            self._made += 1
        return mapping.private(size), True

    def _collect(self) -> None:
        while True:
            try:
                memory = self._returned.get_nowait()
            except Empty:
                return
            size = len(memory)
            self._leased -= size
            if not self._closed and self._idle + self._leased + size <= self.keep:
                self._free[size].append(memory)
                self._idle += size
