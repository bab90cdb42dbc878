"""Codes that end when their time is over: real ``ips.py``, MPI ranks, workers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from workflows import BIN, PARTS, Workflow

pytestmark = pytest.mark.course

CELLS, BOUND, CAME, MANY = 12, 61, 28, 100
FIELD = 100.0 * np.arange(MANY)[:, np.newaxis] + np.arange(CELLS)


def adaptive(
    directory: Path,
    steps: int,
    *,
    array: str,
    more: str = "",
    time_loop=None,
    bound: str = "AT_MOST = True",
    **parts,
):
    """A code that puts `steps` steps, coupled to an analysis over at most so many."""
    components = {
        "DRIVER": {"NAME": "Driver", "MODULE": "ips_components.driver", **parts.get("driver", {})},
        "SIM": {
            "NAME": "Simulation",
            "MODULE": "ips_components.simulation",
            "NPROC": 2,
            "EXECUTABLE": BIN / "python",
            "ARGS": f"{PARTS}/counting.py field {CELLS} {steps} {more}",
            **parts.get("code", {}),
        },
        "ANALYTICS": {
            "NAME": "Analytics",
            "MODULE": "ips_components.analytics",
            "ANALYSIS": "loop_analysis:over_time",
            "DASK_PPW": 1,
            "DASK_WORKERS_PER_NODE": 2,
            "FIGURE": False,
            **parts.get("analytics", {}),
        },
    }
    if time_loop is None:
        time_loop = {"MODE": "REGULAR", "START": 0, "FINISH": 1, "NSTEP": BOUND}
    flow = Workflow(directory, components, platform={"MPIRUN": "mpiexec"}, time_loop=time_loop)
    flow.write()
    with flow.config_file.open("a") as file:
        if bound or array:
            file.write(f"[[ARRAYS]]\n[[[field]]]\n{bound}\n{array}\n")
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


@pytest.mark.timeout(200)
@pytest.mark.parametrize("described", ["by the config", "in Python", "in C"])
def test_a_code_of_which_nobody_knows_how_many_steps_it_has(tmp_path, leaves_nothing, described):
    """No number in the program, none in the config; more steps than the first graph spans."""
    array, more, code = "", "", {}
    if described == "by the config":
        array, more = f"SHAPE = {CELLS},", "--undescribed"
    elif described == "in C":
        code = {"EXECUTABLE": compiled(tmp_path), "ARGS": f"field {CELLS} {MANY}"}
    flow = adaptive(tmp_path, MANY, array=array, more=more, time_loop={}, bound="", code=code)
    ended = flow.run(150)
    assert ended.status == 0, ended.output + ended.log
    check(flow, MANY)


def compiled(directory: Path) -> Path:
    """Return the counting code in C."""
    flags = [
        subprocess.run([BIN / "ips-components-config", each], text=True, stdout=-1, check=True)
        for each in ("--cflags", "--libs")
    ]
    program = directory / "counting"
    before, after = (each.stdout.split() for each in flags)
    subprocess.run(
        ["mpicc", *before, "-o", program, PARTS / "counting.c", *after], check=True, timeout=120
    )
    return program


@pytest.mark.timeout(200)
@pytest.mark.parametrize("language", ["Python", "C"])
def test_launches_of_which_nobody_knows_how_many_steps_they_have(
    tmp_path, leaves_nothing, language
):
    loop = {"MODE": "REGULAR", "START": 0, "FINISH": 3, "NSTEP": 3}
    driver = {"NAME": "GenericDriver", "MODULE": "generic_driver"}
    code = {}
    if language == "C":
        code = {"EXECUTABLE": compiled(tmp_path), "ARGS": f"field {CELLS} 30"}
    flow = adaptive(
        tmp_path,
        30,
        array="",
        time_loop=loop,
        bound="",
        driver=driver,
        code=code,
        analytics={"WAIT": True, "STEP_TIME_OUT": 30},
    )
    ended = flow.run(150)
    assert ended.status == 0, ended.output + ended.log
    check(flow, 90)
    assert [launch["ok"] for launch in record_of(flow)["launches"]] == [True] * 3


@pytest.mark.timeout(200)
def test_a_code_that_dies_with_no_number_of_steps_is_a_failure(tmp_path, leaves_nothing):
    flow = adaptive(tmp_path, MANY, array="", more="--die 0:70", time_loop={}, bound="")
    ended = flow.run(150)
    assert ended.status == 1
    assert record_of(flow)["status"] == "failed"


@pytest.mark.timeout(200)
def test_a_launch_is_repeated_where_nobody_knows_how_many_steps_there_are(tmp_path, leaves_nothing):
    loop = {"MODE": "REGULAR", "START": 0, "FINISH": 3, "NSTEP": 3}
    driver = {"NAME": "GenericDriver", "MODULE": "generic_driver"}
    code = {"ON_LAUNCH_FAILURE": "retry", "RETRIES": 1}
    more = "--launch {LAUNCH} --die 2:20"
    flow = adaptive(
        tmp_path, 30, array="", more=more, time_loop=loop, bound="", driver=driver, code=code
    )
    ended = flow.run(150)
    assert ended.status == 0, ended.output + ended.log
    check(flow, 90)
    assert [launch["ok"] for launch in record_of(flow)["launches"]] == [True, True, False, True]


@pytest.mark.timeout(200)
def test_no_checkpoint_of_a_graph_that_grows(tmp_path, leaves_nothing):
    """It says so before anything is launched, with the remedy."""
    loop = {"MODE": "REGULAR", "START": 0, "FINISH": 3, "NSTEP": 3}
    driver = {"NAME": "GenericDriver", "MODULE": "generic_driver"}
    array = f"SHAPE = {CELLS},"
    flow = adaptive(
        tmp_path, 30, array=array, more="--undescribed", time_loop=loop, bound="", driver=driver
    )
    with flow.config_file.open("a") as file:
        file.write("[CHECKPOINT]\nMODE = ALL\nNUM_CHECKPOINT = -1\n")
    ended = flow.run(150)
    assert ended.status != 0
    assert "before anything was launched" in ended.output
    assert "NUM_CHECKPOINT = 0" in ended.output
