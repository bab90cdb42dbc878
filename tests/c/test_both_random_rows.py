"""Random rows of ragged arrays, and blocks with levels and places: both bridges.

``RANDOM_SEEDS`` as in `test_both_random`.
"""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from c_ranks import RUN, cells, coupling, join_all
from test_both_random import DTYPES, FIRST, LAST, STEPS, ends, key, some

from ips_components.bridge import Array
from ips_components.model.amr import NO_END, BlockChoice
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.pieces import part_of
from ips_components.model.selection import Selection
from ips_components.model.spec import StepAxis


@pytest.fixture
def lane():
    """Both lanes carry the same rows."""
    return "shm"


@pytest.fixture
def start(either):
    """Start ranks of either bridge."""
    return either


@pytest.fixture(params=range(FIRST, LAST + 3))
def rng(request):
    return np.random.default_rng(request.param)


def random_rows(rng, cells_of):
    """A command that puts rows of a rank, and the number of the first cell of each of them."""
    n = int(rng.integers(0, 7))
    if rng.integers(2):
        return ["rows", n], cells_of * np.arange(n)
    index = rng.permutation(9)[:n]
    return ["put_parts", n, *index.tolist()], cells_of * index


def random_table(rng, levels, refinement, ndim):
    """Level and place of some blocks."""
    level = rng.integers(0, levels, int(rng.integers(0, 7)))
    places = rng.integers(0, 6 * refinement ** level[:, None], (len(level), ndim))
    return np.column_stack([level, places])


def first_cells(table):
    """The number of the first cell of each block, by which its cells are made."""
    first = table[:, 0]
    for place in table.T[1:]:
        first = first * 131 + place
    return first


def random_choice(rng, levels, refinement, ndim):
    """Blocks of some levels, everywhere or in a box."""
    low = int(rng.integers(levels))
    span = low, int(rng.integers(low + 1, levels + 1))
    box = tuple((int(b), some(rng, [int(b) + 2, NO_END])) for b in rng.integers(0, 6, ndim))
    return some(rng, [None, BlockChoice(span, some(rng, [box, ()]), refinement)])


def agreed(rng, spec, parts, choice):
    """A contract of some steps and columns."""
    whole = (STEPS, parts, *spec.shape[1:])
    times, _, *columns = key(rng, whole)
    keys = [(each, slice(None), *columns) for each in (times, int(rng.integers(STEPS)))]
    selections = [Selection.from_key(one, whole) for one in keys[: rng.integers(0, 3)]]
    return ArrayContract.agree(
        spec, selections or None, run=RUN, receivers=range(parts), blocks=choice
    )


def right(array, found, whole, parts):
    """Whether each part of a wanted step has its rows, of the wanted columns."""
    times = {int(t) for one in array.wanted for t in np.arange(STEPS)[one.to_slices()[0]]}
    chunks = {array.chunk_selection(chunk).start[:2]: rows[0] for chunk, rows in found.items()}
    assert set(chunks) == set(product(times, range(parts)))
    columns = (slice(None), *array.cover.to_slices()[2:])
    for (time, part), rows in chunks.items():
        expected = whole(array.spec.steps.start + array.spec.steps.every * time, part)[columns]
        if rows.ndim < expected.ndim:  # bytes of cells
            rows = np.ascontiguousarray(rows).view(np.uint8).reshape(expected.shape)
        assert np.array_equal(rows, expected)


def test_rows_of_each_step(rng, start, sinks, tmp_path):
    columns = tuple(int(c) for c in rng.integers(1, 5, rng.integers(0, 4)))
    axis = StepAxis(int(rng.integers(3)), int(rng.integers(1, 3)), STEPS)
    spec = replace(Array("x", (-1, *columns), some(rng, DTYPES), ragged=True).spec, steps=axis)
    made, size = sinks(int(rng.integers(1, 3))), int(rng.integers(2, 5))
    parts, cells_of, put = len(made), int(np.prod(columns)), {}
    contract = Contract(RUN, (agreed(rng, spec, parts, None),))
    with coupling(tmp_path, made, contract) as (contact, _):
        ranks = [start(i, size) for i in range(size)]
        for rank in ranks:
            rank.offer(spec, (), ())
        join_all(ranks, contact, tmp_path)
        for step in range(axis.start, axis.start + STEPS * axis.every, axis.every):
            for number, rank in enumerate(ranks):
                (command, *words), first = random_rows(rng, cells_of)
                put[number, step] = 1000003 * number + first
                rank.tell(command, "x", step, *words)
            for rank in ranks:
                rank.answer()
        ends(ranks)

        def whole(step, part):
            own = [put[r, step] for r in range(size) if part_of(r, parts, size) == part]
            index = np.concatenate(own)[:, None] + np.arange(cells_of)
            return cells(spec, index.reshape(-1, *columns), step)

        found = {chunk: rows for sink in made for (_, chunk), rows in sink.chunks.items()}
        right(contract.arrays[0], found, whole, parts)
        del found


def test_blocks_of_each_step(rng, start, sinks, tmp_path):
    levels, refinement, ndim = (int(n) for n in rng.integers(1, 4, 3))
    shape = tuple(int(c) for c in rng.integers(1, 5, ndim))
    options = {"ragged": True, "levels": levels, "refinement": refinement}
    mesh = Array("x", (-1, *shape), some(rng, DTYPES), **options)
    axis = StepAxis(int(rng.integers(3)), int(rng.integers(1, 3)), STEPS)
    specs = [replace(spec, steps=axis) for spec in (mesh.spec, mesh.table.spec)]
    made, size = sinks(int(rng.integers(1, 3))), int(rng.integers(2, 5))
    parts, cells_of, put = len(made), int(np.prod(shape)), {}
    choice = random_choice(rng, levels, refinement, ndim)
    needed = some(rng, [(0, 1), (0,), (1,)])
    agreements = tuple(agreed(rng, specs[i], parts, choice) for i in needed)
    contract = Contract(RUN, agreements, tuple(s for i, s in enumerate(specs) if i not in needed))
    with coupling(tmp_path, made, contract) as (contact, _):
        ranks = [start(i, size) for i in range(size)]
        for rank in ranks:
            rank.offer(specs[0], (), ())
            rank("levels", "x", levels, refinement)
        join_all(ranks, contact, tmp_path)
        for step in range(axis.start, axis.start + STEPS * axis.every, axis.every):
            for number, rank in enumerate(ranks):
                table = random_table(rng, levels, refinement, ndim)
                kept = slice(None) if choice is None else choice.accept(table, shape)
                put[number, step] = table[kept]
                rank.tell("put_blocks", "x", step, len(table), *table.ravel())
            for rank in ranks:
                rank.answer()
        ends(ranks)

        def tables(step, part):
            own = [put[r, step] for r in range(size) if part_of(r, parts, size) == part]
            return np.concatenate(own)

        def whole(step, part):
            index = first_cells(tables(step, part))[:, None] + np.arange(cells_of)
            return cells(specs[0], index.reshape(-1, *shape), step)

        for ordinal, (i, array) in enumerate(zip(needed, contract.arrays, strict=True)):
            found = {
                c: rows for sink in made for (o, c), rows in sink.chunks.items() if o == ordinal
            }
            right(array, found, (whole, tables)[i], parts)
            del found
