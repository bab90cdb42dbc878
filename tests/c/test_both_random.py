"""Random arrays, decompositions and selections, against NumPy: both bridges.

A few seeds by default; ``RANDOM_SEEDS=100:300`` runs others.
"""

import os
from itertools import product

import numpy as np
import pytest
from c_ranks import agree, coupling, join_all, spec_of
from test_both_bridges import right

from ips_components.model.selection import Selection
from ips_components.model.spec import ArraySpec, StepAxis

FIRST, LAST = map(int, os.environ.get("RANDOM_SEEDS", "0:3").split(":"))
DTYPES = ["<f8", "<f4", "<i2", "<c16", "|u1", "|S3"]
STEPS = 3


@pytest.fixture
def lane():
    """Both lanes have the same geometry."""
    return "shm"


@pytest.fixture
def start(either):
    """Start ranks of either bridge."""
    return either


@pytest.fixture(params=range(FIRST, LAST))
def rng(request):
    return np.random.default_rng(request.param)


def some(rng, values):
    return values[rng.integers(len(values))]


def key(rng, shape):
    """A slice or an index for each dimension, time first, of which something is left."""
    parts = []
    for n in shape:
        low = int(rng.integers(n))
        high = int(rng.integers(low + 1, n + 1))
        whole = slice(None)
        parts.append(some(rng, [whole, whole, slice(low, high), slice(low, None, 2), low]))
    return tuple(parts)


def agreed(rng, spec, receivers):
    keys = [key(rng, spec.index_shape) for _ in range(rng.integers(0, 3))]
    selections = [Selection.from_key(each, spec.index_shape) for each in keys] or None
    chunks = {d: int(rng.integers(1, n + 1)) for d, n in enumerate(spec.index_shape)}
    return agree(spec, selections=selections, receivers=receivers, chunks=some(rng, [chunks, None]))


def ends(ranks):
    for rank in ranks:
        rank.tell("close", 0)
    for rank in ranks:
        rank.answer()


def cut_at(rng, cells, parts, least):
    """Edges of blocks, each of at least so many cells."""
    free = np.sort(rng.integers(0, cells - parts * least + 1, parts - 1))
    return [0, *(free + least * np.arange(1, parts)).tolist(), cells]


def test_ghost_cells_and_shared_points(rng, start, sinks, tmp_path):
    ndim = int(rng.integers(1, 4))
    owners = [some(rng, ["none", "low", "high"]) for _ in range(ndim)]
    more = [int(owner != "none") for owner in owners]
    grid = [int(rng.integers(1, 4 - ndim // 2)) for _ in range(ndim)]
    edges = [cut_at(rng, int(rng.integers(3, 8)), p, m) for p, m in zip(grid, more, strict=True)]
    shape = tuple(edge[-1] + m for edge, m in zip(edges, more, strict=True))
    boxes = []
    for index in product(*map(range, grid)):
        spans = [(e[i], e[i + 1] - e[i] + m) for e, i, m in zip(edges, index, more, strict=True)]
        boxes.append(tuple(zip(*spans, strict=True)))
    low, high = rng.integers(0, 4, (2, ndim))
    moving = bool(rng.integers(2))
    dtype = some(rng, DTYPES)
    spec = spec_of(dtype=dtype, shape=shape, count=STEPS, start=int(rng.integers(4)), every=2)
    made = sinks(int(rng.integers(1, 3)))
    contract = agreed(rng, spec, len(made))
    with coupling(tmp_path, made, contract) as (contact, _):
        ranks = [start(i, len(boxes)) for i in range(len(boxes))]
        for rank, (offset, count) in zip(ranks, boxes, strict=True):
            rank("array", "t", spec.itemsize, ndim, *shape)
            rank("declare", "t", dtype, ndim, *shape)
            rank("steps", "t", spec.steps.start, 2, STEPS)
            rank("sides", "t", *low, *high)
            if any(more):
                rank("shared", "t", *owners)
            rank("block", "t", dtype, *offset, *count, *([0] * ndim))
        join_all(ranks, contact, tmp_path)
        for n, step in enumerate(range(spec.steps.start, spec.steps.start + 2 * STEPS, 2)):
            for number, rank in enumerate(ranks):
                offset, count = boxes[(number + n) % len(boxes) if moving else number]
                order = some(rng, ["C", "F", "R"])
                if moving:
                    rank.tell("put_block", "t", step, order, *offset, *count)
                else:
                    rank.tell("put", "t", step, order)
            for rank in ranks:
                rank.answer()
        ends(ranks)
        right(contract, *made)
        sent = sum(rank.account("t")[1][2] for rank in ranks)
        assert sent == contract.arrays[0].wanted_bytes


def test_rows_by_ids(rng, start, sinks, tmp_path):
    n, size = int(rng.integers(1, 40)), int(rng.integers(1, 4))
    columns = tuple(int(c) for c in rng.integers(1, 5, rng.integers(0, 3)))
    rule, dtype = some(rng, ["unique", "low", "high"]), some(rng, DTYPES)
    spec = ArraySpec("u", dtype, (n, *columns), StepAxis(count=STEPS), ids=rule)
    described = bool(rng.integers(2))
    parts = []
    for _ in range(1 if described else STEPS):
        owner = rng.integers(0, size, n)
        own = [np.flatnonzero(owner == rank) for rank in range(size)]
        if rule != "unique":
            own = [np.union1d(ids, rng.integers(0, n, rng.integers(0, n))) for ids in own]
        parts.append([rng.permutation(ids).astype(int).tolist() for ids in own])
    made = sinks(int(rng.integers(1, 3)))
    contract = agreed(rng, spec, len(made))
    with coupling(tmp_path, made, contract) as (contact, _):
        ranks = [start(i, size) for i in range(size)]
        for number, rank in enumerate(ranks):
            rank("array", "u", spec.itemsize, len(spec.shape), *spec.shape)
            rank("declare", "u", dtype, len(spec.shape), *spec.shape)
            rank("steps", "u", 0, 1, STEPS)
            ids = [len(parts[0][number]), *parts[0][number]] if described else [-1]
            rank("ids", "u", "none" if rule == "unique" else rule, *ids)
        join_all(ranks, contact, tmp_path)
        for step in range(STEPS):
            for number, rank in enumerate(ranks):
                ids = parts[0 if described else step][number]
                rank.tell("put_ids", "u", step, 0, *([-1] if described else [len(ids), *ids]))
            for rank in ranks:
                rank.answer()
        ends(ranks)
        right(contract, *made)
