"""`sbatch` of a plain IPS task pool and of a Dask task pool."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_cluster import wait_for
from slurm_workspaces import copy_of, set_parameters

CONFIG = "examples/slurm/pool.config"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A user's directory: the example and the platform files, as they are in the repository."""
    copy_of(tmp_path, "examples/slurm", "platform")
    return tmp_path


def nodes_of_tasks(workspace: Path) -> dict[str, str]:
    """What the worker wrote down: the node of every task."""
    (path,) = workspace.glob("runs/pool/work/*/nodes.txt")
    return dict(line.split() for line in path.read_text().splitlines())


def test_plain_pool_runs_on_several_nodes(submit, workspace):
    job = submit(CONFIG, "-N", "3", "--ntasks-per-node=2")
    assert job.wait(90) == "COMPLETED", job.text()
    tasks = nodes_of_tasks(workspace)
    assert sorted(tasks) == [f"task_{i}" for i in range(6)]
    assert len(set(tasks.values())) > 1, tasks
    job.assert_nothing_left()


def test_dask_pool_has_a_worker_on_each_of_its_nodes(submit, workspace):
    set_parameters(workspace / CONFIG, USE_DASK=True)
    job = submit(CONFIG, "-N", "3", "--ntasks-per-node=2")
    assert job.wait(120) == "COMPLETED", job.text()
    tasks = nodes_of_tasks(workspace)
    assert sorted(tasks) == [f"task_{i}" for i in range(6)]
    assert len(set(tasks.values())) == 2, tasks
    job.assert_nothing_left()


def test_failing_task_fails_the_job(submit, workspace):
    set_parameters(workspace / CONFIG, BINARY="/bin/false")
    job = submit(CONFIG, "-N", "2", "--ntasks-per-node=2")
    assert job.wait(90) == "FAILED", job.text()
    assert job.exit_code() == 1
    assert "tasks that failed" in job.text()
    job.assert_nothing_left()


def test_scancel_while_binary_tasks_run_leaves_nothing(submit, workspace):
    (workspace / "examples/slurm/where.sh").write_text("#!/bin/sh\ntouch running\nsleep 600\n")
    job = submit(CONFIG, "-N", "3", "--ntasks-per-node=2")
    wait_for(lambda: any(workspace.glob("runs/pool/work/*/running")), "a task to run", 60)
    assert job.processes()
    job.cancel()
    assert job.wait(30) == "CANCELLED"
    job.assert_nothing_left()


def test_scancel_while_dask_tasks_run_leaves_nothing(submit, workspace):
    set_parameters(workspace / CONFIG, USE_DASK=True, TASK_SECONDS=600)
    job = submit(CONFIG, "-N", "3", "--ntasks-per-node=2")
    wait_for(
        lambda: len(job.processes_with("external.forked_workers", "python")) >= 2, "two workers", 60
    )
    job.cancel()
    assert job.wait(30) == "CANCELLED"
    job.assert_nothing_left()
