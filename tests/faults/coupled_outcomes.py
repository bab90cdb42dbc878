"""What the tests of deaths in coupled runs ask of a run, and how they find what to kill."""

import json
import time
from contextlib import suppress

import numpy as np
import psutil
import xarray as xr
from killing import is_worker

WORKER = "worker"


def record_of(flow):
    """The record of the only run."""
    (path,) = flow.root.glob("run_*/run.json")
    return json.loads(path.read_text())


def work_of(flow):
    """The working directory of the simulation."""
    (directory,) = flow.root.glob("work/*Simulation*")
    return directory


def failed(flow, *causes, timeout=110.0):
    """Run, and check that the run failed for one of these causes, and says so everywhere."""
    ended = flow.run(timeout) if flow._process is None else flow.wait(flow._process, timeout)
    assert ended.status == 1, ended.output
    assert any(cause in ended.last_lines for cause in causes), ended.output + ended.log
    record = record_of(flow)
    assert record["status"] == "failed"
    assert any(cause in record["cause"] for cause in causes), record["cause"]
    assert not list(flow.root.glob("run_*/contact.json")), "a secret is left behind"
    assert not list(flow.root.glob("run_*/.*.notice"))
    return ended, record


def right(flow, steps, timeout=110.0):
    """Wait for the end, and check that the run went well and its numbers are right."""
    ended = flow.wait(flow._process, timeout)
    assert ended.status == 0, ended.output + ended.log
    record = record_of(flow)
    assert record["status"] == "ok"
    assert record["ledger"]["closed"]
    with xr.open_zarr(record["results"]["path"], consolidated=False) as results:
        expected = np.arange(64).sum() + 64 * 100.0 * np.arange(steps)
        np.testing.assert_array_equal(results["sums"], expected)
    return record


def find(process, word):
    """The processes of a run whose command has a word in it."""
    found = find_if_any(process, word)
    assert found, f"no process to kill: {word}"
    return found


def find_if_any(process, word):
    """The same, `WORKER` for Dask's; there may be none, and some may be ending meanwhile."""
    found = []
    for each in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            command = " ".join(each.cmdline())
            wrapped = "guard.py" in command or "mpiexec" in command
            if is_worker(each) if word == WORKER else word in command and not wrapped:
                found.append(each)
    return found


def is_stopped(process):
    """Whether a process has got SIGSTOP."""
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_STOPPED
    return False


def until(flow, condition):
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline and flow._process.poll() is None, flow.output()
        time.sleep(0.05)
    return value


def at_step(flow, step):
    """Wait until rank 0 has put a step."""
    deadline = time.monotonic() + 60
    while True:
        found = list(flow.root.glob("work/*Simulation*/last_step"))
        if found and found[0].read_text() and int(found[0].read_text()) >= step:
            return
        assert time.monotonic() < deadline and flow._process.poll() is None, flow.output()
        time.sleep(0.05)
