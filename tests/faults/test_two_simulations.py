"""Deaths where two simulations feed one analysis: the one is named, the other one is told."""

import signal

import numpy as np
import pytest
import xarray as xr
from coupled_outcomes import WORKER, at_step, failed, find, record_of

campaign = pytest.mark.campaign
pytestmark = pytest.mark.deaths

SLOWLY = {"pace": 0.2, "steps": 30}
BOTH = pytest.mark.parametrize("policy", ["continue", "abort"])


def finished(flow):
    """Ports of the simulations of which all ranks came to their ends."""
    found = [
        path.with_name(path.stem.replace("rank", "name")).read_text().upper()
        for path in flow.root.glob("work/*/rank_*.done")
    ]
    return {port for port in found if found.count(port) == 2}


def assert_right(flow, ended, steps):
    """The run went well, and the numbers of both fields are right."""
    assert ended.status == 0, ended.output + ended.log
    record = record_of(flow)
    assert record["status"] == "ok"
    assert record["ledger"]["closed"]
    fields = np.arange(64) + 100.0 * np.arange(steps)[:, None]
    with xr.open_zarr(record["results"]["path"], consolidated=False) as results:
        for name in ("hot", "cold"):
            np.testing.assert_array_equal(results[name], fields.sum(axis=1))
        np.testing.assert_array_equal(results["product"], (fields * fields).sum(axis=1))
    return record


@BOTH
@pytest.mark.parametrize("victim", [pytest.param("HOT", marks=campaign), "COLD"])
def test_a_rank_of_one_is_killed(coupled_two, victim, policy):
    flow = coupled_two(
        **{victim.lower(): "--fault 1:kill@step:5"}, **SLOWLY, ON_ANALYTICS_LOSS=policy
    )
    _, record = failed(flow, f"{victim}: ")
    other = ({"HOT", "COLD"} - {victim}).pop()
    assert finished(flow) == ({other} if policy == "continue" else set())
    statuses = {each["port"]: each["exit_status"] for each in record["simulations"]}
    assert statuses[victim] != 0


@pytest.mark.parametrize("policy", [pytest.param("continue", marks=campaign), "abort"])
def test_a_rank_of_one_is_silent(coupled_two, policy):
    """To end them all the other one, which would go on for half a minute, is not waited for."""
    flow = coupled_two(
        cold="--fault 1:stop@step:5",
        pace=0.1,
        steps=300 if policy == "abort" else 60,
        SILENCE_TIME_OUT=4,
        ON_ANALYTICS_LOSS=policy,
    )
    failed(flow, "COLD: no sign of life for 4 s")
    assert finished(flow) == ({"HOT"} if policy == "continue" else set())


@BOTH
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("0:exit@start", "HOT: "),
        pytest.param("1:kill@start", "HOT: ", marks=campaign),
        pytest.param("0:raise@open", "negative density", marks=campaign),
    ],
)
def test_one_fails_before_its_first_word_or_step(coupled_two, fault, cause, policy):
    flow = coupled_two(hot=f"--fault {fault}", ON_ANALYTICS_LOSS=policy, pace=0.3)
    failed(flow, cause)
    assert finished(flow) == ({"COLD"} if policy == "continue" else set())


@campaign
@BOTH
def test_one_never_opens_its_bridge(coupled_two, policy):
    flow = coupled_two(cold="--no-bridge", pace=0.3, ON_ANALYTICS_LOSS=policy)
    failed(flow, "COLD: it ended without a word")
    assert finished(flow) == ({"HOT"} if policy == "continue" else set())


@campaign
def test_one_of_two_workers_is_killed(coupled_two):
    flow = coupled_two(workers=2, REPLAY_STEPS=30, **SLOWLY)
    process = flow.start()
    at_step(flow, 5)
    find(process, WORKER)[0].kill()
    assert_right(flow, flow.wait(process, 110), 30)


@pytest.mark.parametrize("policy", [pytest.param("continue", marks=campaign), "abort"])
def test_the_scheduler_is_killed(coupled_two, policy):
    flow = coupled_two(**SLOWLY, ON_ANALYTICS_LOSS=policy)
    process = flow.start()
    at_step(flow, 3)
    for each in find(process, "distributed.cli.dask_scheduler"):
        each.kill()
    failed(flow, "Dask scheduler", "Dask workers")
    assert finished(flow) == ({"HOT", "COLD"} if policy == "continue" else set())


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=campaign)], ids=lambda s: s.name
)
def test_ips_is_ended_in_the_middle(coupled_two, signum):
    flow = coupled_two(pace=0.2, steps=200)
    process = flow.start()
    at_step(flow, 3)
    secrets = list(flow.root.glob("run_*/contact*.json"))
    assert len(secrets) == 2
    process.send_signal(signum)
    ended = flow.wait(process, 15)
    assert ended.status == (-9 if signum == signal.SIGKILL else 128 + signum)
