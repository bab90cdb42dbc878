"""Operations on cells that belong together: windows side by side, the largest ones, quantiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ips_components.analysis.cells.operations import Along, Node, Operation, ShapeOf
from ips_components.analysis.cells.region import Indices, Region, Shape


@dataclass(frozen=True, slots=True, eq=False)
class Coarsen(Operation):
    """A reduction over windows that lie side by side; what is left over at the end is not used."""

    operand: Node
    factors: Mapping[int, int]
    """Sizes of the windows by axis."""

    @property
    def operands(self) -> Sequence[Node]:
        return (self.operand,)

    def shape(self, of: ShapeOf) -> Shape:
        sizes = enumerate(of(self.operand))
        return tuple(None if n is None else n // self.factors.get(i, 1) for i, n in sizes)

    def backward(self, region: Region, of: ShapeOf) -> Iterator[tuple[Node, Region]]:
        found = (tuple(self._windows(i, dim) for i, dim in enumerate(cells)) for cells in region)
        yield self.operand, Region(found)

    def _windows(self, axis: int, cells: Indices | None) -> Indices | None:
        factor = self.factors.get(axis, 1)
        if cells is None or factor == 1:
            return cells
        found: Indices = (cells[:, None] * factor + np.arange(factor)).ravel()
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Largest(Along):
    """Some of the cells along axes, so many at most; all of them may be compared for that."""

    most: int = 0

    def shape(self, of: ShapeOf) -> Shape:
        sizes = of(self.operand)
        mixed = self._axes(len(sizes))
        return tuple(
            min(n, self.most) if i in mixed and n is not None else n for i, n in enumerate(sizes)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Repeat(Operation):
    """Results of the same cells along further dimensions, which are the first ones."""

    operand: Node
    sizes: tuple[int, ...]

    @property
    def operands(self) -> Sequence[Node]:
        return (self.operand,)

    def shape(self, of: ShapeOf) -> Shape:
        return (*self.sizes, *of(self.operand))

    def backward(self, region: Region, of: ShapeOf) -> Iterator[tuple[Node, Region]]:
        yield self.operand, Region(cells[len(self.sizes) :] for cells in region)
