"""One array's share of this rank: what is sent of it, where, and what was counted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ips_components.bridge.account import Account
from ips_components.bridge.arrays import Array, margins_of, whole_ids
from ips_components.bridge.fast_plan import FastPlan
from ips_components.bridge.rows import Rows, as_rows, filled
from ips_components.bridge.segments import Segments
from ips_components.bridge.slots import Ring, Stored
from ips_components.bridge.wanted import wanted_steps
from ips_components.errors import BridgeError, GeometryError
from ips_components.model.amr import LEVELS
from ips_components.model.block import Block
from ips_components.model.contract import ArrayContract
from ips_components.model.pieces import BlockPlan, BlockPlans, Piece, RowPlan
from ips_components.model.placement import Placement
from ips_components.model.spec import ArraySpec, StepAxis

if TYPE_CHECKING:
    from ips_components.model.by_id import IdPlan

Cells: TypeAlias = np.ndarray[Any, Any]
Offset: TypeAlias = "tuple[int, ...] | None"

NEVER, FOREVER = -(1 << 63), 1 << 63  # before and beyond any step
_REMEMBERED = 4096  # chunks to which blocks that move have contributed
_PLANS = 128  # of blocks that move


class OutgoingArray:
    """What this rank knows and counts of one array.

    Parameters
    ----------
    name
        Of the array.
    described
        As described in code, or None.
    contract
        What is agreed, None when none of it is wanted.
    ordinal
        Of the array in the contract.
    rank, size
        Of this process in the simulation.
    spec
        Of an array that only the config describes and that is not needed.
    """

    def __init__(
        self,
        name: str,
        described: Array | None,
        contract: ArrayContract | None,
        ordinal: int,
        rank: int,
        size: int,
        spec: ArraySpec | None = None,
    ) -> None:
        self.name = name
        self.contract = contract
        self.ordinal = ordinal
        self.rank = rank
        self.fill_value = None if described is None else described.fill_value
        if contract is not None:
            spec = contract.spec
        elif described is not None:
            spec = described.spec
        self.spec = spec
        self.dtype = np.dtype(spec.dtype) if spec is not None else None
        axis = spec.steps if spec is not None else StepAxis()
        self.first, self.every = axis.start, axis.every
        self.n_space = contract.layout.n_space if contract is not None else 1
        self.steps_per_chunk = 1 if contract is None else max(contract.layout.chunks[0])
        # With at most n steps a step that has begun is put by all ranks, stop or not.
        self.keeps_on = axis.at_most
        self.drops_when_full = contract is not None and contract.policy == "drop"
        self.margins = margins_of(name, described, spec)
        self.offset = described.offset if described is not None else None
        self.blocks = self._own_blocks(described, rank, size)
        self._by_offset = {block.offset: block for block in self.blocks or ()}
        self.check_blocks()
        # Described by an offset alone: the first put shows the extent, and announces it.
        self.block_announced = self.offset is None
        # A single number, which all ranks have and another one sends.
        elsewhere = spec is not None and spec.shape == () and self.blocks == []
        self.wanted = () if elsewhere else wanted_steps(contract)
        self.step_bytes = None if contract is None else _bytes_of_step(contract, size)
        self.segments = Segments()  # shared memory, in which the rings' slots lie
        self.rings: list[Ring] = []  # for the first block put in a step, the second, ...
        self.fast: FastPlan | None = None  # once a block has gone the usual way
        self.last_step: int | None = None
        self.put_shape: tuple[int, ...] | None = () if elsewhere else None
        self.own_bytes = 0 if elsewhere else None  # of a put, when all are of one block
        self.ring_step, self.nth = NEVER, 0  # a step, and how many of its blocks have a ring
        self.put_step = NEVER  # the newest step that was put, wanted or not
        self.put_blocks: set[Offset] = set()  # at that step, by offset
        self.open_blocks = 0  # that are being computed in place
        self.end = FOREVER  # first step beyond those that the program has declared
        self.axis_end = FOREVER  # and beyond those of the contract
        self._furthest = NEVER  # step of those that were put there
        self.account = Account(ordinal)
        # How blocks are cut, and what is remembered of those whose place is not known beforehand.
        self.placement = contract.placement if contract is not None else None
        self._plans: BlockPlans | None = None
        self.rows: RowPlan | None = None
        self.by_id = spec is not None and bool(spec.ids)
        self._ids: Any = described.ids if described is not None and described.by_id else True
        self._id_plan: IdPlan | None = None
        self.levels = int(spec.attrs.get(LEVELS, 0)) if spec is not None and spec.ragged else 0
        # What was sent of a chunk: time indices, and where in the chunk.
        self._moving: OrderedDict[int, set[tuple[int, Any]]] = OrderedDict()
        self.fixed: BlockPlan | None = None
        self._plan_blocks(rank, size)
        self.has_fast_path = (
            self.fixed is not None
            and self.fixed.single is not None
            and isinstance(self.wanted, range)
        )

    def _plan_blocks(self, rank: int, size: int) -> None:
        """Plan how blocks are cut, and the block that is put in each step if there is one."""
        contract, spec = self.contract, self.spec
        if spec is None or (contract is not None and self.by_id):
            return  # nothing is known, or it is planned when the first rows are put
        only = self.blocks[0] if self.blocks is not None and len(self.blocks) == 1 else None
        if contract is None:
            if only is not None:
                self.own_bytes = self.margins.owned(only).size * spec.itemsize
        elif spec.ragged:
            self.rows = RowPlan(contract, rank, size)
        else:
            self._plans = BlockPlans(contract, max(_PLANS, len(self._by_offset)))
            if only is not None and self.offset is None:
                self.fixed = self._plan_of(self._plans, only)
                self.put_shape = self.margins.extent(only)
                self.own_bytes = self.fixed.size * spec.itemsize

    def _own_blocks(self, described: Array | None, rank: int, size: int) -> list[Block] | None:
        """Return this rank's blocks where they are known beforehand."""
        spec = self.spec
        if spec is None or spec.ragged or spec.ids or self.offset is not None:
            return None
        if described is not None and described.blocks is not None:
            return [Block(tuple(offset), tuple(shape)) for offset, shape in described.blocks]
        if spec.shape == ():
            return [Block((), ())] if rank == 0 else []
        grid = described.grid if described is not None else spec.attrs.get("process_grid")
        if grid is None:
            from ips_components.model.decomposition import dims_create  # few ranks need it

            grid = dims_create(size, len(spec.shape))
        decomposition = self.margins.regular(tuple(grid))
        if decomposition.size != size:
            raise BridgeError(
                f"array {self.name!r}: the process grid {tuple(grid)} is for {decomposition.size} "
                f"ranks, the simulation has {size}"
            )
        return list(decomposition.blocks[rank])

    def cells(self, block: Any, step: int) -> Cells:
        """Return what is put as a plain array.

        Raises
        ------
        BridgeError
            When cells are masked and the array has no ``fill_value``.
        """
        if type(block) is np.ndarray:
            return block
        if (parts := as_rows(block)) is not None:
            return self._pack(parts, step)
        where = f"put of array {self.name!r} at step {step} on rank {self.rank}"
        return filled(block, self.fill_value, where)

    def _pack(self, parts: Sequence[Rows], step: int) -> Cells:
        where = f"put of array {self.name!r} at step {step} on rank {self.rank}"
        if self.spec is None or not (self.spec.ragged or self.by_id):
            raise BridgeError(f"{where}: only arrays that are ragged or indexed by ids have rows")
        for part in parts:
            self.row_cells(part.cells, step)
        packed = [filled(part.pack(), self.fill_value, where) for part in parts]
        return packed[0] if len(packed) == 1 else np.concatenate(packed)

    @property
    def owned(self) -> list[Block] | None:
        """This rank's blocks without points that others own, where they are known beforehand."""
        return None if self.blocks is None else list(map(self.margins.owned, self.blocks))

    def check_blocks(self) -> None:
        """Refuse blocks that cannot share points with others.

        Raises
        ------
        BridgeError
            Naming the block.
        """
        try:
            for block in self.blocks or ():
                self.margins.owned(block)
        except GeometryError as error:
            raise BridgeError(f"array {self.name!r}, rank {self.rank}: {error}") from None

    def owned_bytes(self, block: Any, offset: Offset) -> int:
        """Return the bytes that this rank owns of what is put."""
        if (parts := as_rows(block)) is not None:
            return sum(part.nbytes for part in parts)
        cells = np.asarray(block)
        if len(self.margins.shape) != cells.ndim:
            return cells.nbytes
        inner = tuple(max(0, n) for n in self.margins.within(cells.shape))
        offset = self.offset if offset is None else offset
        if offset is not None and any(self.margins.shared):
            inner = self.margins.owned(Block(offset, inner)).shape
        return prod(inner) * cells.itemsize

    def check_step(self, step: int, offset: Offset) -> None:
        """Refuse a step that does not follow those that were put.

        Raises
        ------
        BridgeError
            When the step is below one that was put, or the block was put at this step.
        """
        where = f"put of array {self.name!r} at step {step} on rank {self.rank}"
        if step < self.put_step:
            raise BridgeError(
                f"{where}: its steps must rise, and step {self.put_step} was put before; a solver "
                "that goes back says so by bridge.rewind(step)"
            )
        if step == self.put_step and offset in self.put_blocks:
            raise BridgeError(
                f"{where}: this block was put at this step before; put it once, or call "
                "bridge.rewind(step) to replace it"
            )

    def check_axis(self, step: int) -> None:
        """Refuse a step below or beyond all that there can be; others are left out on purpose.

        Raises
        ------
        BridgeError
            For a negative step, and for one beyond those that the program has declared.
        """
        first = min(0, self.first)
        where = f"put of array {self.name!r} at step {step} on rank {self.rank}"
        if step < first:
            raise BridgeError(f"{where}: steps begin with {first}; count from there")
        if step >= self.end:
            raise BridgeError(
                f"{where}: the program declares its steps up to step {self.end - self.every}; "
                "declare as many as it puts by Array(..., steps=...), or None where their number "
                "is not known"
            )

    def note_beyond(self, step: int) -> None:
        """Count a step beyond the last one of the contract, which is left out."""
        if step > self._furthest:
            self._furthest = step
            self.account.beyond += 1

    def mark_step(self, step: int, offset: Offset) -> None:
        """Note that a block was put."""
        if step != self.put_step:
            self.put_step = step
            self.put_blocks = {offset}
        else:
            self.put_blocks.add(offset)

    def shorten(self, plan: BlockPlan) -> None:
        """Let the next steps go the fast way (the lock is held: the placement may change)."""
        assert self.dtype is not None and self.placement is not None
        self.fast = FastPlan(plan, self.rings[0], self.dtype, self.n_space, self.placement)

    def rewind(self, step: int) -> None:
        """Let the next puts begin at a step that was put."""
        self.put_step = min(self.put_step, step - 1)
        self.put_blocks = set()

    def place(self, placement: Placement) -> None:
        """Follow another placement."""
        self.fast = None
        self.placement = placement
        if self._plans is not None:
            self._plans.place(placement)
        if self.rows is not None:
            self.rows.place(placement)
        if self._id_plan is not None:
            self._id_plan.place(placement)

    def owner(self, chunk: int) -> int:
        """Return the receiver of a chunk."""
        return -1 if self.placement is None else self.placement.owner(chunk)

    def note(self, t: int, pieces: Sequence[Piece]) -> None:
        """Remember where a block went whose place cannot be computed later."""
        for piece in pieces:
            self._moving.setdefault(piece.chunk, set()).add((t, piece.dst))
        while len(self._moving) > _REMEMBERED:
            self._moving.popitem(last=False)

    def is_gone(self, chunk: int, kept: Iterable[Stored]) -> bool:
        """Return whether this rank has sent something of a chunk that is not kept any more."""
        if self.fixed is None and self.rows is None:
            there = {(stored.t, stored.piece.dst) for stored in kept}
            return not self._moving.get(chunk, set()) <= there
        return not self._times_of(chunk) <= {stored.t for stored in kept}

    def _times_of(self, chunk: int) -> set[int]:
        """Return the time indices of a chunk to which the one block, or the rows, were put."""
        contract = self.contract
        if contract is None or self.last_step is None:
            return set()
        layout, axis = contract.layout, contract.spec.steps
        found = set()
        for t in range(*layout.bounds(0, chunk // layout.n_space)):
            if axis.start + axis.every * t > self.last_step:
                break
            if self.rows is not None:
                rows = self.rows.at(t)
                if rows is not None and rows.chunk == chunk:
                    found.add(t)
            elif self.fixed is not None:
                found.update(t for piece in self.fixed.at(t) if piece.chunk == chunk)
        return found

    def block_shape(self, offset: Offset, step: int) -> tuple[int, ...]:
        """Return the shape, halo included, of what is put."""
        if offset is None and self.put_shape is not None:
            return self.put_shape
        block = self._block_at(offset, None, step)
        return self.margins.extent(block)

    def _plan_of(self, plans: BlockPlans, block: Block) -> BlockPlan:
        """Return the plan of a block that is put with its halo and shared points."""
        try:
            owned, before = self.margins.owned(block), self.margins.before(block)
        except GeometryError as error:
            raise BridgeError(f"array {self.name!r}, rank {self.rank}: {error}") from None
        return plans.of(owned, before)

    def plan(self, cells: Cells, offset: Offset, step: int) -> BlockPlan:
        """Return the plan of a block that is put, after checking it.

        Raises
        ------
        BridgeError
            When type or shape are not as described.
        """
        if offset is None and cells.shape == self.put_shape and cells.dtype == self.dtype:
            fixed = self.fixed
            if fixed is not None:
                return fixed
        if cells.dtype != self.dtype:
            raise BridgeError(
                f"put of array {self.name!r} at step {step} on rank {self.rank}: expected dtype "
                f"{self.dtype}, got {cells.dtype}; convert the block, or describe the array so"
            )
        plans = self._plans
        if plans is None:
            raise BridgeError(f"array {self.name!r} has no plan: it is not in the contract")
        block = self._block_at(offset, cells.shape, step)
        expected = self.margins.extent(block)
        if cells.shape == expected:
            return self._plan_of(plans, block)
        raise BridgeError(
            f"put of array {self.name!r} at step {step} on rank {self.rank}: expected shape "
            f"{expected} (block {block.shape}{self.margins.text()}), got {cells.shape}"
        )

    def plan_at(self, offset: Offset, step: int) -> BlockPlan | None:
        """Return the plan of a block that was described."""
        if self.fixed is not None and offset is None:
            return self.fixed
        plans = self._plans
        return None if plans is None else self._plan_of(plans, self._block_at(offset, None, step))

    def _block_at(self, offset: Offset, shape: tuple[int, ...] | None, step: int) -> Block:
        where = f"array {self.name!r} at step {step} on rank {self.rank}"
        offset = self.offset if offset is None else tuple(offset)
        if offset is None:
            if self.blocks is not None and len(self.blocks) == 1:
                return self.blocks[0]
            count = 0 if self.blocks is None else len(self.blocks)
            raise BridgeError(
                f"{where}: this rank has {count} blocks; say which one by put(..., offset=...)"
            )
        if shape is None:
            block = self._by_offset.get(offset)
            if block is not None:
                return block
            if self.blocks is None:
                raise BridgeError(
                    f"{where}: the array is described by its offset alone, so that the shape of "
                    "its block is not known before it is put; use put, or describe it by "
                    "blocks=[(offset, shape)]"
                )
            raise BridgeError(
                f"{where}: no block at offset {offset} was described; described are "
                f"{list(self._by_offset) or 'none'}"
            )
        ndim = len(self.margins.shape)
        if len(shape) != ndim:
            raise BridgeError(f"{where}: expected {ndim} dimensions, got shape {shape}")
        inner = self.margins.within(shape)
        if min(inner, default=0) < 0:
            raise BridgeError(
                f"{where}: shape {shape} is smaller than the halo {self.margins.halo}"
            )
        return Block(offset, inner)

    def block_table(self, cells: Cells, levels: Any, places: Any, step: int) -> Cells:
        """Return level and place of each block that is put, one row for each.

        Raises
        ------
        BridgeError
            When there are more or fewer of them than blocks, or a level is not one of the array's.
        """
        where = f"put of array {self.name!r} at step {step} on rank {self.rank}"
        n, ndim = len(self.row_cells(cells, step)), cells.ndim - 1
        level, place = np.asarray(levels), np.asarray(places)
        if not n:
            return np.empty((0, 1 + ndim), np.int64)
        if level.shape != (n,) or place.shape != (n, ndim):
            raise BridgeError(
                f"{where}: {n} blocks need levels of shape {(n,)} and places of shape {(n, ndim)}, "
                f"got {level.shape} and {place.shape}"
            )
        if level.dtype.kind not in "iu" or place.dtype.kind not in "iu":
            raise BridgeError(f"{where}: levels and places are whole numbers")
        if level.min() < 0 or level.max() >= self.levels or place.min() < 0:
            raise BridgeError(
                f"{where}: levels must be 0 to {self.levels - 1} and places >= 0, got levels "
                f"{level.min()} to {level.max()} and places from {place.min()} on"
            )
        return np.column_stack([level, place]).astype(np.int64)

    def id_plan(self, cells: Cells, ids: Any, step: int) -> IdPlan:
        """Return the plan of rows that are put with these ids, or those that were described.

        Raises
        ------
        BridgeError
            When rows or ids are not as described, or an id is given twice.
        """
        from ips_components.model.by_id import IdPlan  # loaded by ranks that put rows by id

        where = f"put of array {self.name!r} at step {step} on rank {self.rank}"
        self.row_cells(cells, step)
        if ids is None:
            if self._ids is True:
                raise BridgeError(
                    f"{where}: the array is indexed by ids; say those of its rows by "
                    "put(..., ids=...), or describe them by Array(..., ids=...)"
                )
            ids = self._ids
        if len(ids) != len(cells):
            raise BridgeError(f"{where}: {len(cells)} rows with {len(ids)} ids; each row has one")
        plan = self._id_plan
        if plan is not None and (ids is plan.ids or np.array_equal(ids, plan.ids)):
            return plan
        if self.contract is None or self.placement is None:
            raise BridgeError(f"array {self.name!r} has no plan: it is not in the contract")
        try:
            given = ids if ids is self._ids else whole_ids(self.name, ids)
            plan = IdPlan(self.contract, given)
        except (GeometryError, BridgeError) as error:
            raise BridgeError(f"{where}: {error}") from None
        plan.place(self.placement)
        self._id_plan = plan
        return plan

    def row_cells(self, cells: Cells, step: int) -> Cells:
        """Check the rows that are put of a ragged array."""
        spec = self.spec
        if spec is None or cells.dtype != self.dtype or cells.shape[1:] != spec.shape[1:]:
            expected = None if spec is None else ("rows", *spec.shape[1:])
            raise BridgeError(
                f"put of array {self.name!r} at step {step} on rank {self.rank}: expected rows of "
                f"shape {expected} and dtype {self.dtype}, got {cells.shape} and {cells.dtype}"
            )
        return cells


def _bytes_of_step(contract: ArrayContract, size: int) -> int | None:
    """Return about how many bytes a rank puts in a step; None: it has as many rows as it likes."""
    if contract.spec.ragged:
        return None
    cells = prod(dim.count for dim in contract.cover.dims[1:])
    return cells * contract.spec.itemsize // size
