"""Ghost cells per side and shared points: each point has one owner, whatever the decomposition."""

from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_components.bridge import Array
from ips_components.errors import BridgeError, GeometryError
from ips_components.model.block import Block
from ips_components.model.contract import ArrayContract
from ips_components.model.decomposition import Decomposition
from ips_components.model.margins import Margins, owners, sides
from ips_components.model.pieces import BlockPlan
from ips_components.model.spec import ArraySpec, StepAxis


@st.composite
def staggered(draw):
    """Margins, and blocks of a rectilinear decomposition with the points that they share."""
    ndim = draw(st.integers(1, 3))
    cells = [draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)) for _ in range(ndim)]
    shared = tuple(draw(st.sampled_from(["", "low", "high"])) for _ in range(ndim))
    halo = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(ndim))
    shape = tuple(sum(c) + bool(s) for c, s in zip(cells, shared, strict=True))
    tiles = Decomposition.rectilinear(cells).blocks
    blocks = [
        Block(b.offset, tuple(n + bool(s) for n, s in zip(b.shape, shared, strict=True)))
        for (b,) in tiles
    ]
    return Margins(shape, halo, shared), blocks


@given(staggered())
def test_every_point_has_one_owner_and_arrives_with_its_value(case):
    margins, blocks = case
    field = np.arange(prod(margins.shape)).reshape(margins.shape)
    spec = ArraySpec("p", "i8", margins.shape, StepAxis(count=1))
    contract = ArrayContract.agree(spec, run="r")
    arrived, times = np.full(margins.shape, -1), np.zeros(margins.shape, int)
    padded = np.pad(field, margins.halo, constant_values=-7)
    for block in blocks:
        end = [o + n for o, n in zip(block.offset, margins.extent(block), strict=True)]
        local = padded[tuple(map(slice, block.offset, end))]
        assert margins.within(local.shape) == block.shape
        for piece in BlockPlan(contract, margins.owned(block), margins.before(block)).at(0):
            where = tuple(slice(a, a + n * s, s) for a, n, s in piece.dst[1:])
            arrived[where] = local[piece.src]
            times[where] += 1
    assert (times == 1).all()
    assert (arrived == field).all()


@given(
    st.lists(st.integers(2, 9), min_size=1, max_size=3),
    st.data(),
)
def test_regular_blocks_share_exactly_the_points_between_them(cells, data):
    shared = tuple(data.draw(st.sampled_from(["", "low", "high"])) for _ in cells)
    grid = tuple(data.draw(st.integers(1, n)) for n in cells)
    shape = tuple(n + bool(s) for n, s in zip(cells, shared, strict=True))
    margins = Margins(shape, ((0, 0),) * len(shape), shared)
    blocks = [block for (block,) in margins.regular(grid).blocks]
    Decomposition(shape, tuple((margins.owned(b),) for b in blocks)).validate("p")
    edges = [[i * n // p for i in range(p)] for n, p in zip(cells, grid, strict=True)]
    assert [block.offset for block in blocks] == list(product(*edges))


@pytest.mark.parametrize("halo", [(1,), (1, 2, 3), ((1, 2, 3), 1), -1, ((0, -1), 1), "12", "ab"])
def test_a_halo_that_is_none(halo):
    with pytest.raises(GeometryError, match="halo must"):
        sides(halo, 2)
    with pytest.raises(BridgeError, match=r"array 't'.*halo must"):
        Array("t", (4, 6), halo=halo)


@pytest.mark.parametrize("shared", ["left", ("low",), ("low", 1), ("low", "high", "low")])
def test_owners_that_are_none(shared):
    with pytest.raises(GeometryError, match="shared must be"):
        owners(shared, 2)
    with pytest.raises(BridgeError, match="array 't': shared must be"):
        Array("t", (4, 6), shared=shared)


def test_margins_and_rows_do_not_go_together():
    for margins in ({"halo": 1}, {"shared": "low"}):
        with pytest.raises(BridgeError, match="array 'x'"):
            Array("x", (-1, 3), ragged=True, **margins)


def test_a_dimension_with_shared_points_has_two():
    with pytest.raises(BridgeError, match="dimension 1 has shared points"):
        Array("t", (4, 1), shared="low")


def test_numpys_notation_of_a_halo():
    pairs = np.array([[2, 3], [0, 1]])
    assert (
        Array("t", (4, 6), halo=pairs).margins == Array("t", (4, 6), halo=((2, 3), (0, 1))).margins
    )
    field = np.zeros((4, 6))
    block = Block((0, 0), (4, 6))
    for halo in (1, ((2, 3), (0, 1)), ((1, 2),)):
        assert Array("t", (4, 6), halo=halo).margins.extent(block) == np.pad(field, halo).shape
