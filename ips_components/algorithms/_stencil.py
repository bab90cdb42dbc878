"""Weighted sums of an array with shifted copies of itself."""

from __future__ import annotations

from collections.abc import Sequence

import dask.array as da
import numpy as np

__all__ = ["combination", "cut"]


def cut(array: da.Array, axis: int, start: int, stop: int) -> da.Array:
    """Take indices `start` to `stop` along one axis, by basic slicing."""
    return array[(*(slice(None),) * axis, slice(start, stop))]


def combination(terms: Sequence[tuple[float, da.Array]]) -> da.Array:
    """Sum weighted arrays of equal shape, as one task per block.

    Chunks are aligned where they differ; with one step per chunk, shifted copies along time
    agree, and no task moves or cuts data.
    """
    arrays = [array for _, array in terms]
    if any(array.chunks != arrays[0].chunks for array in arrays):
        letters = tuple(range(arrays[0].ndim))
        pairs = [item for array in arrays for item in (array, letters)]
        _, arrays = da.core.unify_chunks(*pairs)
    return da.map_blocks(
        _weighted_sum,
        *arrays,
        weights=tuple(weight for weight, _ in terms),
        dtype=np.float64,
        meta=np.empty((0,) * arrays[0].ndim),
    )


def _weighted_sum(*blocks: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    total = np.multiply(blocks[0], weights[0], dtype=np.float64)
    for block, weight in zip(blocks[1:], weights[1:], strict=True):
        total += weight * block
    return total
