"""What an update of the incremental PCA costs: against scikit-learn, by solver and feature chunks.

BLAS threads count: set OMP_NUM_THREADS to what a Dask worker has.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from sklearn.decomposition import IncrementalPCA

from benchmarks._harness import Load, interleave, machine, spread, write
from ips_components.algorithms import InSituIncrementalPCA

SKLEARN = "scikit-learn"
SAMPLES, COMPONENTS = 50, 10


def run(
    quick: bool = False,
    repeat: int = 5,
    features: int = 0,
    batches: int = 20,
    chunks: tuple[int, ...] = (1, 2, 4),
    folder: Path | None = None,
) -> dict[str, Any]:
    """Run all turns; write a table: time per batch, tasks per batch, difference from scikit-learn.

    `features` is 2,000 if `quick`, else 20,000; the difference is the largest relative one of the
    singular values.
    """
    load, features = Load(), features or (2_000 if quick else 20_000)
    x = field(features, batches)
    expected = reference(x).singular_values_
    ways: dict[str, dict[str, Any]] = {SKLEARN: {}}
    for solver in ("full", "gram", "randomized"):
        for n in chunks:
            ways[f"{solver}, {n} feature chunk{'s' * (n > 1)}"] = {"solver": solver, "chunks": n}
    facts: dict[str, dict[str, Any]] = {}

    def once(name: str) -> float:
        if name == SKLEARN:
            start = time.perf_counter()
            reference(x)
            return time.perf_counter() - start
        seconds, facts[name] = turn(x, expected, **ways[name])
        return seconds

    turns = interleave(ways, repeat, once)
    rows = [
        {
            "way": name,
            "ms per batch": spread((1e3 * s / batches for s in turns[name]), 3),
            **facts.get(name, {}),
        }
        for name in ways
        if turns[name]
    ]
    document = {
        "machine": machine(),
        "load": load.facts(),
        "features": features,
        "samples per batch": SAMPLES,
        "components": COMPONENTS,
        "turns of each": repeat,
        "rows": rows,
    }
    write("ipca", document, **({} if folder is None else {"folder": folder}))
    return document


def field(features: int, batches: int) -> np.ndarray:
    """Batches of samples with a spectrum that falls by half from mode to mode, and some noise."""
    rng = np.random.default_rng(0)
    modes = rng.normal(size=(2 * COMPONENTS, features))
    modes *= 2.0 ** -np.arange(len(modes))[:, None]
    weights = rng.normal(size=(batches, SAMPLES, len(modes)))
    return weights @ modes + 0.01 * rng.normal(size=(batches, SAMPLES, features))


def reference(x: np.ndarray) -> IncrementalPCA:
    """scikit-learn's own, batch by batch."""
    pca = IncrementalPCA(COMPONENTS)
    for batch in x:
        pca.partial_fit(batch)
    return pca


def turn(
    x: np.ndarray, expected: np.ndarray, solver: str, chunks: int
) -> tuple[float, dict[str, Any]]:
    """Compute one graph of all batches; its seconds and what else there is to say."""
    size = -(-x.shape[-1] // chunks)
    # Persisted, for the blocks stand for data that have arrived.
    lazy = da.from_array(x, (1, SAMPLES, size)).persist()
    pca = InSituIncrementalPCA(COMPONENTS, svd_solver=solver, random_state=0)
    values = pca.fit(lazy, ["t", "s", "f"], ["f"], ["s"]).singular_values_
    start = time.perf_counter()
    found = values.compute()
    seconds = time.perf_counter() - start
    return seconds, {
        "tasks per batch": (len(values.dask) - len(lazy.dask)) // len(x),
        "difference": float(f"{np.abs(found / expected - 1).max():.1e}"),
    }
