import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_components.errors import GeometryError
from ips_components.model import OPEN_ENDED, ArraySpec, ChunkLayout, StepAxis
from ips_components.model.layout import unroll
from ips_components.model.progression import Progression

from .strategies import PROFILE, chunks, shapes

SPEC = ArraySpec("t", "f4", (10, 6), StepAxis(count=5), dims=("y", "x"))


@pytest.mark.parametrize(
    ("notation", "expected"),
    [
        (None, ((1,) * 5, (4, 3, 3), (6,))),
        (4, ((4, 1), (4, 4, 2), (4, 2))),
        (-1, ((5,), (10,), (6,))),
        ((2, -1, 3), ((2, 2, 1), (10,), (3, 3))),
        ((2, (7, 3), None), ((2, 2, 1), (7, 3), (6,))),
        ({"x": 2}, ((1,) * 5, (4, 3, 3), (2, 2, 2))),
        ({0: -1, 1: "auto", -1: 6}, ((5,), (4, 3, 3), (6,))),
    ],
)
def test_notations(notation, expected):
    assert ChunkLayout.from_spec(SPEC, notation, n_receivers=3).chunks == expected


@pytest.mark.parametrize(
    ("notation", "words"),
    [
        ((1, 2), "2 entries"),
        ({"z": 1}, "expected one of"),
        (0, "size >= 1"),
        ("8 MiB", "size >= 1"),
        ((1, (5, 4), 6), "add up to 9, expected 10"),
        ((1, (10, 0), 6), "sizes must be >= 1"),
    ],
)
def test_wrong_notations(notation, words):
    with pytest.raises(GeometryError, match=words):
        ChunkLayout.from_spec(SPEC, notation)


def test_more_receivers_than_cells_and_no_space_at_all():
    narrow = ArraySpec("t", "f4", (3,), StepAxis(count=2))
    assert ChunkLayout.from_spec(narrow, n_receivers=8).chunks == ((1, 1), (1, 1, 1))
    scalar = ArraySpec("energy", "f8", (), StepAxis(count=4))
    layout = ChunkLayout.from_spec(scalar, n_receivers=8)
    assert (layout.chunks, layout.n_space) == (((1, 1, 1, 1),), 1)


def test_ragged():
    spec = ArraySpec("x", "f4", (-1, 3), StepAxis(count=2), ragged=True)
    assert ChunkLayout.from_spec(spec, n_receivers=2).chunks == ((1, 1), (1, 1), (3,))
    with pytest.raises(GeometryError, match="one chunk per step and part"):
        ChunkLayout.from_spec(spec, {"time": 2}, n_receivers=2)


def test_open_ended():
    spec = ArraySpec("t", "f4", (8,), StepAxis())
    layout = ChunkLayout.from_spec(spec, {"time": 4}, n_receivers=2)
    assert layout.chunks == ((4,), (4, 4)) and layout.shape == (OPEN_ENDED, 8)
    assert layout.chunk_of(0, 103) == 25 and layout.bounds(0, 25) == (100, 104)
    assert layout.counts(0, Progression(0, OPEN_ENDED), 3, 5).tolist() == [4, 4]
    with pytest.raises(GeometryError, match="cannot be one chunk"):
        ChunkLayout.from_spec(spec, {"time": -1})


@given(st.data())
@PROFILE
def test_grid(data):
    shape = data.draw(shapes())
    layout = ChunkLayout(shape, data.draw(chunks(shape)))
    seen = np.zeros(shape, int)
    for number, index in enumerate(np.ndindex(layout.numblocks)):
        assert layout.ravel(index) == number
        assert layout.unravel(number) == index
        seen[layout.box(number).to_slices()] += 1
    assert (seen == 1).all()
    for dim, n in enumerate(shape):
        j = data.draw(st.integers(0, n - 1))
        low, high = layout.bounds(dim, layout.chunk_of(dim, j))
        assert low <= j < high
        assert unroll(layout.runs(dim)) == layout.chunks[dim]
        step = data.draw(st.integers(1, 4))
        some = Progression(j, (n - 1 - j) // step + 1, step)
        edges = np.cumsum([0, *layout.chunks[dim]])
        expected = np.histogram(range(some.start, some.stop, step), edges - 0.5)[0]
        np.testing.assert_array_equal(layout.counts(dim, some), expected)


def test_out_of_range():
    layout = ChunkLayout((4, 4), ((2, 2), (4,)))
    for call in (
        lambda: layout.chunk_of(0, 4),
        lambda: layout.bounds(1, 1),
        lambda: layout.unravel(2),
        lambda: layout.unravel(-1),
        lambda: layout.ravel((0, 1)),
    ):
        with pytest.raises(GeometryError):
            call()


@pytest.mark.parametrize(
    ("sizes", "steps"),
    [((1, 1, 1), 1), ((3, 3, 1), 3), ((5,), 5), ((1, 3), None), ((2, 1, 2), None)],
)
def test_steps_per_chunk(sizes, steps):
    assert ChunkLayout((sum(sizes),), (sizes,)).steps_per_chunk == steps
