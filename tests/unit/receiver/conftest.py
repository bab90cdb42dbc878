"""Every test here ends without threads or sockets left over."""

import gc
import threading
import time

import pytest
from open_here import descriptors, threads


@pytest.fixture(autouse=True)
def nothing_left():
    before = descriptors()
    yield
    deadline = time.monotonic() + 5
    while (more := descriptors() - before) or threads("receiver"):
        gc.collect()
        assert time.monotonic() < deadline, f"left over: {more}, {threads('receiver')}"
        threading.Event().wait(0.02)
