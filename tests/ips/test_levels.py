"""Adaptive blocks that the config describes: what the analysis does not name stays in the ranks."""

import importlib.util
import json

import numpy as np
import pytest
import xarray as xr
from workflows import BIN, PARTS, Workflow

pytestmark = pytest.mark.course
RANKS = 3

_spec = importlib.util.spec_from_file_location("mesh_blocks", PARTS / "mesh_blocks.py")
mesh = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mesh)


def wanted(analysis, level, place):
    """Whether an analysis wants a block."""
    if analysis == "finest":
        return level == mesh.LEVELS - 1
    scale = mesh.REFINEMENT**level
    spans = zip(mesh.BOX, place, mesh.SHAPE, strict=True)
    return all(low * scale < p + n and p < high * scale for (low, high), p, n in spans)


@pytest.mark.parametrize("analysis", ["finest", "box"])
def test_levels_of_the_config(tmp_path, leaves_nothing, analysis):
    components = {
        "DRIVER": {"NAME": "Driver", "MODULE": "ips_components.driver"},
        "SIMULATION": {
            "NAME": "Simulation",
            "MODULE": "ips_components.simulation",
            "NPROC": RANKS,
            "EXECUTABLE": BIN / "python",
            "ARGS": PARTS / "mesh_blocks.py",
        },
        "ANALYTICS": {
            "NAME": "Analytics",
            "MODULE": "ips_components.analytics",
            "DASK_PPW": 1,
            "DASK_WORKERS_PER_NODE": 2,
            "ANALYSIS": f"mesh_blocks:{analysis}",
            "FIGURE": False,
        },
    }
    loop = {"MODE": "REGULAR", "START": 0, "FINISH": 1, "NSTEP": mesh.STEPS}
    flow = Workflow(tmp_path, components, platform={"MPIRUN": "mpiexec"}, time_loop=loop)
    flow.write()
    with flow.config_file.open("a") as file:
        file.write("[[ARRAYS]]\n[[[rho]]]\nSHAPE = -1, 2, 4\nLEVELS = 3\nREFINEMENT = 3\n")
    ended = flow.run(110)
    assert ended.status == 0, ended.output + ended.log
    (path,) = flow.root.glob("run_*/run.json")
    record = json.loads(path.read_text())
    with xr.open_zarr(record["results"]["path"], consolidated=False) as results:
        found = results.load()
    sent = produced = 0
    for step in range(mesh.STEPS):
        kept = []
        for rank in range(RANKS):
            own = list(zip(*mesh.blocks(step, rank, RANKS), strict=True))
            produced += len(own)
            kept += [cells.sum() for cells, *block in own if wanted(analysis, *block)]
        assert found["count"][step] == len(kept) > 0
        np.testing.assert_allclose(found["total"][step], sum(kept), rtol=1e-12)
        sent += len(kept)
    assert record["ledger"]["closed"]
    account = record["ledger"]["arrays"]["rho"]["bytes"]
    assert (account["delivered"], account["produced"]) == (64 * sent, 64 * produced)
    assert 0 < sent < produced
