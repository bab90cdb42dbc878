"""Deaths of the framework's own processes, which no component calls."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest


def _process(ips, part):
    """The child of ``ips.py`` that works in a directory with *part* in its name."""
    deadline = time.monotonic() + 30
    while True:
        for child in psutil.Process(ips.pid).children():
            try:
                if part in child.cwd() and "guard" not in " ".join(child.cmdline()):
                    return child
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        assert time.monotonic() < deadline, f"no process of {part}"
        time.sleep(0.02)


@pytest.mark.parametrize("part", ["runspaceInitComponent", "PortalBridge", "Part_1", "Part_2"])
@pytest.mark.parametrize("idle", [True, False], ids=["idle", "starting"])
def test_the_death_of_any_component_process_is_noticed(workflow, part, idle):
    flow = workflow(
        driver="call_worker",
        worker="task",
        WORKER={"COMMAND": "/bin/sleep 3"},
        top={"USE_PORTAL": True},
    )
    process = flow.start()
    if idle:
        flow.wait_for("at work now")
    victim = _process(process, part)
    os.kill(victim.pid, signal.SIGKILL)
    ended = flow.wait(process, 60)
    assert ended.status == 1, ended.output
    assert "the run failed" in ended.last_lines
    assert "was ended by SIGKILL" in ended.last_lines


def test_the_death_of_the_process_that_writes_the_logs_is_noticed(workflow):
    flow = workflow(driver="call_worker", worker="task", WORKER={"COMMAND": "/bin/sleep 3"})
    process = flow.start()
    flow.wait_for("at work now")
    (logger,) = (
        child
        for child in psutil.Process(process.pid).children()
        if not Path(child.cwd()).is_relative_to(flow.root / "work")
        and "ips.py" in " ".join(child.cmdline())
    )
    logger.kill()
    ended = flow.wait(process, 60)
    assert ended.status == 1, ended.output
    assert "the process that writes the logs (pid" in ended.last_lines
