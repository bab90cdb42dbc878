"""Every death in a coupled run has an outcome: no hang, no orphan, exit status and cause."""

import json
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr
from coupled_outcomes import (
    at_step,
    failed,
    find,
    find_if_any,
    is_stopped,
    record_of,
    until,
    work_of,
)

pytestmark = pytest.mark.deaths

STEPS = 12


def test_success_has_the_right_numbers_and_a_closed_ledger(coupled):
    flow = coupled(workers=2)
    ended = flow.run(110)
    assert ended.status == 0, ended.output + ended.log
    record = record_of(flow)
    assert record["status"] == "ok"
    assert record["ledger"]["closed"]
    assert record["ledger"]["arrays"]["field"]["blocks"]["produced"] == 2 * STEPS
    results = xr.open_zarr(record["results"]["path"], consolidated=False)
    expected = np.arange(64).sum() + 64 * 100.0 * np.arange(STEPS)
    np.testing.assert_array_equal(results["sums"], expected)
    (log,) = flow.root.glob("run_*/external_tasks.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    arrived = [key for line in lines if line["state"] == "memory" for key in line["keys"]]
    assert len(arrived) == sum(record["states"].values())
    assert sorted(key[1] for key in arrived) == sorted([*range(STEPS)] * 2)
    assert {line["state"] for line in lines} >= {"declared", "wanted", "memory", "released"}
    assert "ERROR" not in ended.log and "Traceback" not in ended.output + ended.log
    token_free = ended.output + ended.log + json.dumps(record)
    assert "token" not in token_free.lower()


@pytest.mark.parametrize("policy", ["abort", "continue"])
@pytest.mark.parametrize(
    ("word", "cause"),
    [
        ("ips_components.external.forked_workers", "workers"),
        ("distributed.cli.dask_scheduler", "scheduler"),
    ],
)
def test_ranks_that_wait_for_a_pool_which_dies_are_ended(coupled, word, cause, policy):
    """They are launched while it is being started."""
    flow = coupled(arguments=f"--kill {word}", ON_ANALYTICS_LOSS=policy)
    failed(flow, cause)
    assert not list(work_of(flow).glob("rank_*.done"))


@pytest.mark.parametrize("lane", ["shm", "tcp"])
def test_encrypted_run(coupled, lane):
    flow = coupled(SECURITY="tls", LANES=lane)
    ended = flow.run(110)
    assert ended.status == 0, ended.output + ended.log
    (log,) = flow.root.glob("work/*Analytics*/.ips_components/*/dask-scheduler*.log")
    assert "tls://" in log.read_text()
    assert "tcp://" not in log.read_text()
    record = record_of(flow)
    assert record["ledger"]["closed"]
    assert {rank["lane"] for rank in record["ranks"]} == {lane}
    assert not list(flow.root.glob("run_*/.tls"))


EXIT = "ended with exit status"

FAULTS = [
    # Python's exit waits in MPI_Finalize for rank 0, which waits for rank 1 in a collective call.
    ("1:raise@start", ("negative density", EXIT, "no rank said hello")),
    ("0:exit@start", (EXIT,)),
    ("1:kill@start", (EXIT,)),
    ("1:raise@open", ("negative density", EXIT)),
    ("0:kill@open", (EXIT, "rank 0 lost", "rank")),
    ("1:exit@step:0", (EXIT, "rank 1 lost")),
    ("1:raise@step:5", ("negative density",)),
    ("0:exit@step:5", (EXIT, "rank 0 lost")),
    ("1:kill@step:5", (EXIT, "rank 1 lost")),
    ("1:crash@step:5", ("died by SIGSEGV (segmentation fault): the simulation (",)),
    (f"1:kill@step:{STEPS - 1}", (EXIT, "rank 1 lost")),
    ("0:raise@end", ("negative density",)),
    ("1:exit@end", (EXIT, "rank 1 lost")),
    ("1:kill@closed", (EXIT,)),
]
QUICK = {"1:kill@start", "1:raise@step:5", "1:kill@step:5", "1:exit@end"}


@pytest.mark.parametrize(
    ("fault", "causes"),
    [
        pytest.param(*each, id=each[0], marks=() if each[0] in QUICK else pytest.mark.campaign)
        for each in FAULTS
    ],
)
def test_a_rank_dies(coupled, fault, causes):
    _, record = failed(coupled(fault=fault), *causes)
    if fault == "1:kill@start":  # before the driver could be asked to end the others
        assert record["simulation"]["exit_status"] not in (0, None)


@pytest.mark.parametrize(
    ("moment", "count"), [("start", "(2 times)"), ("step:5", "(the same on 1 other rank)")]
)
def test_all_ranks_raise_the_same(coupled, moment, count):
    """The cause is shown once, as the last thing, with a count and its place; the log has all."""
    flow = coupled(fault=f"all:raise@{moment}")
    ended, _ = failed(flow, "negative density")
    shown = ended.output[ended.output.index("ips_components: the run failed") :]
    assert shown.count("ValueError: the simulation found a negative density") == 1, shown
    assert count in shown
    assert re.search(r"\n  where: \S+/field.py, line \d+, in fail\Z", shown.rstrip())
    log = (work_of(flow) / "simulation.log").read_text()
    assert log.count("ValueError: the simulation found a negative density") == 2


def test_a_simulation_that_never_opens_its_bridge(coupled):
    failed(coupled(arguments="--no-bridge"), "ended without a word")


def test_the_teardown_of_a_worker_plugin_is_cut(coupled):
    """All was computed, but not all was copied: the record says so, as log and exit status do."""
    flow = coupled(WORKER_PLUGINS="field_analysis:slow_plugins", TEARDOWN_TIME_OUT=3)
    ended, record = failed(flow, "was cut after 3 s (TEARDOWN_TIME_OUT)")
    assert "was cut after 3 s (TEARDOWN_TIME_OUT)" in ended.log
    assert record["ledger"]["closed"]
    assert len(list(flow.root.glob("work/*/copied_*"))) < 4
    assert f"results              {record['results']['path']}\n" in ended.output
    with xr.open_zarr(record["results"]["path"], consolidated=False) as results:
        assert set(results) == set(record["results"]["variables"]) == {"sums", "mean"}


@pytest.mark.campaign
def test_a_rank_is_silent(coupled):
    failed(coupled(fault="1:stop@step:5", STEP_TIME_OUT=5), "STEP_TIME_OUT", "rank")


@pytest.mark.campaign
def test_a_rank_is_silent_before_its_first_word(coupled):
    failed(coupled(fault="0:stop@start", CONNECT_TIME_OUT=15), "CONNECT_TIME_OUT", "described")


@pytest.mark.parametrize("policy", ["continue", "abort"])
def test_the_analysis_raises(coupled, policy):
    flow = coupled(analysis="fault=early", ON_ANALYTICS_LOSS=policy)
    failed(flow, "the analysis does not like this field")
    # Before there is a contract: the ranks get one that asks for nothing, or are ended.
    assert len(list(work_of(flow).glob("*.done"))) == (2 if policy == "continue" else 0)
    if policy == "continue":
        assert f"{STEPS} of {STEPS}; none of them went to the analysis" in flow.output()
        progress = [line for line in flow.output().splitlines() if ": step " in line]
        assert f"step {STEPS} of {STEPS}, 0 of 1 tasks" in progress[-1]


@pytest.mark.campaign
@pytest.mark.parametrize("policy", ["continue", "abort"])
def test_a_task_of_the_analysis_raises(coupled, policy):
    flow = coupled(analysis="fault=task", pace=0.05, ON_ANALYTICS_LOSS=policy)
    failed(flow, "step 5 cannot be analysed")
    if policy == "continue":
        assert len(list(work_of(flow).glob("*.done"))) == 2


@pytest.mark.parametrize("policy", ["continue", pytest.param("abort", marks=pytest.mark.campaign)])
def test_the_scheduler_is_killed(coupled, policy):
    flow = coupled(pace=0.2, steps=30, ON_ANALYTICS_LOSS=policy)
    process = flow.start()
    at_step(flow, 3)
    for each in find(process, "distributed.cli.dask_scheduler"):
        each.kill()
    failed(flow, "Dask scheduler", "Dask workers")
    if policy == "continue":
        assert len(list(work_of(flow).glob("*.done"))) == 2


@pytest.mark.parametrize("policy", ["continue", pytest.param("abort", marks=pytest.mark.campaign)])
def test_the_scheduler_is_killed_before_a_rank_has_reached_the_pool(coupled, policy):
    """Nothing is computed yet, and ranks cannot know what is wrong: no policy lets them go on."""
    flow = coupled(
        fault="0:stop@start",
        ENVIRONMENT="IPS_COMPONENTS_DEADLINE=2",  # the contact file is withdrawn
        ON_ANALYTICS_LOSS=policy,
    )
    process = flow.start()
    rank = until(flow, lambda: [p for p in find_if_any(process, "field.py") if is_stopped(p)])[0]
    for each in find(process, "distributed.cli.dask_scheduler"):
        each.kill()
    until(flow, lambda: not list(flow.root.glob("run_*/contact.json")))
    with suppress(psutil.NoSuchProcess):  # it may have been ended meanwhile, to abort
        rank.send_signal(signal.SIGCONT)
    _, record = failed(flow, "Dask scheduler", "Dask workers")
    assert record["simulation"]["exit_status"] != 0
    assert not list(work_of(flow).glob("*.done"))


@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGTERM,
        signal.SIGKILL,
        pytest.param(signal.SIGINT, marks=pytest.mark.campaign),
    ],
    ids=lambda s: s.name,
)
def test_ips_is_ended_in_the_middle(coupled, signum):
    flow = coupled(pace=0.2, steps=200)
    process = flow.start()
    at_step(flow, 3)
    process.send_signal(signum)
    ended = flow.wait(process, 15)
    assert ended.status == (-9 if signum == signal.SIGKILL else 128 + signum)
    deadline = time.monotonic() + 10
    while secrets := list(flow.root.glob("run_*/contact.json")):
        assert time.monotonic() < deadline, f"left behind: {secrets}"
        time.sleep(0.1)


@pytest.mark.campaign
@pytest.mark.parametrize("component", ["Driver", "Simulation", "Analytics"])
def test_a_component_is_killed_in_the_middle(coupled, component):
    flow = coupled(pace=0.2, steps=200, ON_ANALYTICS_LOSS="abort")
    process = flow.start()
    at_step(flow, 3)
    for child in psutil.Process(process.pid).children():
        if f"work/test__{component}" in str(Path(f"/proc/{child.pid}/cwd").readlink()):
            child.kill()
    ended = flow.wait(process, 60)
    assert ended.status == 1, ended.output
    assert "SIGKILL" in ended.last_lines
