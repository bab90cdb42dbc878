import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ips_components.algorithms import histogram
from ips_components.errors import AnalysisError


@pytest.mark.parametrize("chunks", [(1, 8, 6), (3, 4, 6), (20, 3, 5)], ids=str)
@pytest.mark.parametrize("axis", [None, (1, 2), 0, (2, 0)], ids=str)
def test_equals_numpy(chunks, axis):
    x = np.random.default_rng(0).normal(size=(20, 8, 6))
    edges = np.array([-2.0, -1.0, 0.0, 0.5, 2.0])
    found = histogram(da.from_array(x, chunks), edges, axis=axis)
    axes = (0, 1, 2) if axis is None else np.atleast_1d(axis)
    rows = np.moveaxis(x, axes, range(-len(axes), 0))
    kept = rows.shape[: 3 - len(axes)]
    assert found.counts.shape == (4, *kept)
    for index in np.ndindex(kept):
        expected, _ = np.histogram(rows[index], edges)
        np.testing.assert_array_equal(found.counts[(slice(None), *index)], expected)
        assert found.below[index].compute() == (rows[index] < -2).sum()
        assert found.above[index].compute() == (rows[index] > 2).sum()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, np.nan, np.inf, -np.inf]), min_size=1),
    st.integers(1, 5),
)
def test_every_value_is_counted_once(values, chunk):
    found = histogram(da.from_array(np.array(values), chunk), bins=2, range=(0, 2))
    total = found.counts.sum() + found.below + found.above + found.invalid
    assert total.compute() == len(values)
    finite = np.array([v for v in values if np.isfinite(v)])
    np.testing.assert_array_equal(found.counts, np.histogram(finite, 2, (0, 2))[0])
    assert found.invalid.compute() == np.isnan(values).sum()


def test_density_and_centres():
    x = da.random.default_rng(0).normal(size=1000, chunks=100)
    found = histogram(x, 20, (-5, 5))
    assert (found.density.sum() * 0.5).compute() == pytest.approx(1.0)
    assert found.centres[0] == -4.75


def test_merge():
    x = np.random.default_rng(0).normal(size=(10, 5))
    first, second, whole = (
        histogram(da.from_array(part), 7, (-1, 1)) for part in (x[:4], x[4:], x)
    )
    merged = first.merge(second)
    for name in ("counts", "below", "above", "invalid"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
    with pytest.raises(AnalysisError, match="edges"):
        first.merge(histogram(da.from_array(x), 7, (-1, 2)))


@pytest.mark.parametrize(
    ("bins", "span"), [(5, None), (0, (0, 1)), (5, (1, 0)), ([1.0], None), ([1.0, 0.0], None)]
)
def test_wrong_edges(bins, span):
    with pytest.raises(AnalysisError):
        histogram(da.zeros(3), bins, span)
