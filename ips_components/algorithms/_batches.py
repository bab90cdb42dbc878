"""How a labelled array falls into batches, samples and feature chunks.

A batch is one matrix ``(samples, features)``. Its parts are read straight out of the blocks of the
dask array inside the task that needs them: no task is spent on slicing, moving axes or reshaping.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np

from ips_components.errors import AnalysisError

ONLY = "only"
"""In place of an index: the one position of a block whose size is not known."""

__all__ = ["Batch", "Part", "Roles", "as_labelled", "as_matrix", "batches_of"]


@dataclass(frozen=True, slots=True)
class Roles:
    """Which axes of an array enumerate batches, samples and features.

    Attributes
    ----------
    labels : tuple of str
        One name per axis.
    batches, samples, features : tuple of int
        Axes of each role; batches and features in the order of the array, samples and features in
        the order in which the caller named them. Without a batch axis the chunks along the first
        sample axis are the batches.
    """

    labels: tuple[str, ...]
    batches: tuple[int, ...]
    samples: tuple[int, ...]
    features: tuple[int, ...]

    @property
    def feature_labels(self) -> tuple[str, ...]:
        """Names of the feature axes."""
        return tuple(self.labels[axis] for axis in self.features)

    @property
    def sample_labels(self) -> tuple[str, ...]:
        """Names of the sample axes."""
        return tuple(self.labels[axis] for axis in self.samples)

    @property
    def order(self) -> tuple[int, ...]:
        """Permutation that brings a block, freed of its batch axes, to (samples, features)."""
        kept = sorted(self.samples + self.features)
        return tuple(kept.index(axis) for axis in self.samples + self.features)


@dataclass(frozen=True, slots=True)
class Part:
    """Some samples of a batch within one feature chunk: a block's key and what to take of it."""

    key: Hashable
    take: tuple[Any, ...]
    samples: int


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch; ``parts[j]`` are the parts of feature chunk `j`, one per chunk of the samples."""

    samples: int
    parts: tuple[tuple[Part, ...], ...]


def as_labelled(
    x: Any,
    labels: Sequence[str] | None,
    features: Sequence[str] | None,
    samples: Sequence[str] | None,
) -> tuple[da.Array, Roles]:
    """Bring what the caller gave to a dask array and the roles of its axes.

    Parameters
    ----------
    x : dask.array.Array, xarray.DataArray (duck-typed by ``dims`` and ``data``) or array_like
    labels : names of the axes; needed for a plain array of other than two dimensions
    features, samples : names of the axes of each role

    Raises
    ------
    AnalysisError
        If names are missing, unknown, doubled, or do not fit the array.
    """
    if hasattr(x, "dims") and hasattr(x, "data"):
        dims = tuple(str(name) for name in x.dims)
        if labels is not None and set(labels) != set(dims):
            raise AnalysisError(
                f"labels {list(labels)} are not the dimensions {list(dims)} of the DataArray; "
                "name its own dimensions or leave labels out"
            )
        x, labels = x.data, dims
    array = x if isinstance(x, da.Array) else da.from_array(np.asarray(x))
    if labels is None and features is None and samples is None:
        if array.ndim != 2:
            raise AnalysisError(
                f"expected a 2-D array (samples, features), got {array.ndim}-D of shape "
                f"{array.shape}; name the axes: fit(x, labels, feature_labels, sample_labels)"
            )
        labels, features, samples = ("samples", "features"), ("features",), ("samples",)
    if labels is None or not features or not samples:
        raise AnalysisError(
            "labels, feature labels and sample labels belong together and none may be empty, got "
            f"labels={labels}, features={features}, samples={samples}"
        )
    return array, _roles(array, tuple(labels), tuple(features), tuple(samples))


def _roles(
    array: da.Array, labels: tuple[str, ...], features: tuple[str, ...], samples: tuple[str, ...]
) -> Roles:
    if len(labels) != array.ndim or len(set(labels)) != len(labels):
        raise AnalysisError(
            f"expected {array.ndim} different labels for an array of shape {array.shape}, "
            f"got {list(labels)}"
        )
    named = features + samples
    unknown = [name for name in named if name not in labels]
    if unknown or len(set(named)) != len(named):
        raise AnalysisError(
            f"feature labels {list(features)} and sample labels {list(samples)} must be different "
            f"names out of {list(labels)}"
        )
    if any(math.isnan(array.shape[labels.index(name)]) for name in named):
        raise AnalysisError(
            f"the array has chunks of unknown size (shape {array.shape}, nan is unknown) along "
            "samples or features; call compute_chunk_sizes() first; of an external array with "
            "AT_MOST = True, let its time number the batches"
        )
    if 0 in array.shape:
        raise AnalysisError(f"expected at least one sample and one feature, got {array.shape}")
    return Roles(
        labels,
        tuple(axis for axis, name in enumerate(labels) if name not in named),
        tuple(labels.index(name) for name in samples),
        tuple(labels.index(name) for name in features),
    )


def batches_of(array: da.Array, roles: Roles, *, single: bool) -> Iterator[Batch]:
    """Enumerate the batches of `array` in order.

    Parameters
    ----------
    single : bool
        Without a batch axis, take all samples as one batch and not each chunk of them as one.
    """
    stream = () if roles.batches or single else roles.samples[:1]
    within = {axis: _positions(array.chunks[axis]) for axis in roles.batches}
    grid = [range(array.numblocks[axis]) for axis in range(array.ndim)]
    feature_blocks = list(itertools.product(*(grid[axis] for axis in roles.features)))
    part_axes = tuple(axis for axis in roles.samples if axis not in stream)
    sample_blocks = list(itertools.product(*(grid[axis] for axis in part_axes)))
    outer = [within[axis] for axis in roles.batches]
    outer += [[(block, slice(None)) for block in grid[axis]] for axis in stream]

    for position in itertools.product(*outer):
        fixed = dict(zip(roles.batches + stream, position, strict=True))
        take = tuple(fixed[axis][1] if axis in fixed else slice(None) for axis in range(array.ndim))
        parts = []
        for feature_block in feature_blocks:
            row = []
            for sample_block in sample_blocks:
                index = {axis: block for axis, (block, _) in fixed.items()}
                index.update(zip(roles.features, feature_block, strict=True))
                index.update(zip(part_axes, sample_block, strict=True))
                key = (array.name, *(index[axis] for axis in range(array.ndim)))
                count = math.prod(array.chunks[axis][index[axis]] for axis in roles.samples)
                row.append(Part(key, take, count))
            parts.append(tuple(row))
        yield Batch(sum(part.samples for part in parts[0]), tuple(parts))


def _positions(chunks: tuple[float, ...]) -> list[tuple[int, Any]]:
    """Give (block, index within the block) for each index along an axis."""
    return [
        (block, i)
        for block, size in enumerate(chunks)
        for i in ((ONLY,) if math.isnan(size) else range(int(size)))
    ]


def as_matrix(
    block: np.ndarray, take: tuple[Any, ...], order: tuple[int, ...], samples: int
) -> np.ndarray:
    """Cut the part `take` out of a block and lay it out as (samples, features)."""
    for axis, item in enumerate(take):
        if type(item) is str and np.shape(block)[axis] != 1:
            raise AnalysisError(
                f"a block of unknown size has {np.shape(block)[axis]} batches, expected 1; call "
                "compute_chunk_sizes() first"
            )
    take = tuple(0 if type(item) is str else item for item in take)
    return np.asarray(block)[take].transpose(order).reshape(samples, -1)
