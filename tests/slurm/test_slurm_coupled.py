"""`sbatch` of the main job: an MPI simulation coupled to Dask workers on the nodes of a job."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import FINAL_STATES, Job, wait_for
from slurm_workspaces import copy_of, set_parameters

import ips_components

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


#: Read by each Python process of a job as it starts: just before MPI is, leave a heap full of
#: bytes that differ.
_FULL_HEAP = """
import ctypes, os, sys

class BeforeMPI:
    def find_spec(name, path=None, target=None):
        if name != "mpi4py.MPI":
            return
        c = ctypes.CDLL(None)
        c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        c.free.argtypes = [ctypes.c_void_p]
        blocks = [(c.malloc(size), size) for size in (*range(64, 8192, 16),) * 3]
        for block, size in blocks:
            ctypes.memmove(block, os.urandom(size), size)
        for block, _ in blocks[::2]:
            c.free(block)

sys.meta_path.insert(0, BeforeMPI)
"""


def test_ranks_start_on_several_nodes_whatever_their_memory_holds(submit, workspace):
    """MPICH over UCX would send Slurm what stands in memory behind its address, and wait."""
    (workspace / "sitecustomize.py").write_text(_FULL_HEAP)
    set_parameters(workspace / CONFIG, TASK_PPN__HEAT2D=2)
    job = submit(CONFIG, "-N", "2", "--ntasks-per-node=4", PYTHONPATH=str(workspace))
    assert_complete(job, workspace)


def test_a_client_attaches_to_a_batch_job(submit, workspace):
    """From a login node, as the same user: the command line shows it, a program looks into it."""
    slow_down(workspace, 300, 100)
    job = submit(CONFIG, "-N", "2", "--ntasks-per-node=4")
    root = workspace / "run/heat2d_ipca"
    wait_for(lambda: list(root.glob("run_*/contact.json")), "the contact file", 90)
    command = [Path(sys.executable).with_name("ips-components"), "attach", root]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as attached:
        try:
            with ips_components.attach(root) as live:
                newest = live.latest("temperature")
                assert newest.sizes == {"y": 64, "x": 64}
                found = live.compute(lambda arrays: arrays["temperature"].mean(axis=(1, 2)), 5)
                assert len(found) == 5
                # Steps are reported after their blocks, by ranks on a busy machine.
                wait_for(lambda: live.step >= int(newest["time"]) + 5, "the report of a step", 20)
            assert job.wait(240) == "COMPLETED", job.text()
            said = attached.communicate(timeout=60)
        finally:
            attached.kill()
    assert attached.returncode == 0, said
    assert said[0].startswith("temperature: "), said
    record = record_of_the_run(workspace)
    assert f"{record['run']}: ended" in said[0], said
    assert record["ledger"]["closed"]
    assert len(record["attached"]) == 2
    for client in record["attached"]:
        assert all(each["ledger"]["closed"] for each in client["contracts"]), client
    job.assert_nothing_left()


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
    for task in [*ranks_of(job), *job.processes_with("external.forked_workers", "python")]:
        epilog = Path(task.environ()["SLURM_TASK_EPILOG"])
        assert "--sweep" in epilog.read_text()
    job.cancel()
    assert job.wait(30) == "CANCELLED"
    job.assert_nothing_left()


def ranks_of(job: Job):
    """Return the processes that are ranks of the simulation."""
    return job.processes_with("heat2d.py", program="python")
