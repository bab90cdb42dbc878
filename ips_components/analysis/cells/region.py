"""Sets of cells of one block, as unions of products of indices per dimension."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt

from ips_components.model.progression import Progression
from ips_components.model.selection import Selection

Indices = npt.NDArray[np.int64]
#: Indices per dimension, sorted and unique; None for the whole dimension.
Product = tuple[Indices | None, ...]
#: Sizes of the dimensions of a block; None where they are not known before the block is there.
Shape = tuple[int | None, ...]

#: Products that a region consists of at most; more of them become one around them.
MAX_PRODUCTS = 1024


class Region:
    """Some of the cells of a block.

    Parameters
    ----------
    products
        Whose union the region is; they may overlap.

    Examples
    --------
    >>> corner = (np.array([0, 1]), np.array([0]))
    >>> region = Region([corner, corner, (np.array([3]), None)])
    >>> [[str(box) for box in boxes] for boxes in region.boxes((4, 5))]
    [['[:2, 0]'], ['[3, :5]']]
    >>> Region.whole(2).is_whole
    True
    """

    __slots__ = ("_products",)

    def __init__(self, products: Iterable[Product] = ()) -> None:
        self._products: dict[tuple[bytes | None, ...], Product] = {}
        for each in products:
            self.add(each)

    @classmethod
    def whole(cls, ndim: int) -> Region:
        """Return all cells of a block."""
        return cls([(None,) * ndim])

    @property
    def is_whole(self) -> bool:
        """Whether it is known to be all cells."""
        return any(all(key is None for key in keys) for keys in self._products)

    @property
    def key(self) -> frozenset[tuple[bytes | None, ...]]:
        """What is equal for regions that were given the same products."""
        return frozenset(self._products)

    def __iter__(self) -> Iterator[Product]:
        return iter(self._products.values())

    def __bool__(self) -> bool:
        return bool(self._products)

    def add(self, cells: Product) -> None:
        """Add a product; one without any cell changes nothing."""
        if any(each is not None and not each.size for each in cells):
            return
        self._products[tuple(None if d is None else d.tobytes() for d in cells)] = cells
        if len(self._products) > MAX_PRODUCTS:
            around = tuple(_union(dims) for dims in zip(*self, strict=True))
            self._products = {}
            self.add(around)

    def update(self, other: Region) -> None:
        """Add the cells of another region."""
        for each in other:
            self.add(each)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether all cells are inside of a block of a shape."""
        return all(
            len(cells) == len(shape)
            and all(dim is None or dim[-1] < n for dim, n in zip(cells, shape, strict=True))
            for cells in self
        )

    def within(self, shape: tuple[int, ...]) -> Region:
        """Return the same cells, with None for each dimension that is whole."""
        return Region(
            tuple(
                None if dim is None or len(dim) == size else dim
                for dim, size in zip(cells, shape, strict=True)
            )
            for cells in self
        )

    def boxes(self, shape: tuple[int, ...]) -> Iterator[list[Selection]]:
        """Yield, for each product, strided boxes with its cells in a block of a shape."""
        for cells in self:
            dims = [
                [Progression(0, size)] if indices is None else progressions(indices)
                for indices, size in zip(cells, shape, strict=True)
            ]
            if prod(map(len, dims)) > MAX_PRODUCTS:
                dims = [[_around(parts)] for parts in dims]
            yield [Selection.of(each) for each in product(*dims)]


def progressions(indices: Indices) -> list[Progression]:
    """Return few progressions with exactly these sorted indices.

    Examples
    --------
    >>> progressions(np.array([0, 2, 4, 9, 10]))
    [Progression(start=0, count=3, step=2), Progression(start=9, count=2, step=1)]
    """
    parts: list[Progression] = []
    start, n = 0, len(indices)
    steps = np.diff(indices)
    while start < n:
        if start == n - 1:
            parts.append(Progression(int(indices[start]), 1))
            break
        step = int(steps[start])
        differs = np.flatnonzero(steps[start:] != step)
        count = int(differs[0]) + 1 if differs.size else n - start
        if count == 2 and step > 1 and start + 2 < n and steps[start + 1] == 1:
            count = 1  # the second one belongs to the run behind it
        parts.append(Progression(int(indices[start]), count, step if count > 1 else 1))
        start += count
    return parts


def products_of(cells: npt.NDArray[np.bool_]) -> Iterator[Product]:
    """Yield products with exactly the cells that are marked.

    Examples
    --------
    >>> marked = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=bool)
    >>> [tuple(dim.tolist() for dim in each) for each in products_of(marked)]
    [([0, 2], [0, 2]), ([1], [1])]
    """
    if cells.all():
        yield (None,) * cells.ndim
        return
    where = np.nonzero(cells)
    sides = [np.unique(each) for each in where]
    if prod(map(len, sides)) == len(where[0]):
        if where[0].size:
            yield tuple(
                None if len(side) == size else side
                for side, size in zip(sides, cells.shape, strict=True)
            )
        return
    alike: dict[bytes, list[int]] = {}
    for row in sides[0]:
        alike.setdefault(cells[row].tobytes(), []).append(int(row))
    for rows in alike.values():
        for rest in products_of(cells[rows[0]]):
            yield (np.array(rows), *rest)


def _union(dims: tuple[Indices | None, ...]) -> Indices | None:
    known = [each for each in dims if each is not None]
    return np.unique(np.concatenate(known)) if len(known) == len(dims) else None


def _around(parts: list[Progression]) -> Progression:
    first, last = parts[0].start, max(part.stop for part in parts)
    return Progression(first, last - first)
