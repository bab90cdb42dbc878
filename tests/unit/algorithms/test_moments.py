import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ips_components.algorithms import running_moments
from ips_components.errors import AnalysisError

NAMES = ("mean", "variance", "sample_variance", "std", "skewness", "kurtosis", "minimum", "maximum")


def expected(x, axis):
    return {
        "mean": x.mean(axis=axis),
        "variance": x.var(axis=axis),
        "sample_variance": x.var(axis=axis, ddof=1),
        "std": x.std(axis=axis),
        "skewness": stats.skew(x, axis=axis),
        "kurtosis": stats.kurtosis(x, axis=axis),
        "minimum": x.min(axis=axis),
        "maximum": x.max(axis=axis),
    }


@pytest.mark.parametrize("chunks", [(1, 8, 6), (3, 4, 6), (20, 3, 5), (7, 1, 6)], ids=str)
@pytest.mark.parametrize("axis", [0, 2, (0, 1), (1, 2), (2, 0), None], ids=str)
def test_equals_scipy(chunks, axis):
    x = np.random.default_rng(0).gamma(2.0, size=(20, 8, 6))
    moments = running_moments(da.from_array(x, chunks), axis)
    axes = (0, 1, 2) if axis is None else axis
    for name, value in expected(x, axes).items():
        lazy = getattr(moments, name)
        assert isinstance(lazy, da.Array)
        assert lazy.shape == value.shape
        np.testing.assert_allclose(lazy, value, rtol=1e-10, atol=1e-12, err_msg=name)
    assert moments.count == x.size // max(value.size, 1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.floats(-1e6, 1e6),
    st.integers(0, 2**32 - 1),
)
def test_merging_does_not_depend_on_chunks(sizes, shift, seed):
    x = np.random.default_rng(seed).normal(size=(sum(sizes), 3)) + shift
    split = running_moments(da.from_array(x, (tuple(sizes), 3)))
    whole = running_moments(da.from_array(x, -1))
    scale = 1e-16 * max(1.0, abs(shift))
    np.testing.assert_allclose(split.mean, whole.mean, rtol=1e-14, atol=1e-12)
    np.testing.assert_allclose(split.variance, whole.variance, rtol=1e-7, atol=1e3 * scale)


def test_variance_is_stable_far_from_zero():
    x = np.random.default_rng(0).normal(size=(200, 2))
    moments = running_moments(da.from_array(x + 1e9, (1, 2)))
    np.testing.assert_allclose(moments.variance, (x + 1e9).astype("f16").var(0), rtol=1e-6)


def test_named_axes_integers_and_nan():
    x = xr.DataArray(np.arange(12).reshape(3, 4), dims=("t", "x")).chunk(t=1)
    np.testing.assert_allclose(running_moments(x, "x").mean, x.values.mean(axis=1))
    np.testing.assert_allclose(running_moments(x, ["x", "t"]).mean, 5.5)
    y = da.from_array(np.array([[1.0, np.nan], [2.0, 3.0]]), (1, 2))
    assert np.isnan(running_moments(y).mean.compute()).tolist() == [False, True]


def test_constant_data():
    moments = running_moments(da.full((5, 2), 3.0, chunks=1))
    assert (moments.variance.compute() == 0).all()
    assert np.isnan(moments.skewness.compute()).all()


def test_wrong_axes():
    for axis in (2, "t", (0, 0)):
        with pytest.raises(AnalysisError):
            running_moments(da.zeros((3, 3)), axis)
    with pytest.raises(AnalysisError, match="nothing to reduce"):
        running_moments(da.zeros((0, 3)))
