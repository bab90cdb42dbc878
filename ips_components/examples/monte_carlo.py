"""The number pi from random points: the classic of independent tasks."""

from __future__ import annotations

import math
from typing import NamedTuple

import dask.array as da
import numpy as np

from ips_components.errors import AnalysisError

__all__ = ["PiEstimate", "count_inside", "monte_carlo_pi", "pi_from_counts"]


class PiEstimate(NamedTuple):
    """An estimate and its standard error; both are lazy or both are numbers."""

    value: float | da.Array
    error: float | da.Array


def monte_carlo_pi(points: int, chunks: int | None = None, seed: int | None = None) -> PiEstimate:
    """Estimate pi as four times the share of points of a unit square inside the quarter circle.

    Parameters
    ----------
    points : int
        Number of random points.
    chunks : int, optional
        Points per task; by default all tasks but the last have a million.
    seed : int, optional
        Makes the result reproducible; it depends on `chunks` too.

    Returns
    -------
    PiEstimate
        Two lazy dask arrays of no dimensions. The error is ``4 sqrt(p (1 - p) / points)``.
    """
    if points < 1:
        raise AnalysisError(f"points must be >= 1, got {points}")
    chunks = min(points, 1_000_000) if chunks is None else chunks
    xy = da.random.default_rng(seed).random(size=(2, points), chunks=(2, chunks))
    share = ((xy**2).sum(axis=0) < 1).mean()
    return PiEstimate(4 * share, 4 * da.sqrt(share * (1 - share) / points))


def count_inside(points: int, seed: int) -> int:
    """Count random points inside the quarter circle: a function for one task of a pool."""
    xy = np.random.default_rng(seed).random((2, points))
    return int(((xy**2).sum(axis=0) < 1).sum())


def pi_from_counts(counts: list[int], points: int) -> PiEstimate:
    """Join what `count_inside` gave in several tasks of `points` points each."""
    total = points * len(counts)
    share = sum(counts) / total
    return PiEstimate(4 * share, 4 * math.sqrt(share * (1 - share) / total))
