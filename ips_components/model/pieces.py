"""Which piece of which block goes where: the per-step work of a rank, planned once.

The geometry of space does not change from step to step. A `BlockPlan` therefore cuts a block
against the chunks and the wanted selections once and then only fills in, for each time index, the
number of the chunk, its receiver and the position in time. Dimensions are independent of each
other: the cuts of a block are the product of what each dimension gives.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import product
from math import prod
from typing import NamedTuple, TypeAlias

from ips_components.errors import GeometryError
from ips_components.model.array_contract import ArrayContract
from ips_components.model.block import Block
from ips_components.model.placement import Placement
from ips_components.model.progression import Progression

Span: TypeAlias = tuple[int, int, int]
"""Start, count and step along one dimension."""


class Piece(NamedTuple):
    """Part of one block that belongs to one chunk."""

    chunk: int
    """Number of the chunk."""
    receiver: int
    """Ordinal of the receiver that the chunk belongs to."""
    src: tuple[slice, ...]
    """What to cut out of the rank's array (dimensions of space only)."""
    dst: tuple[Span, ...]
    """Where it goes in the external chunk: start, count and step per dimension, time first."""
    cells: int
    """Number of cells."""


_ONE_STEP: tuple[Span] = ((0, 1, 1),)  # of a chunk that has no other


class Cut(NamedTuple):
    """Part of a block that belongs to one chunk in space, at any time."""

    space: int
    src: tuple[slice, ...]
    dst: tuple[Span, ...]
    cells: int


class TimeInChunk:
    """Where the steps of an array lie in its chunks.

    Examples
    --------
    >>> spec = ArraySpec("t", "f8", (4,), StepAxis(count=10))
    >>> wanted = [Selection.from_key(np.s_[1::2], (10, 4))]
    >>> array = ArrayContract.agree(spec, wanted, run="r1", chunks=(4, 4))
    >>> TimeInChunk(array).of(7)
    (1, (1, 1, 1))
    """

    __slots__ = ("_cover", "_edges", "_per_chunk")

    def __init__(self, contract: ArrayContract) -> None:
        layout = contract.layout
        self._per_chunk = layout.steps_per_chunk
        self._edges = (
            ()
            if self._per_chunk
            else tuple(layout.bounds(0, j)[0] for j in range(layout.numblocks[0]))
        )
        self._cover = contract.cover.dims[0]

    def of(self, t: int) -> tuple[int, Span]:
        """Return the chunk row of a time index, and where in the chunk it lies."""
        if self._per_chunk:
            k = t // self._per_chunk
            low = k * self._per_chunk
        else:
            k = bisect_right(self._edges, t) - 1
            low = self._edges[k]
        first, step = self._cover.start, self._cover.step
        if low > first:  # the first index of the cover in this chunk
            first -= (first - low) // step * step
        return k, ((t - first) // step, 1, 1)


class BlockPlan:
    """The pieces of one block, for every time index.

    Parameters
    ----------
    contract
        Agreement on the array.
    block
        Box in global space; what the rank owns, without halo.
    halo
        Number of cells that the rank's array has before the block's first cell, per dimension.

    Notes
    -----
    `at` is quick: well under a microsecond at a time index that is not wanted, and a few
    microseconds for a few pieces. Pieces come in a fixed order: by wanted time progression, then
    by wanted selection, then by chunk in C order.

    Examples
    --------
    >>> spec = ArraySpec("t", "f8", (4, 4), StepAxis(count=10))
    >>> wanted = [Selection.from_key(np.s_[::2, :, ::3], (10, 4, 4))]
    >>> array = ArrayContract.agree(spec, wanted, run="r1", receivers=(0, 1))
    >>> plan = BlockPlan(array, Block((0, 2), (4, 2)), halo=(1, 1))
    >>> plan.at(1)
    ()
    >>> for piece in plan.at(4):
    ...     print(piece.chunk, piece.receiver, piece.src, piece.dst)
    8 0 (slice(1, 3, 1), slice(2, 3, 1)) ((0, 1, 1), (0, 2, 1), (1, 1, 1))
    9 1 (slice(3, 5, 1), slice(2, 3, 1)) ((0, 1, 1), (0, 2, 1), (1, 1, 1))
    """

    __slots__ = (
        "_groups",
        "_n_space",
        "_owners",
        "_per_chunk",
        "_time",
        "block",
        "size",
    )

    def __init__(
        self, contract: ArrayContract, block: Block, halo: Sequence[int] | None = None
    ) -> None:
        if contract.spec.ragged:
            raise GeometryError(f"array {contract.spec.name!r} is ragged: use RowPlan")
        if contract.spec.ids:
            raise GeometryError(f"array {contract.spec.name!r} is indexed by ids: use IdPlan")
        layout = contract.layout
        space = layout.shape[1:]
        if block.ndim != len(space) or any(b > n for b, n in zip(block.stop, space, strict=True)):
            raise GeometryError(
                f"array {contract.spec.name!r}: {block} is outside the global shape {space}"
            )
        halo = (0,) * block.ndim if halo is None else tuple(halo)
        if len(halo) != block.ndim or any(h < 0 for h in halo):
            raise GeometryError(
                f"array {contract.spec.name!r}: halo must be {block.ndim} numbers >= 0, got {halo}"
            )
        self.block, self.size = block, block.size
        self._n_space = layout.n_space
        self._per_chunk = layout.steps_per_chunk
        self._time = TimeInChunk(contract)
        self._owners = contract.placement.owners
        groups: dict[Progression, list[Cut]] = {}
        for wanted in contract.wanted:
            if cuts := _cuts(contract, wanted.dims[1:], block, halo):
                groups.setdefault(wanted.dims[0], []).extend(cuts)
        self._groups = tuple(
            (time.start, time.stop, time.step, tuple(groups[time])) for time in sorted(groups)
        )

    def at(self, t: int) -> tuple[Piece, ...]:
        """Return the pieces of the block at time index ``t``; none when they are not wanted."""
        wanted: tuple[Cut, ...] = ()
        for start, stop, step, cuts in self._groups:
            if start <= t < stop and not (t - start) % step:
                wanted = wanted + cuts if wanted else cuts
        if not wanted:
            return ()
        if self._per_chunk == 1:
            k, time = t, _ONE_STEP
        else:
            k, span = self._time.of(t)
            time = (span,)
        base = k * self._n_space
        owners = self._owners
        n = len(owners)
        new = tuple.__new__  # as Piece(...), without a call of Python's
        return tuple(
            [
                new(Piece, (base + space, owners[(base + space) % n], src, time + dst, cells))
                for space, src, dst, cells in wanted
            ]
        )

    def place(self, placement: Placement) -> None:
        """Follow another placement from now on."""
        if placement.n_space != self._n_space:
            raise GeometryError(
                f"placement is for {placement.n_space} chunks in space, expected {self._n_space}"
            )
        self._owners = placement.owners

    @property
    def single(self) -> Cut | None:
        """What is cut out of the block whenever it is wanted, for a chunk of this step alone.

        None when it gives several pieces, or different ones, or when chunks hold several steps.
        """
        if self._per_chunk != 1 or len(self._groups) != 1 or len(self._groups[0][3]) != 1:
            return None
        return self._groups[0][3][0]

    @property
    def cells(self) -> int:
        """Cells that one wanted step sends at most (all time progressions together)."""
        return sum(cut.cells for _, _, _, cuts in self._groups for cut in cuts)


class BlockPlans:
    """Plans of the blocks of one array, the most recently used kept: for blocks that move.

    Parameters
    ----------
    contract
        Agreement on the array.
    size
        Number of plans to keep.

    Examples
    --------
    >>> spec = ArraySpec("t", "f8", (4,), StepAxis(count=10))
    >>> plans = BlockPlans(ArrayContract.agree(spec, run="r1"))
    >>> plans.of(Block((0,), (2,))) is plans.of(Block((0,), (2,)))
    True
    """

    __slots__ = ("_contract", "_placement", "_plans", "_size")

    def __init__(self, contract: ArrayContract, size: int = 128) -> None:
        self._contract = contract
        self._placement = contract.placement
        self._plans: OrderedDict[tuple[Block, tuple[int, ...] | None], BlockPlan] = OrderedDict()
        self._size = size

    def of(self, block: Block, halo: tuple[int, ...] | None = None) -> BlockPlan:
        """Return the plan of a block, made if it is not at hand."""
        key = (block, halo)
        plan = self._plans.get(key)
        if plan is None:
            plan = BlockPlan(self._contract, block, halo)
            plan.place(self._placement)
            self._plans[key] = plan
            if len(self._plans) > self._size:
                self._plans.popitem(last=False)
        else:
            self._plans.move_to_end(key)
        return plan

    def place(self, placement: Placement) -> None:
        """Follow another placement from now on, in all plans."""
        self._placement = placement
        for plan in self._plans.values():
            plan.place(placement)


class RowPiece(NamedTuple):
    """The rows of one rank at one step of a ragged array."""

    chunk: int
    receiver: int
    src: tuple[slice, ...]
    """What to cut out of the rank's rows; the first dimension is taken whole."""
    row_shape: tuple[int, ...]
    """Shape of one row as it is sent."""


class RowPlan:
    """What one rank sends of a ragged array: all its rows, to the chunk of its part.

    Examples
    --------
    >>> spec = ArraySpec("x", "f4", (-1, 3), StepAxis(count=10), ragged=True)
    >>> array = ArrayContract.agree(spec, run="r1", receivers=(0, 1))
    >>> RowPlan(array, rank=2, size=3).at(4)
    RowPiece(chunk=9, receiver=1, src=(slice(None, None, None), slice(0, 3, 1)), row_shape=(3,))
    """

    __slots__ = ("_groups", "_n_space", "_owners", "part")

    def __init__(self, contract: ArrayContract, rank: int, size: int) -> None:
        if not contract.spec.ragged:
            raise GeometryError(f"array {contract.spec.name!r} is not ragged: use BlockPlan")
        self._n_space = contract.layout.n_space
        self._owners = contract.placement.owners
        self.part = part_of(rank, self._n_space, size)
        groups = []
        for wanted in contract.wanted:
            time, parts, *columns = wanted.dims
            if self.part in parts:
                src = (slice(None), *(slice(c.start, c.stop, c.step) for c in columns))
                row_shape = tuple(c.count for c in columns)
                groups.append((time.start, time.stop, time.step, src, row_shape))
        self._groups = tuple(groups)

    def at(self, t: int) -> RowPiece | None:
        """Return what to send at time index ``t``; None when it is not wanted."""
        for start, stop, step, src, row_shape in self._groups:
            if start <= t < stop and not (t - start) % step:
                chunk = t * self._n_space + self.part
                return RowPiece(chunk, self._owners[chunk % len(self._owners)], src, row_shape)
        return None

    def place(self, placement: Placement) -> None:
        """Follow another placement from now on."""
        self._owners = placement.owners


def part_of(rank: int, parts: int, size: int) -> int:
    """Return the part of a ragged array that a rank of ``size`` ranks contributes to."""
    if not 0 <= rank < size:
        raise GeometryError(f"rank must be in 0 .. {size - 1}, got {rank}")
    return rank * parts // size


def ranks_of(part: int, parts: int, size: int) -> range:
    """Return the ranks that contribute to a part, in the order of their rows.

    Examples
    --------
    >>> [list(ranks_of(j, 2, 5)) for j in range(2)]
    [[0, 1, 2], [3, 4]]
    """
    if not 0 <= part < parts:
        raise GeometryError(f"part must be in 0 .. {parts - 1}, got {part}")
    return range(-(-part * size // parts), -(-(part + 1) * size // parts))


def cut_dimension(
    contract: ArrayContract, dim: int, wanted: Progression, offset: int, size: int, before: int
) -> list[tuple[int, slice, Span]]:
    """Cut the range of a block along one dimension against the chunks.

    Returns
    -------
    list of (int, slice, Span)
        For each chunk along the dimension with a wanted index: its number, where these indices lie
        in the rank's array, which has ``before`` more cells first, and where in the chunk.
    """
    layout, outer = contract.layout, contract.cover.dims[dim]
    mine = wanted.clip(offset, offset + size)
    origin = offset - before
    found = []
    for j in layout.overlapping(dim, mine.start, mine.stop):
        low, high = layout.bounds(dim, j)
        if not (part := mine.clip(low, high)).count:
            continue
        src = slice(part.start - origin, part.stop - origin, part.step)
        into = part.within(outer.clip(low, high))
        found.append((j, src, (into.start, into.count, into.step)))
    return found


def _cuts(
    contract: ArrayContract, wanted: Sequence[Progression], block: Block, halo: tuple[int, ...]
) -> list[Cut]:
    """Cut a block against the chunks and one wanted selection, dimension by dimension."""
    layout = contract.layout
    per_dim = [
        cut_dimension(contract, dim + 1, indices, block.offset[dim], block.shape[dim], halo[dim])
        for dim, indices in enumerate(wanted)
    ]
    cuts = []
    for combination in product(*per_dim):
        space = 0
        for n, (j, _, _) in zip(layout.numblocks[1:], combination, strict=True):
            space = space * n + j
        dst = tuple(into for _, _, into in combination)
        cuts.append(
            Cut(space, tuple(src for _, src, _ in combination), dst, prod(n for _, n, _ in dst))
        )
    return cuts
