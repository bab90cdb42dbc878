"""Products of arrays that are summed over common dimensions: einsum, tensordot, matmul."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ips_components.analysis.cells.operations import Node, Operation, ShapeOf, UnknownCells
from ips_components.analysis.cells.region import Region, Shape

Labels = tuple[Any, ...]
"""A label for each dimension; None for one of size 1 in place of one that is summed over."""


@dataclass(frozen=True, slots=True, eq=False)
class Contraction(Operation):
    """Sums of products, written as for ``einsum``."""

    labels: Callable[[Sequence[int]], tuple[Sequence[Labels], Labels]]
    """Function from the operands' numbers of dimensions to their labels and those of the result."""
    operands: Sequence[Node] = ()

    def _labels(self, of: ShapeOf) -> tuple[Sequence[Labels], Labels]:
        ndims = [len(of(each)) for each in self.operands]
        given, result = self.labels(ndims)
        if [len(each) for each in given] != ndims:
            raise UnknownCells
        return given, result

    def shape(self, of: ShapeOf) -> Shape:
        given, result = self._labels(of)
        sizes: dict[Any, int | None] = {}
        for operand, labels in zip(self.operands, given, strict=True):
            for label, size in zip(labels, of(operand), strict=True):
                if sizes.get(label, 1) == 1:  # one that is repeated along the other
                    sizes[label] = size
        return tuple(1 if label is None else sizes[label] for label in result)

    def backward(self, region: Region, of: ShapeOf) -> Iterator[tuple[Node, Region]]:
        given, result = self._labels(of)
        for operand, labels in zip(self.operands, given, strict=True):
            found = Region()
            for cells in region:
                wanted = dict(zip(result, cells, strict=True))
                sides = zip(labels, of(operand), strict=True)
                found.add(tuple(None if n == 1 else wanted.get(label) for label, n in sides))
            yield operand, found


def einsum_labels(subscripts: str) -> Callable[[Sequence[int]], tuple[Sequence[Labels], Labels]]:
    """Return the labels of ``dask.array.einsum``, whose blocks end with the dimensions summed."""
    given, _, result = subscripts.partition("->")
    inputs = [tuple(each) for each in given.split(",")]
    summed = len({label for each in inputs for label in each} - set(result))
    return lambda _: (inputs, (*result, *[None] * summed))


def tensordot_labels(
    axes: tuple[Sequence[int], Sequence[int]],
) -> Callable[[Sequence[int]], tuple[Sequence[Labels], Labels]]:
    """Return the labels of ``dask.array.tensordot``; summed dimensions stay in their place."""

    def labels(ndims: Sequence[int]) -> tuple[Sequence[Labels], Labels]:
        left: list[Any] = list(range(ndims[0]))
        right = list(range(ndims[0], sum(ndims)))
        common = {j % ndims[1]: i for i, j in zip(*axes, strict=True)}
        if min(axes[0], default=0) < 0:
            raise UnknownCells
        kept = [None if i in axes[0] else i for i in left]
        result = (*kept, *[label for i, label in enumerate(right) if i not in common])
        return [tuple(left), tuple(common.get(i, each) for i, each in enumerate(right))], result

    return labels


def matmul_labels(ndims: Sequence[int]) -> tuple[Sequence[Labels], Labels]:
    """Return the labels of ``dask.array.matmul``; the dimension summed stays before the last."""
    stack = tuple(range(ndims[0] - 2))
    return [(*stack, "row", "sum"), (*stack, "sum", "column")], (*stack, "row", None, "column")
