"""The chunk grid of an external array, over its whole index space (time first).

Chunks are the analyst's choice, in Dask's notation. The grid covers the whole field whatever is
selected of it: a selection never moves the boundaries of chunks, it only makes chunks smaller or
unneeded. Chunks are numbered in C order, so that time is the slowest index and the number of a
chunk does not depend on the length of the run.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from math import prod
from typing import Any, TypeAlias

import numpy as np

from ips_components.errors import GeometryError
from ips_components.model.progression import Progression
from ips_components.model.selection import Selection
from ips_components.model.spec import OPEN_ENDED, ArraySpec

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Runs: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """A regular or irregular grid of chunks over the full (time, \\*space) indices of an array.

    Parameters
    ----------
    shape
        Length of every dimension, time first; `OPEN_ENDED` for an unknown number of steps. The
        rows of a ragged array count its parts: one chunk is one part of one step.
    chunks
        Sizes of the chunks per dimension, as in Dask. An open-ended time dimension has a single
        entry, the number of steps in every chunk.

    Examples
    --------
    >>> layout = ChunkLayout((10, 6), ((4, 4, 2), (3, 3)))
    >>> layout.numblocks, layout.n_space
    ((3, 2), 2)
    >>> layout.ravel((2, 1)), layout.unravel(5)
    (5, (2, 1))
    >>> print(layout.box(5))
    [8:10, 3:6]
    """

    shape: tuple[int, ...]
    chunks: tuple[tuple[int, ...], ...]
    numblocks: tuple[int, ...] = field(init=False, compare=False, repr=False)
    n_space: int = field(init=False, compare=False, repr=False)
    steps_per_chunk: int | None = field(init=False, compare=False, repr=False)
    """Steps in every chunk (the last may have fewer); None when chunks differ otherwise."""
    _edges: tuple[tuple[int, ...], ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        chunks = tuple(tuple(int(c) for c in sizes) for sizes in self.chunks)
        if not shape or len(shape) != len(chunks):
            raise GeometryError(f"chunks {chunks} and shape {shape} differ in dimensions")
        for dim, (n, sizes) in enumerate(zip(shape, chunks, strict=True)):
            if any(c < 1 for c in sizes):
                raise GeometryError(f"dimension {dim}: chunk sizes must be >= 1, got {sizes}")
            if n == OPEN_ENDED and dim == 0:
                if len(sizes) != 1:
                    raise GeometryError(
                        f"an open-ended time dimension needs one chunk size, got {sizes}"
                    )
            elif sum(sizes) != n:
                raise GeometryError(
                    f"dimension {dim}: chunks {sizes} add up to {sum(sizes)}, expected {n}"
                )
        edges = tuple(tuple(accumulate(sizes, initial=0)) for sizes in chunks)
        numblocks = tuple(len(sizes) for sizes in chunks)
        if shape[0] == OPEN_ENDED:
            numblocks = (-(-OPEN_ENDED // chunks[0][0]), *numblocks[1:])
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "chunks", chunks)
        object.__setattr__(self, "numblocks", numblocks)
        object.__setattr__(self, "n_space", prod(numblocks[1:]))
        object.__setattr__(self, "steps_per_chunk", _common_size(chunks[0]))
        object.__setattr__(self, "_edges", edges)

    @classmethod
    def from_spec(
        cls, spec: ArraySpec, chunks: Any = None, n_receivers: int = 1, steps: int = 1
    ) -> ChunkLayout:
        """Lay the chunks of an offered array out.

        Parameters
        ----------
        spec
            The array.
        chunks
            Dask's notation: one size for all dimensions; or one entry per dimension (a size,
            a tuple of sizes, -1 for the whole dimension, None or ``"auto"`` for the default); or
            a mapping from dimension names or numbers to such entries. None: the default.
        n_receivers
            By default the first dimension of space is split into this many parts of almost equal
            size; more, and other dimensions too, where a step is large (see `default_parts`).
        steps
            Default of the steps in a chunk.

        Examples
        --------
        >>> spec = ArraySpec("t", "f8", (10, 8), StepAxis(count=3), dims=("y", "x"))
        >>> ChunkLayout.from_spec(spec, n_receivers=4).chunks
        ((1, 1, 1), (3, 3, 2, 2), (8,))
        >>> ChunkLayout.from_spec(spec, {"time": 2, "x": 4}).chunks
        ((2, 1), (10,), (4, 4))
        """
        if n_receivers < 1:
            raise GeometryError(f"n_receivers must be >= 1, got {n_receivers}")
        shape = spec.index_shape
        if spec.ragged:
            shape = (shape[0], n_receivers, *shape[2:])
        entries = _entries(chunks, spec)
        if spec.ragged:
            parts: tuple[int, ...] = (n_receivers, *[1] * (len(shape) - 2))
        else:
            from ips_components.model.default_chunks import default_parts  # no rank needs it

            parts = default_parts(spec, n_receivers)
        defaults: list[Any] = [steps, *map(split, shape[1:], parts)]
        sizes = tuple(
            _sizes(defaults[dim] if entry is None else entry, n, spec.dims[dim])
            for dim, (entry, n) in enumerate(zip(entries, shape, strict=True))
        )
        if spec.steps.at_most and set(sizes[0]) != {1}:
            raise GeometryError(
                f"array {spec.name!r} has at most {spec.steps.count} steps, so that each chunk has "
                f"one step; got chunks of {max(sizes[0])} steps: give 1 for time, or leave it out"
            )
        if spec.ragged:
            fixed = (sizes[0], (1,) * n_receivers, *((n,) for n in shape[2:]))
            if any(e is not None for e in entries[1:]) or set(sizes[0]) != {1}:
                raise GeometryError(
                    f"ragged array {spec.name!r} has one chunk per step and part; "
                    f"chunks {chunks!r} cannot be given"
                )
            sizes = fixed
        return cls(shape, sizes)

    @property
    def ndim(self) -> int:
        """Number of dimensions, with time."""
        return len(self.shape)

    @property
    def open_ended(self) -> bool:
        """Whether the number of steps is unknown."""
        return self.shape[0] == OPEN_ENDED

    def chunk_of(self, dim: int, index: int) -> int:
        """Return the number, along ``dim``, of the chunk that holds a global index."""
        if not 0 <= index < self.shape[dim]:
            raise GeometryError(
                f"index {index} is out of bounds for dimension {dim} with size {self.shape[dim]}"
            )
        if dim == 0 and self.open_ended:
            return index // self.chunks[0][0]
        return bisect_right(self._edges[dim], index) - 1

    def bounds(self, dim: int, j: int) -> tuple[int, int]:
        """Return the half-open range of global indices of chunk ``j`` along ``dim``."""
        if not 0 <= j < self.numblocks[dim]:
            raise GeometryError(f"dimension {dim} has {self.numblocks[dim]} chunks, got number {j}")
        if dim == 0 and self.open_ended:
            size = self.chunks[0][0]
            return j * size, (j + 1) * size
        return self._edges[dim][j], self._edges[dim][j + 1]

    def overlapping(self, dim: int, start: int, stop: int) -> range:
        """Return the numbers of the chunks along ``dim`` that meet ``start <= index < stop``."""
        if start >= stop:
            return range(0)
        return range(self.chunk_of(dim, start), self.chunk_of(dim, stop - 1) + 1)

    def ravel(self, index: Sequence[int]) -> int:
        """Return the number of the chunk at a grid index (C order, time slowest)."""
        linear = 0
        for dim, (i, n) in enumerate(zip(index, self.numblocks, strict=True)):
            if not 0 <= i < n:
                raise GeometryError(f"dimension {dim} has {n} chunks, got number {i}")
            linear = linear * n + i
        return linear

    def unravel(self, chunk: int) -> tuple[int, ...]:
        """Return the grid index of a chunk number."""
        index = []
        rest = chunk
        for n in reversed(self.numblocks):
            rest, i = divmod(rest, n)
            index.append(i)
        if chunk < 0 or rest:
            raise GeometryError(f"there are {prod(self.numblocks)} chunks, got number {chunk}")
        return tuple(reversed(index))

    def box(self, chunk: int | Sequence[int]) -> Selection:
        """Return the global indices of a chunk, given by its number or grid index."""
        index = chunk if isinstance(chunk, Sequence) else self.unravel(int(chunk))
        bounds = [self.bounds(dim, j) for dim, j in enumerate(index)]
        return Selection.of(Progression(a, b - a) for a, b in bounds)

    def counts(
        self, dim: int, wanted: Progression, first: int = 0, last: int | None = None
    ) -> Ints:
        """Count the indices of ``wanted`` in each of the chunks ``first .. last - 1`` of ``dim``.

        Examples
        --------
        >>> ChunkLayout((10,), ((4, 4, 2),)).counts(0, Progression(1, 3, 3))
        array([1, 2, 0])
        """
        last = self.numblocks[dim] if last is None else last
        if dim == 0 and self.open_ended:
            edges = np.arange(first, last + 1, dtype=np.int64) * self.chunks[0][0]
        else:
            edges = np.array(self._edges[dim][first : last + 1], dtype=np.int64)
        below = np.clip(-((wanted.start - edges) // wanted.step), 0, wanted.count)
        return below[1:] - below[:-1]

    def runs(self, dim: int) -> Runs:
        """Return the chunk sizes along ``dim`` in run-length form: (size, repetitions).

        Examples
        --------
        >>> ChunkLayout((10,), ((4, 4, 2),)).runs(0)
        ((4, 2), (2, 1))
        """
        return tuple((size, sum(1 for _ in same)) for size, same in groupby(self.chunks[dim]))


def split(length: int, parts: int) -> tuple[int, ...]:
    """Split a length into parts that differ by one at most, the larger ones first.

    Examples
    --------
    >>> split(10, 4)
    (3, 3, 2, 2)
    """
    if not 1 <= parts <= max(length, 1):
        raise GeometryError(f"cannot split {length} into {parts} parts")
    return tuple(length // parts + (i < length % parts) for i in range(parts))


def unroll(runs: Runs) -> tuple[int, ...]:
    """Undo `ChunkLayout.runs`."""
    return tuple(size for size, times in runs for _ in range(times))


def _common_size(sizes: tuple[int, ...]) -> int | None:
    first, *rest = sizes
    regular = all(c == first for c in rest[:-1]) and (not rest or rest[-1] <= first)
    return first if regular else None


def _entries(chunks: Any, spec: ArraySpec) -> list[Any]:
    """Bring the notations of ``chunks`` to one entry per dimension, None for the default."""
    if isinstance(chunks, Mapping):
        entries: list[Any] = [None] * spec.ndim
        for key, entry in chunks.items():
            if key in spec.dims:
                dim = spec.dims.index(key)
            elif isinstance(key, int) and -spec.ndim <= key < spec.ndim:
                dim = key % spec.ndim
            else:
                raise GeometryError(
                    f"array {spec.name!r}: chunks name dimension {key!r}, expected one of "
                    f"{spec.dims} or a number below {spec.ndim} (CHUNKS of the config)"
                )
            entries[dim] = entry
    elif isinstance(chunks, Sequence) and not isinstance(chunks, str):
        entries = list(chunks)
    else:
        entries = [chunks] * spec.ndim
    if len(entries) != spec.ndim:
        raise GeometryError(
            f"array {spec.name!r} has {spec.ndim} dimensions {spec.dims}, "
            f"but chunks {chunks!r} have {len(entries)} entries: give one for each, time first "
            "(CHUNKS of the config)"
        )
    return [None if isinstance(e, str) and e == "auto" else e for e in entries]


def _sizes(entry: Any, length: int, dim: str) -> tuple[int, ...]:
    """Bring one entry of ``chunks`` to explicit sizes."""
    if isinstance(entry, Sequence) and not isinstance(entry, str):
        return tuple(int(size) for size in entry)
    if not isinstance(entry, (int, np.integer)) or (entry < 1 and entry != -1):
        raise GeometryError(
            f"chunks of dimension {dim!r} must be a size >= 1, -1, 'auto' or sizes, got {entry!r}"
        )
    if length == OPEN_ENDED:
        if entry == -1:
            raise GeometryError(f"dimension {dim!r} is open-ended: it cannot be one chunk")
        return (int(entry),)
    size = length if entry == -1 else min(int(entry), length)
    return tuple(_regular(length, size))


def _regular(length: int, size: int) -> Iterator[int]:
    for start in range(0, length, size):
        yield min(size, length - start)
