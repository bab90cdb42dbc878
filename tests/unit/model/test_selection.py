import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_components.errors import GeometryError
from ips_components.model import OPEN_ENDED, Selection, cover, disjoint
from ips_components.model.selection import parse_key

from .strategies import PROFILE, keys, mask, selections, shapes


def shaped(array, parsed):
    """Do by NumPy what a parsed key says."""
    array = array[parsed.selection.to_slices()]
    flips = tuple(
        slice(None, None, -1) if d in parsed.flipped else slice(None) for d in range(array.ndim)
    )
    array = array[flips]
    index = tuple(0 if d in parsed.dropped else slice(None) for d in range(array.ndim))
    array = array[index]
    return array[tuple(np.newaxis if d is None else slice(None) for d in parsed.layout)]


@given(st.data())
@PROFILE
def test_key_equals_numpy(data):
    shape = data.draw(shapes())
    key = data.draw(keys(shape, negative_steps=True))
    field = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(shaped(field, parse_key(key, shape)), field[key])


def test_newaxis():
    field = np.arange(24).reshape(4, 6)
    key = np.s_[None, 1, ..., None, ::-2]
    np.testing.assert_array_equal(shaped(field, parse_key(key, field.shape)), field[key])


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (np.s_[10], "index 10 is out of bounds for dimension 0 with size 10"),
        (np.s_[0, -5], "index -5 is out of bounds for dimension 1 with size 4"),
        (np.s_[0, 0, 0], "too many indices"),
        (np.s_[..., 0, ...], "single ellipsis"),
        ([1, 2], "not a basic index"),
        (1.5, "not a basic index"),
        (np.s_[::0], "not a valid slice"),
        (np.s_[True], "not a basic index"),
    ],
)
def test_bad_keys(key, words):
    with pytest.raises(GeometryError, match=words):
        Selection.from_key(key, (10, 4))


def test_open_ended_time():
    shape = (OPEN_ENDED, 8)
    assert str(Selection.from_key(np.s_[::5, 2:4], shape)) == "[::5, 2:4]"
    assert Selection.from_key(np.s_[10:20], shape).count == (10, 8)
    for key in (np.s_[-1], np.s_[:-1], np.s_[::-1]):
        with pytest.raises(GeometryError, match="open-ended"):
            Selection.from_key(key, shape)


@given(st.data())
@PROFILE
def test_set_algebra_equals_masks(data):
    shape = data.draw(shapes())
    a, b = data.draw(selections(shape, 1)) + data.draw(selections(shape, 1))
    ma, mb = mask(shape, [a]), mask(shape, [b])
    common = a.intersect(b)
    np.testing.assert_array_equal(mask(shape, [common] if common else []), ma * mb)
    np.testing.assert_array_equal(mask(shape, a.subtract(b)), ma * (1 - mb))
    assert a.contains(b) == bool((mb <= ma).all())


@given(st.data())
@PROFILE
def test_union_is_exact_and_disjoint(data):
    shape = data.draw(shapes(max_dims=3))
    parts = data.draw(selections(shape, 6))
    union = disjoint(parts)
    np.testing.assert_array_equal(mask(shape, union), mask(shape, parts) > 0)
    around = cover(parts)
    assert all(around.contains(p) for p in parts)
    low = [min(p.start[d] for p in parts) for d in range(len(shape))]
    high = [max(p.stop[d] for p in parts) for d in range(len(shape))]
    assert (list(around.start), list(around.stop)) == (low, high)


@given(st.data())
@PROFILE
def test_compose_equals_indexing_twice(data):
    shape = data.draw(shapes())
    outer = Selection.from_key(data.draw(keys(shape)), shape)
    inner = Selection.from_key(data.draw(keys(outer.count)) if outer.size else (), outer.count)
    field = np.arange(np.prod(shape)).reshape(shape)
    expected = field[outer.to_slices()][inner.to_slices()]
    composed = outer.compose(inner)
    np.testing.assert_array_equal(field[composed.to_slices()], expected)
    if inner.size:
        assert composed.within(outer) == inner


def test_a_thousand_single_steps_are_one_box():
    shape = (1000, 16, 16)
    assert disjoint(Selection.from_key(t, shape) for t in range(1000)) == (Selection.full(shape),)


def test_nothing_to_cover():
    with pytest.raises(GeometryError, match="empty"):
        cover([Selection((0,), (0,), (1,))])
    assert disjoint([Selection((0,), (0,), (1,))]) == ()
