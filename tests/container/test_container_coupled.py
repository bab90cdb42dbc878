"""The main job with Dask in the container: ranks outside, receivers and analysis inside."""

from __future__ import annotations

import json
import shutil
import signal
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import zarr
from container_image import OTHER, WITNESS, image_with
from container_runs import HEAT2D, processes_of, run_ips, start_ips, wait_for

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def coupled(workspace: Path) -> Path:
    """The workspace with the main job in it, 20 steps, Dask inside."""
    for directory in ("configs", "examples/heat2d"):
        shutil.copytree(REPOSITORY / directory, workspace / directory)
    path = workspace / HEAT2D
    path.write_text(
        path.read_text().replace("[IPCA]\n", "[IPCA]\nUSE_SHIFTER = True\nLANES = shm, tcp\n")
    )
    return workspace


ANALYSIS = """\
from pathlib import Path


def analysis(arrays):
    if not Path("WITNESS").exists():
        raise RuntimeError("the analysis runs outside")
    return {"mean": arrays["temperature"].mean(axis=0)}
"""


def record_of(workspace: Path) -> dict:
    (path,) = workspace.glob("run/heat2d_ipca/run_*/run.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("lane", ["shm", "tcp"])
def test_ranks_outside_reach_receivers_inside(coupled, lane):
    status, output = run_ips(coupled, HEAT2D, NSTEP="20", LANES=lane)
    assert status == 0, output
    record = record_of(coupled)
    assert record["status"] == "ok"
    assert {rank["lane"] for rank in record["ranks"]} == {lane}
    (blocks,) = (array["blocks"] for array in record["ledger"]["arrays"].values())
    assert record["ledger"]["closed"]
    assert blocks["produced"] == blocks["delivered"] == 80
    assert processes_of(coupled) == []


def test_analysis_beside_the_config_runs_inside(coupled):
    (coupled / "configs/where.py").write_text(ANALYSIS.replace("WITNESS", WITNESS))
    path = coupled / HEAT2D
    path.write_text(path.read_text().replace("ANALYSIS_ARGS = n_components=5\n", ""))
    status, output = run_ips(coupled, HEAT2D, NSTEP="5", ANALYSIS="where:analysis")
    assert status == 0, output
    mean = zarr.open(record_of(coupled)["results"]["path"])["mean"]
    assert mean.shape == (64, 64)
    assert np.isfinite(mean[:]).all()


def test_image_without_the_package_is_refused(coupled, base, images, monkeypatch):
    (images / "bare").symlink_to(base)
    monkeypatch.setenv("SHIFTER_IMAGE", "bare")
    status, output = run_ips(coupled, HEAT2D, NSTEP="20")
    assert status == 1, output
    ours = metadata.version("ips_components")
    refusal = f"ips_components is {ours} outside, but not installed inside (scheduler"
    assert refusal in output.split("the run failed")[1]
    assert processes_of(coupled) == []


def test_image_with_another_dask_is_refused(coupled, base, images, monkeypatch):
    with image_with(base, f"dask=={OTHER}", f"distributed=={OTHER}") as root:
        (images / "older").symlink_to(root)
        monkeypatch.setenv("SHIFTER_IMAGE", "older")
        status, output = run_ips(coupled, HEAT2D, NSTEP="20")
    assert status == 1, output
    both = f"distributed is {metadata.version('distributed')} outside, but {OTHER} inside"
    assert both in output.split("the run failed")[1]
    assert processes_of(coupled) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_ending_ips_in_mid_run_ends_both_sides(coupled, signum):
    path = coupled / HEAT2D
    path.write_text(path.read_text().replace("--steps {NSTEP}", "--steps {NSTEP} --pace 100"))
    ips = start_ips(coupled, HEAT2D, NSTEP="2000")
    try:
        wait_for(lambda: running(coupled, "heat2d.py") >= 4, "four ranks", 90)
        wait_for(lambda: running(coupled, "dask_worker"), "the workers", 10)
        ips.send_signal(signum)
        ips.communicate(timeout=30)
        wait_for(lambda: not processes_of(coupled), "everything to be gone", 15)
    finally:
        ips.kill()
    assert ips.returncode != 0


def running(workspace: Path, word: str) -> int:
    """How many command lines of the run have `word` in them."""
    return sum(any(word in each for each in words) for words in processes_of(workspace))
