"""`sbatch` of a plain IPS task pool and of a Dask task pool."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A user's directory: the example and the platform files, as they are in the repository."""
    shutil.copytree(REPOSITORY / "examples/slurm", tmp_path / "examples/slurm")
    shutil.copytree(REPOSITORY / "platform", tmp_path / "platform")
    return tmp_path


def configure(workspace: Path, **values: object) -> str:
    """Set parameters of the example's config; return its name."""
    path = workspace / "examples/slurm/pool.config"
    lines = path.read_text().splitlines()
    for name, value in values.items():
        (at,) = (i for i, line in enumerate(lines) if line.strip().startswith(f"{name} ="))
        lines[at] = f"    {name} = {value}"
    path.write_text("\n".join(lines) + "\n")
    return "examples/slurm/pool.config"


def nodes_of_tasks(workspace: Path) -> dict[str, str]:
    """What the worker wrote down: the node of every task."""
    (path,) = workspace.glob("runs/pool/work/*/nodes.txt")
    return dict(line.split() for line in path.read_text().splitlines())


def test_plain_pool_runs_on_several_nodes(submit, workspace):
    job = submit(configure(workspace), "-N", "3", "--ntasks-per-node=2")
    assert job.wait(90) == "COMPLETED", job.text()
    tasks = nodes_of_tasks(workspace)
    assert sorted(tasks) == [f"task_{i}" for i in range(6)]
    assert len(set(tasks.values())) > 1, tasks
    job.assert_nothing_left()
