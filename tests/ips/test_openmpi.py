"""The platform file for Open MPI, with Open MPI: ranks in C and Dask workers under its mpirun."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from workflows import BIN, Workflow

ROOT = Path(__file__).parents[2]
HEAT = ROOT / "examples" / "heat2d"
STEPS = 12

pytestmark = [
    pytest.mark.course,
    pytest.mark.skipif(
        shutil.which("mpicc.openmpi") is None or shutil.which("mpirun.openmpi") is None,
        reason="Open MPI is not installed",
    ),
]


@pytest.fixture
def openmpi(tmp_path):
    """Build the simulation in C against Open MPI; the environment in which that is the MPI."""
    tools = tmp_path / "bin"
    tools.mkdir()
    # The mpirun of Debian's Open MPI has a name of its own where another MPI is installed.
    (tools / "mpirun").write_text('#!/bin/sh\nexec mpirun.openmpi "$@"\n')
    (tools / "mpirun").chmod(0o755)
    command = ["make", "-f", HEAT / "Makefile", "c", "MPICC=mpicc.openmpi", f"OUT={tools}"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    return {
        "PATH": os.pathsep.join([str(tools), str(BIN), os.environ["PATH"]]),
        # Tests may run as root, which Open MPI must be told twice.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }


def workflow(directory, environment):
    flow = Workflow(
        directory,
        {
            "DRIVER": {"NAME": "Driver", "MODULE": "ips_components.driver"},
            "SIMULATION": {
                "NAME": "Simulation",
                "MODULE": "ips_components.simulation",
                "NPROC": 4,
                "EXECUTABLE": directory / "bin" / "heat2d_c",
                "ARGS": "--nx 24 --ny 20 --steps {NSTEP}",
            },
            "ANALYTICS": {
                "NAME": "Analytics",
                "MODULE": "ips_components.analytics",
                "DASK_PPW": 1,
                "DASK_WORKERS_PER_NODE": 2,
                "ANALYSIS": "ips_components.examples.heat2d:heat2d_moments",
                "FIGURE": False,
            },
        },
        environment=environment,
        time_loop={"MODE": "REGULAR", "START": 0, "FINISH": 1, "NSTEP": STEPS},
    )
    flow.write()
    platform = ROOT / "platform" / "workstation_openmpi.conf"
    flow.platform_file.write_text(platform.read_text())
    return flow


def test_a_coupled_run_under_open_mpi(tmp_path, leaves_nothing, openmpi):
    flow = workflow(tmp_path, openmpi)
    ended = flow.run(110)
    assert ended.status == 0, ended.output + ended.log
    (path,) = flow.root.glob("run_*/run.json")
    record = json.loads(path.read_text())
    assert record["ledger"]["closed"]
    assert record["ledger"]["arrays"]["temperature"]["bytes"]["produced"] == 24 * 20 * STEPS * 8
    assert len(record["ranks"]) == 4
    with xr.open_zarr(record["results"]["path"], consolidated=False) as results:
        assert all(np.isfinite(each).all() for each in results.data_vars.values())
