"""Histograms with fixed edges, filled block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np

from ips_components.algorithms._fold import fold, located
from ips_components.errors import AnalysisError

__all__ = ["Histogram", "histogram"]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts between fixed edges; histograms of other data with the same edges can be added.

    Attributes
    ----------
    edges : numpy.ndarray, shape (n + 1,)
    counts : dask.array.Array, shape (n, ...), int64
        Values with ``edges[i] <= value < edges[i + 1]``; the last bin includes its right edge.
    below, above, invalid : dask.array.Array, shape (...), int64
        Values to the left and right of all bins, and NaN.
    """

    edges: np.ndarray
    counts: da.Array
    below: da.Array
    above: da.Array
    invalid: da.Array

    @property
    def centres(self) -> np.ndarray:
        """Middle of each bin."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    @property
    def density(self) -> da.Array:
        """Share of the counted values per unit of the axis, so that its integral is one."""
        widths = np.diff(self.edges).reshape(-1, *(1,) * (self.counts.ndim - 1))
        return self.counts / self.counts.sum(axis=0) / widths

    def merge(self, other: Histogram) -> Histogram:
        """Add the counts of another histogram with the same edges."""
        if not np.array_equal(self.edges, other.edges):
            raise AnalysisError("histograms can be merged only if their edges are the same")
        return Histogram(
            self.edges,
            self.counts + other.counts,
            self.below + other.below,
            self.above + other.above,
            self.invalid + other.invalid,
        )


def histogram(
    x: Any,
    bins: int | Sequence[float] | np.ndarray,
    range: tuple[float, float] | None = None,
    axis: int | str | Sequence[int | str] | None = None,
) -> Histogram:
    """Count the values of `x` in bins, over `axis`.

    Parameters
    ----------
    x : dask.array.Array or xarray.DataArray
    bins : int or increasing edges
        A number of bins needs `range`: the data are not there yet, so their range is unknown.
    range : (low, high), optional
    axis : int, str or several, optional
        Axes to count over, by default all. A histogram for each time step has the space axes here.

    Returns
    -------
    Histogram

    Examples
    --------
    >>> import dask.array as da
    >>> histogram(da.arange(10, chunks=5), bins=2, range=(0, 8)).counts.compute().tolist()
    [4, 5]
    """
    edges = _edges(bins, range)
    array, axes = located(x, axis)
    states = fold("histogram", [array], axes, _update, _combine, edges)
    size = len(edges) - 1
    table = states.array("histogram-table", _table, leading=(size + 3,), dtype=np.int64)
    return Histogram(edges, table[:size], table[size], table[size + 1], table[size + 2])


def _edges(bins: int | Sequence[float], span: tuple[float, float] | None) -> np.ndarray:
    if isinstance(bins, int | np.integer):
        if span is None or not span[0] < span[1] or bins < 1:
            raise AnalysisError(
                f"a number of bins needs bins >= 1 and range=(low, high) with low < high, "
                f"got bins={bins}, range={span}"
            )
        return np.linspace(*span, bins + 1)
    edges = np.asarray(bins, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise AnalysisError(f"edges must be at least two increasing numbers, got {bins}")
    return edges


def _update(
    state: np.ndarray | None, blocks: list[np.ndarray], axes: tuple[int, ...], edges: np.ndarray
) -> np.ndarray:
    """Give counts of shape (remaining axes flattened, bins + 3)."""
    block = np.moveaxis(np.asarray(blocks[0]), axes, range(-len(axes), 0))
    kept = block.shape[: block.ndim - len(axes)]
    values = block.reshape(int(np.prod(kept)), -1)
    size = len(edges) - 1
    # Slots are: below, the bins, above. NaN sorts behind all edges, so it is treated separately.
    slots = np.searchsorted(edges, values, side="right")
    slots[values == edges[-1]] = size
    slots[np.isnan(values)] = size + 2
    width = size + 3
    slots += np.arange(len(values))[:, np.newaxis] * width
    counts = np.bincount(slots.ravel(), minlength=len(values) * width).reshape(*kept, width)
    return counts if state is None else state + counts


def _combine(states: list[np.ndarray]) -> np.ndarray:
    return sum(states[1:], start=states[0])


def _table(state: np.ndarray) -> np.ndarray:
    """Bring (..., [below, bins, above, NaN]) to ([bins, below, above, NaN], ...)."""
    return np.moveaxis(np.concatenate([state[..., 1:-2], state[..., [0, -2, -1]]], axis=-1), -1, 0)
