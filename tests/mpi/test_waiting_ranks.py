"""Ranks that wait for rank 0, which waits for the analysis, leave their cores to others."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from heat2d_runs import mpiexec

from ips_components.bridge import _build

BRIDGE = Path(_build.__file__).parent / "c"
SECONDS = 3
PYTHON = """
import time
from mpi4py import MPI
from ips_components.bridge import Array, Bridge
from ips_components.errors import ContactError

MPI.COMM_WORLD.Barrier()
began = time.process_time()
try:
    Bridge(comm=MPI.COMM_WORLD, arrays=[Array("t", shape=(4,), steps=1)])
except ContactError:
    print(MPI.COMM_WORLD.rank, time.process_time() - began, flush=True)
"""
C = r"""
#include <stdio.h>
#include <time.h>
#include <ips_bridge_mpi.h>

int main(int argc, char **argv)
{
    const int64_t shape[] = {4};
    ips_bridge *bridge;
    clock_t began;
    int rank, size;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    ips_bridge_open(&bridge, rank, size);
    ips_bridge_declare(bridge, "t", "f8", 1, shape);
    MPI_Barrier(MPI_COMM_WORLD);
    began = clock();
    if (ips_bridge_connect_mpi(bridge, MPI_COMM_WORLD, NULL) == IPS_BRIDGE_CONTACT) {
        printf("%d %g\n", rank, (double)(clock() - began) / CLOCKS_PER_SEC);
        fflush(stdout);
    }
    ips_bridge_free(bridge);
    return MPI_Finalize();
}
"""


def program(language, directory):
    if language == "python":
        (directory / "rank.py").write_text(PYTHON)
        return [sys.executable, directory / "rank.py"]
    (directory / "rank.c").write_text(C)
    mpicc = shutil.which("mpicc", path=Path(sys.executable).parent) or shutil.which("mpicc")
    if mpicc is None:
        pytest.skip("needs MPI for C")
    out = directory / "rank"
    files = [directory / "rank.c", _build.library()]
    subprocess.run([mpicc, f"-I{BRIDGE}", *files, "-lm", "-o", out], check=True, timeout=100)
    return [out]


@pytest.mark.parametrize("language", ["python", "c"])
def test_only_rank_0_is_awake(tmp_path, language):
    environment = {
        **os.environ,
        "IPS_COMPONENTS_CONTACT": str(tmp_path / "none.json"),
        "IPS_COMPONENTS_DEADLINE": str(SECONDS),
    }
    command = [*mpiexec(2), *program(language, tmp_path)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, check=True
    )
    used = dict(line.split() for line in done.stdout.splitlines())
    assert float(used["1"]) < 0.2 * SECONDS, used
