"""Workflows of a time loop under a driver that knows nothing of coupling, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import xarray as xr
from workflows import BIN, PARTS, Workflow

CELLS = 12
ANALYTICS = {
    "NAME": "Analytics",
    "MODULE": "ips_components.analytics",
    "ANALYSIS": "loop_analysis:series",
    "DASK_PPW": 1,
    "DASK_WORKERS_PER_NODE": 2,
    "FIGURE": False,
}


def simulation(name: str, arguments: str, nproc: int = 2, **more) -> dict:
    return {
        "NAME": "Simulation",
        "MODULE": "ips_components.simulation",
        "SUB_CLASS": name,
        "NPROC": nproc,
        "EXECUTABLE": BIN / "python",
        "ARGS": f"{PARTS}/counting.py {name} {CELLS} {arguments}",
        **more,
    }


def loop(directory: Path, launches: int, components: dict, **driver) -> Workflow:
    return Workflow(
        directory,
        {"DRIVER": {"NAME": "GenericDriver", "MODULE": "generic_driver", **driver}, **components},
        platform={"MPIRUN": "mpiexec"},
        time_loop={"MODE": "REGULAR", "START": 0, "FINISH": launches, "NSTEP": launches},
    )


def record_of(flow: Workflow) -> dict:
    (run,) = flow.root.glob("run_*")
    return json.loads((run / "run.json").read_text())


def results(flow: Workflow) -> xr.Dataset:
    (run,) = flow.root.glob("run_*")
    with xr.open_zarr(run / "results.zarr", consolidated=False) as dataset:
        return dataset.load()


def check(flow: Workflow, name: str, n_steps: int) -> None:
    expected = 100.0 * CELLS * np.arange(n_steps) + np.arange(CELLS).sum()
    found = results(flow)
    np.testing.assert_array_equal(found[f"{name}_series"], expected)
    assert float(found[f"{name}_total"]) == expected.sum()
