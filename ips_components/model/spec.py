"""What a simulation offers: the array, its type and shape, and the steps at which it is put."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import nan
from typing import Any

import numpy as np

from ips_components.errors import GeometryError

OPEN_ENDED = 1 << 40
"""Length that stands for the time axis of a run whose number of steps is not known."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


@dataclass(frozen=True, slots=True)
class StepAxis:
    """The simulation steps at which an array is published: ``start, start + every, ...``.

    Parameters
    ----------
    start
        First published step.
    every
        Distance between two published steps.
    count
        Number of published steps; None when it is not known before the run.
    at_most
        Whether `count` is only a bound: the simulation may end earlier. Without a count: all steps
        that come are analysed together, by one graph. Says how a run may end, not which steps there
        are, so that it plays no part in comparisons.

    Examples
    --------
    >>> axis = StepAxis(start=10, every=5, count=3)
    >>> [axis.index(step) for step in (9, 10, 11, 15, 20, 25)]
    [None, 0, None, 1, 2, None]
    >>> axis.step(2)
    20
    """

    start: int = 0
    every: int = 1
    count: int | None = None
    at_most: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise GeometryError(f"steps: every must be >= 1, got {self.every}")
        if self.count is not None and self.count < 1:
            raise GeometryError(f"steps: count must be >= 1 or None, got {self.count}")

    @property
    def open_ended(self) -> bool:
        """Whether the number of steps is unknown."""
        return self.count is None

    @property
    def length(self) -> int:
        """Number of time indices; `OPEN_ENDED` where it is unknown."""
        return OPEN_ENDED if self.count is None else self.count

    @property
    def end(self) -> int | None:
        """First step beyond the axis; None where the number of steps is unknown.

        >>> StepAxis(start=10, every=5, count=3).end
        25
        """
        return None if self.count is None else self.start + self.every * self.count

    def index(self, step: int) -> int | None:
        """Return the time index of a simulation step, None when it is not on the axis."""
        index, rest = divmod(step - self.start, self.every)
        if rest or index < 0 or (self.count is not None and index >= self.count):
            return None
        return index

    def index_from(self, step: int) -> int:
        """Return the first time index that is not before a simulation step.

        >>> axis = StepAxis(start=10, every=5, count=3)
        >>> [axis.index_from(step) for step in (0, 10, 11, 20, 30)]
        [0, 0, 1, 2, 3]
        """
        return min(max(0, -((self.start - step) // self.every)), self.length)

    def step(self, index: int) -> int:
        """Return the simulation step of a time index."""
        if index < 0 or index >= self.length:
            raise GeometryError(f"time index {index} is outside the {self.length} published steps")
        return self.start + index * self.every


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """An array that the simulation offers, as the analyst sees it: one value per step and cell.

    Parameters
    ----------
    name
        Identifier of the array.
    dtype
        NumPy dtype string; stored in its explicit form, such as ``"<f8"``.
    shape
        Global shape of space, without time. For a ragged array the first entry is -1 (or 0).
    steps
        Steps at which the array is put; dimension 0 of the external array indexes them.
    dims
        Names of the dimensions. Names for space only get ``"time"`` put before them.
    attrs
        Attributes that travel with the array (units, long name); JSON values.
    ragged
        Whether the first dimension of space varies from rank to rank and step to step (particles).
    ids
        Which rank owns what where the first dimension of space is indexed by global ids (the points
        of a mesh) and each rank holds some of them: ``"unique"`` if one rank has each id,
        ``"low"`` or ``"high"`` if the lowest or highest rank that has an id owns it. Empty: ranks
        have blocks.

    Examples
    --------
    >>> spec = ArraySpec("temperature", "f8", (64, 32), StepAxis(count=100), dims=("y", "x"))
    >>> spec.dtype, spec.dims, spec.index_shape
    ('<f8', ('time', 'y', 'x'), (100, 64, 32))
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    steps: StepAxis
    dims: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    ragged: bool = False
    ids: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise GeometryError(
                f"array name {self.name!r} must consist of letters, digits, '_' and '.', "
                "and begin with a letter or '_'"
            )
        try:
            dtype = np.dtype(self.dtype)
        except TypeError as error:
            raise GeometryError(f"array {self.name!r}: unknown dtype {self.dtype!r}") from error
        if dtype.kind not in "biufcSUV" or dtype.hasobject or dtype.names or not dtype.itemsize:
            raise GeometryError(
                f"array {self.name!r}: dtype {self.dtype!r} is not a plain fixed-size type"
            )
        shape = tuple(int(n) for n in self.shape)
        if self.ragged:
            if not shape or shape[0] not in (0, -1):
                raise GeometryError(
                    f"ragged array {self.name!r}: shape must begin with -1, got {shape}"
                )
            shape = (-1, *shape[1:])
        if self.ids not in ("", "unique", "low", "high"):
            raise GeometryError(
                f"array {self.name!r}: ids must be 'unique', 'low' or 'high', got {self.ids!r}"
            )
        if self.ids and (self.ragged or not shape):
            raise GeometryError(
                f"array {self.name!r}: ids index the first dimension of space, which must have a "
                f"length, got shape {shape}"
            )
        if any(n < 1 for n in shape[int(self.ragged) :]):
            raise GeometryError(f"array {self.name!r}: shape must be >= 1, got {shape}")
        dims = tuple(str(d) for d in self.dims)
        if not dims:
            dims = ("time", *(f"dim_{i}" for i in range(1, len(shape) + 1)))
        elif len(dims) == len(shape):
            dims = ("time", *dims)
        if len(dims) != len(shape) + 1 or len(set(dims)) != len(dims):
            raise GeometryError(
                f"array {self.name!r}: dims {dims} do not name the {len(shape)} dimensions of "
                f"shape {shape} (and time), each once"
            )
        try:
            attrs = _plain({str(name): value for name, value in self.attrs.items()})
            json.dumps(attrs)
        except (TypeError, ValueError) as error:
            raise GeometryError(
                f"array {self.name!r}: attrs must be JSON values: {error}"
            ) from None
        object.__setattr__(self, "attrs", attrs)
        object.__setattr__(self, "dtype", dtype.str)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "dims", dims)

    def difference(self, other: ArraySpec) -> tuple[str, str]:
        """Return in words what an array that is described twice has here and there.

        Examples
        --------
        >>> here = ArraySpec("t", "f8", (4, 3), StepAxis(count=9))
        >>> here.difference(ArraySpec("t", "f8", (4, 5), StepAxis(count=9)))
        ('shape (4, 3)', 'shape (4, 5)')
        """
        names = [
            name
            for name in (each.name for each in fields(self))
            if getattr(self, name) != getattr(other, name)
        ]
        here, there = (
            ", ".join(f"{name} {getattr(each, name)}" for name in names) for each in (self, other)
        )
        return here, there

    @property
    def ndim(self) -> int:
        """Number of dimensions with time."""
        return len(self.shape) + 1

    @property
    def itemsize(self) -> int:
        """Bytes of one cell."""
        return np.dtype(self.dtype).itemsize

    @property
    def index_shape(self) -> tuple[int, ...]:
        """Shape with time first; the rows of a ragged array stay -1."""
        return (self.steps.length, *self.shape)


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back: of NumPy's and sequences, Python's numbers and lists.

    NaN is always the same object, so that values which travelled compare equal to those that did
    not: a container takes an object to be equal to itself.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return nan if isinstance(value, float) and value != value else value
