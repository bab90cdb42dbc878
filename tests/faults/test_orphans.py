"""Whatever dies, and however: nothing is left after ten seconds, and no process waits for ever.

The fixture ``leaves_nothing`` does the looking; what is here is the killing.
"""

import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest
from workflows import BIN

pytestmark = pytest.mark.deaths

RANKS = f"{BIN}/python {Path(__file__).with_name('ranks.py')}"
RUNAWAY = f"{Path(__file__).with_name('runaway.sh')}"
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]

WORK = {
    "mpi": ("mpi_task", {"WORKER": {"COMMAND": RANKS}, "platform": {"MPIRUN": "mpiexec"}}),
    "pool": ("pool_busy", {}),
    "runaway": ("task", {"WORKER": {"COMMAND": f"/bin/sh {RUNAWAY}"}}),
}


def busy(*quick):
    """Every kind of work; those that are not named here are left to the campaign."""
    return pytest.mark.parametrize(
        ("work", "extra"),
        [
            pytest.param(*value, id=name, marks=() if name in quick else pytest.mark.campaign)
            for name, value in WORK.items()
        ],
    )


def _process(flow, role, phase="STEP"):
    return int(re.search(rf"{role} {phase} \w+ (\d+)", flow.output())[1])


@busy("pool", "runaway")
@pytest.mark.parametrize("signum", SIGNALS, ids=lambda s: s.name)
def test_ips_alone_is_ended_while_busy(workflow, signum, work, extra):
    flow = workflow(worker=work, **extra)
    process = flow.start()
    flow.wait_for("at work now")
    process.send_signal(signum)
    ended = flow.wait(process, 15.0)
    assert ended.status == (-9 if signum == signal.SIGKILL else 128 + signum)
    if signum != signal.SIGKILL:
        assert f"ended by {signum.name}" in ended.last_lines


@pytest.mark.parametrize("signum", SIGNALS, ids=lambda s: s.name)
def test_the_whole_group_is_ended_while_busy(workflow, signum):
    flow = workflow(worker="pool_busy")
    process = flow.start()
    flow.wait_for("at work now")
    os.killpg(process.pid, signum)
    ended = flow.wait(process, 15.0)
    assert ended.status != 0


@busy("mpi")
def test_driver_raises_while_another_component_is_busy(workflow, work, extra):
    ended = workflow(driver="raise_while_busy", worker=work, **extra).run()
    assert ended.status == 1
    assert "the driver gave up" in ended.last_lines


@busy("pool", "mpi")
def test_component_is_killed_while_busy(workflow, work, extra):
    flow = workflow(worker=work, **extra)
    process = flow.start()
    flow.wait_for("at work now")
    os.kill(_process(flow, "worker"), signal.SIGKILL)
    ended = flow.wait(process, 20.0)
    assert ended.status == 1
    assert "was ended by SIGKILL during step()" in ended.last_lines


def test_driver_is_killed_while_busy(workflow):
    flow = workflow(worker="pool_busy")
    process = flow.start()
    flow.wait_for("at work now")
    os.kill(_process(flow, "driver"), signal.SIGKILL)
    ended = flow.wait(process, 20.0)
    assert ended.status == 1


def test_stopped_component_cannot_hold_up_the_end(workflow):
    flow = workflow(worker="pool_busy")
    process = flow.start()
    flow.wait_for("at work now")
    os.kill(_process(flow, "worker"), signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    assert flow.wait(process, 20.0).status == 128 + signal.SIGTERM


def test_pool_that_is_never_gathered(workflow):
    ended = workflow(worker="pool_never_gathered").run()
    assert ended.status == 0, ended.output


def _descendants(process, word):
    found = [
        each
        for each in psutil.Process(process.pid).children(recursive=True)
        if word in " ".join(each.cmdline()) and "guard.py" not in " ".join(each.cmdline())
    ]
    assert found, f"no process to kill: {word}"
    return found


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
def test_scheduler_is_killed(workflow, signum):
    flow = workflow(worker="pool_busy")
    process = flow.start()
    flow.wait_for("at work now")
    for each in _descendants(process, "distributed.cli.dask_scheduler"):
        each.send_signal(signum)
    ended = flow.wait(process, 30.0)
    assert ended.status == 1
    assert "task pool 'pool': " in ended.output


def test_all_workers_are_killed(workflow):
    flow = workflow(worker="pool_busy")
    process = flow.start()
    flow.wait_for("at work now")
    for each in _descendants(process, "ips_components.external.forked_workers"):
        each.kill()
    ended = flow.wait(process, 30.0)
    assert ended.status == 1
    assert "all Dask workers ended" in ended.output


def test_rank_is_killed(workflow):
    flow = workflow(worker="mpi_task", WORKER={"COMMAND": RANKS}, platform={"MPIRUN": "mpiexec"})
    process = flow.start()
    flow.wait_for("at work now")
    ranks = _descendants(process, "ranks.py")
    next(each for each in ranks if "mpiexec" not in each.cmdline()[0]).kill()
    flow.wait(process, 30.0)


@pytest.mark.parametrize("janitor", [False, True], ids=["guards", "janitor"])
def test_guards_are_killed_themselves(workflow, janitor):
    flow = workflow(worker="pool_busy")
    process = flow.start()
    flow.wait_for("at work now")
    guards = psutil.Process(process.pid).children(recursive=True)
    guards = [
        each
        for each in guards
        if "guard.py" in " ".join(each.cmdline()) and ("--janitor" in each.cmdline()) == janitor
    ]
    assert guards
    for each in guards:
        each.kill()
    time.sleep(0.5)  # let it sink in
    process.send_signal(signal.SIGTERM)
    assert flow.wait(process, 30.0).status != 0
