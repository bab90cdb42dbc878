"""Every test here ends without threads, descriptors, shared memory or sockets left over."""

import gc
import threading
import time
from pathlib import Path

import pytest


def _descriptors() -> dict[str, str]:
    found = {}
    for fd in Path("/proc/self/fd").iterdir():
        try:
            found[fd.name] = str(fd.readlink())
        except OSError:
            continue
    return found


def _threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith(("receiver", "bridge"))}


def _shared() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir() if "ips" in path.name}


@pytest.fixture(autouse=True)
def nothing_left():
    before, shared = _descriptors(), _shared()
    yield
    deadline = time.monotonic() + 5
    while True:
        gc.collect()
        after = _descriptors()
        more = {fd: what for fd, what in after.items() if before.get(fd) != what}
        more = {fd: w for fd, w in more.items() if "socket" in w or "memfd" in w or "event" in w}
        if not more and not _threads():
            break
        assert time.monotonic() < deadline, f"left over: {more}, {_threads()}"
        threading.Event().wait(0.02)
    assert _shared() == shared
