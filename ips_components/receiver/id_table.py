"""Chunks of an array that is indexed by ids: which rank put which id, and which ids no rank put."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from ips_components.errors import ProtocolError
from ips_components.model.by_id import POSITION, row_bytes, some
from ips_components.model.contract import ArrayContract
from ips_components.receiver.coverage import ChunkSpoilt

Array: TypeAlias = np.ndarray[Any, Any]
_NOT_WANTED, _NOBODY = -2, -1


class IdTable:
    """The owner of each id of one chunk, step by step.

    Parameters
    ----------
    contract
        Agreement on the array.
    chunk
        Number of the chunk.

    Notes
    -----
    The lock of the chunk's buffer guards it.
    """

    def __init__(self, contract: ArrayContract, chunk: int) -> None:
        self.contract, self.chunk = contract, chunk
        held = contract.chunk_selection(chunk)
        self._time, self._ids, *_ = held.dims
        self._columns = held.count[2:]
        self._row_bytes = row_bytes(self._columns, contract.spec.itemsize)
        self._owners = np.full((self._time.count, self._ids.count), _NOT_WANTED, np.int32)
        box = contract.layout.box(chunk)
        for part in contract.wanted:
            common = part.intersect(box)
            if common is not None:
                self._owners[common.within(held).to_slices()[:2]] = _NOBODY
        self._missing = int(np.count_nonzero(self._owners == _NOBODY))

    def put(self, rank: int, time: int, sent: Array, buffer: Array) -> None:
        """Take a rank's rows of one step into the chunk.

        Parameters
        ----------
        rank, time
            The rank that sent them, and the position of the step in the chunk.
        sent
            Bytes: the cells of all rows, then their positions.
        buffer
            The chunk.

        Raises
        ------
        ChunkSpoilt
            When another rank has put one of the ids, and no rule says whose it is.
        ProtocolError
            When a position is not one that was agreed.
        """
        n = sent.size // self._row_bytes
        if not n:
            return
        data = sent.reshape(-1)
        rows = np.ndarray((n, *self._columns), self.contract.dtype, data.data)
        at = np.ndarray((n,), POSITION, data.data, sent.size - n * POSITION.itemsize).astype(int)
        owners = self._owners[time]
        if at[-1] >= len(owners) or (np.diff(at) <= 0).any():
            raise ProtocolError(f"{self._where(time)}: rank {rank} sent positions out of order")
        before = owners[at]
        if (before == _NOT_WANTED).any():
            raise ProtocolError(
                f"{self._where(time)}: rank {rank} sent ids that are not in the contract"
            )
        others = (before != _NOBODY) & (before != rank)
        rule = self.contract.spec.ids
        if rule == "unique" and others.any():
            other = int(before[others][0])
            shared = at[others & (before == other)]
            raise ChunkSpoilt(
                f"{self._where(time)}: rank {other} and rank {rank} both put ids "
                f"{some(self._id(shared))}; give each id to one rank, or describe the array with "
                "an owner of shared ids (shared='low': the lowest rank that has it)"
            )
        self._missing -= int(np.count_nonzero(before == _NOBODY))
        if others.any():
            mine = ~others | ((rank < before) if rule == "low" else (rank > before))
            at, rows = at[mine], rows[mine]
        buffer[time, at] = rows
        owners[at] = rank

    def forget(self, time: int) -> None:
        """Forget what came of one step: it will be put again."""
        owned = self._owners[time] >= 0
        self._missing += int(np.count_nonzero(owned))
        self._owners[time, owned] = _NOBODY

    def check(self, size: int) -> None:
        """Check, when all of ``size`` ranks have answered, that every id came.

        Raises
        ------
        ChunkSpoilt
            Naming the ids that no rank put.
        """
        if not self._missing:
            return
        missing = self._owners == _NOBODY
        time = int(missing.any(axis=1).argmax())
        ids = self._id(np.flatnonzero(missing[time]))
        raise ChunkSpoilt(
            f"{self._where(time)}: no rank of {size} put ids {some(ids)}; the ids of all ranks "
            f"together must be 0 to {self.contract.spec.shape[0] - 1}"
        )

    def _id(self, positions: Any) -> Any:
        return self._ids.start + positions * self._ids.step

    def _where(self, time: int) -> str:
        index = self._time.start + time * self._time.step
        step = self.contract.spec.steps.step(index)
        return f"array {self.contract.spec.name!r} at step {step}"
