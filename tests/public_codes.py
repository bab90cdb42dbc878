"""Sources of public codes and how they are built, with the patches of ``examples/public_codes``.

The sources are not part of this package: ``IPS_PUBLIC_CODES`` names a folder that has them, each
in a folder of its own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PATCHES = Path(__file__).parents[1] / "examples" / "public_codes"
SOURCES = Path(os.environ.get("IPS_PUBLIC_CODES") or "/nonexistent")
HERE = Path(__file__).parent


def needs(name, *tools):
    """Skip without the sources or one of the tools."""
    missing = [tool for tool in ("make", "patch", "cc", *tools) if not found(tool)]
    if (SOURCES / name).is_dir() and missing:
        return pytest.mark.skip(f"needs {', '.join(missing)}")
    return pytest.mark.skipif(
        not (SOURCES / name).is_dir(),
        reason=f"no sources of {name}: IPS_PUBLIC_CODES names a folder that has them",
    )


def found(tool):
    """A tool beside Python, or on the path."""
    beside = Path(sys.executable).with_name(tool)
    return str(beside) if beside.exists() else shutil.which(tool)


def run(*command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=400, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def patched(name, directory):
    """A copy of a code's sources, with its patch."""
    copy = directory / name
    shutil.copytree(SOURCES / name, copy)
    run("patch", "-p1", "-i", PATCHES / f"{name.lower()}.patch", cwd=copy)
    return copy


def fortran(directory):
    """The MPI's compiler for Fortran, or one made of gfortran where the MPI has none."""
    if found("mpif90"):
        return found("mpif90")
    module, calls = directory / "mpi_standin.o", directory / "mpi_standin_c.o"
    run("gfortran", "-c", HERE / "c" / "mpi_standin.f90", "-o", module, cwd=directory)
    run(found("mpicc"), "-c", HERE / "c" / "mpi_standin.c", "-o", calls)
    of_mpi = run(found("mpicc"), "-show").split(maxsplit=1)[1].strip()
    lax = f"-fallow-argument-mismatch -w -I{directory}"
    compiler = directory / "mpif90"
    compiler.write_text(f'#!/bin/sh\nexec gfortran {lax} "$@" {module} {calls} {of_mpi}\n')
    compiler.chmod(0o755)
    return compiler
