"""Codes that end when their time is over: real ``ips.py``, MPI ranks, workers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from workflows import BIN, PARTS, Workflow

pytestmark = pytest.mark.course

CELLS, BOUND, CAME = 12, 61, 28
FIELD = 100.0 * np.arange(BOUND)[:, np.newaxis] + np.arange(CELLS)


def adaptive(directory: Path, steps: int, *, array: str, more: str = "", time_loop=None, **parts):
    """A code that puts `steps` steps, coupled to an analysis over at most so many."""
    components = {
        "DRIVER": {"NAME": "Driver", "MODULE": "ips_components.driver", **parts.get("driver", {})},
        "SIM": {
            "NAME": "Simulation",
            "MODULE": "ips_components.simulation",
            "NPROC": 2,
            "EXECUTABLE": BIN / "python",
            "ARGS": f"{PARTS}/counting.py field {CELLS} {steps} {more}",
        },
        "ANALYTICS": {
            "NAME": "Analytics",
            "MODULE": "ips_components.analytics",
            "ANALYSIS": "loop_analysis:over_time",
            "DASK_PPW": 1,
            "DASK_WORKERS_PER_NODE": 2,
            "FIGURE": False,
        },
    }
    if time_loop is None:
        time_loop = {"MODE": "REGULAR", "START": 0, "FINISH": 1, "NSTEP": BOUND}
    flow = Workflow(directory, components, platform={"MPIRUN": "mpiexec"}, time_loop=time_loop)
    flow.write()
    with flow.config_file.open("a") as file:
        file.write(f"[[ARRAYS]]\n[[[field]]]\nAT_MOST = True\n{array}\n")
    return flow


def record_of(flow: Workflow) -> dict:
    (run,) = flow.root.glob("run_*")
    return json.loads((run / "run.json").read_text())


def check(flow: Workflow, came: int) -> None:
    (run,) = flow.root.glob("run_*")
    field = FIELD[:came]
    expected = {
        "mean": field.mean(axis=0),
        "spread": field.std(axis=0),
        "largest": field.max(),
        "last": field[-1],
        "curve": field.mean(axis=1),
        "some": field[::5, :4],
    }
    with xr.open_zarr(run / "results.zarr", consolidated=False) as found:
        for name, value in expected.items():
            assert found[name].shape == value.shape
            np.testing.assert_allclose(found[name].values, value, rtol=1e-12, err_msg=name)
    record = record_of(flow)
    assert record["status"] == "ok"
    assert record["ledger"]["closed"]


@pytest.mark.timeout(200)
@pytest.mark.parametrize("described", ["by the config, without NSTEP", "by the simulation"])
def test_a_code_ends_at_step_28_of_at_most_61(tmp_path, leaves_nothing, described):
    if described == "by the simulation":
        flow = adaptive(tmp_path, CAME, array="", more=f"--total {BOUND}")
    else:
        array = f"SHAPE = {CELLS},\nSTEPS = 0:{BOUND}"
        flow = adaptive(tmp_path, CAME, array=array, more="--undescribed", time_loop={})
    ended = flow.run(150)
    assert ended.status == 0, ended.output + ended.log
    check(flow, CAME)


@pytest.mark.timeout(200)
def test_launches_of_a_code_end_before_the_bound(tmp_path, leaves_nothing):
    loop = {"MODE": "REGULAR", "START": 0, "FINISH": 3, "NSTEP": 3}
    driver = {"NAME": "GenericDriver", "MODULE": "generic_driver"}
    array = f"SHAPE = {CELLS},\nSTEPS = 0:{BOUND}"
    flow = adaptive(tmp_path, 4, array=array, more="--undescribed", time_loop=loop, driver=driver)
    ended = flow.run(150)
    assert ended.status == 0, ended.output + ended.log
    check(flow, 12)
    assert [launch["ok"] for launch in record_of(flow)["launches"]] == [True] * 3


@pytest.mark.timeout(200)
def test_a_code_that_dies_before_the_bound_is_a_failure(tmp_path, leaves_nothing):
    array = f"SHAPE = {CELLS},\nSTEPS = 0:{BOUND}"
    flow = adaptive(tmp_path, CAME, array=array, more="--undescribed --die 0:6")
    ended = flow.run(150)
    assert ended.status == 1
    assert record_of(flow)["status"] == "failed"
