"""An ensemble whose members are whole runs of ips.py, which may fail."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from coupled_outcomes import record_of
from workflows import BIN, PARTS, Workflow

pytestmark = [pytest.mark.course, pytest.mark.timeout(300)]

HERE = Path(__file__).parent / "coupled"
STEPS = 6
FIELD = np.arange(64) + 100.0 * np.arange(STEPS)[:, None]


def member(directory, name, fault=""):
    """A workflow without analytics, under a driver of the usual form; its launcher is mpiexec."""
    flow = Workflow(
        directory / name,
        {
            "DRIVER": {"MODULE": "generic_driver", "NAME": "GenericDriver", "INPUT_DIR": PARTS},
            "SIM": {
                "MODULE": "ips_components.simulation",
                "NAME": "Simulation",
                "NPROC": 2,
                "EXECUTABLE": BIN / "python",
                "ARGS": f"{HERE}/field.py {STEPS} --name {name} {fault}",
            },
        },
        platform={"MPIRUN": "mpiexec"},
        time_loop={"MODE": "REGULAR", "START": 0, "FINISH": 1, "NSTEP": 1},
    )
    flow.write()
    return {
        "MODULE": "ips_components.simulation",
        "NAME": "Simulation",
        "NPROC": 1,
        "EXECUTABLE": BIN / "ips.py",
        "ARGS": f"--config {flow.config_file} --platform {flow.platform_file}",
        "ENVIRONMENT": f"PYTHONPATH={PARTS}",
        "ON_FAILURE": "leave_out",
    }


def test_members_are_runs_of_ips(tmp_path, leaves_nothing):
    faults = {"b": "--fault 1:raise@step:3"}
    flow = Workflow(
        tmp_path,
        {
            "DRIVER": {"MODULE": "ips_components.driver", "NAME": "Driver"},
            **{f"MEMBER_{n}".upper(): member(tmp_path, n, faults.get(n, "")) for n in "abc"},
            "ANALYTICS": {
                "MODULE": "ips_components.analytics",
                "NAME": "Analytics",
                "ANALYSIS": "members_analysis:analyse",
                "INPUT_DIR": HERE,
                "DASK_PPW": 2,
                "FIGURE": False,
            },
        },
        platform={"MPIRUN": "eval"},
        time_loop={"MODE": "REGULAR", "START": 0, "FINISH": 1, "NSTEP": STEPS},
    )
    ended = flow.run(240)
    assert ended.status == 0, ended.output + ended.log
    record = record_of(flow)
    assert [each["simulation"] for each in record["left_out"]] == ["MEMBER_B"]
    with xr.open_zarr(record["results"]["path"], consolidated=False) as found:
        np.testing.assert_array_equal(found["mean"], FIELD)
        assert (found["used"][:3] == 3).all() and (found["used"][4:] == 2).all()
        np.testing.assert_array_equal(found["c"], FIELD.sum(axis=1))
