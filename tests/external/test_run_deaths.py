"""Every death in a run has an outcome: who dies x when, with real processes, without IPS."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest
from coupled_processes import STEPS, Coupled, fork_server, series

from ips_components.errors import ExternalTaskError, SimulationLost

pytestmark = pytest.mark.deaths

LAST = STEPS - 1
SILENT = {"silence": 3.0}


@pytest.fixture(scope="module", autouse=True)
def server():
    with fork_server():
        yield


@pytest.fixture
def coupled(tmp_path, server):
    made = []

    def make(**options):
        made.append(Coupled(tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        print(each.logs())
        each.close()


def right(run, expected=None):
    """All results are there and right, and every block is accounted for exactly once."""
    run.future.result(30)
    found = run.dataset()
    if expected is None:
        expected = {f"sum_{k}": x for k, x in enumerate(series().sum(axis=(1, 2)))}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-14, err_msg=name)
    record = run.end()
    assert record["phase"] == "ended", record["faults"]
    assert record["ledger"]["closed"]
    blocks = record["ledger"]["arrays"]["t"]["blocks"]
    assert blocks["produced"] == blocks["delivered"] == 2 * STEPS, blocks
    return record


def failed(run, *texts):
    """The run has failed, and its first fault says so."""
    record = run.until(lambda r: r["phase"] == "failed", "the run to fail")
    told = " ".join(f"{f['who']} {f['what']}: {f['cause']}" for f in record["faults"])
    assert any(text in told for text in texts), told
    for account in record["ledger"]["arrays"].values():
        for counts in account.values():
            assert counts["produced"] == sum(counts.values()) - counts["produced"], record["ledger"]
    # It is closed only when every rank has said goodbye.
    goodbyes = len(record["byes"]) == run.n_ranks
    assert goodbyes or not (record["ranks"] and record["ledger"]["closed"]), record["ledger"]
    return record


def all_done(run):
    assert [rank.outcome() for rank in run.ranks] == [("done", None)] * run.n_ranks


HELD = {
    "held": (series() + series()[-1:]).sum(axis=(1, 2)),
    "first": series()[0].sum(),
}
MEAN = {"mean": series().mean(axis=0)}


def test_nobody_dies(coupled):
    run = coupled()
    run.begin()
    run.simulate()
    all_done(run)
    right(run)


# -- a worker ------------------------------------------------------------------------------

EITHER = pytest.mark.parametrize("victim", [0, 1], ids=["analyst", "other"])


def bring_to(run, phase):
    """Start the simulation and bring the run to a phase; what the ranks then wait for."""
    match phase:
        case "before the hello":
            run.simulate("start")
            run.all_reach("start")
        case "before the first put":
            run.simulate("open")
            run.all_reach("open")
        case "a chunk is half there":
            run.simulate("1/step:5", "0/step:6")
            run.ranks[0].reached("step:6")
            run.ranks[1].reached("step:5")
        case "chunks have arrived":
            run.simulate("step:6")
            run.all_reach("step:6")
            run.delivered(12)
        case "last step":
            run.simulate(f"1/step:{LAST}", "0/end")
            run.ranks[0].reached("end")
            run.ranks[1].reached(f"step:{LAST}")
        case "all is put":
            run.simulate("end")
            run.all_reach("end")


PHASES = [
    "before the hello",
    "before the first put",
    "a chunk is half there",
    "chunks have arrived",
    "last step",
    "all is put",
]


@EITHER
@pytest.mark.parametrize("phase", PHASES)
def test_a_worker_is_killed(coupled, phase, victim):
    run = coupled()
    run.begin("held" if phase == "chunks have arrived" else "sums")
    bring_to(run, phase)
    run.workers[victim].kill()
    run.workers[victim].ended()
    run.all_go()
    all_done(run)
    right(run, HELD if phase == "chunks have arrived" else None)


@pytest.mark.parametrize("phase", ["before the first put", "chunks have arrived"])
@EITHER
def test_a_worker_is_silent(coupled, phase, victim):
    run = coupled()
    run.begin("held", deadlines=SILENT)
    bring_to(run, phase)
    run.workers[victim].kill(signal.SIGSTOP)
    run.all_go()
    all_done(run)
    right(run, HELD)


def test_a_worker_ends_in_order(coupled):
    run = coupled()
    run.begin("held")
    bring_to(run, "chunks have arrived")
    run.workers[1].kill(signal.SIGTERM)
    run.workers[1].ended()
    run.all_go()
    all_done(run)
    right(run, HELD)


def record_of_a_lost_chunk(run, **limits):
    """Kill a worker whose chunks no rank can send again: the analysis names one of them."""
    run.begin("held", **limits)
    bring_to(run, "chunks have arrived")
    run.workers[1].kill()
    run.all_go()
    for rank in run.ranks:
        rank.outcome()
    with pytest.raises(ExternalTaskError, match=r"array 't', step \d+, chunk .*replay buffer"):
        run.future.result(30)
    record = run.end()
    assert record["ledger"]["closed"]
    return record


SLOT = 4096  # of a rank: half a step


def test_a_worker_is_killed_and_slots_are_as_few_as_can_be(coupled):
    """All steps can be sent again, and one more is written."""
    run = coupled()
    run.begin("held", slot_bytes=(STEPS + 1) * SLOT)
    bring_to(run, "chunks have arrived")
    run.workers[1].kill()
    run.workers[1].ended()
    run.all_go()
    all_done(run)
    record = right(run, HELD)
    assert not any("SLOT_BYTES" in fault["cause"] for fault in record["faults"])


def test_a_worker_is_killed_and_ranks_have_a_single_slot(coupled):
    """It is said before step 0 that steps are lost with a worker, and which ones are."""
    record = record_of_a_lost_chunk(coupled(), slot_bytes=8)
    assert any("SLOT_BYTES = 8 (8 B) is less than" in fault["cause"] for fault in record["faults"])


def test_a_chunk_that_no_rank_has_any_more_is_named(coupled):
    record_of_a_lost_chunk(coupled(), replay_steps=1)


@EITHER
def test_a_worker_is_killed_after_the_simulation_has_left(coupled, victim):
    """No process has the data any more: the error names what is missing."""
    run = coupled()
    run.begin("slow", parameters={"seconds": 0.5})
    run.simulate()
    all_done(run)
    run.until(lambda r: r["phase"] == "ended", "the end of the simulation")
    run.workers[victim].kill()
    with pytest.raises(SimulationLost, match=r"array 't', step \d+, chunk .*simulation ended"):
        run.future.result(30)
    assert run.record()["ledger"]["closed"]


@pytest.mark.parametrize("policy", ["continue", "abort"])
@pytest.mark.parametrize("phase", ["before the hello", "before the first put", "last step"])
def test_all_workers_are_killed(coupled, phase, policy):
    run = coupled()
    run.begin(on_analytics_loss=policy)
    bring_to(run, phase)
    for worker in run.workers:
        worker.kill()
    run.all_go()
    outcomes = [rank.outcome() for rank in run.ranks]
    if phase == "before the hello":
        assert all(o[0] == "error" and "no receiver could be reached" in o[1] for o in outcomes)
    elif policy == "continue":
        assert all(o[0] == "done" and o[1] for o in outcomes), outcomes
    else:
        assert all(o[0] == "error" and "AnalyticsLost" in o[1] for o in outcomes), outcomes
    failed(run, "the last Dask worker is gone")


# -- the scheduler -------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
@pytest.mark.parametrize("policy", ["continue", "abort"])
@pytest.mark.parametrize("phase", ["before the first put", "a chunk is half there", "all is put"])
def test_the_scheduler_is_killed(coupled, phase, policy, signum):
    run = coupled()
    run.begin(on_analytics_loss=policy)
    bring_to(run, phase)
    run.scheduler.kill(signum)
    run.scheduler.ended()
    for worker in run.workers:
        worker.ended(15)
    run.all_go()
    outcomes = [rank.outcome() for rank in run.ranks]
    if policy == "continue":
        assert all(o[0] == "done" and o[1] for o in outcomes), outcomes
    else:
        assert all(o[0] == "error" and "AnalyticsLost" in o[1] for o in outcomes), outcomes


# -- a rank --------------------------------------------------------------------------------

RANK_PHASES = {"start": None, "open": -1, "step:0": -1, "step:5": 4, f"step:{LAST}": LAST - 1,
               "end": LAST}  # fmt: skip


@pytest.mark.parametrize("how", ["kill", "exit", "raise", "stop"])
@pytest.mark.parametrize("moment", RANK_PHASES)
def test_a_rank_dies(coupled, moment, how):
    run = coupled()
    run.begin(deadlines=SILENT)
    run.simulate(f"1/{moment}")
    victim = run.ranks[1]
    victim.reached(moment)
    complete = RANK_PHASES[moment]
    if complete is not None:
        run.delivered(2 * (complete + 1))
    began = time.monotonic()
    if how in ("exit", "raise"):
        victim.go(how)
    else:
        victim.kill(signal.SIGSTOP if how == "stop" else signal.SIGKILL)
    if moment == "start":
        failed(run, "rank 1")
        with pytest.raises(SimulationLost):
            run.future.result(30)
    elif moment == "end":
        run.future.result(30)
        failed(run, "rank 1")
    else:
        with pytest.raises(SimulationLost, match="simulation ended") as caught:
            run.future.result(30)
        assert "rank 1" in str(caught.value)
        failed(run, "rank 1")
        kept = run.dataset() if complete >= 0 else {}
        expected = series().sum(axis=(1, 2))
        assert set(kept) == {f"sum_{k}" for k in range(complete + 1)}
        for k in range(complete + 1):
            np.testing.assert_array_equal(kept[f"sum_{k}"], expected[k])
    assert time.monotonic() - began < 20
    run.ranks[0].outcome()


# -- the network ---------------------------------------------------------------------------

TCP = {"lanes": ("tcp",)}


@pytest.mark.parametrize("phase", ["before the first put", "a chunk is half there", "all is put"])
@pytest.mark.parametrize("how", ["cut", "freeze"])
def test_the_network_comes_back(coupled, phase, how):
    run = coupled(proxies=True)
    run.begin(**TCP, deadlines={"silence": 6.0})
    bring_to(run, phase)
    for proxy in run.proxies:
        getattr(proxy, how)()
    run.all_go()
    time.sleep(0.7)  # the ranks try in vain meanwhile
    for proxy in run.proxies:
        proxy.mend()
    all_done(run)
    right(run)


def test_the_network_breaks_again_and_again(coupled):
    run = coupled(proxies=True)
    run.begin(**TCP)
    run.simulate(pace=0.1)
    for _ in range(6):
        time.sleep(0.2)
        for proxy in run.proxies:
            proxy.cut()
            proxy.mend()
    all_done(run)
    right(run)


@pytest.mark.parametrize("how", ["cut", "freeze"])
def test_the_network_does_not_come_back(coupled, how):
    run = coupled(proxies=True)
    run.begin(**TCP, deadlines={**SILENT, "connect": 3.0})
    bring_to(run, "a chunk is half there")
    for proxy in run.proxies:
        getattr(proxy, how)()
    run.all_go()
    outcomes = [rank.outcome() for rank in run.ranks]
    assert all(o[0] == "done" and o[1] for o in outcomes), outcomes
    with pytest.raises(SimulationLost, match="simulation ended at step"):
        run.future.result(30)
    failed(run, "rank 0 lost", "rank 1 lost")


# -- the analysis --------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["continue", "abort"])
@pytest.mark.parametrize("when", ["at once", "first step", "in a step", "last step"])
def test_the_analysis_raises(coupled, when, policy):
    run = coupled()
    run.begin("raising", parameters={"when": when}, on_analytics_loss=policy)
    run.simulate(pace=0.02)
    outcomes = [rank.outcome() for rank in run.ranks]
    with pytest.raises(ArithmeticError, match="the analysis gave up"):
        run.future.result(30)
    record = failed(run, "the analysis gave up")
    assert record["faults"][0]["who"] == "analysis"
    if policy == "continue":
        assert all(o[0] == "done" for o in outcomes), outcomes
    elif when == "at once":
        assert all(o[0] == "error" and "gave up" in o[1] for o in outcomes)


def test_the_analysis_raises_after_its_contract(coupled):
    run = coupled()
    run.begin("raising_after_commit")
    run.simulate(pace=0.02)
    with pytest.raises(ArithmeticError, match="gave up after sum_"):
        run.future.result(30)
    failed(run, "gave up after sum_")
    assert all(rank.outcome()[0] == "done" for rank in run.ranks)


# -- a worker that joins -------------------------------------------------------------------


def test_a_worker_that_joins_takes_its_share(coupled):
    """Chunks of later steps are on three workers, and each is there once."""
    run = coupled()
    run.begin("held")
    run.simulate("step:2", f"step:{LAST}")
    run.all_reach("step:2")
    run.delivered(4)
    run.add_worker()
    run.until(lambda r: len(r["workers"]) == 3, "the third receiver")
    run.all_go()
    run.all_reach(f"step:{LAST}")
    run.delivered(2 * LAST)
    newcomer = run.worker_address(2)
    held = [key for key in run.client.has_what()[newcomer] if str(key).startswith("('external-t")]
    assert len(held) >= 3, held
    run.all_go()
    all_done(run)
    right(run, HELD)


def test_a_worker_joins_and_another_dies(coupled):
    run = coupled()
    run.begin("held")
    run.simulate("step:2", "1/step:7", "0/step:8")
    run.all_reach("step:2")
    run.delivered(4)
    run.add_worker()
    run.until(lambda r: len(r["workers"]) == 3, "the third receiver")
    run.all_go()
    run.ranks[0].reached("step:8")
    run.ranks[1].reached("step:7")
    run.workers[1].kill()
    run.workers[1].ended()
    run.all_go()
    all_done(run)
    right(run, HELD)


def test_a_killed_worker_is_replaced_by_another(coupled):
    run = coupled()
    run.begin("held")
    bring_to(run, "chunks have arrived")
    run.workers[1].kill()
    run.workers[1].ended()
    run.add_worker()
    run.until(lambda r: len(r["workers"]) == 3, "the receiver of the new worker")
    run.all_go()
    all_done(run)
    right(run, HELD)
