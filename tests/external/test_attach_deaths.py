"""Who dies while clients are attached x when: the run has its own results, and says the rest."""

from __future__ import annotations

import signal
from dataclasses import replace

import numpy as np
import pytest
from attached_runs import EARLY, SteppingRun, attached_client, whole
from coupled_processes import Peer, Proxy, fork_server, series

import ips_components
from ips_components.deadlines import Deadline, poll_until
from ips_components.errors import IPSComponentsError, SimulationLost
from ips_components.wire import contact as contacts

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

    def start(pauses, where=""):
        log = str(tmp_path / "client.log")
        made.append(Peer("client", attached_client, log, str(tmp_path / where), pauses))
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


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", ["stopped", "network"])
def test_client_out_of_reach_is_given_up(begin, client, tmp_path, how):
    """The end of its connection is not noticed: what it has asked for is dropped after a while."""
    run, proxy = begin(), Proxy()
    try:
        contact = contacts.read(run.contact)
        proxy.target = int(contact.scheduler.rpartition(":")[2])
        through = replace(contact, scheduler=f"tcp://127.0.0.1:{proxy.port}")
        contacts.write(tmp_path / "through.json", through)
        one = client(["watching"], "through.json")
        one.reached("watching", 60)
        clients = run.client.run_on_scheduler(_clients)
        if how == "stopped":
            one.kill(signal.SIGSTOP)
        else:
            proxy.freeze()
        with ips_components.attach(run.contact) as live:
            assert poll_until(
                lambda: run.record()["attached"][0]["until"], Deadline(120), pause=0.2
            )
            newest = live.latest("t")
            np.testing.assert_array_equal(newest, whole(int(newest["time"])))
        lost = run.record()["attached"][0]
        assert lost["why"].startswith("lost: no sign of life for ")
        assert all(each["until"] for each in lost["contracts"])
        assert len(run.client.run_on_scheduler(_clients)) < len(clients)
        went_well(run)
    finally:
        proxy.close()


def _clients(dask_scheduler):
    return [each for each in dask_scheduler.clients if each.startswith("Client-attached")]


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


@pytest.mark.parametrize("moment", ["joined", "submitted"])
def test_worker_killed_while_a_contract_is_being_agreed(begin, client, moment):
    """The ranks have joined, and the client has not signed, or has only just."""
    run, one = begin(), client([moment, "watching"])
    one.reached(moment, 60)
    run.workers[1].kill()
    run.until(lambda r: r["faults"], "the worker to be missed")
    one.go()
    with ips_components.attach(run.directory) as live:
        newest = live.latest("t")
        np.testing.assert_array_equal(newest, whole(int(newest["time"])))
    one.reached("watching", 90)
    one.kill()
    record = went_well(run)
    for attached in record["attached"]:
        for contract in attached["contracts"]:
            assert contract["ledger"]["closed"] or contract["phase"] == "failed", contract


def test_rank_killed_while_a_client_waits(begin):
    run = begin()
    with ips_components.attach(run.directory) as live:
        future = live.submit(lambda arrays: arrays["t"].mean(), steps=200)
        run.ranks[1].kill()
        with pytest.raises((SimulationLost, IPSComponentsError)):
            future.result(60)
        assert poll_until(lambda: live.status == "failed", Deadline(30), pause=0.1)
    run.until(lambda r: r["phase"] == "failed", "the run to fail")
