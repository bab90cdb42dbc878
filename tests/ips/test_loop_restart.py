"""A time loop in two halves equals one in a single piece: real ips.py, MPI ranks and workers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from workflows import BIN, PARTS, Workflow

pytestmark = pytest.mark.course

CELLS, PER_LAUNCH = 12, 4


SIMULATION = {
    "NAME": "Simulation",
    "MODULE": "ips_components.simulation",
    "EXECUTABLE": BIN / "python",
    "ARGS": f"{PARTS}/counting.py field {CELLS} {PER_LAUNCH} "
    "--first {FIRST} --launch {LAUNCH} ",
}
FOREIGN = {
    "NAME": "OwnPhysics",
    "MODULE": "generic_driver",
    "PROGRAM": BIN / "python",
    "COUPLED": True,
    "OPTIONS": f"{PARTS}/counting.py field {CELLS} {PER_LAUNCH} ",
}


def loop(
    directory: Path,
    times: range,
    analysis: str = "folded",
    arguments: str = "",
    code=SIMULATION,
    **top,
):
    """Launches of four steps each, under a driver that takes a checkpoint after each."""
    words = "ARGS" if "ARGS" in code else "OPTIONS"
    flow = Workflow(
        directory,
        {
            "DRIVER": {"NAME": "GenericDriver", "MODULE": "generic_driver"},
            "SIM": {**code, "SUB_CLASS": "field", "NPROC": 2, words: code[words] + arguments},
            "ANALYTICS": {
                "NAME": "Analytics",
                "MODULE": "ips_components.analytics",
                "SUB_CLASS": "analytics",
                "ANALYSIS": f"loop_analysis:{analysis}",
                "DASK_PPW": 1,
                "DASK_WORKERS_PER_NODE": 2,
                "FIGURE": False,
                "OUTPUT_FILES": "norms.nc",
                "WAIT": True,
                "STEP_TIME_OUT": 20,
            },
        },
        top=top,
        platform={"MPIRUN": "mpiexec"},
        time_loop={
            "MODE": "REGULAR",
            "START": times.start,
            "FINISH": times.stop,
            "NSTEP": len(times),
        },
    )
    flow.write()
    with flow.config_file.open("a") as file:
        file.write("[CHECKPOINT]\nMODE = ALL\nNUM_CHECKPOINT = -1\n")
    return flow


def goes_on(first: Path, at: float) -> dict[str, str]:
    return {
        "SIMULATION_MODE": "RESTART",
        "RESTART_ROOT": str(first / "run"),
        "RESTART_TIME": f"{at:g}",
    }


def results(flow: Workflow) -> xr.Dataset:
    (run,) = flow.root.glob("run_*")
    with xr.open_zarr(run / "results.zarr", consolidated=False) as dataset:
        return dataset.load()


def record_of(flow: Workflow) -> dict:
    (run,) = flow.root.glob("run_*")
    return json.loads((run / "run.json").read_text())


def published(flow: Workflow) -> dict[float, tuple[list, list]]:
    """Steps and values in the files of each time of the loop."""
    found = {}
    for file in flow.root.glob("simulation_results/*/components/*Analytics*/norms.nc"):
        with xr.open_dataset(file) as data:
            found[float(file.parts[-4])] = (data["step"].values.tolist(), data["norm"].values)
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("steps", ["", "--total 16"], ids=["open-ended", "bounded"])
def test_a_loop_goes_on_from_a_checkpoint_in_its_middle(tmp_path, leaves_nothing, steps):
    """Launches end within windows, so that a checkpoint has a part of a window."""
    whole = loop(tmp_path / "whole", range(4), arguments=steps)
    first = loop(tmp_path / "first", range(2), arguments=steps)
    second = loop(
        tmp_path / "second", range(2, 4), arguments=steps, **goes_on(tmp_path / "first", 2)
    )
    for flow in (whole, second) if steps else (whole, first, second):
        if steps and flow is second:  # of a run that was to have more launches
            second.top |= goes_on(tmp_path / "whole", 2)
            second.write()
            with second.config_file.open("a") as file:
                file.write("[CHECKPOINT]\nMODE = ALL\nNUM_CHECKPOINT = -1\n")
        ended = flow.run(120)
        assert ended.status == 0, ended.output + ended.log
    found, expected = results(second), results(whole)
    assert sorted(found) == sorted(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    assert found["seen"].size == 5
    record = record_of(second)
    assert record["ledger"]["closed"]
    assert [(each["launch"], each["first_step"]) for each in record["launches"]] == [
        (2, 8),
        (3, 12),
    ]
    assert [step["step"] for step in record["steps"]] == list(range(8, 16))
    for time in (3.0, 4.0):
        assert published(second)[time][0] == published(whole)[time][0]
        np.testing.assert_array_equal(published(second)[time][1], published(whole)[time][1])
    assert sorted(published(second)) == [3.0, 4.0]


def test_an_analysis_that_cannot_be_kept_is_named_before_anything_is_launched(tmp_path):
    ended = loop(tmp_path, range(2), analysis="series").run()
    assert ended.status != 0
    assert "loop_analysis:series takes no argument 'run'" in ended.output
    assert "run.rolling" in ended.output
    assert "NUM_CHECKPOINT = 0" in ended.output
    assert not list(tmp_path.glob("run/run_*"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("at", "code"), [(1, SIMULATION), (2, FOREIGN), (3, FOREIGN)], ids=["early", "own", "late, own"]
)
def test_a_loop_goes_on_from_any_of_its_checkpoints(tmp_path, leaves_nothing, at, code):
    """The uninterrupted loop has a checkpoint at each time, of which one is gone on from."""
    whole = loop(tmp_path / "whole", range(4), code=code)
    ended = whole.run(250)
    assert ended.status == 0, ended.output + ended.log
    again = goes_on(tmp_path / "whole", at)
    rest = loop(tmp_path / "rest", range(at, 4), code=code, **again)
    ended = rest.run(250)
    assert ended.status == 0, ended.output + ended.log
    found, expected = results(rest), results(whole)
    assert sorted(found) == sorted(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    launches = record_of(rest)["launches"]
    assert [each["first_step"] for each in launches] == [4 * n for n in range(at, 4)]
    assert record_of(rest)["ledger"]["closed"]
