"""Public codes under real IPS: Dask's numbers are those that the codes print themselves."""

import json
import os
import re

import numpy as np
import pytest
import xarray as xr
from public_codes import PATCHES, fortran, found, needs, patched, run
from workflows import BIN, Workflow

pytestmark = [pytest.mark.course, pytest.mark.timeout(500)]

CLOVER_IN = """*clover
 state 1 density=0.2 energy=1.0
 state 2 density=1.0 energy=2.5 geometry=rectangle xmin=0.0 xmax=5.0 ymin=0.0 ymax=2.0
 x_cells=25
 y_cells=19
 xmin=0.0
 ymin=0.0
 xmax=10.0
 ymax=8.0
 initial_timestep=0.04
 timestep_rise=1.5
 max_timestep=0.4
 end_step=20
 summary_frequency=5
 visit_frequency=20
 test_problem 1
*endclover
"""
AXES = (("Y", 8 / 19), ("X", 10 / 25))


def coupled(directory, program, analysis, arrays, **simulation):
    """Run a code under IPS; its working directory and the results."""
    components = {
        "DRIVER": {"NAME": "Driver", "MODULE": "ips_components.driver"},
        "SIMULATION": {
            "NAME": "Simulation",
            "MODULE": "ips_components.simulation",
            "NPROC": 4,
            "EXECUTABLE": program,
            **simulation,
        },
        "ANALYTICS": {
            "NAME": "Analytics",
            "MODULE": "ips_components.analytics",
            "DASK_PPW": 1,
            "DASK_WORKERS_PER_NODE": 2,
            "ANALYSIS": analysis,
            "FIGURE": False,
        },
    }
    platform = {"MPIRUN": "mpiexec"}
    environment = {"PYTHONPATH": str(PATCHES)}
    flow = Workflow(directory, components, platform=platform, environment=environment)
    flow.write()
    with flow.config_file.open("a") as file:
        file.write("[[ARRAYS]]\n" + arrays)
    ended = flow.run(200)
    assert ended.status == 0, ended.output + ended.log
    (path,) = flow.root.glob("run_*/run.json")
    record = json.loads(path.read_text())
    assert record["ledger"]["closed"]
    with xr.open_zarr(record["results"]["path"], consolidated=False) as results:
        return flow.root, results.load()


def drawn(path):
    """Coordinates and fields of one of CloverLeaf's files for VisIt."""
    parts = re.split(r"^([A-Za-z]\w*) .*$", path.read_text().split("GRID")[1], flags=re.MULTILINE)
    return {
        name: np.array(text.split(), float)
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


@needs("CloverLeaf", "gfortran", "mpicc", "mpiexec")
def test_cloverleaf(tmp_path, leaves_nothing):
    """Sums at every step, and the last fields in all their cells and vertices."""
    folder = patched("CloverLeaf", tmp_path)
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    compilers = [f"MPI_COMPILER={fortran(tmp_path)}", f"C_MPI_COMPILER={found('mpicc')}"]
    run("make", "-s", *compilers, "FLAGS_=-O1", "CFLAGS_=-O1", cwd=folder, env=environment)
    (folder / "clover.in").write_text(CLOVER_IN)
    names = ("time", "density", "energy", "xvel", "yvel")
    arrays = "".join(f"[[[{name}]]]\nSTEPS = 1:21\n" for name in names)
    root, results = coupled(
        tmp_path,
        folder / "clover_leaf",
        "cloverleaf_analysis:summary",
        arrays,
        INPUT_DIR=folder,
        INPUT_FILES="clover.in",
    )
    (work,) = {path.parent for path in root.rglob("clover.out")}
    said = (work / "clover.out").read_text()
    rows = [line.split()[1:] for line in said.splitlines() if line.startswith(" step:")]
    steps, volume, mass, _, _, internal, kinetic, _ = np.array(rows[1:], float).T
    assert steps.tolist() == [5, 10, 15, 20, 20]
    at = results.isel(time=steps.astype(int) - 1)
    np.testing.assert_allclose(at.mass * volume, mass, rtol=6e-4)  # four digits
    np.testing.assert_allclose(at.internal * volume, internal, rtol=6e-4)  # four digits
    np.testing.assert_allclose(at.kinetic * volume, kinetic, rtol=6e-4)  # four digits
    elapsed = re.findall(r"^ Time +(\S+)", said, flags=re.MULTILINE)[1:]
    np.testing.assert_allclose(at.elapsed, np.array(elapsed, float), rtol=1e-15)
    assert len(np.unique(np.diff(results.elapsed).round(9))) > 5  # the time step adapts
    # the last kinetic energy with all its digits: how far it is from that of another problem
    (percent,) = re.findall(r"is within +(\S+)%", said)
    other = abs(100 * at.kinetic[-1] * 80 / 1.82280367310258 - 100)
    np.testing.assert_allclose(other, float(percent), rtol=1e-7)
    for rank in range(4):
        field = drawn(work / f"clover.{rank:05}.00001.00020.vtk")
        y, x = (np.rint(field[f"{d}_COORDINATES"] / h).astype(int) for d, h in AXES)
        for name, rows, columns in (("density", y[:-1], x[:-1]), ("x_vel", y, x)):
            ours = results[f"last_{name}"].values[np.ix_(rows, columns)]
            np.testing.assert_allclose(ours.ravel(), field[name], rtol=6e-4, atol=1e-8)
