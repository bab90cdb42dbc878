"""Arrays that the config describes and the analysis does not need: real ``ips.py`` and ranks."""

from __future__ import annotations

import json

import pytest
from workflows import BIN, Workflow

pytestmark = pytest.mark.course

PROGRAM = """\
from mpi4py import MPI
from ips_components.bridge import Bridge

comm = MPI.COMM_WORLD
with Bridge(comm) as bridge:
    for step in range(5):
        for name, shape in (("field", (6,)), ("pressure", (4, 3))):
            with bridge.block(name, step) as block:
                assert block.shape == shape, (name, block.shape)
                block[...] = step
"""


@pytest.mark.timeout(200)
def test_they_are_computed_in_place(tmp_path, leaves_nothing):
    program = tmp_path / "in_place.py"
    program.write_text(PROGRAM)
    components = {
        "DRIVER": {"NAME": "Driver", "MODULE": "ips_components.driver"},
        "SIM": {
            "NAME": "Simulation",
            "MODULE": "ips_components.simulation",
            "NPROC": 2,
            "EXECUTABLE": BIN / "python",
            "ARGS": program,
        },
        "ANALYTICS": {
            "NAME": "Analytics",
            "MODULE": "ips_components.analytics",
            "ANALYSIS": "loop_analysis:over_time",
            "DASK_PPW": 1,
            "FIGURE": False,
        },
    }
    time_loop = {"MODE": "REGULAR", "START": 0, "FINISH": 1, "NSTEP": 5}
    flow = Workflow(tmp_path, components, platform={"MPIRUN": "mpiexec"}, time_loop=time_loop)
    flow.write()
    with flow.config_file.open("a") as file:
        file.write("[[ARRAYS]]\n[[[field]]]\nSHAPE = 12,\n[[[pressure]]]\nSHAPE = 8, 3\n")
    ended = flow.run(150)
    assert ended.status == 0, ended.output + ended.log
    (run,) = flow.root.glob("run_*")
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "ok"
    assert record["ledger"]["closed"]
