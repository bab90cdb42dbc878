"""`sbatch` of a plain IPS task pool and of a Dask task pool."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from slurm_cluster import Job, wait_for

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


def test_dask_pool_has_a_worker_on_each_of_its_nodes(submit, workspace):
    config = configure(workspace, USE_DASK=True, DASK_NODES=2)
    job = submit(config, "-N", "3", "--ntasks-per-node=2")
    assert job.wait(120) == "COMPLETED", job.text()
    tasks = nodes_of_tasks(workspace)
    assert sorted(tasks) == [f"task_{i}" for i in range(6)]
    assert len(set(tasks.values())) == 2, tasks
    job.assert_nothing_left()


def test_failing_task_fails_the_job(submit, workspace):
    job = submit(configure(workspace, BINARY="/bin/false"), "-N", "2", "--ntasks-per-node=2")
    assert job.wait(90) == "FAILED", job.text()
    assert job.exit_code() == 1
    assert "tasks that failed" in job.text()
    job.assert_nothing_left()


def test_scancel_while_binary_tasks_run_leaves_nothing(submit, workspace):
    (workspace / "examples/slurm/where.sh").write_text("#!/bin/sh\ntouch running\nsleep 600\n")
    job = submit(configure(workspace), "-N", "3", "--ntasks-per-node=2")
    wait_for(lambda: any(workspace.glob("runs/pool/work/*/running")), "a task to run", 60)
    assert job.processes()
    job.cancel()
    assert job.wait(30) == "CANCELLED"
    job.assert_nothing_left()


def test_scancel_while_dask_tasks_run_leaves_nothing(submit, workspace):
    config = configure(workspace, USE_DASK=True, TASK_SECONDS=600)
    job = submit(config, "-N", "3", "--ntasks-per-node=2")
    wait_for(lambda: count(job, "dask_worker") >= 2, "two workers", 60)
    job.cancel()
    assert job.wait(30) == "CANCELLED"
    job.assert_nothing_left()


def count(job: Job, word: str) -> int:
    """How many processes of the job have a command line with `word` in it."""
    found = 0
    for process in job.processes():
        with suppress(psutil.NoSuchProcess):
            found += any(word in argument for argument in process.cmdline())
    return found
