"""Every test here ends without threads, descriptors, shared memory or sockets left over."""

import gc
import threading
import time
from pathlib import Path

import pytest
from open_here import descriptors, threads


def _shared() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith("ips")}


@pytest.fixture(autouse=True)
def nothing_left():
    before, shared = descriptors(), _shared()
    yield
    deadline = time.monotonic() + 5
    while True:
        gc.collect()
        more, running = descriptors() - before, threads("receiver", "bridge")
        if not more and not running:
            break
        assert time.monotonic() < deadline, f"left over: {more}, {running}"
        threading.Event().wait(0.02)
    assert _shared() == shared
