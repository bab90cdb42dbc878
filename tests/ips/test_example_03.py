"""The tour of Dask in a pool, run as its README says."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def example(tmp_path):
    folder = tmp_path / "examples" / "03_dask_in_a_pool"
    shutil.copytree(ROOT / "examples" / "03_dask_in_a_pool", folder)
    shutil.copytree(ROOT / "platform", tmp_path / "platform")
    yield folder
    left = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(p.info["cmdline"])]
    assert not left


def run(folder):
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("ips.py")),
            *("--config", "pool.config", "--platform", "../../platform/workstation.conf"),
        ],
        cwd=folder,
        env=os.environ
        | {
            "PYTHONPATH": str(folder),
            "PWD": str(folder),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_every_lesson_holds(example):
    ended = run(example)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (staged,) = (example / "run/tour/simulation_results").rglob("lessons.json")
    found = json.loads(staged.read_text())
    assert set(found) == {
        "chunked_array",
        "lazy_calls",
        "futures",
        "locality",
        "ensemble",
        "monte_carlo",
        "local_client",
    }
    assert all(f"{name}: " in ended.stdout for name in found)
    assert found["locality"]["workers"] == 2
    assert found["ensemble"]["second_moment"] == pytest.approx(0.25, abs=0.02)
    for value, error in found["monte_carlo"].values():
        assert abs(value - math.pi) < 5 * error
