import dask.array as da
import numpy as np
import pytest

from ips_components.algorithms import lag_correlation, moving_average
from ips_components.errors import AnalysisError


@pytest.mark.parametrize("chunks", [(1, 3), (4, 2), (13, 3)], ids=str)
@pytest.mark.parametrize("window", [1, 2, 5, 13])
def test_moving_average_equals_numpy(chunks, window):
    x = np.random.default_rng(0).normal(size=(13, 3))
    found = moving_average(da.from_array(x, chunks), window)
    expected = np.lib.stride_tricks.sliding_window_view(x, window, axis=0).mean(axis=-1)
    np.testing.assert_allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize("chunks", [(1, 4), (5, 2), (30, 4)], ids=str)
def test_lag_correlation_equals_numpy(chunks):
    x = np.cumsum(np.random.default_rng(0).normal(size=(30, 4)), axis=0) + 1e4
    lags = [0, 1, 7, 28]
    found = lag_correlation(da.from_array(x, chunks), lags).compute()
    for row, lag in zip(found, lags, strict=True):
        for i in range(4):
            expected = np.corrcoef(x[: 30 - lag, i], x[lag:, i])[0, 1]
            assert row[i] == pytest.approx(expected, abs=1e-9)


def test_another_axis():
    x = np.random.default_rng(0).normal(size=(2, 9))
    np.testing.assert_allclose(
        moving_average(da.from_array(x), 3, axis=1),
        moving_average(da.from_array(x.T), 3).T,
    )
    np.testing.assert_allclose(
        lag_correlation(da.from_array(x), [2], axis=1), lag_correlation(da.from_array(x.T), [2])
    )


def test_constant_has_no_correlation():
    assert np.isnan(lag_correlation(da.ones((6, 2), chunks=1), [1]).compute()).all()


def test_wrong_options():
    for window in (0, 7):
        with pytest.raises(AnalysisError, match="window"):
            moving_average(da.zeros(6), window)
    for lags in ([], [-1], [5]):
        with pytest.raises(AnalysisError, match="lags"):
            lag_correlation(da.zeros(6), lags)
