"""Mapped memory that keeps no descriptor open.

Python's own ``mmap`` holds a duplicate of the descriptor for as long as the mapping lives (until
3.13 makes that optional), and a receiver that serves many ranks would run out of them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_ssize_t,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_FAILED = ctypes.c_void_p(-1).value

HUGE = 2 << 20
"""From this size on, memory is asked for in huge pages."""


def shared(fd: int, size: int, writable: bool) -> memoryview:
    """Map a file's memory; the mapping ends with the last view of it.

    The descriptor may be closed at once.
    """
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    view = _map(size, protection, mmap.MAP_SHARED, fd)
    return view if writable else view.toreadonly()


def private(size: int) -> memoryview:
    """Map fresh anonymous memory."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return _map(size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1)


def _map(size: int, protection: int, flags: int, fd: int) -> memoryview:
    address = _libc.mmap(None, size, protection, flags, fd, 0)
    if address is None or address == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, f"mapping {size} bytes of memory: {os.strerror(error)}")
    if size >= HUGE:
        _libc.madvise(address, size, mmap.MADV_HUGEPAGE)  # a kernel without them says so: fine
    cells = (ctypes.c_ubyte * size).from_address(address)
    weakref.finalize(cells, _libc.munmap, address, size).atexit = False
    return memoryview(cells).cast("B")
