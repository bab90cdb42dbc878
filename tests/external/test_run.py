"""A whole run without MPI and IPS: real workers, receivers and bridges, ranks as threads."""

from __future__ import annotations

import contextlib
import gc
import secrets
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import adaptive
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from opened_runs import open_run, settings_of

from ips_components.algorithms import InTransit
from ips_components.analysis import run_analysis, run_record, wait_for_end
from ips_components.analysis.coordinator_client import call
from ips_components.bridge import Array, Bridge
from ips_components.coordination import stalls
from ips_components.errors import (
    AnalysisFailed,
    AnalyticsLost,
    ConfigError,
    ContractError,
    RunStopped,
    SimulationLost,
)
from ips_components.model.keys import array_name

STEPS, NY, NX = 12, 8, 6
RANKS = ((0, 0), (0, 3), (4, 0), (4, 3))


def field(step: int) -> np.ndarray:
    return np.random.default_rng(step).random((NY, NX))


FIELD = np.stack([field(step) for step in range(STEPS)])
FORMS = ("joblib", "skops")


# -- analyses ------------------------------------------------------------------------------


def mean_and_slice(arrays):
    t = arrays["temperature"]
    return {"mean": t.mean(axis=0), "corner": t[::3, 1:3, ::2]}


def derivative(arrays):
    t = arrays["temperature"]
    return {"derivative": xr.DataArray(t[2:] - t[:-2], dims=("t", "y", "x")).mean("t")}


def failing(arrays):
    def boom(block):
        raise ZeroDivisionError("on purpose")

    return {"bad": da.map_blocks(boom, arrays["temperature"], dtype=float).sum()}


def misspelt(arrays):
    return {"mean": arrays["temprature"].mean()}


def steering(arrays, run):
    t = arrays["temperature"]
    run.commit({f"mean_{k}": t[k].mean() for k in range(STEPS)})
    for name, value in run.completed():
        run.send("gain", float(value), step=int(name.split("_")[1]))
    return None


# -- harness -------------------------------------------------------------------------------


@pytest.fixture
def coupled(cluster, tmp_path):
    """Start a run; the analysis goes to the pool, ranks are threads of this process."""

    def start(analysis: str, ranks, arrays_in_config=None, **settings):
        analysis = f"{__name__}:{analysis}" if analysis and ":" not in analysis else analysis
        settings = {"arrays": arrays_in_config, "n_steps": STEPS, **settings}
        parsed = settings_of(analysis, tmp_path, **settings)
        contact = tmp_path / "contact.json"
        open_run(cluster, parsed, contact)
        future = cluster.submit(run_analysis, parsed.to_dict(), pure=False)
        with ThreadPoolExecutor(len(RANKS)) as pool:
            outcomes = list(pool.map(lambda rank: ranks(rank, contact), range(len(RANKS))))
        return parsed.run, future, outcomes, tmp_path / "results.zarr"

    yield start


def offer(rank: int, lower: int = 0) -> list[Array]:
    y, x = RANKS[rank]
    offset = (y + lower, x)
    return [Array("temperature", (NY, NX), "f8", offset=offset, dims=("y", "x"), steps=STEPS)]


def simulate(rank: int, contact, stop_after: int = STEPS, offer=offer):
    y, x = RANKS[rank]
    with Bridge(contact=contact, arrays=offer(rank), rank=rank, size=len(RANKS)) as bridge:
        for step in range(stop_after):
            bridge.put("temperature", step, field(step)[y : y + 4, x : x + 3])
    return bridge.statistics()


# -- tests ---------------------------------------------------------------------------------


def test_results_equal_numpy(cluster, coupled):
    name, future, _, results = coupled("mean_and_slice", simulate)
    summary = future.result(30)
    assert summary["results"] == str(results)
    with xr.open_zarr(results, consolidated=False) as dataset:
        np.testing.assert_allclose(dataset["mean"], FIELD.mean(axis=0), rtol=1e-13)
        np.testing.assert_array_equal(dataset["corner"], FIELD[::3, 1:3, ::2])
    record = wait_for_end(cluster, name, 20)
    assert record["phase"] == "ended"
    assert record["ledger"]["closed"]
    account = record["ledger"]["arrays"]["temperature"]["bytes"]
    assert account["produced"] == account["delivered"] == FIELD.nbytes
    assert len(record["steps"]) == STEPS
    assert all(step["complete"] for step in record["steps"])


def test_steps_beyond_those_of_the_config_are_noted(cluster, coupled):
    """The program has declared no number of steps, so that it may put more; not without a word."""

    def open_ended(rank: int) -> list[Array]:
        return [replace(array, steps=None) for array in offer(rank)]

    name, future, _, results = coupled(
        "mean_and_slice",
        lambda rank, contact: simulate(rank, contact, STEPS + 3, open_ended),
        steps={"temperature": {"start": 0, "every": 1, "count": STEPS}},
    )
    future.result(30)
    with xr.open_zarr(results, consolidated=False) as dataset:
        np.testing.assert_allclose(dataset["mean"], FIELD.mean(axis=0), rtol=1e-13)
    record = wait_for_end(cluster, name, 20)
    assert record["phase"] == "ended"
    (fault,) = record["faults"]
    assert fault["what"] == "notes"
    assert "'temperature' at steps beyond the last one of the run: 3 steps" in fault["cause"]


def _left_on_worker(dask_worker) -> tuple[int, list[str]]:
    receivers = [t.name for t in threading.enumerate() if t.name.startswith("receiver")]
    return len(dask_worker.extensions.get("external-runs", ())), receivers


def _plugins_of_runs(dask_scheduler) -> list[str]:
    return [name for name in dask_scheduler.worker_plugins if name.startswith("external-data-r")]


def test_runs_that_are_over_leave_nothing_on_a_persistent_cluster(cluster, coupled):
    for _ in range(3):
        name, future, _, results = coupled("corner_only", simulate)
        future.result(30)
        wait_for_end(cluster, name, 20)
        shutil.rmtree(results, ignore_errors=True)
    deadline = time.monotonic() + 20
    while any(any(left) for left in cluster.run(_left_on_worker).values()) or (
        cluster.run_on_scheduler(_plugins_of_runs)
    ):
        assert time.monotonic() < deadline, cluster.run(_left_on_worker)
        threading.Event().wait(0.1)
    assert run_record(cluster, name)["phase"] == "ended"  # the record can still be had


def test_only_what_the_graph_needs_is_sent(cluster, coupled):
    name, future, _, _ = coupled("corner_only", simulate)
    future.result(30)
    account = wait_for_end(cluster, name, 20)["ledger"]["arrays"]["temperature"]["bytes"]
    assert account["delivered"] == FIELD[::3, 1:3, ::2].nbytes
    assert account["produced"] == FIELD.nbytes


@pytest.mark.parametrize("analysis", ["corner_only", ""])
def test_what_is_produced_does_not_depend_on_what_is_needed(cluster, coupled, analysis):
    """An array that the analysis does not need is counted, and skipped; without an analysis all."""

    def simulate_two(rank, contact):
        both = [*offer(rank), replace(offer(rank)[0], name="pressure")]
        y, x = RANKS[rank]
        with Bridge(contact=contact, arrays=both, rank=rank, size=len(RANKS)) as bridge:
            for step in range(STEPS):
                for array in both:
                    bridge.put(array.name, step, field(step)[y : y + 4, x : x + 3])

    name, future, _, _ = coupled(analysis, simulate_two)
    future.result(30)
    ledger = wait_for_end(cluster, name, 20)["ledger"]
    assert ledger["closed"]
    produced = {name: each["bytes"]["produced"] for name, each in ledger["arrays"].items()}
    assert produced == {"temperature": FIELD.nbytes, "pressure": FIELD.nbytes}
    assert ledger["arrays"]["pressure"]["blocks"] == {
        "produced": STEPS * len(RANKS),
        "skipped": STEPS * len(RANKS),
        "delivered": 0,
        "dropped": 0,
        "lost": 0,
    }


def corner_only(arrays):
    return {"corner": arrays["temperature"][::3, 1:3, ::2].sum()}


def test_time_is_a_dimension_like_any_other(coupled):
    _, future, _, results = coupled("derivative", simulate)
    future.result(30)
    with xr.open_zarr(results, consolidated=False) as dataset:
        np.testing.assert_allclose(
            dataset["derivative"], (FIELD[2:] - FIELD[:-2]).mean(axis=0), atol=1e-14
        )


def test_chunks_are_freed_after_their_last_consumer(cluster, coupled):
    name, future, _, _ = coupled("mean_and_slice", simulate)
    future.result(30)
    wait_for_end(cluster, name, 20)
    prefix = array_name("temperature", name)

    def held() -> list[str]:
        return cluster.run_on_scheduler(
            lambda dask_scheduler: [str(k) for k in dask_scheduler.tasks if prefix in str(k)]
        )

    # The worker that ran the analysis tells the scheduler on its own stream that it is done.
    deadline = time.monotonic() + 20
    while left := held():
        assert time.monotonic() < deadline, left


def test_an_analysis_that_raises_fails_the_run_and_the_simulation_goes_on(cluster, coupled):
    name, future, outcomes, _ = coupled("failing", simulate)
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        future.result(30)
    assert len(outcomes) == len(RANKS)
    record = wait_for_end(cluster, name, 20)  # the ranks say goodbye a little later
    assert record["phase"] == "failed"
    assert "on purpose" in record["faults"][0]["cause"]


def test_a_misspelt_array_is_reported_before_step_0(coupled):
    def no_contract(rank, contact):
        with pytest.raises(ContractError, match="temprature"):
            simulate(rank, contact)

    _, future, _, _ = coupled("misspelt", no_contract, on_analytics_loss="abort")
    with pytest.raises(ContractError, match="did you mean 'temperature'"):
        future.result(30)


def test_the_simulation_goes_on_without_a_contract(cluster, coupled):
    """The analysis fails before there is one, and the policy is to continue."""
    name, future, outcomes, _ = coupled("misspelt", simulate)
    with pytest.raises(ContractError, match="did you mean 'temperature'"):
        future.result(30)
    assert len(outcomes) == len(RANKS)
    wait_for_end(cluster, name, 20)  # the ranks say goodbye a little later
    record = run_record(cluster, name)
    assert record["phase"] == "failed"
    assert record["ledger"]["closed"]
    assert not record["contract"]["arrays"]


def test_an_unknown_analysis_is_reported(coupled):
    def no_contract(rank, contact):
        with pytest.raises(ContractError):
            simulate(rank, contact)

    _, future, _, _ = coupled("nonesuch", no_contract, on_analytics_loss="abort")
    with pytest.raises(ConfigError, match="no function 'nonesuch'"):
        future.result(30)


def test_a_simulation_that_ends_early_errs_what_remains(cluster, coupled):
    name, future, _, _ = coupled("mean_and_slice", lambda r, c: simulate(r, c, stop_after=5))
    with pytest.raises(Exception, match=r"simulation ended at step 4 of 12"):
        future.result(30)
    record = wait_for_end(cluster, name, 20)  # the ranks say goodbye a little later
    assert record["phase"] == "failed"
    assert record["ledger"]["closed"]


@pytest.mark.parametrize("steps", [1, 5, STEPS])
def test_an_adaptive_simulation_ends_at_its_own_step(cluster, coupled, steps):
    name, future, _, results = coupled(
        f"{adaptive.__name__}:adaptive",
        lambda rank, contact: simulate(rank, contact, stop_after=steps),
        at_most=("temperature",),
    )
    future.result(30)
    with xr.open_zarr(results) as found:
        for result, value in adaptive.expected(FIELD[:steps]).items():
            assert found[result].shape == value.shape, result
            np.testing.assert_allclose(found[result].values, value, rtol=1e-12, err_msg=result)
    record = wait_for_end(cluster, name, 20)
    assert record["ledger"]["closed"]
    assert run_record(cluster, name)["phase"] == "ended"
    assert not run_record(cluster, name)["faults"]


@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
def test_an_adaptive_simulation_is_stopped_by_its_analysis(cluster, coupled, together):
    """Ranks stop at the same step, as by a collective call, or some go on for 20 steps more.

    The data that those have put beyond the others' last step were analysed as they came, and
    would be in some cells of a sum and not in others.
    """

    def until_stopped(rank, contact):
        y, x = RANKS[rank]
        array = Array("temperature", (NY, NX), "f8", offset=(y, x), dims=("y", "x"), steps=400)
        with Bridge(contact=contact, arrays=[array], rank=rank, size=4) as bridge:
            end = 60 if together or rank > 1 else 80
            for step in range(end):
                bridge.put("temperature", step, np.full((4, 3), float(step)))
            assert bridge._mailbox.wait_for(lambda: bridge.stop_reason, 20)

    name, future, _, results = coupled(
        f"{adaptive.__name__}:stopping", until_stopped, at_most=("temperature",)
    )
    if not together:
        with pytest.raises(SimulationLost, match=r"every rank has put step \d+, some have put"):
            future.result(60)
        faults = [fault["what"] for fault in run_record(cluster, name)["faults"]]
        assert faults[0] == "stopped at different steps"
        return
    future.result(60)
    with xr.open_zarr(results, consolidated=False) as found:
        np.testing.assert_array_equal(found["curve"].values, np.arange(60))
        np.testing.assert_array_equal(found["sum"].values, np.full((NY, NX), sum(range(60))))
    assert run_record(cluster, name)["stop_reason"] == "seen enough"


def test_the_config_says_how_many_steps_there_are(cluster, coupled):
    """Where the program that describes the array does not know it."""
    axis = {"start": 0, "every": 1, "count": STEPS}
    name, future, _, results = coupled(
        f"{adaptive.__name__}:adaptive",
        lambda rank, contact: simulate(rank, contact, offer=offer_open),
        steps={"temperature": axis},
    )
    future.result(30)
    with xr.open_zarr(results) as found:
        for result, value in adaptive.expected(FIELD).items():
            np.testing.assert_allclose(found[result].values, value, rtol=1e-12, err_msg=result)
    assert run_record(cluster, name)["phase"] == "ended"


def test_steps_in_the_config_that_contradict_the_program_are_refused(coupled):
    def refused(rank, contact):
        with pytest.raises(ContractError, match="leave STEPS out"):
            simulate(rank, contact)

    _, future, _, _ = coupled(
        f"{adaptive.__name__}:adaptive",
        refused,
        steps={"temperature": {"start": 0, "every": 2, "count": STEPS}},
        on_analytics_loss="abort",
    )
    with pytest.raises(Exception, match="leave STEPS out"):
        future.result(30)


def test_an_adaptive_simulation_that_puts_nothing_fails(cluster, coupled):
    _, future, _, _ = coupled(
        f"{adaptive.__name__}:adaptive",
        lambda rank, contact: simulate(rank, contact, stop_after=0),
        at_most=("temperature",),
    )
    with pytest.raises(Exception, match="simulation ended before its first step"):
        future.result(30)


def test_a_rank_that_ends_earlier_than_the_others_is_a_failure(cluster, coupled):
    name, future, _, _ = coupled(
        f"{adaptive.__name__}:adaptive",
        lambda rank, contact: simulate(rank, contact, stop_after=4 if rank == 2 else 5),
        at_most=("temperature",),
    )
    with pytest.raises(Exception, match="simulation ended at step 4"):
        future.result(30)
    assert run_record(cluster, name)["phase"] == "failed"


def test_what_needs_the_number_of_steps_is_refused_before_step_0(coupled):
    def refused(rank, contact):
        with pytest.raises(ContractError):
            simulate(rank, contact)

    _, future, _, _ = coupled(
        f"{adaptive.__name__}:too_much",
        refused,
        at_most=("temperature",),
        on_analytics_loss="abort",
    )
    with pytest.raises(ValueError, match="unknown") as error:
        future.result(30)
    notes = "".join(error.value.__notes__)
    assert "'temperature' has at most 12 steps" in notes and "run.rolling" in notes


def test_feedback_reaches_all_ranks_alike(coupled):
    barrier = threading.Barrier(len(RANKS), timeout=20)

    def steered(rank, contact):
        y, x = RANKS[rank]
        gains = []
        with Bridge(contact=contact, arrays=offer(rank), rank=rank, size=len(RANKS)) as bridge:
            for step in range(STEPS):
                bridge.put("temperature", step, field(step)[y : y + 4, x : x + 3])
                barrier.wait()
                if rank == 0:
                    gains.append(bridge.receive("gain", step=step))
        return gains

    _, future, outcomes, _ = coupled("steering", steered)
    future.result(30)
    np.testing.assert_allclose(outcomes[0], FIELD.mean(axis=(1, 2)), rtol=1e-13)


def test_overlapping_blocks_are_refused_with_both_ranks_named(cluster, coupled):
    def overlapping(rank, contact):
        y, x = RANKS[rank]
        box = ((y, x), (4, 4 if rank == 0 else 3))
        array = Array("temperature", (NY, NX), "f8", blocks=[box], steps=STEPS)
        with (
            pytest.raises(AnalyticsLost, match=r"ranks 0 .* and 1 .* overlap"),
            Bridge(contact=contact, arrays=[array], rank=rank, size=len(RANKS)) as bridge,
        ):
            for step in range(10_000):
                bridge.put("temperature", step, np.zeros(box[1]))
                bridge.wait()

    name, future, _, _ = coupled("mean_and_slice", overlapping)
    with pytest.raises(Exception, match="overlap"):
        future.result(30)
    assert run_record(cluster, name)["fatal"]["what"] == "described wrong blocks"


def test_a_hole_between_blocks_is_found_at_the_first_put(coupled):
    def holed(rank, contact):
        with (
            pytest.raises(AnalyticsLost, match=r"no rank has \[0:1, 0:3\]"),
            Bridge(contact=contact, arrays=offer(rank, rank == 0), rank=rank, size=4) as bridge,
        ):
            for step in range(10_000):
                bridge.put("temperature", step, np.zeros((3 if rank == 0 else 4, 3)))
                bridge.wait()

    _, future, _, _ = coupled("mean_and_slice", holed)
    with pytest.raises(Exception, match="do not tile"):
        future.result(30)


def test_arrays_of_the_config_with_its_process_grid_and_halo(coupled):
    described = [
        {
            "name": "temperature",
            "dtype": "<f8",
            "shape": [NY, NX],
            "dims": ["y", "x"],
            "steps": {"start": 0, "every": 1, "count": STEPS},
        }
    ]

    def rows(rank, contact):
        padded = np.full((NY // 4 + 2, NX + 2), np.nan)
        with Bridge(contact=contact, rank=rank, size=4) as bridge:
            for step in range(STEPS):
                padded[1:-1, 1:-1] = field(step)[2 * rank : 2 * rank + 2]
                bridge.put("temperature", step, padded)

    _, future, _, results = coupled(
        "mean_and_slice",
        rows,
        described,
        decompositions={"temperature": (4, 1)},
        halos={"temperature": 1},
    )
    future.result(30)
    with xr.open_zarr(results, consolidated=False) as dataset:
        np.testing.assert_allclose(dataset["mean"], FIELD.mean(axis=0), rtol=1e-13)


def exiting(arrays):
    def leave(block):
        if block.size:  # Dask calls it with an empty block to learn the result's type
            raise SystemExit("no input")
        return block

    return {"bad": da.map_blocks(leave, arrays["temperature"], dtype=float).sum()}


def test_a_task_that_exits_fails_and_its_worker_stays(cluster, coupled):
    workers = set(cluster.scheduler_info(n_workers=-1)["workers"])
    _, future, _, _ = coupled("exiting", simulate)
    with pytest.raises(AnalysisFailed, match=r"a task called sys\.exit\('no input'\)"):
        future.result(30)
    assert set(cluster.scheduler_info(n_workers=-1)["workers"]) == workers
    # The profiler of a worker looks at the threads that compute, which may have ended by then.
    task = cluster.submit(_exit, key="exit-" + secrets.token_hex(4))
    with pytest.raises(AnalysisFailed, match="no file"):
        task.result(20)
    computing = cluster.run(lambda dask_worker: list(dask_worker.active_threads.values()))
    assert task.key not in [key for keys in computing.values() for key in keys]


def _exit():
    raise SystemExit("no file")


# -- open-ended runs -----------------------------------------------------------------------


def windows(arrays, run):
    rolling = run.rolling(arrays["temperature"], 3, region=(slice(None, None, 2),))
    seen = [
        (w.steps.start, w.steps.stop, float(w.value))
        for w in rolling.scan(lambda total, x: (total + x.sum(), x.mean()), 0.0)
    ]
    return {"windows": np.array(seen), "total": rolling.state}


def offer_open(rank: int) -> list[Array]:
    return [Array("temperature", (NY, NX), "f8", offset=RANKS[rank], dims=("y", "x"))]


@pytest.mark.parametrize("steps", [3, 4, 40])
def test_rolling_windows_of_an_open_ended_run(cluster, coupled, steps):
    def endless(rank, contact):
        y, x = RANKS[rank]
        with Bridge(contact=contact, arrays=offer_open(rank), rank=rank, size=4) as bridge:
            for step in range(steps):
                bridge.put("temperature", step, field(step)[y : y + 4, x : x + 3])

    name, future, _, results = coupled("windows", endless)
    future.result(30)
    wanted = np.stack([field(k)[::2] for k in range(steps)])
    with xr.open_zarr(results, consolidated=False) as dataset:
        found = dataset["windows"].values
        np.testing.assert_array_equal(found[:, 0], np.arange(steps - 2))
        np.testing.assert_allclose(
            found[:, 2], [wanted[k : k + 3].mean() for k in range(steps - 2)], rtol=1e-13
        )
        total = sum(wanted[k : k + 3].sum() for k in range(steps - 2))
        np.testing.assert_allclose(dataset["total"], total, rtol=1e-12)
    record = wait_for_end(cluster, name, 20)
    assert record["phase"] == "ended"
    assert record["ledger"]["closed"]


def simulate_until_stopped(rank: int, contact) -> int | None:
    """Put steps until the analysis has seen enough; return how many."""
    y, x = RANKS[rank]
    with Bridge(contact=contact, arrays=offer_open(rank), rank=rank, size=4) as bridge:
        for step in range(10_000):
            if bridge.should_stop():
                return step
            bridge.put("temperature", step, field(step)[y : y + 4, x : x + 3])
    return None


def test_an_early_stop_ends_the_simulation_cleanly(cluster, coupled):
    name, future, outcomes, _ = coupled("converging", simulate_until_stopped)
    future.result(30)
    record = wait_for_end(cluster, name, 20)
    assert record["phase"] == "ended"
    assert record["stop_reason"] == "converged"
    assert all(step is not None for step in outcomes)


def test_an_analysis_that_has_returned_lets_nobody_wait_for_a_value(cluster, coupled):
    def obedient(rank, contact):
        y, x = RANKS[rank]
        with Bridge(contact=contact, arrays=offer_open(rank), rank=rank, size=4) as bridge:
            for step in range(10):
                bridge.put("temperature", step, field(step)[y : y + 4, x : x + 3])
                if rank == 0:
                    try:
                        assert bridge.receive("gain", step=step) == step
                    except RunStopped as stopped:
                        return step, str(stopped)
        return None

    name, future, outcomes, _ = coupled("three_gains", obedient)
    future.result(30)
    record = wait_for_end(cluster, name, 20)
    assert record["phase"] == "ended"
    step, why = next(outcome for outcome in outcomes if outcome)
    assert (step, "has returned" in why) == (3, True)


def three_gains(arrays, run):
    for window in run.rolling(arrays["temperature"], 1).map(lambda x: x.mean()):
        run.send("gain", window.index, step=window.index)
        if window.index == 2:
            break
    return {"gains": window.index}


def converging(arrays, run):
    for window in run.rolling(arrays["temperature"], 1).map(lambda x: x.mean()):
        if window.index == 5:
            run.stop("converged")
            break
    return {"reached": window.index}


def computing_windows(arrays, run):
    seen = [
        (w.steps.start, float(w.value))
        for w in run.rolling(arrays["temperature"], 3).map(lambda x: x.mean().compute())
    ]
    return {"windows": np.array(seen)}


@pytest.mark.parametrize("steps", [3, 20])
def test_a_window_may_be_computed_inside_its_function(cluster, coupled, steps):
    def endless(rank, contact):
        y, x = RANKS[rank]
        with Bridge(contact=contact, arrays=offer_open(rank), rank=rank, size=4) as bridge:
            for step in range(steps):
                bridge.put("temperature", step, field(step)[y : y + 4, x : x + 3])

    name, future, _, results = coupled("computing_windows", endless)
    future.result(30)
    with xr.open_zarr(results) as dataset:
        wanted = [np.stack([field(k) for k in range(n, n + 3)]).mean() for n in range(steps - 2)]
        np.testing.assert_allclose(dataset["windows"].values[:, 1], wanted, rtol=1e-13)
    assert wait_for_end(cluster, name, 20)["phase"] == "ended"


# -- training in transit -------------------------------------------------------------------


def learner(**options):
    from sklearn.linear_model import SGDRegressor

    return InTransit(SGDRegressor(random_state=0), hold_out=4, **options)


def learning(arrays, run):
    t = arrays["temperature"]
    training = learner(reservoir=2).fit(t[:, :-1], 2 * t[:, 1:] + 1, samples=(0, 1, 2))
    path = Path(run.settings.run_dir, "model")
    checkpoint = {"learner": training.checkpoint}
    return {"curve": training.curve, "model_bytes": training.save(path), "checkpoint": checkpoint}


def learning_until_stopped(arrays, run):
    rolling = run.rolling(arrays["temperature"], 4, stride=4)
    stopping = learner(patience=2, tolerance=1e9)
    split = lambda t: (t, 2 * t)  # noqa: E731
    windows = [*stopping.follow(run, rolling, split, samples=(0, 1, 2))]
    return {"validation": np.array([w.value.record.validation for w in windows])}


def test_a_model_is_trained_on_steps_as_they_come(cluster, coupled, tmp_path):
    name, future, _, results = coupled("learning", simulate)
    summary = future.result(30)
    assert wait_for_end(cluster, name, 20)["phase"] == "ended"
    stored = da.from_array(FIELD, chunks=(1, NY, NX))
    expected = learner(reservoir=2).fit(stored[:, :-1], 2 * stored[:, 1:] + 1, samples=(0, 1, 2))
    with xr.open_zarr(results, group="curve", consolidated=False) as curve:
        np.testing.assert_allclose(curve["loss"], expected.curve["loss"].compute(), rtol=1e-9)
        assert curve["loss"].dims == ("step",)
    assert [path.suffix for path in tmp_path.glob("model.*")] in (["." + f] for f in FORMS)
    assert np.load(summary["checkpoint"])["learner"].dtype == np.uint8


def test_training_that_does_not_improve_ends_the_simulation(cluster, coupled):
    name, future, outcomes, results = coupled("learning_until_stopped", simulate_until_stopped)
    future.result(30)
    record = wait_for_end(cluster, name, 20)
    assert record["stop_reason"] == "the validation has not improved since step 5"
    assert all(step is not None for step in outcomes)
    with xr.open_zarr(results, consolidated=False) as dataset:
        assert dataset["validation"].shape == (2,)


def offer_three(rank: int, steps: int | None = None) -> list[Array]:
    y, x = RANKS[rank]
    where = {"offset": (y, x), "dims": ("y", "x")}
    return [
        Array("u", (NY, NX), "f8", **where, steps=steps),
        Array("p", (NY, NX), "f8", **where, steps=steps),
        Array("volume", (NY, NX), "f8", **where, steps=1),
    ]


def simulate_three(rank, contact, steps, known=None):
    y, x = RANKS[rank]
    mine = np.s_[y : y + 4, x : x + 3]
    with Bridge(contact=contact, arrays=offer_three(rank, known), rank=rank, size=4) as bridge:
        bridge.put("volume", 0, 1.0 + field(0)[mine])
        for step in range(steps):
            bridge.put("u", step, field(step)[mine])
            bridge.put("p", step, 2.0 - field(step)[mine] ** 2)


def windows_together(arrays, run):
    volume = arrays["volume"][0]
    both = {name: arrays[name] for name in "up"}
    rolling = run.rolling(both, 2, stride=2, beside=volume)

    def work(total, window):
        product = (window["u"] * window["p"] * volume).sum()
        return total + product, product

    found = [window.value for window in rolling.scan(work, 0.0)]
    return {"products": np.array(found), "total": rolling.state}


def windows_apart(arrays, run):
    pairs = run.rolling((arrays["u"], arrays["p"]), 1, ahead=2)
    fours = run.rolling(arrays["u"], 4, stride=4, region=(slice(0, 2),), ahead=1)
    of_pairs = pairs.map(lambda window: (window[0] - window[1]).min())
    smallest, means = [], []
    for window in fours.map(lambda window: window.mean()):
        means.append(window.value)
        smallest += [next(of_pairs).value for _ in range(4)]
    smallest += [window.value for window in of_pairs]
    return {"smallest": np.array(smallest), "means": np.array(means)}


U = np.stack([field(step) for step in range(50)])
P = 2.0 - U**2


@pytest.mark.parametrize("steps", [12, 45])
def test_windows_over_two_arrays_beside_one_that_is_put_once(cluster, coupled, steps):
    name, future, _, results = coupled(
        "windows_together", lambda rank, contact: simulate_three(rank, contact, steps)
    )
    future.result(30)
    products = (U * P * (1.0 + U[0])).sum(axis=(1, 2))[: steps // 2 * 2]
    with xr.open_zarr(results) as found:
        np.testing.assert_allclose(found["products"].values, products.reshape(-1, 2).sum(axis=1))
        np.testing.assert_allclose(float(found["total"]), products.sum())
    assert run_record(cluster, name)["phase"] == "ended"
    assert run_record(cluster, name)["ledger"]["closed"]


def test_several_windows_in_one_run(cluster, coupled):
    _, future, _, results = coupled(
        "windows_apart", lambda rank, contact: simulate_three(rank, contact, 30)
    )
    future.result(30)
    with xr.open_zarr(results) as found:
        np.testing.assert_allclose(found["smallest"].values, (U - P)[:30].min(axis=(1, 2)))
        means = U[:28, :2].reshape(7, -1).mean(axis=1)
        np.testing.assert_allclose(found["means"].values, means)


def test_windows_of_an_adaptive_run_with_a_bound(coupled):
    _, future, _, results = coupled(
        "windows_together",
        lambda rank, contact: simulate_three(rank, contact, 9, known=50),
        at_most=("u", "p"),
    )
    future.result(30)
    products = (U * P * (1.0 + U[0])).sum(axis=(1, 2))[:8]
    with xr.open_zarr(results) as found:
        np.testing.assert_allclose(found["products"].values, products.reshape(-1, 2).sum(axis=1))


def seen_enough(arrays, run):
    """Of ``u`` two windows are enough; of ``p`` all that fit, which are not all of its steps."""
    volume = arrays["volume"][0]
    scans = [
        run.rolling(arrays["u"], 2, ahead=1, beside=volume).map(lambda u: (u * volume).sum()),
        run.rolling(arrays["p"], 7, stride=7, ahead=1).map(lambda p: p.mean()),
    ]
    sums, means = [], []
    for window in scans[1]:
        means.append(window.value)
        if len(sums) < 2:
            sums.append(next(scans[0]).value)
        else:
            scans[0].close()
        if len(means) == 4 and arrays["p"].spec.steps.count is None:
            break
    return {"sums": np.array(sums), "means": np.array(means)}


@pytest.mark.parametrize("known", [None, 41])
def test_an_analysis_that_has_seen_enough_windows_lets_the_simulation_go_on(
    cluster, coupled, known
):
    name, future, _, results = coupled(
        "seen_enough", lambda rank, contact: simulate_three(rank, contact, 41, known)
    )
    future.result(30)
    with xr.open_zarr(results) as found:
        volume = 1.0 + U[0]
        expected = [(U[k : k + 2] * volume).sum() for k in range(2)]
        np.testing.assert_allclose(found["sums"].values, expected)
        n = 4 if known is None else 5
        np.testing.assert_allclose(
            found["means"].values, P[: 7 * n].reshape(n, -1).mean(axis=1), rtol=1e-12
        )
    record = wait_for_end(cluster, name, 20)
    assert record["phase"] == "ended"
    assert record["ledger"]["closed"]


def one_after_the_other(arrays, run):
    first, second = (run.rolling(arrays[name], 1, ahead=2) for name in "up")
    means = [[w.value for w in each.map(lambda x: x.mean())] for each in (first, second)]
    return {"means": np.array(means)}


def late_windows(arrays, run):
    for _ in run.rolling(arrays["u"], 1).map(lambda x: x.mean()):
        run.rolling(arrays["p"], 1)
    return {"nothing": 0.0}


def other_steps(arrays, run):
    run.rolling((arrays["u"], arrays["volume"]), 1)


@pytest.mark.parametrize(
    ("analysis", "text"),
    [
        ("one_after_the_other", "iterate the windows of a run together"),
        ("late_windows", "make all windows first"),
        ("other_steps", "'u' and 'volume' are put at different steps"),
    ],
)
def test_windows_that_cannot_be_are_refused_with_the_remedy(coupled, analysis, text):
    def ranks(rank, contact):
        with contextlib.suppress(ContractError):
            simulate_three(rank, contact, 45)

    _, future, _, _ = coupled(analysis, ranks)
    with pytest.raises(ContractError, match=text):
        future.result(30)


# -- a model for the simulation ------------------------------------------------------------


def teaching(arrays, run):
    for window in run.rolling(arrays["temperature"], 1).map(lambda x: x.mean()):
        weights = np.full((512, 1024), float(window.index))  # 4 MiB
        run.send_model("net", {"weights": weights, "bias": np.arange(3.0)}, window.index)
    return {"versions": window.index + 1}


def test_versions_of_a_model_of_some_mebibytes_come_whole(cluster, coupled):
    def learning_rank(rank, contact):
        y, x = RANKS[rank]
        versions = []
        with Bridge(contact=contact, arrays=offer_open(rank), rank=rank, size=4) as bridge:
            for step in range(8):
                bridge.put("temperature", step, field(step)[y : y + 4, x : x + 3])
                if rank == 0:
                    version, arrays = bridge.receive_model("net", timeout=20.0)
                    assert arrays["weights"].shape == (512, 1024)
                    assert (arrays["weights"] == version).all()
                    assert arrays["bias"].tolist() == [0, 1, 2]
                    assert bridge.receive_model("net", newer_than=version + 8) is None
                    assert bridge.receive_model("other") is None
                    versions.append(version)
        return versions

    name, future, outcomes, _ = coupled("teaching", learning_rank)
    future.result(30)
    assert wait_for_end(cluster, name, 20)["phase"] == "ended"
    assert outcomes[0] == sorted(outcomes[0]) and len(outcomes[0]) == 8


@pytest.mark.parametrize(
    ("skips", "said"),
    [
        ({0, 1, 2, 3}, "step 5 of array 'temperature' was put by no rank, but step 11 was"),
        ({2}, "step 5 of array 'temperature' was not put by rank 2, but step 11 was"),
    ],
)
def test_a_step_that_ranks_leave_out_is_named_with_them(cluster, coupled, skips, said):
    def ranks(rank, contact):
        y, x = RANKS[rank]
        with Bridge(contact=contact, arrays=offer(rank), rank=rank, size=len(RANKS)) as bridge:
            for step in range(STEPS):
                if step != 5 or rank not in skips:
                    bridge.put("temperature", step, field(step)[y : y + 4, x : x + 3])

    name, future, _, _ = coupled("mean_and_slice", ranks)
    with pytest.raises(SimulationLost, match=said):
        future.result(30)
    record = wait_for_end(cluster, name, 20)
    assert record["fatal"]["cause"].count(said) == 1


def test_a_rank_that_ends_before_the_others_is_named(cluster, coupled):
    """It closes its bridge in order, as a program does that leaves its loop or its function."""

    def ranks(rank, contact):
        y, x = RANKS[rank]
        with Bridge(contact=contact, arrays=offer(rank), rank=rank, size=len(RANKS)) as bridge:
            for step in range(5 if rank == 2 else STEPS):
                bridge.put("temperature", step, field(step)[y : y + 4, x : x + 3])

    name, future, _, _ = coupled("mean_and_slice", ranks)
    said = "rank 2 closed the bridge after step 4, but rank 0 has put step 11"
    with pytest.raises(SimulationLost, match=said):
        future.result(30)
    assert said in wait_for_end(cluster, name, 20)["fatal"]["cause"]


def test_an_array_that_a_rank_leaves_out_in_a_step_is_named(cluster, coupled):
    """The rank has put the step, but not all arrays in it."""

    def both(rank):
        y, x = RANKS[rank]
        return [
            Array(name, (NY, NX), "f8", offset=(y, x), dims=("y", "x"), steps=STEPS)
            for name in ("temperature", "pressure")
        ]

    def ranks(rank, contact):
        y, x = RANKS[rank]
        with Bridge(contact=contact, arrays=both(rank), rank=rank, size=len(RANKS)) as bridge:
            for step in range(STEPS):
                block = field(step)[y : y + 4, x : x + 3]
                bridge.put("temperature", step, block)
                if step != 5 or rank != 2:
                    bridge.put("pressure", step, block)

    name, future, _, _ = coupled("both_means", ranks)
    said = "step 5 of array 'pressure' was not put by rank 2, but step 11 was"
    with pytest.raises(SimulationLost, match=said):
        future.result(30)
    assert wait_for_end(cluster, name, 20)["fatal"]["what"] == "left out a step"


def both_means(arrays):
    return {name: arrays[name].mean(axis=0) for name in ("temperature", "pressure")}


@pytest.mark.parametrize("policy", ["abort", "continue"])
def test_a_step_that_a_rank_leaves_out_is_named_while_the_others_wait_for_memory(
    cluster, coupled, policy
):
    """Receivers have room for one step only: all ranks wait for room that the gap takes."""

    def ranks(rank, contact):
        y, x = RANKS[rank]
        with Bridge(contact=contact, arrays=offer(rank), rank=rank, size=len(RANKS)) as bridge:
            for step in range(STEPS):
                if step != 5 or rank != 2:
                    bridge.put("temperature", step, field(step)[y : y + 4, x : x + 3])
        return "done"

    def until_the_policy_acts(rank, contact):
        try:
            return ranks(rank, contact)
        except AnalyticsLost as error:
            return str(error)

    name, future, outcomes, _ = coupled(
        "mean_and_slice", until_the_policy_acts, memory_share=1e-9, on_analytics_loss=policy
    )
    said = "step 5 of array 'temperature' was not put by rank 2"
    with pytest.raises(SimulationLost, match=said):
        future.result(30)
    assert said in wait_for_end(cluster, name, 20)["fatal"]["cause"]
    # Rank 3 puts into the same chunks as rank 2; the chunks of the others are complete.
    # With abort they may hear of the failure in their last calls.
    wanted = ("done",) if policy == "continue" else ("done", "the run failed")
    assert all(outcome.startswith(wanted) for outcome in outcomes[:2])
    for outcome in outcomes[2:]:
        assert outcome == "done" if policy == "continue" else said in outcome


def cyclic(arrays):
    def keep(block):
        kept = [block]
        kept.append(kept)
        return block

    return {"mean": da.map_blocks(keep, arrays["temperature"][:3], dtype=float).mean(axis=0)}


def test_ranks_that_wait_for_chunks_in_reference_cycles_go_on(cluster, coupled, monkeypatch):
    """An idle worker may not collect garbage for minutes."""
    monkeypatch.setattr(stalls, "PATIENCE", 0.2)
    cluster.run(gc.disable)
    try:
        name, future, _, results = coupled("cyclic", simulate, memory_share=1e-9)
        future.result(30)
    finally:
        cluster.run(gc.enable)
    with xr.open_zarr(results) as found:
        np.testing.assert_allclose(found["mean"].values, FIELD[:3].mean(axis=0), rtol=1e-12)
    assert wait_for_end(cluster, name, 20)["ledger"]["closed"]


def mean_of_points(arrays):
    return {"mean": arrays["u"].mean(axis=0)}


def mean_of_some_points(arrays):
    u = arrays["u"]
    return {"mean": u[::4].mean(axis=0), "other": u[3::4].mean(axis=0)}


@pytest.mark.parametrize("analysis", ["mean_of_points", "mean_of_some_points"])
def test_a_long_step_of_an_array_by_ids_is_not_taken_for_one_that_was_left_out(
    cluster, coupled, monkeypatch, analysis
):
    """While nothing moves, receivers say that all ranks have put the steps before."""
    monkeypatch.setattr(stalls, "PATIENCE", 0.2)
    steps, per_rank = 130, 5  # chunks of 8 steps

    def ranks(rank, contact):
        ids = np.arange(rank, 4 * per_rank, 4)
        array = Array("u", (4 * per_rank,), steps=steps, ids=ids)
        with Bridge(contact=contact, arrays=[array], rank=rank, size=4) as bridge:
            for step in range(steps):
                if step == 7:
                    time.sleep(1.5)  # the step that takes long
                bridge.put("u", step, ids + 100.0 * step)

    name, future, _, results = coupled(analysis, ranks)
    future.result(30)
    record = wait_for_end(cluster, name, 20)
    assert record["ledger"]["closed"]
    wanted = slice(None) if analysis == "mean_of_points" else slice(None, None, 4)
    with xr.open_zarr(results) as found:
        expected = np.arange(4 * per_rank) + 100.0 * np.arange(steps)[wanted].mean()
        np.testing.assert_allclose(found["mean"].values, expected, rtol=1e-12)


def test_several_steps_make_a_chunk_where_the_analysis_cannot_notice(cluster, coupled):
    steps = 66  # chunks of 4 steps, the last one of 2

    def simulate_long(rank, contact):
        y, x = RANKS[rank]
        array = Array("temperature", (NY, NX), "f8", offset=(y, x), dims=("y", "x"), steps=steps)
        with Bridge(contact=contact, arrays=[array], rank=rank, size=4) as bridge:
            for step in range(steps):
                bridge.put("temperature", step, field(step)[y : y + 4, x : x + 3])

    name, future, _, results = coupled("mean_and_slice", simulate_long)
    future.result(60)
    whole = np.stack([field(step) for step in range(steps)])
    with xr.open_zarr(results) as found:
        np.testing.assert_allclose(found["mean"].values, whole.mean(axis=0), rtol=1e-12)
        np.testing.assert_array_equal(found["corner"].values, whole[::3, 1:3, ::2])
    record = wait_for_end(cluster, name, 20)
    assert record["ledger"]["closed"]
    (row,) = future.result()["contract"]
    assert row["chunk_reason"]
    shown = call(cluster, "terms", name)  # while the run is on
    assert [each["chunk_reason"] for each in shown] == [row["chunk_reason"]]
    assert (row["steps_per_chunk"], row["chunks"]) == (4, 34)
