"""Moving averages and correlations over lags, along time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import dask.array as da
import numpy as np

from ips_components.algorithms._fold import fold, located
from ips_components.algorithms._stencil import combination, cut
from ips_components.errors import AnalysisError

__all__ = ["lag_correlation", "moving_average"]


def moving_average(x: Any, window: int, axis: int | str = 0) -> da.Array:
    """Mean over each run of `window` consecutive samples.

    Parameters
    ----------
    x : dask.array.Array or xarray.DataArray
    window : int
        Number of samples in each mean.
    axis : int or str
        The axis of time.

    Returns
    -------
    dask.array.Array
        Shorter by ``window - 1`` along `axis`; element `i` is the mean of samples `i` to
        ``i + window - 1``. Each is summed afresh, so rounding errors do not accumulate.

    Examples
    --------
    >>> import dask.array as da
    >>> moving_average(da.arange(6, chunks=1), 3).compute().round(9).tolist()
    [1.0, 2.0, 3.0, 4.0]
    """
    array, (time,) = located(x, (axis,))
    steps = array.shape[time]
    if not 1 <= window <= steps:
        raise AnalysisError(f"window must be between 1 and the {steps} steps, got {window}")
    count = steps - window + 1
    return combination(
        [(1 / window, cut(array, time, start, start + count)) for start in range(window)]
    )


def lag_correlation(x: Any, lags: Sequence[int], axis: int | str = 0) -> da.Array:
    """Correlation of `x` with itself some steps later.

    Parameters
    ----------
    x : dask.array.Array or xarray.DataArray
    lags : sequence of int
        Non-negative numbers of steps.
    axis : int or str
        The axis of time.

    Returns
    -------
    dask.array.Array
        Shape (len(lags), ...) with the other axes of `x`: the Pearson correlation between
        ``x[:n - lag]`` and ``x[lag:]``, each with its own mean and variance. NaN where one is
        constant.

    Notes
    -----
    Accumulated step by step by the pairwise update of covariances (Pebay, SAND2008-6212,
    equation 3.11), so that only blocks of the last ``max(lags)`` steps are held.

    Examples
    --------
    >>> import dask.array as da
    >>> lag_correlation(da.asarray([1.0, -1.0] * 4), [0, 1, 2]).compute().round(9).tolist()
    [1.0, -1.0, 1.0]
    """
    array, (time,) = located(x, (axis,))
    steps = array.shape[time]
    if not len(lags) or any(not 0 <= lag < steps - 1 for lag in lags):
        raise AnalysisError(f"lags must lie between 0 and {steps - 2}, got {list(lags)}")
    results = []
    for lag in lags:
        early = cut(array, time, 0, steps - lag)
        late = cut(array, time, lag, steps).rechunk(early.chunks)
        states = fold(f"lag-{lag}", [early, late], (time,), _update, _combine)
        results.append(states.array(f"lag-{lag}-correlation", _correlation))
    return da.stack(results)


class _State(NamedTuple):
    count: int
    mean_x: np.ndarray
    mean_y: np.ndarray
    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray


def _update(state: _State | None, blocks: list[np.ndarray], axes: tuple[int, ...]) -> _State:
    x, y = (np.asarray(block, dtype=np.float64) for block in blocks)
    (time,) = axes
    mean_x, mean_y = x.mean(axis=time), y.mean(axis=time)
    dx = x - np.expand_dims(mean_x, time)
    dy = y - np.expand_dims(mean_y, time)
    sums = [(a * b).sum(axis=time) for a, b in ((dx, dx), (dy, dy), (dx, dy))]
    fresh = _State(x.shape[time], mean_x, mean_y, *sums)
    return fresh if state is None else _combine([state, fresh])


def _combine(states: list[_State]) -> _State:
    a = states[0]
    for b in states[1:]:
        n = a.count + b.count
        share = a.count * b.count / n
        dx, dy = b.mean_x - a.mean_x, b.mean_y - a.mean_y
        a = _State(
            n,
            a.mean_x + dx * (b.count / n),
            a.mean_y + dy * (b.count / n),
            a.xx + b.xx + dx * dx * share,
            a.yy + b.yy + dy * dy * share,
            a.xy + b.xy + dx * dy * share,
        )
    return a


def _correlation(state: _State) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(state.xy / np.sqrt(state.xx * state.yy))
