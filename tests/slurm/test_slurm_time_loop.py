"""Example 15 as a job on three nodes: two codes launched in turn, one graph, a state file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from slurm_workspaces import REPOSITORY, copy_of, set_parameters

CONFIG = "examples/15_time_loop/time_loop.config"
STEPS, LAUNCHES, CELLS = 5, 3, 32


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A user's directory with the example, its code in C compiled; three times of the loop."""
    copy_of(tmp_path, "platform", "examples/15_time_loop")
    subprocess.run(
        [
            "make",
            "-C",
            tmp_path / "examples/15_time_loop",
            f"BRIDGE={REPOSITORY}/ips_components/bridge/c",
            "CFLAGS=-O2 -Wall -ffp-contract=off",
        ],
        check=True,
        timeout=200,
        capture_output=True,
    )
    # Two ranks of a code and two workers, each on a node of its own where there are enough.
    set_parameters(tmp_path / CONFIG, FINISH=LAUNCHES, NSTEP=LAUNCHES)
    set_parameters(tmp_path / CONFIG, DASK_NODES__ENERGY=2, DASK_PPW__ENERGY=1)
    set_parameters(tmp_path / CONFIG, TASK_PPN__HEATING=1, TASK_PPN__TRANSPORT=1)
    return tmp_path


def expected() -> tuple[np.ndarray, np.ndarray]:
    """Temperature at each step, and power at each launch, by NumPy."""
    temperature, peak = np.zeros(CELLS), 0.0
    fields, powers = [], []
    for _ in range(LAUNCHES):
        power = np.exp(-(((np.arange(CELLS) - 10.0) / 4.0) ** 2)) / (1.0 + temperature)
        conductivity = 0.2 if peak < 1.0 else 0.4
        for _ in range(STEPS):
            temperature[1:-1] += conductivity * np.diff(temperature, 2) + power[1:-1]
            fields.append(temperature.copy())
        peak = temperature.max()
        powers.append(power)
    return np.array(fields), np.array(powers)


@pytest.mark.timeout(600)
def test_two_codes_in_turn_on_three_nodes(submit, workspace):
    job = submit(
        CONFIG,
        "-N",
        "3",
        "--ntasks-per-node=2",
        PYTHONPATH=str(workspace / "examples/15_time_loop"),
    )
    assert job.wait(500) == "COMPLETED", job.text()
    (run,) = workspace.glob("run/time_loop/run_*")
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "ok"
    assert record["ledger"]["closed"]
    assert [len(part["launches"]) for part in record["simulations"]] == [LAUNCHES, LAUNCHES]
    assert len(record["workers"]) == 2
    fields, powers = expected()
    with xr.open_zarr(run / "results.zarr", consolidated=False) as found:
        np.testing.assert_allclose(found["mean_temperature"], fields.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found["deposited"], STEPS * powers[:, 1:-1].sum(), rtol=1e-12)
    job.assert_nothing_left()
