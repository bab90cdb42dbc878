"""Calls to the coordinator when its scheduler is gone."""

import json
import subprocess
import sys
import threading

import pytest
from distributed import Client

from ips_components.analysis.coordinator_client import call
from ips_components.errors import AnalyticsLost


@pytest.fixture
def scheduler(tmp_path):
    """A scheduler in a process of its own, and the address at which it listens."""
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0"]
    command += ["--no-dashboard", "--host", "127.0.0.1", "--scheduler-file", str(file)]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    pause = threading.Event()
    try:
        for _ in range(600):
            if file.exists() and (text := file.read_text()):
                break
            pause.wait(0.1)
        yield process, json.loads(text)["address"]
    finally:
        process.kill()
        process.wait(10)
        log.close()


def test_a_scheduler_that_was_killed_is_not_waited_for(scheduler):
    process, address = scheduler
    client = Client(address, timeout=60, set_as_default=False)
    try:
        process.kill()
        process.wait(10)
        with pytest.raises(AnalyticsLost, match="connection to the Dask scheduler was lost"):
            while True:  # the call that was under way ends by itself
                try:
                    call(client, "progress", "run", within=100)
                except AnalyticsLost:
                    raise
                except OSError:
                    continue
    finally:
        client.close(timeout=2)
