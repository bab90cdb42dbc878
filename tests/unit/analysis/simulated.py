"""A simulation in miniature: ranks cut their blocks, chunks are assembled, all in one process."""

from __future__ import annotations

import dask
import numpy as np
from distributed.protocol import pickle

from ips_components.analysis.arrays import external_arrays
from ips_components.analysis.contract import contract_from_graph, optimize
from ips_components.model import (
    ArraySpec,
    BlockPlan,
    Decomposition,
    RowPlan,
    StepAxis,
    dims_create,
    ranks_of,
)

RUN = "unit"


def spec(name="t", shape=(12, 8), count=20, dims=("y", "x"), **options):
    return ArraySpec(name, "f8", shape, StepAxis(count=count), dims=dims, **options)


def offer(*specs, n_receivers=3, chunks=None):
    return external_arrays(specs, run=RUN, n_receivers=n_receivers, chunks=chunks)


def field_of(array_spec):
    rng = np.random.default_rng(sum(map(ord, array_spec.name)))
    return rng.random(array_spec.index_shape)


def deliver(array, field, n_ranks=4):
    """Return the external chunks that ranks would fill; each wanted cell exactly once."""
    space = array.spec.shape
    grid = dims_create(n_ranks, len(space)) if space else ()
    chunks, filled = {}, {}
    for (block,) in Decomposition.regular(space, grid).blocks:
        plan = BlockPlan(array, block)
        for t in range(len(field)):
            for piece in plan.at(t):
                if piece.chunk not in chunks:
                    chunks[piece.chunk] = np.zeros(array.chunk_shape(piece.chunk), array.dtype)
                    filled[piece.chunk] = np.zeros(array.chunk_shape(piece.chunk), int)
                part = field[t][block.to_slices()][piece.src]
                inside = tuple(slice(a, a + (n - 1) * s + 1, s) for a, n, s in piece.dst)
                chunks[piece.chunk][inside] = part
                filled[piece.chunk][inside] += 1
    for chunk, count in filled.items():
        assert count.max() == 1 and count.sum() == array.chunk_cells(chunk)
    assert set(chunks) == set(array.needed_ids().tolist())
    for value in chunks.values():
        value.flags.writeable = False
    return {array.key(chunk): value for chunk, value in chunks.items()}


def deliver_rows(array, rows):
    """The same for particles: ``rows[t][rank]`` are the rows of a rank."""
    size = len(rows[0])
    chunks = {}
    for t, of_step in enumerate(rows):
        for part in range(array.layout.n_space):
            pieces = [
                (RowPlan(array, r, size).at(t), of_step[r])
                for r in ranks_of(part, array.layout.n_space, size)
            ]
            got = [of_rank[p.src] for p, of_rank in pieces if p is not None]
            if got:
                chunks[array.key(pieces[0][0].chunk)] = np.concatenate(got)[np.newaxis]
    return chunks


def execute(results, external):
    """Compute results one by one, with the external chunks known to the scheduler only.

    One by one, since Dask mixes up the order of delayed values and arrays. Graphs are pickled, as
    on their way to a cluster, and optimised as stock Dask does and as `submit` does.
    """
    seen = {"tasks": 0}

    def get(graph, keys, **options):
        graph = pickle.loads(pickle.dumps(graph))
        tasks = dict(graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph)
        seen["tasks"] += len(tasks)
        return dask.get({**tasks, **external}, keys)

    if isinstance(results, dict):
        values = {name: execute(result, external)[0] for name, result in results.items()}
        return values, None
    if not isinstance(results, list):
        (stock,) = dask.compute(results, scheduler=get)
        with dask.config.set(array_optimize=optimize):
            seen["tasks"] = 0
            (value,) = dask.compute(results, scheduler=get)
        # Reductions over time add in another order than Dask's trees.
        np.testing.assert_allclose(np.asarray(stock), np.asarray(value), rtol=1e-12)
        return value, seen["tasks"]
    found = [execute(result, external) for result in results]
    return [value for value, _ in found], sum(tasks for _, tasks in found)


def couple(analysis, *specs, **options):
    """Run an analysis over external arrays; return values, contract and number of tasks."""
    arrays = offer(*specs, **options)
    results = analysis(arrays)
    contract = contract_from_graph(results, arrays, run=RUN)
    external = {}
    for array in contract.arrays:
        external |= deliver(array, field_of(array.spec))
    values, tasks = execute(results, external)
    return values, contract, tasks
