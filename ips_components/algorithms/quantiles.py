"""Quantiles of data that are seen only once, from a sketch of fixed size."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np

from ips_components.algorithms._fold import fold, located
from ips_components.errors import AnalysisError

__all__ = ["quantile_sketch"]


def quantile_sketch(
    x: Any,
    q: float | Sequence[float],
    axis: int | str | Sequence[int | str] | None = None,
    compression: float = 200.0,
) -> da.Array:
    """Estimate quantiles over `axis` by t-digests that are filled block by block.

    Parameters
    ----------
    x : dask.array.Array or xarray.DataArray
    q : float or sequence of float
        Probabilities between 0 and 1.
    axis : int, str or several, optional
        Axes to reduce, by default all. There is one digest for each element of the other axes:
        keep these few, such as one digest per time step.
    compression : float
        Larger is more exact and larger in memory; a digest has about this many centroids.

    Returns
    -------
    dask.array.Array
        Shape (len(q), ...), or (...) for a single number, with the remaining axes of `x`.

    Raises
    ------
    AnalysisError
        If `q` is out of range, or the library crick (extra ``sketch``) is not installed.

    Notes
    -----
    Dunning and Ertl, Computing extremely accurate quantiles using t-digests, arXiv:1902.04023, in
    the implementation of the library crick. The error is smallest towards the tails. NaN is left
    out; without any value the result is NaN.
    """
    probabilities = np.atleast_1d(np.asarray(q, dtype=np.float64))
    if probabilities.ndim != 1 or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise AnalysisError(f"q must be probabilities between 0 and 1, got {q}")
    _crick()
    array, axes = located(x, axis)
    states = fold("quantiles", [array], axes, _update, _combine, float(compression))
    result = states.array("quantiles", _read, probabilities, leading=probabilities.shape)
    return result[0] if np.ndim(q) == 0 else result


def _crick() -> Any:
    try:
        return importlib.import_module("crick")
    except ImportError as error:
        raise AnalysisError(
            "quantile sketches need the library crick: pip install 'ips_components[sketch]'"
        ) from error


def _update(
    state: np.ndarray | None, blocks: list[np.ndarray], axes: tuple[int, ...], compression: float
) -> np.ndarray:
    """Give an object array of digests, with the remaining axes; the old state is left as it was."""
    block = np.moveaxis(np.asarray(blocks[0]), axes, range(-len(axes), 0))
    kept = block.shape[: block.ndim - len(axes)]
    values = np.ascontiguousarray(block.reshape(int(np.prod(kept)), -1), dtype=np.float64)
    digests = np.empty(len(values), dtype=object)
    for i, row in enumerate(values):
        digests[i] = _crick().TDigest(compression=compression)
        digests[i].update(row)
    fresh = digests.reshape(kept)
    return fresh if state is None else _combine([state, fresh])


def _combine(states: list[np.ndarray]) -> np.ndarray:
    merged = np.empty(states[0].shape, dtype=object)
    for index in np.ndindex(merged.shape):
        parts = [state[index] for state in states]
        merged[index] = _crick().TDigest(compression=parts[0].compression)
        merged[index].merge(*parts)
    return merged


def _read(state: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    values = np.empty((*probabilities.shape, *state.shape))
    for index in np.ndindex(state.shape):
        digest = state[index]
        empty = digest.size() == 0
        values[(slice(None), *index)] = np.nan if empty else digest.quantile(probabilities)
    return values
