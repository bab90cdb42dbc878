"""Runs whose simulation never says how many steps it puts: workers, receivers, ranks as threads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import adaptive
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from opened_runs import open_run, settings_of

from ips_components.analysis import run_analysis, run_record, wait_for_end
from ips_components.bridge import Array, Bridge
from ips_components.errors import ContractError
from ips_components.model import StepAxis
from ips_components.model.keys import array_name

NY, NX = 8, 6
RANKS = ((0, 0), (0, 3), (4, 0), (4, 3))
MANY = 150  # the graph spans 64 steps, then 128, then 256


def field(step: int) -> np.ndarray:
    return np.random.default_rng(step).random((NY, NX))


FIELD = np.stack([field(step) for step in range(MANY)])


# -- analyses ------------------------------------------------------------------------------


def weighted(arrays):
    """An array that is put once, and one at every tenth step."""
    t, cells, rare = arrays["temperature"], arrays["volume"], arrays["rare"]
    return {
        "weighted": (t * cells[0]).sum(axis=(1, 2)),
        "rare": rare.mean(axis=0),
        "anomaly": (t[:, 0, 0] - t[:, 0, 0].mean(axis=0)).std(),
    }


def seen(arrays, run):
    t = arrays["temperature"]
    run.commit({"early": t[3].mean(), "sum": t.sum(axis=0), "curve": t.mean(axis=(1, 2))})
    for name, value in run.completed():
        if name == "early":
            run.publish({"early": value}, step=3)
            run.stop("seen enough")


def failing(arrays):
    def boom(block, block_info=None):
        if block.mean() > 0:
            raise ZeroDivisionError("on purpose")
        return block

    return {"bad": arrays["temperature"].map_blocks(boom, dtype=float).sum(axis=(1, 2))}


def windows(arrays, run):
    t = arrays["temperature"]
    return {"means": np.array([w.value for w in run.rolling(t, 10, stride=10).map(da.mean)])}


def later(arrays):
    return {"late": arrays["temperature"][100].mean(), "all": arrays["temperature"].mean()}


def uneven(arrays):
    uneven.calls += 1
    t = arrays["temperature"]
    return {"sum": (t if uneven.calls < 3 else t[:, ::2]).sum()}


uneven.calls = 0


# -- harness -------------------------------------------------------------------------------


@pytest.fixture
def coupled(cluster, tmp_path):
    def start(analysis: str, ranks, **settings):
        analysis = analysis if ":" in analysis else f"{__name__}:{analysis}"
        parsed = settings_of(analysis, tmp_path, arrays=None, n_steps=None, **settings)
        contact = tmp_path / "contact.json"
        open_run(cluster, parsed, contact)
        future = cluster.submit(run_analysis, parsed.to_dict(), pure=False)
        with ThreadPoolExecutor(len(RANKS)) as pool:
            outcomes = list(pool.map(lambda rank: ranks(rank, contact), range(len(RANKS))))
        return parsed.run, future, outcomes, tmp_path / "results.zarr"

    return start


def simulate(rank: int, contact, steps: int, more=(), until=None):
    """Put the steps below `steps`; of further arrays (name, distance), at the same place."""
    y, x = RANKS[rank]
    space = {"offset": (y, x), "dims": ("y", "x")}
    arrays = [Array("temperature", (NY, NX), "f8", **space)]
    arrays += [Array(n, (NY, NX), "f8", steps=s, **space) for n, s in more]
    with Bridge(contact=contact, arrays=arrays, rank=rank, size=len(RANKS)) as bridge:
        step = -1
        for step in range(steps):
            if until is not None and until(bridge, step):
                break
            block = field(step)[y : y + 4, x : x + 3]
            bridge.put("temperature", step, block)
            for name, _ in more:
                if step % {"volume": MANY, "rare": 10}[name] == 0:
                    bridge.put(name, step, block)
    return step


# -- tests ---------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 28, 64, 96, MANY])
def test_results_are_those_of_the_steps_that_came(cluster, coupled, steps):
    analysis = f"{adaptive.__name__}:adaptive"
    name, future, _, results = coupled(analysis, lambda r, c: simulate(r, c, steps))
    future.result(60)
    with xr.open_zarr(results) as found:
        for result, value in adaptive.expected(FIELD[:steps]).items():
            assert found[result].shape == value.shape, result
            np.testing.assert_allclose(found[result].values, value, rtol=1e-12, err_msg=result)
    record = wait_for_end(cluster, name, 20)
    assert record["phase"] == "ended" and record["ledger"]["closed"]
    account = record["ledger"]["arrays"]["temperature"]["bytes"]
    assert account["produced"] == account["delivered"] == FIELD[:steps].nbytes


def test_the_scheduler_has_no_more_than_the_steps_that_came_need(cluster, coupled):
    most = 0

    def watched(rank, contact):
        def look(bridge, step):
            nonlocal most
            if rank == 0:
                n = cluster.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
                most = max(most, n)

        return simulate(rank, contact, 20, until=look)

    _, future, _, _ = coupled(f"{adaptive.__name__}:adaptive", watched)
    future.result(60)
    assert 0 < most < 64 * 60  # tasks for 64 steps


def test_chunks_and_tasks_are_freed(cluster, coupled):
    name, future, _, _ = coupled(f"{adaptive.__name__}:adaptive", lambda r, c: simulate(r, c, 100))
    future.result(60)
    wait_for_end(cluster, name, 20)
    prefix = array_name("temperature", name)

    def held() -> list[str]:
        return cluster.run_on_scheduler(
            lambda dask_scheduler: [
                str(k)
                for k in dask_scheduler.tasks
                if prefix in str(k) or "running-" in str(k) or "came-" in str(k)
            ]
        )

    deadline = time.monotonic() + 20
    while left := held():
        assert time.monotonic() < deadline, left
        threading.Event().wait(0.1)


def test_arrays_put_once_and_rarely_go_with_them(coupled):
    more = [("volume", 1), ("rare", StepAxis(0, 10))]
    _, future, _, results = coupled("weighted", lambda r, c: simulate(r, c, 100, more))
    future.result(60)
    t = FIELD[:100]
    with xr.open_zarr(results) as found:
        np.testing.assert_allclose(found["weighted"], (t * t[0]).sum(axis=(1, 2)), rtol=1e-12)
        np.testing.assert_allclose(found["rare"], t[::10].mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found["anomaly"], t[:, 0, 0].std(), rtol=1e-12)


def until_stopped(later=()):
    """Return ranks that end after the same step when the analysis stops them; some one later."""
    barrier = threading.Barrier(len(RANKS), timeout=20)
    stopped = threading.Event()

    def ranks(rank, contact):
        late = []

        def stops(bridge, step):
            if late:
                return True
            if rank == 0 and bridge.should_stop():
                stopped.set()
            barrier.wait()
            stop = stopped.is_set()
            barrier.wait()
            if stop and rank in later:
                late.append(step)
                return False
            return stop

        return simulate(rank, contact, 10**6, until=stops)

    return ranks


def test_results_that_are_known_early_come_early(cluster, coupled):
    name, future, ended, results = coupled("seen", until_stopped())
    future.result(60)
    (n,) = set(ended)
    t = np.stack([field(step) for step in range(n)])
    with xr.open_zarr(results) as found:
        np.testing.assert_allclose(found["sum"], t.sum(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found["curve"], t.mean(axis=(1, 2)), rtol=1e-12)
    assert wait_for_end(cluster, name, 20)["phase"] == "ended"


def test_windows_over_such_an_array_are_as_before(coupled):
    _, future, _, results = coupled("windows", lambda r, c: simulate(r, c, 95))
    future.result(60)
    with xr.open_zarr(results) as found:
        expected = [FIELD[i : i + 10].mean() for i in range(0, 90, 10)]
        np.testing.assert_allclose(found["means"], expected, rtol=1e-12)


def test_a_step_beyond_the_first_graph_can_be_asked_for(coupled):
    _, future, _, results = coupled("later", lambda r, c: simulate(r, c, 130))
    future.result(60)
    with xr.open_zarr(results) as found:
        np.testing.assert_allclose(found["late"], FIELD[100].mean(), rtol=1e-12)
        np.testing.assert_allclose(found["all"], FIELD[:130].mean(), rtol=1e-12)


def test_a_function_that_fails_does_so_at_once(cluster, coupled):
    def endless(rank, contact):
        with pytest.raises(Exception, match="on purpose"):
            simulate(rank, contact, 10**6)

    name, future, _, _ = coupled("failing", endless, on_analytics_loss="abort")
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        future.result(60)
    assert run_record(cluster, name)["phase"] == "failed"


def test_a_function_that_makes_another_graph_later_is_refused(cluster, coupled):
    uneven.calls = 0

    def endless(rank, contact):
        with pytest.raises(Exception, match="called again as steps come"):
            simulate(rank, contact, 10**6)

    _, future, _, _ = coupled("uneven", endless, on_analytics_loss="abort")
    with pytest.raises(ContractError, match="called again as steps come"):
        future.result(60)


@pytest.mark.parametrize("steps", [0, 5])
def test_ranks_that_end_at_different_steps_are_a_failure(cluster, coupled, steps):
    name, future, _, _ = coupled(
        f"{adaptive.__name__}:adaptive",
        lambda r, c: simulate(r, c, steps - (r == 2) if steps else 0),
    )
    said = "at step 4" if steps else "before its first step"
    with pytest.raises(Exception, match=f"simulation ended {said}"):
        future.result(60)
    assert run_record(cluster, name)["phase"] == "failed"


def test_what_needs_the_number_of_steps_is_refused_before_step_0(coupled):
    def refused(rank, contact):
        with pytest.raises(ContractError):
            simulate(rank, contact, 5)

    _, future, _, _ = coupled(f"{adaptive.__name__}:too_much", refused, on_analytics_loss="abort")
    with pytest.raises(ValueError, match="unknown") as error:
        future.result(30)
    notes = "".join(error.value.__notes__)
    assert "'temperature' has any number of steps" in notes and "run.rolling" in notes


def test_a_stop_that_some_ranks_see_one_step_later(cluster, coupled):
    """What is complete of that step was analysed: the run fails, and does so soon."""
    name, future, _, _ = coupled("seen", until_stopped(later=(2, 3)))
    with pytest.raises(Exception, match="stopped at different steps"):
        future.result(60)
    assert run_record(cluster, name)["phase"] == "failed"
