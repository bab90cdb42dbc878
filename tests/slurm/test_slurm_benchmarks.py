"""The benchmark of scaling as a job: ranks and workers are steps on the job's nodes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_scaling_on_two_nodes(slurm, tmp_path):
    job = slurm.sbatch(
        REPOSITORY / "benchmarks/scaling.sbatch",
        "--nodes=2",
        "--ntasks-per-node=3",
        cwd=tmp_path,
        arguments=("--quick", "--repeat", "1", "--sizes", "6", "--folder", str(tmp_path)),
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        PYTHONPATH=str(REPOSITORY),
    )
    assert job.wait(200) == "COMPLETED", job.text()
    found = json.loads((tmp_path / "scaling.json").read_text())
    assert found["nodes"] == 2
    assert [(row["scaling"], row["ranks"], row["workers"]) for row in found["rows"]] == [
        ("weak", 6, 2),
        ("strong", 6, 2),
    ], job.text()
    assert all(row["GB/s"] > 0 for row in found["rows"])
    job.assert_nothing_left()
