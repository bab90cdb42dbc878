"""A coupled run in two halves equals one in a single piece: real ips.py, MPI ranks and workers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from workflows import BIN, PARTS, Workflow

pytestmark = pytest.mark.course

ROOT = Path(__file__).parents[2]
HEAT = ROOT / "examples" / "heat2d" / "heat2d.py"


def heat(directory: Path, n_steps: int, **top) -> Workflow:
    arguments = "--nx 24 --ny 20 --period 9 --steps {NSTEP} --first {FIRST} --state state.npy"
    checkpoint = top.pop("checkpoint", False)
    workflow = Workflow(
        directory,
        {
            "DRIVER": {"NAME": "Driver", "MODULE": "ips_components.driver"},
            "SIMULATION": {
                "NAME": "Simulation",
                "MODULE": "ips_components.simulation",
                "NPROC": 2,
                "EXECUTABLE": "python",
                "ARGS": f"{HEAT} {arguments}",
                "RESTART_FILES": "state.npy",
            },
            "ANALYTICS": {
                "NAME": "Analytics",
                "MODULE": "ips_components.analytics",
                "DASK_PPW": 1,
                "DASK_WORKERS_PER_NODE": 2,
                "ANALYSIS": "ips_components.examples.heat2d:heat2d_ipca",
                "ANALYSIS_ARGS": "n_components=3",
                "FIGURE": False,
            },
        },
        top=top,
        platform={"MPIRUN": "mpiexec"},
        time_loop={"MODE": "REGULAR", "START": 0, "FINISH": 1, "NSTEP": n_steps},
    )
    workflow.write()
    if checkpoint:
        with workflow.config_file.open("a") as file:
            file.write("[CHECKPOINT]\nMODE = ALL\nNUM_CHECKPOINT = 1\n")
    return workflow


def results(workflow: Workflow) -> xr.Dataset:
    (run,) = workflow.root.glob("run_*")
    with xr.open_zarr(run / "results.zarr", consolidated=False) as dataset:
        return dataset.load()


@pytest.mark.timeout(300)
def test_two_halves_equal_one_run(tmp_path):
    halves = [
        heat(tmp_path / "first", 12, checkpoint=True),
        heat(
            tmp_path / "second",
            30,
            SIMULATION_MODE="RESTART",
            RESTART_ROOT=str(tmp_path / "first" / "run"),
            RESTART_TIME="LATEST",
        ),
    ]
    whole = heat(tmp_path / "whole", 30)
    for workflow in (*halves, whole):
        outcome = workflow.run()
        assert outcome.status == 0, outcome.output
    found, expected = results(halves[1]), results(whole)
    for name in ("components", "mean", "explained_variance", "singular_values"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-8, atol=1e-10)
    steps = []
    for workflow in halves:
        (run,) = workflow.root.glob("run_*")
        steps += [step["step"] for step in json.loads((run / "run.json").read_text())["steps"]]
    assert steps == list(range(30))


def two(directory: Path, n_steps: int, **top) -> Workflow:
    """Two simulations, of which each has a state, and an analysis of both, which has one, too."""

    def simulation(name: str, scale: float, nproc: int) -> dict:
        return {
            "NAME": "Simulation",
            "MODULE": "ips_components.simulation",
            "NPROC": nproc,
            "EXECUTABLE": BIN / "python",
            "ARGS": f"{PARTS}/walking.py {name} 12 {{NSTEP}} {scale} --first {{FIRST}}",
            "RESTART_FILES": "state.npy",
        }

    workflow = Workflow(
        directory,
        {
            "DRIVER": {"NAME": "Driver", "MODULE": "ips_components.driver"},
            "HOT": {**simulation("hot", 1.0, 2), "SUB_CLASS": "hot"},
            "COLD": {**simulation("cold", -3.0, 1), "SUB_CLASS": "cold"},
            "ANALYTICS": {
                "NAME": "Analytics",
                "MODULE": "ips_components.analytics",
                "ANALYSIS": "several_analysis:totals",
                "DASK_PPW": 2,
                "FIGURE": False,
            },
        },
        top=top,
        platform={"MPIRUN": "mpiexec"},
        time_loop={"MODE": "REGULAR", "START": 0, "FINISH": 1, "NSTEP": n_steps},
    )
    workflow.write()
    if not top:
        with workflow.config_file.open("a") as file:
            file.write("[CHECKPOINT]\nMODE = ALL\nNUM_CHECKPOINT = 1\n")
    return workflow


def walked(scale: float, n_steps: int) -> np.ndarray:
    """Sum over the steps, as the simulation makes them."""
    state = np.arange(12) * scale
    total = np.zeros(12)
    for step in range(n_steps):
        total += state
        state = state + scale * np.sin(state + step)
    return total


@pytest.mark.timeout(300)
def test_two_simulations_go_on_from_one_checkpoint(tmp_path, leaves_nothing):
    first = two(tmp_path / "first", 5)
    second = two(
        tmp_path / "second",
        12,
        SIMULATION_MODE="RESTART",
        RESTART_ROOT=str(tmp_path / "first" / "run"),
        RESTART_TIME="LATEST",
    )
    for workflow in (first, second):
        outcome = workflow.run(100)
        assert outcome.status == 0, outcome.output + outcome.log
    found = results(second)
    np.testing.assert_allclose(found["hot"], walked(1.0, 12), rtol=1e-12)
    np.testing.assert_allclose(found["cold"], walked(-3.0, 12), rtol=1e-12)
    (run,) = second.root.glob("run_*")
    record = json.loads((run / "run.json").read_text())
    assert [step["step"] for step in record["steps"]] == list(range(5, 12))
    assert record["ledger"]["closed"]


def test_a_checkpoint_that_does_not_exist_is_named(tmp_path):
    outcome = heat(
        tmp_path,
        30,
        SIMULATION_MODE="RESTART",
        RESTART_ROOT=str(tmp_path / "elsewhere"),
        RESTART_TIME="12",
    ).run()
    assert outcome.status != 0
    assert "there is no checkpoint 12" in outcome.output
