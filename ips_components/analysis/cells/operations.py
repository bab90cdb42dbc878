"""What each kind of task does to cells: which cells of its operands some of its result are made of.

An operation answers two questions without any data: which shape its result has, and which cells
of each operand are needed for some cells of the result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from ips_components.analysis.cells.region import Product, Region, Shape, products_of

#: Cells along the last dimensions of a `Linear` that are tried one by one.
MAX_TRIED = 2048

#: Cells of all operands of a `Move` whose way is followed; beyond, it needs all of them.
MAX_MOVED = 1 << 25


class UnknownCells(Exception):
    """It cannot be said which cells an operation needs."""


@dataclass(frozen=True, slots=True)
class Ref:
    """The result of another task."""

    key: Any


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """An array or a number that is in the graph itself."""

    value: Any


Node = Any
"""`Ref`, `Constant` or `Operation`."""
ShapeOf = Callable[[Node], Shape]


class Operation(ABC):
    """A task, or a task inside of another one, that is understood."""

    __slots__ = ()

    #: Whether it may need less than all cells of an operand for all cells of its result.
    narrows = False

    @property
    @abstractmethod
    def operands(self) -> Sequence[Node]:
        """What the result is made of."""

    @abstractmethod
    def shape(self, of: ShapeOf) -> Shape:
        """Return the shape of the result."""

    @abstractmethod
    def backward(self, region: Region, of: ShapeOf) -> Iterator[tuple[Node, Region]]:
        """Yield the cells of each operand that some cells of the result are made of."""


@dataclass(frozen=True, slots=True, eq=False)
class Elementwise(Operation):
    """Cell by cell, with broadcasting."""

    operands: Sequence[Node] = ()

    def shape(self, of: ShapeOf) -> Shape:
        shapes = [of(each) for each in self.operands]
        ndim = max(map(len, shapes), default=0)
        sizes: list[int | None] = []
        for dim in range(-ndim, 0):
            found = {shape[dim] for shape in shapes if len(shape) >= -dim} - {1}
            known = found - {None}
            sizes.append(known.pop() if known else None if found else 1)
        return tuple(sizes)

    def backward(self, region: Region, of: ShapeOf) -> Iterator[tuple[Node, Region]]:
        for operand in self.operands:
            sizes = of(operand)
            yield operand, Region(_unbroadcast(cells, sizes) for cells in region)


def _unbroadcast(cells: Product, sizes: Shape) -> Product:
    own = cells[len(cells) - len(sizes) :]
    return tuple(None if n == 1 else dim for n, dim in zip(sizes, own, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Choose(Operation):
    """A choice between two operands by a mask that is known."""

    mask: Any
    chosen: Sequence[Node]
    """One operand or, for a number, none."""
    others: Sequence[Node]

    narrows = True

    @property
    def operands(self) -> Sequence[Node]:
        return (*self.chosen, *self.others)

    def shape(self, of: ShapeOf) -> Shape:
        return Elementwise((Constant(self.mask), *self.operands)).shape(of)

    def backward(self, region: Region, of: ShapeOf) -> Iterator[tuple[Node, Region]]:
        sizes = self.shape(of)
        if None in sizes:
            raise UnknownCells
        asked = np.zeros([n for n in sizes if n is not None], bool)
        for cells in region:
            sides = zip(cells, asked.shape, strict=True)
            asked[np.ix_(*[np.arange(n) if dim is None else dim for dim, n in sides])] = True
        for operands, mask in ((self.chosen, self.mask), (self.others, ~self.mask)):
            part = asked & mask
            wanted = Region(products_of(part)) if part.any() else Region()
            yield from Elementwise(operands).backward(wanted, of)


@dataclass(frozen=True, slots=True, eq=False)
class Pick(Operation):
    """An index of integers, slices, new axes, and at most one list."""

    operand: Node
    index: tuple[Any, ...]
    of_array: bool = True
    """Whether the operand is an array for certain; an integer may pick from a tuple as well."""

    narrows = True

    @property
    def operands(self) -> Sequence[Node]:
        return (self.operand,)

    def _items(self, ndim: int) -> list[Any]:
        items = list(self.index)
        given = sum(item is not None and item is not Ellipsis for item in items)
        if given > ndim:
            raise UnknownCells
        if Ellipsis in [i for i in items if not isinstance(i, np.ndarray | list)]:
            at = next(i for i, item in enumerate(items) if item is Ellipsis)
            items[at : at + 1] = [slice(None)] * (ndim - given)
        else:
            items += [slice(None)] * (ndim - given)
        return items

    def shape(self, of: ShapeOf) -> Shape:
        known = of(self.operand)
        if not self.of_array and all(n is None for n in known):
            raise UnknownCells
        left = iter(known)
        sizes: list[int | None] = []
        for item in self._items(len(known)):
            if item is None:
                sizes.append(1)
                continue
            size = next(left)
            if isinstance(item, slice):
                sizes.append(None if size is None else len(range(*item.indices(size))))
            elif not isinstance(item, int | np.integer):
                sizes.append(len(_positions(item, size)))
        return tuple(sizes)

    def backward(self, region: Region, of: ShapeOf) -> Iterator[tuple[Node, Region]]:
        sizes = of(self.operand)
        found = Region()
        for cells in region:
            wanted, left = iter(cells), iter(sizes)
            dims: list[Any] = []
            for item in self._items(len(sizes)):
                if item is None:
                    next(wanted)
                    continue
                size = next(left)
                if isinstance(item, int | np.integer):
                    dims.append(None if size is None else np.array([int(item) % size]))
                    continue
                dims.append(_picked(item, size, next(wanted)))
            found.add(tuple(dims))
        yield self.operand, found


def _positions(item: Any, size: int | None) -> Any:
    positions = np.asarray(item)
    if positions.dtype == bool:
        return np.flatnonzero(positions)
    if size is None:
        return positions
    return np.where(positions < 0, positions + size, positions)


def _picked(item: Any, size: int | None, wanted: Any) -> Any:
    """Return the indices of an operand along a dimension, of which `item` picks some."""
    if isinstance(item, slice) and item == slice(None):
        return wanted
    if size is None:
        return None
    positions = np.arange(size)[item] if isinstance(item, slice) else _positions(item, size)
    positions = np.unique(positions if wanted is None else positions[wanted])
    return None if len(positions) == size else positions


@dataclass(frozen=True, slots=True, eq=False)
class Permute(Operation):
    """A transposition."""

    operand: Node
    axes: tuple[int, ...] | None

    @property
    def operands(self) -> Sequence[Node]:
        return (self.operand,)

    def _order(self, ndim: int) -> tuple[int, ...]:
        if self.axes is None:
            return tuple(reversed(range(ndim)))
        return tuple(axis % ndim for axis in self.axes)

    def shape(self, of: ShapeOf) -> Shape:
        sizes = of(self.operand)
        return tuple(sizes[axis] for axis in self._order(len(sizes)))

    def backward(self, region: Region, of: ShapeOf) -> Iterator[tuple[Node, Region]]:
        order = self._order(len(of(self.operand)))
        found = Region()
        for cells in region:
            dims: list[Any] = [None] * len(order)
            for position, axis in enumerate(order):
                dims[axis] = cells[position]
            found.add(tuple(dims))
        yield self.operand, found


@dataclass(frozen=True, slots=True, eq=False)
class Join(Operation):
    """A grid of blocks side by side, one dimension of the grid for each of some axes."""

    grid: Any
    """Array of objects."""
    axes: tuple[int, ...]

    @property
    def operands(self) -> Sequence[Node]:
        return tuple(self.grid.flat)

    def _sizes(self, dim: int, of: ShapeOf) -> list[int]:
        """Return the sizes of the blocks along a dimension of the grid."""
        first = [0] * self.grid.ndim
        sizes = []
        for i in range(self.grid.shape[dim]):
            first[dim] = i
            size = of(self.grid[tuple(first)])[self.axes[dim]]
            if size is None:
                raise UnknownCells
            sizes.append(size)
        return sizes

    def shape(self, of: ShapeOf) -> Shape:
        sizes: list[int | None] = list(of(self.grid.flat[0]))
        for dim, axis in enumerate(self.axes):
            sizes[axis] = sum(self._sizes(dim, of))
        return tuple(sizes)

    def backward(self, region: Region, of: ShapeOf) -> Iterator[tuple[Node, Region]]:
        edges = [
            np.concatenate([[0], np.cumsum(self._sizes(d, of))]) for d in range(len(self.axes))
        ]
        found: dict[tuple[int, ...], Region] = {}
        for cells in region:
            parts: list[list[tuple[int, Any]]] = []
            for dim, axis in enumerate(self.axes):
                parts.append(list(_split(cells[axis], edges[dim])))
            for of_grid in np.ndindex(*map(len, parts)):
                inside = list(cells)
                where = []
                for dim, i in enumerate(of_grid):
                    block, inside[self.axes[dim]] = parts[dim][i]
                    where.append(block)
                found.setdefault(tuple(where), Region()).add(tuple(inside))
        for index, part in found.items():
            yield self.grid[index], part


def _split(indices: Any, edges: Any) -> Iterator[tuple[int, Any]]:
    """Yield the blocks that some indices lie in, each with the indices inside of it."""
    for block in range(len(edges) - 1):
        low, high = edges[block], edges[block + 1]
        if indices is None:
            yield block, None
            continue
        a, b = np.searchsorted(indices, (low, high))
        if b > a:
            yield block, None if b - a == high - low else indices[a:b] - low


@dataclass(frozen=True, slots=True, eq=False)
class Along(Operation):
    """What mixes the cells along some axes only: reductions, cumulative sums, transforms."""

    operand: Node
    axes: tuple[int, ...] | None
    keeps: bool
    """Whether the axes stay, with other sizes."""
    size: int | None = None
    """Size of the axes that stay, None where it is not known; -1: that of the operand."""
    prefix: bool = False
    """Whether a cell needs only those up to its own along the axes, as of a cumulative sum."""

    @property
    def operands(self) -> Sequence[Node]:
        return (self.operand,)

    def _axes(self, ndim: int) -> set[int]:
        return set(range(ndim)) if self.axes is None else {axis % ndim for axis in self.axes}

    def shape(self, of: ShapeOf) -> Shape:
        sizes = of(self.operand)
        mixed = self._axes(len(sizes))
        if self.keeps:
            other = [n if self.size == -1 else self.size for n in sizes]
            return tuple(other[i] if i in mixed else n for i, n in enumerate(sizes))
        return tuple(n for i, n in enumerate(sizes) if i not in mixed)

    def backward(self, region: Region, of: ShapeOf) -> Iterator[tuple[Node, Region]]:
        ndim = len(of(self.operand))
        mixed = self._axes(ndim)
        found = Region()
        for cells in region:
            left = iter(cells)
            found.add(tuple(self._mix(left) if i in mixed else next(left) for i in range(ndim)))
        yield self.operand, found

    def _mix(self, left: Iterator[Any]) -> Any:
        """Return the cells along an axis that is mixed, None for all; those left have its own."""
        own = next(left) if self.keeps else None
        return np.arange(own[-1] + 1) if self.prefix and own is not None else None


@dataclass(frozen=True, slots=True, eq=False)
class Linear(Operation):
    """A linear function of the last dimensions, such as an interpolation.

    It is tried on one NaN at a time: a cell with a weight of 0 makes a difference if it is NaN.
    """

    operand: Node
    function: Callable[[Any], Any]
    last: int
    """Number of the dimensions that it mixes."""

    narrows = True

    @property
    def operands(self) -> Sequence[Node]:
        return (self.operand,)

    def _response(self, of: ShapeOf) -> Any:
        """Return which results depend on each of the cells of the last dimensions."""
        sizes = [size for size in of(self.operand)[-self.last :] if size is not None]
        if len(sizes) < self.last or prod(sizes) > MAX_TRIED:
            raise UnknownCells
        alone = np.where(np.eye(prod(sizes), dtype=bool), np.nan, 0.0)
        return np.isnan(self.function(alone.reshape(prod(sizes), *sizes)))

    def shape(self, of: ShapeOf) -> Shape:
        sizes = of(self.operand)
        return (*sizes[: -self.last], *self._response(of).shape[1:])

    def backward(self, region: Region, of: ShapeOf) -> Iterator[tuple[Node, Region]]:
        sizes = of(self.operand)
        response = self._response(of)  # all are outside of the coordinates
        first = len(sizes) - self.last
        found = Region()
        for cells in region:
            wanted = [
                np.arange(size) if dim is None else dim
                for dim, size in zip(cells[first:], response.shape[1:], strict=True)
            ]
            used = response[np.ix_(np.arange(len(response)), *wanted)]
            used = used.reshape(len(response), -1).any(axis=1)
            for part in products_of(used.reshape([n for n in sizes[first:] if n is not None])):
                found.add((*cells[:first], *part))
        yield self.operand, found


@dataclass(frozen=True, slots=True, eq=False)
class Move(Operation):
    """A function that moves cells and computes none: it is tried on the numbers of the cells."""

    function: Callable[..., Any]
    """Function from a list of arrays to an array."""
    operands: Sequence[Node] = ()
    token: Any = None
    """What is equal for functions that do the same."""

    narrows = True

    def _shapes(self, of: ShapeOf) -> tuple[tuple[int, ...], ...]:
        shapes = [of(each) for each in self.operands]
        if any(n is None for shape in shapes for n in shape):
            raise UnknownCells
        known = tuple(tuple(int(n) for n in shape if n is not None) for shape in shapes)
        if sum(map(prod, known)) > MAX_MOVED:
            raise UnknownCells
        return known

    def shape(self, of: ShapeOf) -> Shape:
        return _moved_shape(_ByToken(self.function, self.token), self._shapes(of))

    def backward(self, region: Region, of: ShapeOf) -> Iterator[tuple[Node, Region]]:
        function = _ByToken(self.function, self.token)
        found = _moved(function, self._shapes(of), _ByKey(region))
        yield from zip(self.operands, found, strict=True)


@dataclass(frozen=True, slots=True)
class _ByToken:
    function: Any
    token: Any

    def __hash__(self) -> int:
        return hash(self.token)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByToken) and self.token == other.token


@dataclass(frozen=True, slots=True)
class _ByKey:
    region: Region

    def __hash__(self) -> int:
        return hash(self.region.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByKey) and self.region.key == other.region.key


@lru_cache(maxsize=4096)
def _moved_shape(function: _ByToken, shapes: tuple[tuple[int, ...], ...]) -> Shape:
    zero = np.zeros((), np.int64)
    result = function.function([np.broadcast_to(zero, shape) for shape in shapes])
    return tuple(result.shape)


@lru_cache(maxsize=512)
def _moved(
    function: _ByToken, shapes: tuple[tuple[int, ...], ...], region: _ByKey
) -> tuple[Region, ...]:
    """Return the cells of operands of some shapes that a region of the result consists of."""
    numbers, first = [], 1  # 0 is what the function fills in
    for shape in shapes:
        numbers.append(np.arange(first, first + prod(shape)).reshape(shape))
        first += prod(shape)
    result = function.function(numbers)
    marked = np.zeros(first, dtype=bool)
    for cells in region.region:
        sides = [
            np.arange(size) if dim is None else dim
            for dim, size in zip(cells, result.shape, strict=True)
        ]
        marked[result[np.ix_(*sides)] if sides else result] = True
    found, first = [], 1
    for shape in shapes:
        mine = marked[first : first + prod(shape)].reshape(shape)
        first += prod(shape)
        found.append(Region(products_of(mine)) if mine.any() else Region())
    return tuple(found)
