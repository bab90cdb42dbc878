"""What an update of the incremental PCA costs: against scikit-learn, by solver and feature chunks.

    python benchmarks/ipca.py --features 20000 --samples 50 --components 10

One line per way: median over repetitions of the wall time per batch in milliseconds, the tasks per
batch in the graph, and the largest relative difference of the singular values from scikit-learn's.
BLAS threads count: set OMP_NUM_THREADS to what a Dask worker has.
"""

import argparse
import statistics
import time

import dask.array as da
import numpy as np
from sklearn.decomposition import IncrementalPCA

from ips_components.algorithms import InSituIncrementalPCA


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--features", type=int, default=20_000)
    parser.add_argument("--samples", type=int, default=50, help="per batch")
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--chunks", type=int, nargs="+", default=[1, 2, 4], help="of the features")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    modes = rng.normal(size=(2 * args.components, args.features))
    modes *= 2.0 ** -np.arange(len(modes))[:, None]
    weights = rng.normal(size=(args.batches, args.samples, len(modes)))
    x = weights @ modes + 0.01 * rng.normal(size=(args.batches, args.samples, args.features))

    def sklearn():
        pca = IncrementalPCA(args.components)
        for batch in x:
            pca.partial_fit(batch)
        return pca.singular_values_

    seconds, expected = timed(sklearn, args.repeat)
    print(f"{'':24} {'ms/batch':>9} {'tasks':>6} {'difference':>11}")
    print(f"{'scikit-learn':24} {1e3 * seconds / args.batches:9.2f}")
    for solver in ("full", "gram", "randomized"):
        for chunks in args.chunks:
            size = -(-args.features // chunks)
            # Persisted, for the blocks stand for data that have arrived.
            lazy = da.from_array(x, (1, args.samples, size)).persist()
            pca = InSituIncrementalPCA(args.components, svd_solver=solver, random_state=0)
            values = pca.fit(lazy, ["t", "s", "f"], ["f"], ["s"]).singular_values_
            tasks = (len(values.dask) - len(lazy.dask)) // args.batches
            seconds, found = timed(values.compute, args.repeat)
            difference = float(np.abs(found / expected - 1).max())
            label = f"{solver}, {chunks} chunk{'s' * (chunks > 1)}"
            print(f"{label:24} {1e3 * seconds / args.batches:9.2f} {tasks:6} {difference:11.1e}")


def timed(function, repeat):
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


if __name__ == "__main__":
    main()
