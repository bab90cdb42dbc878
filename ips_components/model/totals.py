"""Totals that only grow, known at some times."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

__all__ = ["total_at"]


def total_at(points: Sequence[tuple[float, float]], t: float) -> float:
    """Return a total at some time, linear between the times at which it is known.

    Examples
    --------
    >>> [total_at([(0.0, 0.0), (2.0, 8.0)], t) for t in (-1.0, 1.0, 3.0)]
    [0.0, 4.0, 8.0]
    """
    i = bisect_right(points, t, key=lambda point: point[0])
    if i in (0, len(points)):
        return points[min(i, len(points) - 1)][1]
    (t0, v0), (t1, v1) = points[i - 1], points[i]
    return v0 + (v1 - v0) * (t - t0) / (t1 - t0)
