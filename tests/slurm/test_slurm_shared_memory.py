"""Tasks that Slurm kills together with their guards leave no shared memory on their nodes.

All nodes of these tests are one host, where guards and janitor of the batch script tidy up, too.
The job here has none of them: what is under test is the epilog of each task alone.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from shared_memory import mapped, owned, waste_that_stays
from slurm_cluster import wait_for

from ips_components.ips_compat._launch import write_epilog

_HOLDS = """\
import mmap, multiprocessing, os, signal, sys, time
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    held = multiprocessing.get_context("spawn").Semaphore()
    name = f"/dev/shm/mpich_shm_test_{os.getpid()}"
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.ftruncate(descriptor, 4096)
    segment = mmap.mmap(descriptor, 4096)
    print("held", flush=True)
    if os.environ["SLURM_PROCID"] == sys.argv[1]:
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["scancel", "kill", "a task dies"])
def test_killed_tasks_leave_no_shared_memory(slurm, tmp_path: Path, how):
    before = owned()
    epilog = write_epilog(tmp_path, time.time() - 60.0)
    (tmp_path / "holds.py").write_text(_HOLDS)
    victim = 1 if how == "a task dies" else -1
    script = tmp_path / "job.sh"
    script.write_text(
        f"#!/bin/sh\nexport SLURM_TASK_EPILOG={epilog}\n"
        f"exec srun -N 2 -n 2 --kill-on-bad-exit=1 {sys.executable} holds.py {victim}\n"
    )
    job = slurm.sbatch(script, "-N", "2", cwd=tmp_path)
    wait_for(lambda: job.text().count("held") == 2, "both tasks", 30)
    if how != "a task dies":
        held = mapped(process.pid for process in job.processes()) - before
        assert len(held) == 4, held  # two semaphores and two segments
    if how == "scancel":
        job.cancel()
    elif how == "kill":
        slurm.run("scancel", "--signal=KILL", str(job.id))
    job.wait(30)
    assert not waste_that_stays(before, 8.0)
