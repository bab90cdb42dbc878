"""Strided boxes of global indices: which steps and cells of an array are wanted.

Everything here is exact: intersections, differences and unions of strided boxes are computed by
number theory on their dimensions, never by enumerating cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from operator import index as as_index
from types import EllipsisType
from typing import Any, NamedTuple

from ips_components.errors import GeometryError
from ips_components.model.progression import Progression, join_all
from ips_components.model.progression import cover as cover_1d
from ips_components.model.spec import OPEN_ENDED


@dataclass(frozen=True, slots=True, order=True)
class Selection:
    """A strided box of global indices, in canonical form (equal sets compare equal).

    Parameters
    ----------
    start, count, step
        Per dimension: first index, number of indices, distance between indices (>= 1).
        Dimension 0 is time.

    Examples
    --------
    >>> wanted = Selection.from_key(np.s_[::10, 4, -8:], (100, 16, 64))
    >>> wanted
    Selection(start=(0, 4, 56), count=(10, 1, 8), step=(10, 1, 1))
    >>> wanted.size
    80
    """

    start: tuple[int, ...]
    count: tuple[int, ...]
    step: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.start) == len(self.count) == len(self.step):
            raise GeometryError(
                f"start {self.start}, count {self.count} and step {self.step} differ in length"
            )
        dims = [
            Progression(int(a), int(n), int(s))
            for a, n, s in zip(self.start, self.count, self.step, strict=True)
        ]
        if any(d.start < 0 for d in dims):
            raise GeometryError(f"start must be >= 0 in every dimension, got {self.start}")
        object.__setattr__(self, "start", tuple(d.start for d in dims))
        object.__setattr__(self, "count", tuple(d.count for d in dims))
        object.__setattr__(self, "step", tuple(d.step for d in dims))

    @classmethod
    def full(cls, shape: Sequence[int]) -> Selection:
        """Select everything of an array of the given shape."""
        n = len(shape)
        return cls((0,) * n, tuple(shape), (1,) * n)

    @classmethod
    def of(cls, dims: Iterable[Progression]) -> Selection:
        """Build the product of one progression per dimension."""
        dims = tuple(dims)
        return cls(
            tuple(d.start for d in dims), tuple(d.count for d in dims), tuple(d.step for d in dims)
        )

    @classmethod
    def from_key(cls, key: Any, shape: Sequence[int]) -> Selection:
        """Return what a NumPy basic index selects of an array of the given shape.

        Integers become dimensions of one index and negative steps positive ones; see
        `parse_key` for the shape that NumPy would give to the result.

        Raises
        ------
        GeometryError
            When the key is no basic index, or an integer is out of range.
        """
        return parse_key(key, shape).selection

    @property
    def dims(self) -> tuple[Progression, ...]:
        """The selected indices, one progression per dimension."""
        return tuple(map(Progression, self.start, self.count, self.step))

    @property
    def ndim(self) -> int:
        """Number of dimensions, with time."""
        return len(self.start)

    @property
    def size(self) -> int:
        """Number of selected cells (over all steps)."""
        return prod(self.count)

    @property
    def stop(self) -> tuple[int, ...]:
        """One past the last index, per dimension."""
        return tuple(d.stop for d in self.dims)

    def intersect(self, other: Selection) -> Selection | None:
        """Return the common indices, which form a strided box again; None when there are none.

        Examples
        --------
        >>> a, b = Selection.from_key(np.s_[::2], (30,)), Selection.from_key(np.s_[::3], (30,))
        >>> a.intersect(b)
        Selection(start=(0,), count=(5,), step=(6,))
        """
        self._check_same_ndim(other)
        dims = []
        for a, b in zip(self.dims, other.dims, strict=True):
            common = a.intersect(b)
            if not common.count:
                return None
            dims.append(common)
        return Selection.of(dims)

    def contains(self, other: Selection) -> bool:
        """Return whether all cells of ``other`` are selected here too."""
        self._check_same_ndim(other)
        return other.size == 0 or all(
            a.contains(b) for a, b in zip(self.dims, other.dims, strict=True)
        )

    def compose(self, inner: Selection) -> Selection:
        """Return, in global indices, what ``inner`` selects of the array cut out by this one.

        Examples
        --------
        >>> outer = Selection.from_key(np.s_[10:20:2], (100,))
        >>> outer.compose(Selection.from_key(np.s_[1::2], (5,)))
        Selection(start=(12,), count=(2,), step=(4,))
        """
        self._check_same_ndim(inner)
        return Selection.of(a.compose(b) for a, b in zip(self.dims, inner.dims, strict=True))

    def within(self, outer: Selection) -> Selection:
        """Return the position of these cells in the dense array that ``outer`` cuts out."""
        self._check_same_ndim(outer)
        return Selection.of(a.within(b) for a, b in zip(self.dims, outer.dims, strict=True))

    def subtract(self, other: Selection) -> list[Selection]:
        """Return disjoint boxes that hold the cells of this one which ``other`` does not select.

        Examples
        --------
        >>> hole = Selection.from_key(np.s_[1:3, ::2], (4, 4))
        >>> for part in Selection.full((4, 4)).subtract(hole):
        ...     print(part)
        [:4:3, :4]
        [1:3, 1:4:2]
        """
        if self.intersect(other) is None:
            return [self] if self.size else []
        parts = []
        dims = list(self.dims)
        for d, beside in enumerate(other.dims):
            for rest in dims[d].subtract(beside):
                parts.append(Selection.of([*dims[:d], rest, *dims[d + 1 :]]))
            dims[d] = dims[d].intersect(beside)
        return parts

    def to_slices(self) -> tuple[slice, ...]:
        """Return the slices that cut this selection out of the whole array."""
        return tuple(slice(d.start, d.stop, d.step) for d in self.dims)

    def __str__(self) -> str:
        return f"[{', '.join(_text(d) for d in self.dims)}]"

    def _check_same_ndim(self, other: Selection) -> None:
        if self.ndim != other.ndim:
            raise GeometryError(f"{self} and {other} have different numbers of dimensions")


class ParsedKey(NamedTuple):
    """A NumPy basic index, taken apart: what it selects, and how the result is shaped."""

    selection: Selection
    """The selected indices, all dimensions kept, all steps positive."""
    dropped: tuple[int, ...]
    """Dimensions that an integer removed."""
    flipped: tuple[int, ...]
    """Dimensions that a negative step turned round."""
    layout: tuple[int | None, ...]
    """Dimensions of the result: the number of the source dimension, None for ``newaxis``."""


def parse_key(key: Any, shape: Sequence[int], names: Sequence[str] | None = None) -> ParsedKey:
    """Take a NumPy basic index (integers, slices, Ellipsis, newaxis) apart.

    Parameters
    ----------
    key, shape
        The index, and the shape of what it is applied to.
    names
        Names of the dimensions for error messages; by default their numbers.

    Examples
    --------
    >>> parsed = parse_key((-1, ..., slice(None, None, -2)), (10, 4, 5))
    >>> print(parsed.selection, parsed.dropped, parsed.flipped, parsed.layout)
    [9, :4, :5:2] (0,) (2,) (1, 2)
    """
    items: tuple[Any, ...] = key if isinstance(key, tuple) else (key,)
    labels = [f"dimension {n if names is None else repr(names[n])}" for n in range(len(shape))]
    given = sum(item is not None and not isinstance(item, EllipsisType) for item in items)
    gaps = sum(isinstance(item, EllipsisType) for item in items)
    if gaps > 1:
        raise GeometryError("an index can only have a single ellipsis ('...')")
    if given > len(shape):
        raise GeometryError(
            f"too many indices: array is {len(shape)}-dimensional, but {given} were indexed"
        )
    if not gaps:
        items = (*items, Ellipsis)
    dims: list[Progression] = []
    dropped: list[int] = []
    flipped: list[int] = []
    layout: list[int | None] = []
    for item in items:
        dim = len(dims)
        if item is None:
            layout.append(None)
        elif isinstance(item, EllipsisType):
            for n in shape[dim : dim + len(shape) - given]:
                layout.append(len(dims))
                dims.append(Progression(0, n))
        elif isinstance(item, slice):
            progression, backwards = _parse_slice(item, shape[dim], labels[dim])
            if backwards:
                flipped.append(dim)
            layout.append(dim)
            dims.append(progression)
        else:
            dropped.append(dim)
            dims.append(Progression(_parse_integer(item, shape[dim], labels[dim]), 1))
    return ParsedKey(Selection.of(dims), tuple(dropped), tuple(flipped), tuple(layout))


def cover(selections: Iterable[Selection]) -> Selection:
    """Return the smallest strided box that holds all the given selections.

    Examples
    --------
    >>> boxes = [Selection.from_key(k, (100, 50)) for k in (np.s_[::10, :5], np.s_[5, 20:30])]
    >>> print(cover(boxes))
    [:91:5, :30]
    """
    parts = [s for s in selections if s.size]
    if not parts:
        raise GeometryError("there is no cell to cover: all selections are empty")
    return Selection.of(map(cover_1d, zip(*(s.dims for s in parts), strict=True)))


def disjoint(selections: Iterable[Selection]) -> tuple[Selection, ...]:
    """Return disjoint strided boxes with exactly the cells of the union of the given ones.

    Boxes whose union is a box are joined first and last, so that a thousand selections of single
    steps, or the shifted selections of a finite difference, become one box again.

    Examples
    --------
    >>> lags = [Selection.from_key(k, (10, 4)) for k in (np.s_[2:], np.s_[1:-1], np.s_[:-2])]
    >>> [str(s) for s in disjoint(lags)]
    ['[:10, :4]']
    >>> cross = [Selection.from_key(k, (8, 8)) for k in (np.s_[2:4], np.s_[:, 1::2])]
    >>> [str(s) for s in disjoint(cross)]
    ['[:8, 1:8:2]', '[2:4, :7:2]']
    """
    parts = join_boxes(selections)
    apart: list[Selection] = []
    for box in sorted(parts, key=lambda s: (-s.size, s)):
        rest = [box]
        for other in apart:
            rest = [piece for part in rest for piece in part.subtract(other)]
            if not rest:
                break
        apart.extend(rest)
    return tuple(sorted(join_boxes(apart)))


def join_boxes(selections: Iterable[Selection]) -> set[Selection]:
    """Join boxes that are alike in all dimensions but one, as long as any two can be joined."""
    boxes = {each for each in selections if each.size}
    while len(boxes) > 1:
        before = len(boxes)
        for d in range(next(iter(boxes)).ndim):
            rows: dict[tuple[Progression, ...], list[Progression]] = {}
            for box in boxes:
                dims = box.dims
                rows.setdefault(dims[:d] + dims[d + 1 :], []).append(dims[d])
            boxes = {
                Selection.of((*others[:d], joined, *others[d:]))
                for others, row in rows.items()
                for joined in join_all(row)
            }
        if len(boxes) == before:
            break
    return boxes


def _parse_slice(item: slice, length: int, label: str) -> tuple[Progression, bool]:
    try:
        indices = range(*item.indices(length))
    except (TypeError, ValueError) as error:
        raise GeometryError(f"{label}: {item} is not a valid slice: {error}") from None
    if length == OPEN_ENDED:
        for bound in (item.start, item.stop):
            if bound is not None and as_index(bound) < 0:
                raise GeometryError(f"{label} is open-ended: it has no end to count from")
    backwards = indices.step < 0
    if backwards:
        if length == OPEN_ENDED:
            raise GeometryError(f"{label} is open-ended: it cannot be turned round")
        indices = indices[::-1]
    # CPython's len() of a range is limited to ssize_t; OPEN_ENDED stays far below.
    return Progression(indices.start, len(indices), indices.step), backwards


def _parse_integer(item: Any, length: int, label: str) -> int:
    if isinstance(item, bool):
        raise GeometryError(f"{label}: {item} is not a basic index")
    try:
        i = as_index(item)
    except TypeError:
        raise GeometryError(f"{label}: {item!r} is not a basic index") from None
    if length == OPEN_ENDED and i < 0:
        raise GeometryError(f"{label} is open-ended: it has no end to count from")
    if not -length <= i < length:
        raise GeometryError(f"index {i} is out of bounds for {label} with size {length}")
    return i % length


def _text(dim: Progression) -> str:
    if dim.count == 1:
        return str(dim.start)
    start = str(dim.start) if dim.start else ""
    stop = "" if dim.count and dim.stop + dim.step > OPEN_ENDED else str(dim.stop)
    return f"{start}:{stop}" + (f":{dim.step}" if dim.step > 1 else "")
