"""Every test here ends without threads or sockets left over."""

import gc
import threading
import time
from pathlib import Path

import pytest


def _open():
    """Sockets and event descriptors of this process."""
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        try:
            target = str(fd.readlink())
        except OSError:
            continue
        if "socket" in target or "event" in target or "memfd" in target:
            found.add((fd.name, target))
    return found


def _threads():
    return {t.name for t in threading.enumerate() if t.name.startswith("receiver")}


@pytest.fixture(autouse=True)
def nothing_left():
    before = _open()
    yield
    deadline = time.monotonic() + 5
    while (more := _open() - before) or _threads():
        gc.collect()
        assert time.monotonic() < deadline, f"left over: {more}, {_threads()}"
        threading.Event().wait(0.02)
