"""Fixtures of the external tasks' tests: nothing may be left behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import psutil
import pytest
from distributed import Client, LocalCluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Client]:
    """Two workers in processes of their own, for all runs of a module."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address=":0", processes=True
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """No process, thread that blocks the exit, or worker directory outlives a test."""
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    threads = set(threading.enumerate())
    yield
    gc.collect()
    left = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    _, alive = psutil.wait_procs(left, timeout=10)
    alive = [p for p in alive if "resource_tracker" not in _command(p)]
    assert not alive, f"processes left behind: {[_command(p) for p in alive]}"
    lingering = [
        t
        for t in threading.enumerate()
        if t not in threads and not t.daemon and not t.name.startswith("Dask-Offload")
    ]
    for thread in lingering:
        thread.join(10)
    assert not any(t.is_alive() for t in lingering), f"threads left behind: {lingering}"


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
