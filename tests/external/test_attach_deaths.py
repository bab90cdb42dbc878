"""Who dies while clients are attached x when: the run has its own results, and says the rest."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from attached_runs import EARLY, SteppingRun, attached_client, whole
from coupled_processes import Peer, fork_server, series

import ips_components
from ips_components.deadlines import Deadline, poll_until
from ips_components.errors import IPSComponentsError, SimulationLost

pytestmark = pytest.mark.deaths


@pytest.fixture(scope="module", autouse=True)
def server():
    with fork_server():
        yield


@pytest.fixture
def begin(tmp_path):
    made = []

    def make(**options):
        made.append(SteppingRun(tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        print(each.logs())
        each.close()


@pytest.fixture
def client(tmp_path):
    made = []

    def start(pauses):
        log = str(tmp_path / "client.log")
        made.append(Peer("client", attached_client, log, str(tmp_path), pauses))
        return made[-1]

    yield start
    for each in made:
        each.close()


def went_well(run):
    """The run has its own results, and all accounts are closed."""
    assert run.stop() == [("done", None)] * run.n_ranks
    record = run.end()
    assert record["phase"] == "ended", record["faults"]
    run.future.result(30)
    np.testing.assert_array_equal(run.dataset()["early"], series(EARLY).sum(axis=(1, 2)))
    record = run.record()
    assert record["ledger"]["closed"]
    return record


@pytest.mark.parametrize("moment", ["attached", "joined", "submitted", "watching"])
def test_client_killed(begin, client, moment):
    run, one = begin(), client([moment])
    one.reached(moment, 60)
    one.kill()
    run.until(lambda r: r.get("attached") and r["attached"][0]["until"], "the client to be missed")
    with ips_components.attach(run.directory) as live:
        newest = live.latest("t")
        np.testing.assert_array_equal(newest, whole(int(newest["time"])))
    record = went_well(run)
    assert record["attached"][0]["why"]
    assert all(c["until"] for each in record["attached"] for c in each["contracts"])


def test_client_stopped_holds_up_nobody(begin, client):
    run, one = begin(), client(["watching"])
    one.reached("watching", 60)
    one.kill(signal.SIGSTOP)
    with ips_components.attach(run.directory) as live:
        first = int(live.latest("t")["time"])
        assert int(live.latest("t")["time"]) > first
    went_well(run)


def test_worker_killed_while_a_client_watches(begin):
    run = begin()
    with ips_components.attach(run.directory) as live:
        seen = []
        with live.watch(lambda arrays: arrays["t"].sum(), call=seen.append) as watch:
            assert poll_until(lambda: len(seen) > 3, Deadline(60), pause=0.05)
            run.workers[1].kill()
            before = len(seen)
            assert poll_until(lambda: len(seen) > before + 20, Deadline(90), pause=0.05)
        assert watch.error is None
        for each in seen:
            assert each.value == whole(each.steps.start).sum()
    assert run.stop() == [("done", None)] * run.n_ranks


def test_rank_killed_while_a_client_waits(begin):
    run = begin()
    with ips_components.attach(run.directory) as live:
        future = live.submit(lambda arrays: arrays["t"].mean(), steps=200)
        run.ranks[1].kill()
        with pytest.raises((SimulationLost, IPSComponentsError)):
            future.result(60)
        assert poll_until(lambda: live.status == "failed", Deadline(30), pause=0.1)
    run.until(lambda r: r["phase"] == "failed", "the run to fail")
