"""The heat example in C and Fortran, built once by its own Makefile."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from heat2d_runs import HEAT2D
from shared_memory import owned, waste_that_stays


@pytest.fixture(autouse=True)
def leaves_no_shared_memory():
    """Fail a test after which memory of ranks is left that no process maps."""
    before = owned()
    yield
    left = waste_that_stays(before, 10.0)
    assert not left, f"left behind: {left}"


def mpicc():
    """The compiler wrapper of the MPI that `mpiexec` of the tests belongs to."""
    beside = Path(sys.executable).with_name("mpicc")
    return str(beside) if beside.exists() else shutil.which("mpicc")


@pytest.fixture(scope="session")
def builds(once):
    """Directory of the programs."""
    if not (mpicc() and shutil.which("make")):
        pytest.skip("needs make and an MPI C compiler")
    target = "all" if shutil.which("gfortran") else "c"
    flags = ["CFLAGS=-O2 -Wall -Wextra -Werror", "FFLAGS=-O2 -Wall -Wextra -Werror"]

    def make(out):
        command = ["make", "-f", str(HEAT2D / "Makefile"), target, f"MPICC={mpicc()}", f"OUT={out}"]
        subprocess.run([*command, *flags], check=True, timeout=120, cwd=out)

    return once("heat2d", make)


@pytest.fixture(params=["heat2d_c", "heat2d_f90"])
def program(request, builds):
    path = builds / request.param
    if not path.exists():
        pytest.skip("needs gfortran")
    return [str(path)]
