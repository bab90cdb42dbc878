"""The whole geometry at once: ranks cut blocks, receivers assemble chunks, NumPy is the judge."""

import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_components.errors import GeometryError
from ips_components.model import (
    ArrayContract,
    ArraySpec,
    Block,
    BlockPlan,
    BlockPlans,
    Placement,
    RowPlan,
    Selection,
    StepAxis,
    part_of,
    ranks_of,
)

from .strategies import PROFILE, chunks, mask, selections, shapes, tilings


def agree(shape, wanted, layout=None, n_receivers=2, **options):
    spec = ArraySpec("field", "i8", shape[1:], StepAxis(count=shape[0]))
    return ArrayContract.agree(
        spec, wanted, run="r", chunks=layout, receivers=range(n_receivers), **options
    )


def inside(dst):
    """Where a piece goes in its chunk, as slices."""
    return tuple(slice(start, start + (n - 1) * step + 1, step) for start, n, step in dst)


def with_halo(field, block, halo):
    """A rank's own array: its block inside `halo` cells that must never be sent."""
    local = np.full([n + 2 * h for n, h in zip(block.shape, halo, strict=True)], -7)
    inner = tuple(slice(h, h + n) for h, n in zip(halo, block.shape, strict=True))
    local[inner] = field[block.to_slices()]
    return local


@given(st.data())
@PROFILE
def test_chunks_assembled_from_pieces_equal_the_field(data):
    shape = data.draw(shapes(min_dims=1, max_dims=5, max_side=7))
    space = shape[1:]
    wanted = data.draw(selections(shape))
    contract = agree(shape, wanted, data.draw(chunks(shape)), data.draw(st.integers(1, 3)))
    blocks = data.draw(tilings(space)) if space else [Block((), ())]
    halo = tuple(data.draw(st.integers(0, 2)) for _ in space)
    field = np.arange(1, np.prod(shape) + 1).reshape(shape)

    external, filled = {}, {}
    plans = [BlockPlan(contract, block, halo) for block in blocks]
    for t in range(shape[0]):
        for plan, block in zip(plans, blocks, strict=True):
            local = with_halo(field[t], block, halo)
            for piece in plan.at(t):
                if piece.chunk not in external:
                    external[piece.chunk] = np.zeros(contract.chunk_shape(piece.chunk), int)
                    filled[piece.chunk] = np.zeros(contract.chunk_shape(piece.chunk), int)
                cut = local[piece.src]
                assert cut.size == piece.cells > 0
                assert piece.receiver == contract.placement.owner(piece.chunk)
                external[piece.chunk][inside(piece.dst)] = cut
                filled[piece.chunk][inside(piece.dst)] += 1

    needed = {c for a, b in contract.needed for c in range(a, b)}
    assert set(external) == needed == set(contract.needed_ids().tolist())
    sent = mask(shape, wanted) > 0
    for c in needed:
        box = contract.chunk_selection(c).to_slices()
        np.testing.assert_array_equal(filled[c], sent[box])
        np.testing.assert_array_equal(external[c], np.where(sent[box], field[box], 0))
        assert filled[c].sum() == contract.chunk_cells(c)
    assert contract.wanted_bytes == 8 * sent.sum()


def test_one_selection_makes_dense_chunks():
    contract = agree((10, 8, 8), [Selection.from_key(np.s_[::2, 1::3, 5], (10, 8, 8))])
    assert contract.wanted == (contract.cover,)
    assert [contract.chunk_shape(c) for c in contract.needed_ids(0, 1)] == [(1, 1, 1), (1, 2, 1)]


def test_only_wanted_steps_give_pieces():
    plan = BlockPlan(agree((10, 8), [Selection.from_key(np.s_[3:9:3], (10, 8))]), Block((0,), (4,)))
    assert [t for t in range(-2, 14) if plan.at(t)] == [3, 6]
    assert plan.cells == 4


def test_halo_and_block_must_fit():
    contract = agree((2, 8), None)
    with pytest.raises(GeometryError, match=r"outside the global shape \(8,\)"):
        BlockPlan(contract, Block((5,), (4,)))
    with pytest.raises(GeometryError, match="halo must be 1 numbers"):
        BlockPlan(contract, Block((4,), (4,)), halo=(1, 1))


def test_following_another_placement():
    contract = agree((4, 8), None, n_receivers=2)
    plans = BlockPlans(contract, size=2)
    plan = plans.of(Block((0,), (8,)))
    assert [p.receiver for p in plan.at(1)] == [0, 1]
    plans.place(Placement(1, 1, (5, 1)))
    assert [p.receiver for p in plan.at(1)] == [5, 1]
    moved = plans.of(Block((0,), (2,)))
    assert [p.receiver for p in moved.at(1)] == [5]
    plans.of(Block((2,), (2,)))
    assert plans.of(Block((0,), (8,))) is not plan  # the oldest of three was dropped


def test_open_ended_run():
    spec = ArraySpec("field", "f8", (6,), StepAxis(start=5, every=5))
    contract = ArrayContract.agree(
        spec, run="r", chunks={"time": 4}, receivers=(0, 1), n_receivers=2
    )
    pieces = BlockPlan(contract, Block((1,), (4,))).at(1_000_001)
    assert [p.chunk for p in pieces] == [250_000 * 2, 250_000 * 2 + 1]
    assert pieces[0].dst == ((1, 1, 1), (1, 2, 1))
    assert contract.needed_ids(10, 12).tolist() == [20, 21, 22, 23]
    assert contract.chunk_shape(500_001) == (4, 3)
    assert contract.wanted_bytes is None and contract.row()["steps"] == ":"


def test_rows_of_particles():
    spec = ArraySpec("x", "f4", (-1, 3), StepAxis(count=6), ragged=True)
    wanted = [Selection.from_key(np.s_[::2, :, ::2], (6, 2, 3))]
    contract = ArrayContract.agree(spec, wanted, run="r", receivers=(4, 9))
    plans = [RowPlan(contract, rank, 5) for rank in range(5)]
    assert [plan.part for plan in plans] == [0, 0, 0, 1, 1]
    assert plans[0].at(1) is None
    piece = plans[3].at(2)
    assert (piece.chunk, piece.receiver, piece.row_shape) == (5, 9, (2,))
    rows = np.arange(12).reshape(4, 3)
    np.testing.assert_array_equal(rows[piece.src], rows[:, ::2])
    assert contract.chunk_shape(5) == (1, -1, 2)
    with pytest.raises(GeometryError, match="use RowPlan"):
        BlockPlan(contract, Block((0, 0), (1, 1)))
    with pytest.raises(GeometryError, match="use BlockPlan"):
        RowPlan(agree((2, 8), None), 0, 1)


@pytest.mark.parametrize(("parts", "size"), list(product(range(1, 6), range(1, 9))))
def test_parts_of_ranks(parts, size):
    for part in range(parts):
        expected = [r for r in range(size) if part_of(r, parts, size) == part]
        assert list(ranks_of(part, parts, size)) == expected


def test_asking_for_an_unwanted_step_is_cheap():
    # A generous bound that only catches work of the wrong order (a rank asks at every step).
    plan = BlockPlan(agree((1000, 64, 64), [Selection.full((1, 64, 64))]), Block((0, 0), (32, 32)))
    begin = time.perf_counter()
    for t in range(1, 10_001):
        plan.at(t)
    assert time.perf_counter() - begin < 0.2
