"""How ranks tile the global space of an array: regular grids, any tilings, and their faults."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from math import prod
from typing import NamedTuple

import numpy as np

from ips_components.errors import GeometryError
from ips_components.model.block import Block
from ips_components.model.layout import Ints

_DENSE = 128
"""Below this many boxes all pairs are compared at once."""


class Overlap(NamedTuple):
    """Two blocks that share cells, the ranks that own them, and the box they share."""

    ranks: tuple[int, int]
    blocks: tuple[Block, Block]
    box: Block


@dataclass(frozen=True, slots=True)
class Decomposition:
    """The blocks of all ranks over one global shape.

    Parameters
    ----------
    shape
        Global shape of space.
    blocks
        For each rank its blocks: one, several, or none.

    Examples
    --------
    >>> grid = Decomposition.regular((10, 6), (2, 2))
    >>> grid.blocks[3]
    (Block(offset=(5, 3), shape=(5, 3)),)
    >>> grid.validate("temperature")
    >>> Decomposition((4,), ((Block((0,), (2,)),), (Block((1,), (2,)),))).validate("temperature")
    Traceback (most recent call last):
    ...
    ips_components.errors.GeometryError: array 'temperature': the blocks of 2 ranks do not tile \
the global shape (4,): ranks 0 [0:2] and 1 [1:3] overlap in [1:2]; no rank has [3:4]; every cell \
must belong to exactly one block (give blocks without their halo)
    """

    shape: tuple[int, ...]
    blocks: tuple[tuple[Block, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "blocks", tuple(tuple(of_rank) for of_rank in self.blocks))
        for rank, of_rank in enumerate(self.blocks):
            for block in of_rank:
                if block.ndim != len(self.shape) or any(
                    b > n for b, n in zip(block.stop, self.shape, strict=True)
                ):
                    raise GeometryError(
                        f"rank {rank}: block {text(block)} is outside the global shape {self.shape}"
                    )

    @classmethod
    def regular(cls, shape: Sequence[int], grid: Sequence[int]) -> Decomposition:
        """Cut a shape into a grid of almost equal blocks, ranks in C order (as MPI_Cart_create).

        Block ``i`` of ``p`` along a dimension of length ``n`` is ``[i*n//p, (i+1)*n//p)``.
        """
        if len(shape) != len(grid) or any(p < 1 for p in grid):
            raise GeometryError(f"grid {tuple(grid)} does not fit shape {tuple(shape)}")
        edges = [[i * n // p for i in range(p + 1)] for n, p in zip(shape, grid, strict=True)]
        return cls.rectilinear([np.diff(e).tolist() for e in edges])

    @classmethod
    def rectilinear(cls, sizes: Sequence[Sequence[int]]) -> Decomposition:
        """Tile space by the product of given sizes per dimension, ranks in C order.

        Examples
        --------
        >>> Decomposition.rectilinear([(3, 1), (2,)]).blocks[1]
        (Block(offset=(3, 0), shape=(1, 2)),)
        """
        starts = [list(accumulate(of_dim, initial=0)) for of_dim in sizes]
        blocks = tuple(
            (
                Block(
                    tuple(starts[d][i] for d, i in enumerate(index)),
                    tuple(sizes[d][i] for d, i in enumerate(index)),
                ),
            )
            for index in product(*(range(len(of_dim)) for of_dim in sizes))
        )
        return cls(tuple(sum(of_dim) for of_dim in sizes), blocks)

    @property
    def size(self) -> int:
        """Number of ranks."""
        return len(self.blocks)

    def overlaps(self, limit: int = 10) -> list[Overlap]:
        """Return pairs of blocks that share cells, ``limit`` of them at most."""
        ranks, lows, highs = self._arrays()
        found = _overlaps(lows, highs, np.arange(len(lows)), limit)
        return [
            Overlap(
                (int(ranks[i]), int(ranks[j])),
                (_block(lows[i], highs[i]), _block(lows[j], highs[j])),
                _block(np.maximum(lows[i], lows[j]), np.minimum(highs[i], highs[j])),
            )
            for i, j in sorted(found)[:limit]
        ]

    def holes(self, limit: int = 10) -> list[Block]:
        """Return boxes that no block holds, ``limit`` of them at most."""
        if not prod(self.shape):
            return []
        _, lows, highs = self._arrays()
        whole = np.zeros(len(self.shape), dtype=np.int64), np.array(self.shape, dtype=np.int64)
        found: list[Block] = []
        _holes(*whole, lows, highs, found, limit)
        return found

    def validate(self, array: str, limit: int = 4) -> None:
        """Check that the blocks tile the global shape.

        Raises
        ------
        GeometryError
            Naming ranks and boxes of overlaps, and boxes of holes.
        """
        overlaps = self.overlaps(limit)
        covered = sum(block.size for of_rank in self.blocks for block in of_rank)
        if not overlaps and covered == prod(self.shape):
            return
        faults = [
            f"ranks {o.ranks[0]} {text(o.blocks[0])} and {o.ranks[1]} {text(o.blocks[1])} "
            f"overlap in {text(o.box)}"
            for o in overlaps
        ]
        faults += [f"no rank has {text(hole)}" for hole in self.holes(limit)]
        raise GeometryError(
            f"array {array!r}: the blocks of {self.size} ranks do not tile the global shape "
            f"{self.shape}: {'; '.join(faults)}; every cell must belong to exactly one block "
            f"(give blocks without their halo)"
        )

    def _arrays(self) -> tuple[Ints, Ints, Ints]:
        """Return rank, first and past-the-last index of every block that has cells."""
        rows = [(rank, b) for rank, of_rank in enumerate(self.blocks) for b in of_rank if b.size]
        n = len(self.shape)
        ranks = np.array([rank for rank, _ in rows], dtype=np.int64)
        lows = np.array([b.offset for _, b in rows], dtype=np.int64).reshape(len(rows), n)
        highs = np.array([b.stop for _, b in rows], dtype=np.int64).reshape(len(rows), n)
        return ranks, lows, highs


def dims_create(size: int, ndim: int) -> tuple[int, ...]:
    """Factor a number of ranks into a balanced grid, the larger factors first (MPI_Dims_create).

    Without any dimension there is a single cell, and a grid of one rank.

    Examples
    --------
    >>> dims_create(12, 2), dims_create(8, 3), dims_create(7, 2), dims_create(1, 0)
    ((4, 3), (2, 2, 2), (7, 1), ())
    """
    if size < 1 or ndim < 0:
        raise GeometryError(f"expected size >= 1 and ndim >= 0, got {size} and {ndim}")
    if not ndim:
        return ()

    def grids(n: int, k: int, at_most: int) -> Iterable[tuple[int, ...]]:
        if k == 1:
            if n <= at_most:
                yield (n,)
            return
        for p in range(min(n, at_most), 0, -1):
            if n % p == 0:
                for rest in grids(n // p, k - 1, p):
                    yield (p, *rest)

    return min(grids(size, ndim, size), key=lambda g: (g[0] - g[-1], g))


def text(block: Block) -> str:
    """Write a block as NumPy would index it.

    Examples
    --------
    >>> text(Block((0, 4), (2, 3)))
    '[0:2, 4:7]'
    """
    return f"[{', '.join(f'{a}:{b}' for a, b in zip(block.offset, block.stop, strict=True))}]"


def _block(low: Ints, high: Ints) -> Block:
    return Block(tuple(low.tolist()), tuple((high - low).tolist()))


def _overlaps(lows: Ints, highs: Ints, ids: Ints, limit: int) -> set[tuple[int, int]]:
    """Find pairs that overlap: split space in two until few boxes are left, then compare all."""
    low, high = lows[ids], highs[ids]
    if len(ids) > _DENSE:
        dim = int(np.argmax([len(np.unique(low[:, d])) for d in range(low.shape[1])]))
        cut = np.median(low[:, dim])
        left, right = ids[low[:, dim] < cut], ids[high[:, dim] > cut]
        if len(left) < len(ids) and len(right) < len(ids):
            found = _overlaps(lows, highs, left, limit)
            if len(found) < limit:
                found |= _overlaps(lows, highs, right, limit)
            return found
    found = set()
    for at in range(0, len(ids), _DENSE):
        part = slice(at, at + _DENSE)
        meet = (low[part, None] < high[None]).all(-1) & (low[None] < high[part, None]).all(-1)
        for i, j in np.argwhere(meet):
            if at + i < j:
                found.add((int(ids[at + i]), int(ids[j])))
        if len(found) >= limit:
            break
    return found


def _holes(low: Ints, high: Ints, lows: Ints, highs: Ints, found: list[Block], limit: int) -> None:
    """Find boxes without any block: split a partly covered box at an edge of a block."""
    if len(found) >= limit:
        return
    meets = (lows < high).all(-1) & (highs > low).all(-1)
    lows, highs = lows[meets], highs[meets]
    if not len(lows):
        found.append(_block(low, high))
        return
    if ((lows <= low) & (highs >= high)).all(-1).any():
        return
    best: tuple[float, int, int] | None = None
    for dim in range(len(low)):
        edges = np.unique(np.concatenate((lows[:, dim], highs[:, dim])))
        edges = edges[(edges > low[dim]) & (edges < high[dim])]
        if len(edges):
            edge = int(edges[len(edges) // 2])
            balance = abs(2 * edge - low[dim] - high[dim]) / (high[dim] - low[dim])
            if best is None or (balance, dim, edge) < best:
                best = (balance, dim, edge)
    if best is None:  # every edge is outside, so that one block must hold the whole box
        return
    _, dim, edge = best
    middle = high.copy()
    middle[dim] = edge
    _holes(low, middle, lows, highs, found, limit)
    middle = low.copy()
    middle[dim] = edge
    _holes(middle, high, lows, highs, found, limit)
