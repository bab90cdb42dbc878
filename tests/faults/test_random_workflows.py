"""Random runs under ``ips.py``: MPI ranks, Dask workers that are killed, results in a store.

Every run equals NumPy bit for bit, or fails with a cause. ``CAMPAIGN_RUNS`` says how many runs the
campaign makes (40), ``CAMPAIGN_SEED`` with which seed it begins (1000).
"""

import os
import random
import time

import numpy as np
import psutil
import pytest
import random_cases
import xarray as xr
from coupled.random_analysis import to_bytes
from coupled_outcomes import WORKER, find_if_any, record_of

RUNS = int(os.environ.get("CAMPAIGN_RUNS", "40"))
FIRST = int(os.environ.get("CAMPAIGN_SEED", "1000"))


def _case(seed):
    """The first case from a seed on without particles, whose results have no known shape."""
    case = random_cases.case(seed)
    while any(field.ragged for field in case.arrays):
        case = random_cases.case(case.seed + 1)
    return case


def _assert_right(case, record):
    assert record["status"] == "ok"
    assert record["ledger"]["closed"]
    with xr.open_zarr(record["results"]["path"], consolidated=False) as results:
        for field in case.arrays:
            for number, key in enumerate(field.keys):
                expected = to_bytes(field.whole[key])
                found = results[f"{field.name}_{number}"].values
                np.testing.assert_array_equal(found, expected, err_msg=str(case))


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(3, marks=pytest.mark.course),
        pytest.param(21, marks=pytest.mark.course),
        *(pytest.param(seed, marks=pytest.mark.campaign) for seed in range(FIRST, FIRST + RUNS)),
    ],
)
def test_a_random_workflow_is_right(random_workflow, seed):
    case = _case(seed)
    flow = random_workflow(case)
    ended = flow.run(170)
    assert ended.status == 0, f"{case}\n{ended.output}\n{ended.log}"
    _assert_right(case, record_of(flow))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(5, marks=pytest.mark.deaths),
        pytest.param(8, marks=pytest.mark.deaths),
        *(pytest.param(seed, marks=pytest.mark.campaign) for seed in range(FIRST, FIRST + RUNS)),
    ],
)
def test_a_worker_of_a_random_workflow_is_killed(random_workflow, seed):
    """Some worker dies at some moment of the simulation; its chunks are sent again."""
    case = _case(seed)
    rng = random.Random(seed)
    flow = random_workflow(case, pace=4.0 / case.steps, workers=3, REPLAY_STEPS=50)
    process = flow.start()
    deadline = time.monotonic() + 60
    while not find_if_any(process, "random_rank.py") and time.monotonic() < deadline:
        assert process.poll() is None, flow.output() + flow.log()
        time.sleep(0.1)
    time.sleep(rng.uniform(0.0, 5.0))
    workers = find_if_any(process, WORKER) if process.poll() is None else []
    if workers:
        try:
            rng.choice(workers).kill()
        except psutil.NoSuchProcess:
            workers = []
    ended = flow.wait(process, 220)
    record = record_of(flow)
    if ended.status == 0:
        _assert_right(case, record)
    else:
        assert workers, f"{case}\n{ended.output}\n{ended.log}"
        assert record["status"] == "failed"
        assert "cause:" in ended.output, ended.output
