"""Derivatives in time, across blocks of different steps."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np

from ips_components.algorithms._fold import located
from ips_components.algorithms._stencil import combination, cut
from ips_components.errors import AnalysisError

__all__ = ["time_derivative"]

# Weights of the first derivative at the nodes 0, 1, 2, ... for unit spacing (Fornberg, Generation
# of finite difference formulas on arbitrarily spaced grids, Math. Comp. 51, 1988, tables 1 and 3).
_CENTRAL = {
    2: {-1: -1 / 2, 1: 1 / 2},
    4: {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12},
}
_EDGES = {
    2: [[-3 / 2, 2, -1 / 2]],
    4: [
        [-25 / 12, 4, -3, 4 / 3, -1 / 4],
        [-1 / 4, -5 / 6, 3 / 2, -1 / 2, 1 / 12],
    ],
}


def time_derivative(
    x: Any,
    spacing: float = 1.0,
    axis: int | str = 0,
    order: int = 4,
    edges: str = "drop",
) -> da.Array:
    """First derivative by central differences on evenly spaced samples.

    In the interior, for fourth order,
    ``(x[i-2] - 8 x[i-1] + 8 x[i+1] - x[i+2]) / (12 spacing)``.

    Parameters
    ----------
    x : dask.array.Array or xarray.DataArray
    spacing : float
        Time between samples.
    axis : int or str
        The axis of time.
    order : {2, 4}
        Order of accuracy, also at the edges.
    edges : {'drop', 'one-sided', 'nan'}
        'drop': only points that have neighbours on both sides, so the result is shorter by `order`.
        'one-sided': one-sided differences of the same order complete it. 'nan': NaN there.

    Returns
    -------
    dask.array.Array
        Each of its blocks needs those of ``order + 1`` steps, and is computed as soon as they are
        there; older ones are free by then.

    Raises
    ------
    AnalysisError
        If there are fewer than ``order + 1`` samples, or an option is unknown.

    Examples
    --------
    >>> import dask.array as da
    >>> time_derivative(da.arange(8, chunks=1) ** 2 * 1.0).compute().round(9).tolist()
    [4.0, 6.0, 8.0, 10.0]
    """
    array, axes = located(x, axis)
    if order not in _CENTRAL or edges not in ("drop", "one-sided", "nan"):
        raise AnalysisError(
            f"order must be 2 or 4 and edges 'drop', 'one-sided' or 'nan', "
            f"got order={order!r}, edges={edges!r}"
        )
    if len(axes) != 1 or not spacing > 0:
        raise AnalysisError(f"expected one axis and spacing > 0, got {axis!r} and {spacing!r}")
    (time,) = axes
    steps = array.shape[time]
    if steps < order + 1:
        raise AnalysisError(
            f"a derivative of order {order} needs at least {order + 1} steps, got {steps}"
        )
    margin = order // 2
    interior = combination(
        [
            (weight / spacing, cut(array, time, margin + shift, steps - margin + shift))
            for shift, weight in _CENTRAL[order].items()
        ]
    )
    if edges == "drop":
        return interior
    if edges == "nan":
        chunks = [(1,) * margin if i == time else sizes for i, sizes in enumerate(interior.chunks)]
        blank = da.full(tuple(map(sum, chunks)), np.nan, chunks=chunks)
        return da.concatenate([blank, interior, blank], axis=time)
    first = [_one_sided(array, time, 0, 1, row, spacing) for row in _EDGES[order]]
    last = [_one_sided(array, time, steps - 1, -1, row, spacing) for row in _EDGES[order]]
    return da.concatenate([*first, interior, *reversed(last)], axis=time)


def _one_sided(
    array: da.Array, axis: int, edge: int, direction: int, weights: list[float], spacing: float
) -> da.Array:
    """Difference at or next to an edge, with nodes from the edge into the array."""
    nodes = range(edge, edge + direction * len(weights), direction)
    return combination(
        [
            (direction * weight / spacing, cut(array, axis, node, node + 1))
            for weight, node in zip(weights, nodes, strict=True)
        ]
    )
