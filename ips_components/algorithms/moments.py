"""Mean, variance, skewness, kurtosis and extremes in one pass over blocks as they arrive."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import dask.array as da
import numpy as np

from ips_components.algorithms._fold import Fold, fold, located
from ips_components.errors import AnalysisError

__all__ = ["RunningMoments", "running_moments"]


class _State(NamedTuple):
    """Sums of powers of deviations from the mean, up to the fourth, of `count` values."""

    count: int
    mean: np.ndarray
    m2: np.ndarray
    m3: np.ndarray
    m4: np.ndarray


class RunningMoments:
    """Lazy statistics of the values along the reduced axes; all are dask arrays of ``float64``.

    Only what is taken from here is computed.

    Attributes
    ----------
    count : int or None
        Number of values per result; None where the number of steps is not known.
    mean, minimum, maximum : dask.array.Array
    variance, std : dask.array.Array
        Of the population, divided by `count`; see `sample_variance` for ``count - 1``.
    skewness : dask.array.Array
        ``m3 / m2^(3/2)`` of the central moments, as ``scipy.stats.skew``.
    kurtosis : dask.array.Array
        Excess kurtosis ``m4 / m2^2 - 3``, as ``scipy.stats.kurtosis``.
    """

    def __init__(self, array: da.Array, axes: tuple[int, ...]) -> None:
        self._array, self._axes = array, axes
        count = float(np.prod([array.shape[axis] for axis in axes]))
        self.count = None if np.isnan(count) else int(count)

    @property
    def mean(self) -> da.Array:
        return self._array.mean(axis=self._axes, dtype=np.float64)

    @property
    def variance(self) -> da.Array:
        return self._array.var(axis=self._axes, dtype=np.float64)

    @property
    def sample_variance(self) -> da.Array:
        return self._array.var(axis=self._axes, dtype=np.float64, ddof=1)

    @property
    def std(self) -> da.Array:
        return da.sqrt(self.variance)

    @property
    def skewness(self) -> da.Array:
        return self._states.array("moments-skewness", _skewness)

    @property
    def kurtosis(self) -> da.Array:
        return self._states.array("moments-kurtosis", _kurtosis)

    @property
    def minimum(self) -> da.Array:
        return self._array.min(axis=self._axes).astype(np.float64)

    @property
    def maximum(self) -> da.Array:
        return self._array.max(axis=self._axes).astype(np.float64)

    @cached_property
    def _states(self) -> Fold:
        return fold("moments", [self._array], self._axes, _update, _combine)


def running_moments(x: Any, axis: int | str | Sequence[int | str] | None = 0) -> RunningMoments:
    """Reduce `x` over `axis`, block by block in the order of the first of the axes.

    Parameters
    ----------
    x : dask.array.Array or xarray.DataArray
        Real numbers; NaN in the data gives NaN.
    axis : int, str or several, optional
        Axes to reduce, by default the first (time); None for all.

    Returns
    -------
    RunningMoments
        Results have the remaining axes of `x`.

    Notes
    -----
    Mean, variance and extremes are dask.array's, which over the time of an external array share one
    pass with a running state. For skewness and kurtosis, blocks are merged by the pairwise formulas
    of Chan, Golub and LeVeque (1983), extended to higher moments by Pebay, Formulas for robust,
    one-pass parallel computation of covariances and arbitrary-order statistical moments,
    SAND2008-6212: one task per block; the state of a chunk is four times a time slice of it,
    whatever the number of steps.

    Examples
    --------
    >>> import dask.array as da
    >>> moments = running_moments(da.arange(9, chunks=3))
    >>> float(moments.mean.compute()), float(moments.maximum.compute())
    (4.0, 8.0)
    """
    array, axes = located(x, axis)
    if not axes or 0 in array.shape:
        raise AnalysisError(f"nothing to reduce in shape {array.shape} over axes {axes}")
    return RunningMoments(array, axes)


def _update(state: _State | None, blocks: list[np.ndarray], axes: tuple[int, ...]) -> _State:
    block = np.asarray(blocks[0])
    count = int(np.prod([block.shape[axis] for axis in axes]))
    mean = block.mean(axis=axes, keepdims=True, dtype=np.float64)
    deviation = block - mean
    square = deviation * deviation
    fresh = _State(
        count,
        mean.squeeze(axis=axes),
        square.sum(axis=axes),
        (square * deviation).sum(axis=axes),
        (square * square).sum(axis=axes),
    )
    return fresh if state is None else _merge(state, fresh)


def _combine(states: list[_State]) -> _State:
    merged = states[0]
    for state in states[1:]:
        merged = _merge(merged, state)
    return merged


def _merge(a: _State, b: _State) -> _State:
    """Join the moments of two sets of values (Pebay 2008, equations 2.1 and 3.1)."""
    n = a.count + b.count
    p, q = a.count / n, b.count / n
    delta = b.mean - a.mean
    m2 = a.m2 + b.m2 + delta**2 * (n * p * q)
    m3 = a.m3 + b.m3 + delta**3 * (n * p * q * (p - q)) + 3 * delta * (p * b.m2 - q * a.m2)
    m4 = a.m4 + b.m4 + delta**4 * (n * p * q * (p * p - p * q + q * q))
    m4 += 6 * delta**2 * (p * p * b.m2 + q * q * a.m2) + 4 * delta * (p * b.m3 - q * a.m3)
    return _State(n, a.mean + delta * q, m2, m3, m4)


def _skewness(state: _State) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt(state.count) * state.m3 / state.m2**1.5)


def _kurtosis(state: _State) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(state.count * state.m4 / state.m2**2 - 3.0)
