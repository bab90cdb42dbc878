"""`sbatch` of the main job: an MPI simulation coupled to Dask workers on the nodes of a job."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from slurm_cluster import FINAL_STATES, Job, wait_for
from slurm_workspaces import copy_of, set_parameters

CONFIG = "configs/heat2d_ipca.config"
RANKS = 4


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A user's directory with the main job: four ranks, two workers on two nodes, 20 steps."""
    copy_of(tmp_path, "configs", "platform", "examples/heat2d")
    set_parameters(
        tmp_path / CONFIG, NSTEP=20, NPROC__HEAT2D=RANKS, DASK_NODES=2, DASK_WORKERS_PER_NODE=1
    )
    return tmp_path


def slow_down(workspace: Path, steps: int, pace: int) -> None:
    """Let the simulation take `pace` more milliseconds for each of `steps` steps."""
    path = workspace / CONFIG
    path.write_text(path.read_text().replace("--steps {NSTEP}", f"--steps {{NSTEP}} --pace {pace}"))
    set_parameters(path, NSTEP=steps)


def nodes_of_steps(job: Job, seconds: float) -> tuple[set[str], set[str]]:
    """Nodes of the workers' step and of the ranks' step, seen while both run."""
    seen: list[str] = []

    def both() -> bool:
        if job.state() in FINAL_STATES:
            raise AssertionError(f"the job ended with steps on {seen}:\n{job.text()}")
        seen[:] = [nodes for _, nodes in sorted(job.steps().items())]
        return len(seen) == 2

    wait_for(both, "two steps at a time", seconds)
    workers, ranks = (
        set(job.cluster.run("scontrol", "show", "hostnames", nodes).split()) for nodes in seen
    )
    return workers, ranks


def record_of_the_run(workspace: Path) -> dict:
    """The run record, as the job wrote it."""
    (path,) = workspace.glob("run/heat2d_ipca/run_*/run.json")
    return json.loads(path.read_text())


def assert_complete(job: Job, workspace: Path) -> None:
    """The job ended well, the ledger closed, every step came from four ranks, nothing is left."""
    assert job.wait(180) == "COMPLETED", job.text()
    record = record_of_the_run(workspace)
    assert record["status"] == "ok"
    assert record["simulation"]["nproc"] == RANKS
    assert len(record["workers"]) == 2
    assert record["ledger"]["closed"]
    (blocks,) = (array["blocks"] for array in record["ledger"]["arrays"].values())
    assert blocks["produced"] == blocks["delivered"] == 20 * RANKS
    assert Path(record["results"]["path"]).exists()
    job.assert_nothing_left()


def test_simulation_and_workers_on_disjoint_nodes(submit, workspace):
    set_parameters(workspace / "platform/slurm.conf", NODE_ALLOCATION_MODE="EXCLUSIVE")
    slow_down(workspace, 20, 50)
    job = submit(CONFIG, "-N", "3", "--ntasks-per-node=4")
    workers, ranks = nodes_of_steps(job, 90)
    assert len(workers) == 2
    assert len(ranks) == 1
    assert not workers & ranks
    assert_complete(job, workspace)


@pytest.mark.parametrize(
    "sharing",
    [{"SLURM_EXACT": "1"}, {"SLURM_EXACT": "", "SLURM_OVERLAP": "1"}],
    ids=["exact", "overlap"],
)
def test_simulation_and_workers_on_shared_nodes(submit, workspace, sharing):
    set_parameters(workspace / CONFIG, TASK_PPN__HEAT2D=2)
    slow_down(workspace, 20, 50)
    job = submit(CONFIG, "-N", "2", "--ntasks-per-node=4", **sharing)
    workers, ranks = nodes_of_steps(job, 90)
    assert workers == ranks == set(job.nodes())
    assert_complete(job, workspace)


def test_killed_rank_fails_the_job_and_leaves_nothing(submit, workspace):
    slow_down(workspace, 1000, 20)
    job = submit(CONFIG, "-N", "2", "--ntasks-per-node=4")
    wait_for(lambda: len(ranks_of(job)) >= RANKS, "the ranks to start", 90)
    ranks_of(job)[-1].send_signal(signal.SIGKILL)
    assert job.wait(60) == "FAILED", job.text()
    assert "ips_components: the run failed" in job.text()
    assert record_of_the_run(workspace)["status"] == "failed"
    job.assert_nothing_left()


def test_scancel_in_mid_run_leaves_nothing(submit, workspace):
    slow_down(workspace, 1000, 20)
    job = submit(CONFIG, "-N", "2", "--ntasks-per-node=4")
    wait_for(lambda: len(ranks_of(job)) >= RANKS, "the ranks to start", 90)
    for task in [*ranks_of(job), *job.processes_with("dask_worker", "python")]:
        epilog = Path(task.environ()["SLURM_TASK_EPILOG"])
        assert "--sweep" in epilog.read_text()
    job.cancel()
    assert job.wait(30) == "CANCELLED"
    job.assert_nothing_left()


def ranks_of(job: Job):
    """Return the processes that are ranks of the simulation."""
    return job.processes_with("heat2d.py", program="python")
