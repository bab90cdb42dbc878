import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_components.errors import GeometryError
from ips_components.model import Block, Decomposition, dims_create

from .strategies import PROFILE, shapes, tilings


@given(st.data())
@PROFILE
def test_any_tiling_is_accepted(data):
    shape = data.draw(shapes())
    ranks = [[] for _ in range(data.draw(st.integers(1, 4)))]  # several blocks, or none
    for block in data.draw(tilings(shape)):
        ranks[data.draw(st.integers(0, len(ranks) - 1))].append(block)
    decomposition = Decomposition(shape, ranks)
    decomposition.validate("a")
    assert decomposition.holes() == [] and decomposition.overlaps() == []


@given(st.data())
@PROFILE
def test_faults_are_found_exactly(data):
    shape = data.draw(shapes(max_dims=3))
    blocks = list(data.draw(tilings(shape)))
    for _ in range(data.draw(st.integers(0, 2))):
        if blocks and data.draw(st.booleans()):
            blocks.pop()
        else:
            low = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
            size = tuple(data.draw(st.integers(1, n - a)) for n, a in zip(shape, low, strict=True))
            blocks.append(Block(low, size))
    count = np.zeros(shape, int)
    for block in blocks:
        count[block.to_slices()] += 1
    decomposition = Decomposition(shape, [(b,) for b in blocks])
    twice, never = np.zeros(shape, bool), np.zeros(shape, int)
    for overlap in decomposition.overlaps(limit=10**6):
        twice[overlap.box.to_slices()] = True
    for hole in decomposition.holes(limit=10**6):
        never[hole.to_slices()] += 1
    np.testing.assert_array_equal(twice, count > 1)
    np.testing.assert_array_equal(never, count == 0)
    if (count == 1).all():
        decomposition.validate("a")
    else:
        with pytest.raises(GeometryError, match="do not tile"):
            decomposition.validate("a")


def test_fault_names_ranks_and_boxes():
    blocks = [(Block((0, 0), (4, 4)),), (), (Block((3, 0), (5, 4)), Block((0, 4), (7, 4)))]
    with pytest.raises(GeometryError) as caught:
        Decomposition((8, 8), blocks).validate("pressure")
    message = str(caught.value)
    assert "array 'pressure'" in message
    assert "ranks 0 [0:4, 0:4] and 2 [3:8, 0:4] overlap in [3:4, 0:4]" in message
    assert "no rank has [7:8, 4:8]" in message


def test_block_outside():
    with pytest.raises(GeometryError, match=r"rank 1: block \[0:9\] is outside .* \(8,\)"):
        Decomposition((8,), [(), (Block((0,), (9,)),)])


def test_large_grids_are_checked_quickly():
    grid = Decomposition.regular((640, 640), (64, 64))
    grid.validate("a")
    blocks = [list(b) for b in grid.blocks]
    blocks[100] = [Block(blocks[100][0].offset, (10, 11))]
    blocks[200] = []
    broken = Decomposition((640, 640), blocks)
    assert [o.ranks for o in broken.overlaps()] == [(100, 101)]
    assert broken.holes() == [grid.blocks[200][0]]


@given(shapes(), st.data())
@PROFILE
def test_regular(shape, data):
    grid = tuple(data.draw(st.integers(1, 4)) for _ in shape)
    decomposition = Decomposition.regular(shape, grid)
    assert decomposition.size == np.prod(grid)
    decomposition.validate("a")


@pytest.mark.parametrize("size", range(1, 65))
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_dims_create(size, ndim):
    grid = dims_create(size, ndim)
    assert np.prod(grid) == size and list(grid) == sorted(grid, reverse=True)


@pytest.mark.parametrize("bad", [((0,), (1, 1)), ((-1,), (1,)), ((0,), (-1,))])
def test_impossible_blocks(bad):
    with pytest.raises(GeometryError):
        Block(*bad)


def test_blocks_of_different_dimensions_do_not_meet():
    with pytest.raises(GeometryError, match="different numbers of dimensions"):
        Block((0,), (1,)).intersect(Block((0, 0), (1, 1)))
    assert Block((0,), (2,)).intersect(Block((2,), (2,))) is None
