import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_components.errors import GeometryError
from ips_components.model.progression import EMPTY, Progression, cover, join, join_all

from .strategies import PROFILE

progressions = st.builds(Progression, st.integers(0, 20), st.integers(0, 12), st.integers(1, 7))


def elements(p):
    return [p.start + i * p.step for i in range(p.count)]


def test_canonical_form():
    assert Progression(5, 1, 3) == Progression(5, 1)
    assert Progression(5, 0, 3) == EMPTY


@pytest.mark.parametrize("bad", [(0, 1, 0), (0, -1, 1)])
def test_impossible_values(bad):
    with pytest.raises(GeometryError, match="got"):
        Progression(*bad)


@given(progressions, progressions)
@PROFILE
def test_algebra_equals_sets(a, b):
    sa, sb = set(elements(a)), set(elements(b))
    assert set(elements(a.intersect(b))) == sa & sb
    rest = [x for part in a.subtract(b) for x in elements(part)]
    assert sorted(rest) == sorted(sa - sb)
    assert a.contains(b) == (sb <= sa)
    whole = cover((a, b))
    assert sa | sb <= set(elements(whole))
    joined = join(a, b)
    assert (joined is not None) == (set(elements(whole)) == sa | sb)


@given(progressions, st.integers(-5, 60), st.integers(-5, 60))
@PROFILE
def test_clip(a, low, high):
    assert elements(a.clip(low, high)) == [x for x in elements(a) if low <= x < high]


@given(progressions, st.data())
@PROFILE
def test_compose_and_within_are_inverse(outer, data):
    key = slice(
        data.draw(st.integers(0, 5)), data.draw(st.integers(0, 12)), data.draw(st.integers(1, 3))
    )
    r = range(outer.count)[key]
    inner = Progression(r.start, len(r), r.step)
    chosen = outer.compose(inner)
    assert elements(chosen) == elements(outer)[key]
    assert chosen.within(outer) == inner


@given(st.lists(progressions.filter(lambda p: p.count), max_size=8))
@PROFILE
def test_join_all_keeps_the_set(parts):
    joined = join_all(parts)
    assert {x for p in joined for x in elements(p)} == {x for p in parts for x in elements(p)}
    assert len(joined) <= len(set(parts))
