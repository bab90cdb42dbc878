"""Arrays that are indexed by global ids: which of a rank's rows go where, step by step.

The points of a mesh are numbered over all ranks, and each rank holds some of them in any order. The
chunks of such an array are those of an ordinary one, in order of id. What a rank sends of its rows
to one chunk is one message: the cells, then the position of each row in the chunk.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ips_components.errors import GeometryError
from ips_components.model.array_contract import ArrayContract
from ips_components.model.layout import Ints
from ips_components.model.pieces import Piece, TimeInChunk, cut_dimension
from ips_components.model.placement import Placement

POSITION = np.dtype("<u4")
"""Type of the positions that follow the cells of a message."""


def row_bytes(columns: Iterable[int], itemsize: int) -> int:
    """Return the bytes that one row takes in a message: its cells, and its position."""
    return prod(columns) * itemsize + POSITION.itemsize


class IdCut(NamedTuple):
    """What a rank sends of its rows to one chunk in space."""

    space: int
    rows: Ints
    """Which of the rank's rows, in order of their position in the chunk."""
    positions: np.ndarray[Any, np.dtype[np.uint32]]
    columns: tuple[slice, ...]
    shape: tuple[int, ...]
    """Of the rows as they are sent."""
    nbytes: int
    """Of the cells and the positions."""

    @property
    def cell_bytes(self) -> int:
        """Bytes of the cells alone."""
        return self.nbytes - self.positions.nbytes

    @property
    def room(self) -> np.ndarray[Any, Any]:
        """An array of the bytes that are sent, without any memory."""
        return np.broadcast_to(np.uint8(0), (self.nbytes,))

    def write(self, cells: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
        """Write a rank's rows, and their positions, into memory."""
        size = self.cell_bytes
        rows = out[:size].view(cells.dtype).reshape(self.shape)
        rows[...] = cells[(slice(None), *self.columns)][self.rows]
        out[size:] = self.positions.view(np.uint8)


class IdPiece(NamedTuple):
    """The rows of one rank for one chunk at one step."""

    piece: Piece
    """As it is sent: bytes along the only dimension of space."""
    cut: IdCut


class IdPlan:
    """What one rank sends of an array that is indexed by ids, for every time index.

    Parameters
    ----------
    contract
        Agreement on the array.
    ids
        Global ids of the rank's rows, in the order of the rows.

    Raises
    ------
    GeometryError
        When an id is no index of the array, or the rank has one twice.

    Notes
    -----
    Every rank sends to every chunk that is needed at a step, if only that it has no row of it: the
    receiver then knows at once that an id is missing, and which rank owns an id that several hold.

    Examples
    --------
    >>> spec = ArraySpec("u", "f8", (6,), StepAxis(count=4), ids="unique")
    >>> array = ArrayContract.agree(spec, run="r1", receivers=(0, 1))
    >>> for one in IdPlan(array, np.array([5, 0, 4])).at(2):
    ...     print(one.piece.chunk, one.piece.receiver, one.cut.rows, one.cut.positions)
    4 0 [1] [0]
    5 1 [2 0] [1 2]
    """

    __slots__ = ("_at", "_contract", "_order", "_owners", "_sorted", "_time", "_wanted", "ids")

    def __init__(self, contract: ArrayContract, ids: Ints) -> None:
        name, n = contract.spec.name, contract.spec.shape[0]
        if not contract.spec.ids:
            raise GeometryError(f"array {name!r} is not indexed by ids: use BlockPlan")
        self.ids = ids
        self._contract = contract
        self._owners = contract.placement.owners
        self._time = TimeInChunk(contract)
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]
        if len(ids) and not (self._sorted[0] >= 0 and self._sorted[-1] < n):
            wrong = ids[(ids < 0) | (ids >= n)]
            raise GeometryError(
                f"array {name!r}: ids must be 0 to {n - 1}, got {some(wrong)}; ids count from 0"
            )
        twice = self._sorted[1:][self._sorted[1:] == self._sorted[:-1]]
        if len(twice):
            raise GeometryError(
                f"array {name!r}: ids {some(np.unique(twice))} are given twice by the same rank; "
                "give each row of a rank its own id"
            )
        self._wanted = tuple((part.dims[0], part.dims[1]) for part in contract.wanted)
        self._at: dict[tuple[int, ...], tuple[IdCut, ...]] = {}

    def at(self, t: int) -> tuple[IdPiece, ...]:
        """Return what to send at time index ``t``: one piece for each chunk that is needed then."""
        active = tuple(i for i, (time, _) in enumerate(self._wanted) if t in time)
        if not active:
            return ()
        cuts = self._at.get(active)
        if cuts is None:
            cuts = self._at[active] = self._cuts(active)
        k, time = self._time.of(t)
        base = k * self._contract.layout.n_space
        owners = self._owners
        return tuple(
            IdPiece(
                Piece(
                    base + cut.space,
                    owners[(base + cut.space) % len(owners)],
                    (),
                    (time, (0, cut.nbytes, 1)),
                    len(cut.rows),
                ),
                cut,
            )
            for cut in cuts
        )

    def place(self, placement: Placement) -> None:
        """Follow another placement from now on."""
        self._owners = placement.owners

    def _cuts(self, active: tuple[int, ...]) -> tuple[IdCut, ...]:
        contract, layout = self._contract, self._contract.layout
        columns = [
            cut_dimension(contract, dim, contract.cover.dims[dim], 0, layout.shape[dim], 0)
            for dim in range(2, layout.ndim)
        ]
        cuts = []
        for j in range(layout.numblocks[1]):
            low, high = layout.bounds(1, j)
            parts = [self._wanted[i][1].clip(low, high) for i in active]
            if not any(part.count for part in parts):
                continue
            rows, positions = self._rows(j, parts)
            for others in product(*columns):
                space = j
                for dim, (i, _, _) in enumerate(others, start=2):
                    space = space * layout.numblocks[dim] + i
                shape = (len(rows), *(into[1] for _, _, into in others))
                nbytes = len(rows) * row_bytes(shape[1:], contract.spec.itemsize)
                sources = tuple(src for _, src, _ in others)
                cuts.append(IdCut(space, rows, positions, sources, shape, nbytes))
        return tuple(cuts)

    def _rows(self, j: int, parts: list[Any]) -> tuple[Ints, Any]:
        """Return the rank's rows that a chunk along the ids needs, and their positions in it."""
        layout, outer = self._contract.layout, self._contract.cover.dims[1]
        low, high = layout.bounds(1, j)
        outer = outer.clip(low, high)
        first, last = np.searchsorted(self._sorted, (low, high))
        mine = self._sorted[first:last]
        wanted = np.zeros(len(mine), bool)
        for part in parts:
            beyond = mine - part.start
            wanted |= (beyond >= 0) & (beyond % part.step == 0) & (beyond < part.count * part.step)
        positions = (mine[wanted] - outer.start) // outer.step
        return self._order[first:last][wanted], positions.astype(POSITION)


def some(ids: Any, limit: int = 8) -> str:
    """Return the first of many ids in words.

    Examples
    --------
    >>> some(np.arange(3)), some(np.arange(20), 2)
    ('0, 1, 2', '0, 1 and 18 more')
    """
    first = ", ".join(str(int(i)) for i in ids[:limit])
    return first + (f" and {len(ids) - limit} more" if len(ids) > limit else "")
