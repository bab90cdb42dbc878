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


def make(folder, *options):
    """Build a code with its own Makefile, which asks ips-components-config."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    run("make", "-s", *options, cwd=folder, env=environment)


def coupled(directory, program, analysis, arrays="", **simulation):
    """Run a code under IPS; the folder of the run, the results, and the ledger's arrays."""
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
        file.write(arrays)
    ended = flow.run(200)
    assert ended.status == 0, ended.output + ended.log
    (path,) = flow.root.glob("run_*/run.json")
    record = json.loads(path.read_text())
    assert record["ledger"]["closed"]
    with xr.open_zarr(record["results"]["path"], consolidated=False) as results:
        return flow.root, results.load(), record["ledger"]["arrays"]


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
    compilers = [f"MPI_COMPILER={fortran(tmp_path)}", f"C_MPI_COMPILER={found('mpicc')}"]
    make(folder, *compilers, "FLAGS_=-O1", "CFLAGS_=-O1")
    (folder / "clover.in").write_text(CLOVER_IN)
    names = ("time", "density", "energy", "xvel", "yvel")
    arrays = "[[ARRAYS]]\n" + "".join(f"[[[{name}]]]\nSTEPS = 1:21\n" for name in names)
    root, results, _ = coupled(
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


MINIAMR = (
    "--num_refine 2 --max_blocks 1000 --nx 4 --ny 4 --nz 4 --npx 2 --npy 2 --num_tsteps 8 "
    "--num_vars 2 --stages_per_ts 2 --checksum_freq 1 --refine_freq 2 --plot_freq 1 "
    "--report_diffusion --num_objects 1 --object 2 0 0.3 0.3 0.3 0.05 0.05 0 0.2 0.2 0.2 0 0 0"
)


@needs("miniAMR", "mpicc", "mpiexec")
def test_miniamr(tmp_path, leaves_nothing):
    """Blocks that are refined and coarsened: all of them, then only the finest of a corner."""
    folder = patched("miniAMR", tmp_path) / "ref"
    make(folder, f"CC={found('mpicc')}", f"LD={found('mpicc')}", "CFLAGS=-O1")
    program = folder / "miniAMR.x"
    root, whole, _ = coupled(
        tmp_path / "whole", program, "miniamr_analysis:everything", ARGS=MINIAMR
    )
    _, part, accounts = coupled(tmp_path / "part", program, "miniamr_analysis:corner", ARGS=MINIAMR)
    (work,) = {path.parent for path in root.rglob("plot.08")}
    said = (work / "simulation.log").read_text()
    printed = dict(re.findall(r"^(\d+) var 0 sum (\S+)", said, flags=re.MULTILINE))
    chosen, counts = 0, set()
    for step in range(1, 9):
        sums, table = whole[f"sums_{step - 1}"].values, whole[f"blocks_{step - 1}"].values
        assert sums.sum() == pytest.approx(float(printed[str(step)]), rel=1e-7)
        rows = [line.split() for line in (work / f"plot.{step:02}").read_text().splitlines()]
        drawn_blocks = np.array([row for row in rows[1:] if len(row) == 4], int)
        # it draws the centres of the blocks, counted in halves of cells of the finest blocks
        places = drawn_blocks[:, 1:] // 2 ** (3 - drawn_blocks[:, :1]) * 4
        assert sorted(map(tuple, table)) == sorted(
            map(tuple, np.column_stack([drawn_blocks[:, 0], places]))
        )
        inside = (table[:, 0] == 2) & (table[:, 1:3] < 4 * 2**2).all(axis=1)
        assert part["total"][step - 1] == pytest.approx(sums[inside].sum(), rel=1e-12)
        chosen, counts = chosen + inside.sum(), counts | {len(table)}
    assert len(counts) > 2  # it refines and coarsens
    sent = accounts["cells"]["bytes"]
    assert sent["delivered"] == chosen * 4**3 * 8 < sent["produced"] / 2
