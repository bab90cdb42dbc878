"""The cluster of these tests is what it claims to be: three nodes, MPI, and clean ends."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from slurm_cluster import SlurmCluster, wait_for


def test_three_nodes_run_one_process_each(slurm):
    names = slurm.run("srun", "-N", "3", "sh", "-c", "echo $SLURMD_NODENAME").split()
    assert sorted(names) == ["n1", "n2", "n3"]


def test_srun_starts_one_mpi_world(slurm):
    code = "from mpi4py import MPI; c = MPI.COMM_WORLD; print(c.rank, c.size, c.allreduce(c.rank))"
    command = ("srun", "--mpi=pmi2", "-n", "3", sys.executable, "-c", code)
    text = slurm.run(*command, MPIR_CVAR_CH4_NETMOD="ofi")  # why: platform/slurm.sbatch
    assert sorted(text.splitlines()) == ["0 3 3", "1 3 3", "2 3 3"]


@pytest.fixture
def sleeper(tmp_path: Path) -> Path:
    script = tmp_path / "sleeper.sh"
    script.write_text("#!/bin/sh\necho started\nsleep 600\n")
    return script


def test_cancelled_job_is_gone(slurm, sleeper, tmp_path):
    job = slurm.sbatch(sleeper, "-N", "2", cwd=tmp_path)
    wait_for(lambda: "started" in job.text(), "the job to start", 30)
    assert job.processes()
    job.cancel()
    assert job.wait(30) == "CANCELLED"
    job.assert_nothing_left()


def test_exit_code_of_a_job_is_its_scripts(slurm, tmp_path):
    script = tmp_path / "fails.sh"
    script.write_text("#!/bin/sh\nexit 7\n")
    job = slurm.sbatch(script, cwd=tmp_path)
    assert job.wait(30) == "FAILED"
    assert job.exit_code() == 7


def test_stopping_a_cluster_with_a_running_job_leaves_nothing(sleeper, tmp_path):
    root = Path(tempfile.mkdtemp(prefix="ips-slurm-"))
    other = SlurmCluster(root, nodes=1)
    try:
        other.start()
        job = other.sbatch(sleeper, cwd=tmp_path)
        wait_for(lambda: "started" in job.text(), "the job to start", 30)
    finally:
        other.stop()
    job.assert_nothing_left()
    assert not root.exists()
    left = [p.cmdline() for p in psutil.process_iter() if str(root) in " ".join(_words(p))]
    assert left == []


def _words(process: psutil.Process) -> list[str]:
    try:
        return [*process.cmdline(), *process.environ().values()]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []
