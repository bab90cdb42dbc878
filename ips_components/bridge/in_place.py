"""Blocks that are computed where they are sent from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from math import prod
from typing import Any

from ips_components.bridge.connection import Connection
from ips_components.bridge.fast_plan import FastPlan
from ips_components.bridge.naming import raise_naming
from ips_components.bridge.outgoing import Cells, Offset, OutgoingArray
from ips_components.bridge.put_path import PutPath
from ips_components.bridge.slots import Slot, Stored
from ips_components.errors import BridgeError
from ips_components.model.pieces import BlockPlan, Piece


class BlockInPlace(AbstractContextManager[Cells]):
    """A block that is computed inside a slot, and put when its ``with`` ends.

    Parameters
    ----------
    path
        Of this rank.
    out, step, offset
        The array, the step of the run, and where the block is if not where it is described.
    """

    __slots__ = (
        "_cells",
        "_connection",
        "_connections",
        "_fast",
        "_offset",
        "_out",
        "_path",
        "_pieces",
        "_plan",
        "_slot",
        "_step",
        "_t",
    )

    _cells: Cells
    _connection: Connection
    _connections: Sequence[Connection]
    _pieces: Sequence[Piece]
    _plan: BlockPlan
    _t: int

    def __init__(self, path: PutPath, out: OutgoingArray, step: int, offset: Offset) -> None:
        self._path, self._out, self._step, self._offset = path, out, step, offset
        self._slot: Slot | None = None
        self._fast: FastPlan | None = None

    def __enter__(self) -> Cells:
        out, step = self._out, self._step
        try:
            if step <= out.put_step:
                out.check_step(step, self._offset)
            cells = self._open()
        except Exception as error:
            raise_naming(error, out.name, step, out.rank)
        out.open_blocks += 1
        return cells

    def _open(self) -> Cells:
        path, out, step = self._path, self._out, self._step
        fast = out.fast
        if fast is not None and self._offset is None and step in out.wanted:
            taken = path.take_fast(out, fast, step, in_place=True)
            if taken is not None:
                self._fast, (self._slot, self._connection) = fast, taken
                return self._slot.whole  # type: ignore[return-value]
        shape, dtype = out.block_shape(self._offset, step), out.dtype
        if dtype is None:
            raise BridgeError(f"array {out.name!r} cannot be computed in place; use put")
        if step in out.wanted:
            plan = out.plan_at(self._offset, step)
            if plan is not None:
                self._plan, self._t = plan, (step - out.first) // out.every
                if self._admit() and self._pieces:
                    nbytes = prod(shape) * dtype.itemsize
                    self._slot = path.slot(out, step, nbytes)
        if self._slot is not None:
            self._cells = self._slot.block(shape, dtype)
        else:
            self._cells = path.scratch.take(out.name, shape, dtype)
        return self._cells

    def _admit(self) -> bool:
        """Wait until the pieces may be sent; return whether they may."""
        found = self._path.delivery.admit(self._out, self._plan.at, self._t)
        self._pieces, self._connections, admitted = found
        return admitted

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        out = self._out
        out.open_blocks -= 1
        try:
            self._leave(error)
        except Exception as failure:
            raise_naming(failure, out.name, self._step, out.rank)

    def _leave(self, error: BaseException | None) -> None:
        path, out, slot = self._path, self._out, self._slot
        if slot is None:
            if error is None:
                path.put(out, self._step, self._cells, self._offset)
            path.scratch.give_back(out.name, self._cells)
            return
        if error is not None:
            path.unused(out, slot)
            return
        if self._step <= out.put_step:  # others may have been put since this one was opened
            try:
                out.check_step(self._step, self._offset)
            except BaseException:
                path.unused(out, slot)
                raise
        out.mark_step(self._step, self._offset)
        if self._step != path.steps.current:
            path.steps.begin(self._step)
        if self._fast is not None:
            path.send_fast(out, self._fast, self._step, slot, self._connection)
        else:
            self._send(slot)

    def _send(self, slot: Slot) -> None:
        path, out, plan = self._path, self._out, self._plan
        if not out.block_announced:
            path.announce_block(out, plan)
        # Credit was given on entering; only the death of a receiver makes it void.
        admitted = path.delivery.may_still_send(self._connections) or self._admit()
        itemsize = self._cells.itemsize
        wanted = sum(piece.cells for piece in self._pieces) * itemsize
        out.account.skipped_bytes += plan.size * itemsize - wanted
        if plan is not out.fixed:
            out.note(self._t, self._pieces)
        elif out.has_fast_path and out.fast is None:
            path.shorten(out, plan)
        if not admitted:
            path.unused(out, slot)
            path.account_unsent(out, self._step, self._pieces, wanted)
            return
        stored = [
            Stored(out.ordinal, self._t, piece, slot.part(i, out.ordinal, piece))
            for i, piece in enumerate(self._pieces)
        ]
        path.publish(out, self._step, self._t, plan.at, slot, stored, self._connections, wanted)
