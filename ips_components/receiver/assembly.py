"""Chunks under way: where pieces belong, and what is missing.

No I/O and no Dask. A connection claims the place of a piece with `ChunkAssembler.begin` and commits
the claim when the cells are there. Which chunks are expected is decided by `RowAdmission`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from math import prod

import numpy as np

from ips_components.errors import ProtocolError
from ips_components.model.contract import Contract
from ips_components.model.placement import Placement
from ips_components.receiver.admission import Array, ArrayAdmission, PartialChunk
from ips_components.receiver.buffers import BufferPool, on_last_view
from ips_components.receiver.claims import (
    Claim,
    CompleteChunk,
    box_text,
    claim_box,
    join_rows,
    place_in_chunk,
    shape_of_ids,
    shape_of_rows,
)
from ips_components.receiver.id_table import IdTable
from ips_components.receiver.rows import RowAdmission
from ips_components.wire.messages import Piece


class ChunkAssembler:
    """All chunks of one receiver, and the bytes that they take.

    Parameters
    ----------
    pool
        Memory for chunks.
    budget
        Bytes that chunks may take: those being assembled and those that Dask still holds.
    released
        Called with a number of bytes, from any thread at any moment, when they became free; the
        owner then calls `freed` and `admit` from a thread of its own.

    Notes
    -----
    Safe from any thread. One lock guards all fields, those of the `RowAdmission` included; it is
    held for bookkeeping only, never while cells are copied or cleared.
    """

    def __init__(self, pool: BufferPool, budget: int, released: Callable[[int], None]) -> None:
        self.pool = pool
        self._released = released
        self._lock = threading.Lock()
        self._rows = RowAdmission(budget)

    # -- what is expected ----------------------------------------------------------------------

    def set_contract(
        self, contract: Contract, receiver: int, size: int | None, first_step: int = 0
    ) -> None:
        """Begin to expect the contract's chunks from ``size`` ranks (None: not known yet)."""
        with self._lock:
            self._rows.set_contract(contract, receiver, size, first_step)

    def set_horizon(self, rows: Mapping[int, int]) -> None:
        """Bound the rows that may come, by array; what is declared later comes later."""
        with self._lock:
            self._rows.set_horizon(rows)

    def set_size(self, size: int) -> None:
        """Set the number of ranks (ragged chunks are complete when all of theirs came)."""
        with self._lock:
            self._rows.set_size(size)

    def set_placement(
        self,
        placements: Mapping[int, Placement],
        again: Iterable[tuple[int, int]],
        rows: Mapping[int, tuple[int, int]] | None = None,
        skip: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Follow new placements.

        Parameters
        ----------
        placements
            New placement per array ordinal.
        again
            (array, chunk) of chunks of this receiver that ranks must send (again).
        rows
            By array: nothing of the rows below the first number is on its way here, nothing of
            the rows from the second on has been sent to any receiver.
        skip
            Chunks that are new here and had arrived elsewhere.
        """
        with self._lock:
            self._rows.set_placement(placements, again, rows or {}, skip)

    def admit(self) -> list[tuple[int, int]]:
        """Admit what fits; return the chunks that ranks must be asked for again.

        Watermarks are read with `watermarks` afterwards.
        """
        with self._lock:
            return self._rows.admit()

    def pop_empty_chunks(self) -> list[CompleteChunk]:
        """Return the chunks that are complete without any rank, each once."""
        with self._lock:
            empty = self._rows.pop_empty()
        return [self._seal(array, partial, None) for array, partial in empty]

    def watermarks(self) -> list[int]:
        """Return, per array, the row below which pieces are welcome."""
        with self._lock:
            return [array.watermark for array in self._rows.arrays]

    # -- pieces --------------------------------------------------------------------------------

    def begin(self, rank: int, piece: Piece) -> Claim | None:
        """Return the place of a piece, to be filled and committed; None: it is not needed.

        Raises
        ------
        BlocksOverlap
            When another rank has cells of the piece.
        ProtocolError
            When the piece does not fit its chunk, or no credit was given for it.
        """
        with self._lock:
            array, partial = self._rows.find(piece.array, piece.chunk)
            if partial is None:
                return None
            where: tuple[slice, ...] | None = None
            full, dtype = True, array.contract.dtype
            if array.contract.spec.ids:
                shape, dtype = shape_of_ids(array, rank, piece), np.dtype(np.uint8)
                if (rank, piece.dst[0][0]) in partial.answered:
                    return None
            elif array.contract.spec.ragged:
                if rank in partial.rows:
                    return None
                size = self._rows.size or 1
                shape = shape_of_rows(array, rank, piece, size=size, budget=self._rows.budget)
            else:
                made_of = array.size_of(piece.chunk)
                shape, full = made_of.shape, made_of.full
                where = place_in_chunk(array.contract, piece, shape)
                claim_box(array, partial, rank, piece.dst)
                if piece.dst in partial.committed:
                    return None
        # Memory is taken, and cleared where ranks do not fill it, without the assembler's lock.
        if where is None:
            cells = self.pool.array(shape, dtype)
        else:
            with partial.buffer_lock:
                buffer = partial.buffer
                if buffer is None:
                    buffer = self.pool.array(shape, dtype, zeroed=not full)
                    partial.buffer = buffer
            cells = buffer[where]
        return Claim(array, partial, rank, piece.dst, cells)

    def adopt_slot(self, piece: Piece, value: Array) -> CompleteChunk | None:
        """Take an array that is a whole chunk (it lies in shared memory); None: it is not.

        Raises
        ------
        ProtocolError
            As `begin` does.
        """
        with self._lock:
            array, partial = self._rows.find(piece.array, piece.chunk)
            spec = array.contract.spec
            if partial is None or len(partial.coverage) or spec.ragged or spec.ids:
                return None
            made_of = array.size_of(piece.chunk)
            shape, full = made_of.shape, made_of.full
            if not full or value.shape != shape:
                return None
            place_in_chunk(array.contract, piece, shape)
            self._rows.finish(array, partial, value.nbytes)
        return self._seal(array, partial, value)

    def commit(self, claim: Claim) -> CompleteChunk | None:
        """Note that the cells of a claim are there; return the chunk if that completes it."""
        array, partial = claim.array, claim.partial
        if array.contract.spec.ids:
            return self._commit_ids(array, partial, claim.rank, claim.box[0][0], claim.cells)
        with self._lock:
            if array.open.get(partial.chunk) is not partial:
                return None  # complete by another claim, given up, or placed elsewhere
            if array.contract.spec.ragged:
                complete = self._add_rows(array, partial, claim.rank, claim.cells)
            else:
                complete = self._add_cells(array, partial, claim)
            if not complete:
                return None
            value, partial.buffer = partial.buffer, None
        return self._seal(array, partial, value)

    def abandon(self, claim: Claim) -> None:
        """Give up a claim whose cells did not come: its connection has ended."""
        with self._lock:
            if claim.box not in claim.partial.committed:
                claim.partial.coverage.withdraw(claim.box)

    def no_rows(self, rank: int, ordinal: int, chunk: int, t: int) -> CompleteChunk | None:
        """Note that a rank has no rows of a chunk that is ragged, or of a step by ids.

        Returns the chunk if that completes it.
        """
        with self._lock:
            array, partial = self._rows.find(ordinal, chunk)
            spec = array.contract.spec
            if not (spec.ragged or spec.ids):
                raise ProtocolError(f"array {array.name!r} is not ragged")
            complete = spec.ragged and partial and self._add_rows(array, partial, rank, None)
        if spec.ids:
            times = array.contract.chunk_selection(chunk).dims[0]
            if t not in times:
                raise ProtocolError(f"array {array.name!r}: chunk {chunk} has no time {t}")
            time = (t - times.start) // times.step
            return self._commit_ids(array, partial, rank, time, None) if partial else None
        return self._seal(array, partial, None) if partial and complete else None

    def give_up(self, ordinal: int, chunk: int) -> bool:
        """Expect a chunk no longer; return whether it was expected."""
        with self._lock:
            expected = self._rows.give_up(ordinal, chunk)
        if expected:
            self._released(0)  # what was reserved for it may admit a row
        return expected

    def begin_launch(self, size: int, first_step: int) -> None:
        """Expect another launch of the simulation, which goes on at a step.

        Parts of that step and of later ones that an earlier launch sent are forgotten, where their
        chunk is not complete: the launch sends them again.
        """
        with self._lock:
            self._rows.size = size
            for array in self._rows.arrays:
                for partial in array.open.values():
                    _forget_from(array, partial, first_step)

    def row(self, ordinal: int, chunk: int) -> int:
        """Return the row of a chunk."""
        return chunk // self._rows.array(ordinal).n_space

    # -- numbers -------------------------------------------------------------------------------

    @property
    def budget(self) -> int:
        """Bytes that chunks may take."""
        return self._rows.budget

    @property
    def reserved(self) -> int:
        """Bytes of admitted, incomplete chunks."""
        return self._rows.reserved

    @property
    def held(self) -> int:
        """Bytes of complete chunks that are still in use."""
        return self._rows.held

    @property
    def completed(self) -> int:
        """Number of chunks that were completed."""
        return self._rows.completed

    @property
    def blocked(self) -> bool:
        """Whether a row waits for room."""
        return self._rows.blocked

    @property
    def needed(self) -> int:
        """Bytes of the row that waits."""
        return self._rows.needed

    def asked(self) -> list[tuple[int, int]]:
        """Return the chunks that were requested again and are not complete."""
        with self._lock:
            return self._rows.asked()

    def freed(self, nbytes: int) -> None:
        """Note that views of complete chunks died (called by the owner's thread)."""
        with self._lock:
            self._rows.held -= nbytes

    def oldest(self) -> list[tuple[int, int, list[tuple[int, int]]]]:
        """Return, by array, the oldest incomplete chunk, and what of it has come.

        Returns
        -------
        list of (array, chunk, came)
            ``came`` has (rank, time index within the chunk) of all pieces, and of ranks that said
            that they have no rows.
        """
        with self._lock:
            return [
                (array.ordinal, chunk, array.open[chunk].came())
                for array in self._rows.arrays
                if (chunk := min(array.open, default=None)) is not None
            ]

    def open_chunks(self) -> int:
        """Return the number of admitted chunks that are not complete."""
        with self._lock:
            return self._rows.open_chunks()

    # -- internals -----------------------------------------------------------------------------

    def _commit_ids(
        self, array: ArrayAdmission, partial: PartialChunk, rank: int, time: int, sent: Array | None
    ) -> CompleteChunk | None:
        """Take a rank's rows of a step by ids, or that it has none; return the chunk if complete.

        Raises
        ------
        ChunkSpoilt
            When an id has two owners, or none although all ranks have answered.
        """
        with self._lock:
            made_of = array.size_of(partial.chunk)
        # The rows go to their places, and are compared with those of others, without this lock.
        with partial.buffer_lock:
            table = partial.table
            if table is None:
                table = partial.table = IdTable(array.contract, partial.chunk)
                shape, zeroed = made_of.shape, not made_of.full
                partial.buffer = self.pool.array(shape, array.contract.dtype, zeroed=zeroed)
            if sent is not None and partial.buffer is not None:
                table.put(rank, time, sent, partial.buffer)
        with self._lock:
            if array.open.get(partial.chunk) is not partial or (rank, time) in partial.answered:
                return None
            partial.answered.add((rank, time))
            partial.missing -= 1
            if partial.missing or partial.buffer is None:
                return None
            table.check(self._rows.size or 1)
            value, partial.buffer = partial.buffer, None
            self._rows.finish(array, partial, value.nbytes)
        return self._seal(array, partial, value)

    def _add_cells(self, array: ArrayAdmission, partial: PartialChunk, claim: Claim) -> bool:
        """Count the cells of a claim; return whether the chunk is complete (lock held)."""
        if claim.box in partial.committed:
            return False
        claim_box(array, partial, claim.rank, claim.box)
        partial.committed.add(claim.box)
        partial.missing -= claim.cells.size
        if partial.missing < 0:
            raise ProtocolError(
                f"array {array.name!r}, chunk {partial.chunk}: ranks sent {-partial.missing} cells "
                f"more than were agreed, the last ones, {box_text(claim.box)}, "
                f"by rank {claim.rank}"
            )
        if partial.missing or partial.buffer is None:
            return False
        self._rows.finish(array, partial, partial.buffer.nbytes)
        return True

    def _add_rows(
        self, array: ArrayAdmission, partial: PartialChunk, rank: int, rows: Array | None
    ) -> bool:
        """Add a rank's rows; return whether the chunk is complete (lock held)."""
        if rank in partial.rows:
            return False
        partial.rows[rank] = rows
        partial.missing -= 1
        if partial.missing:
            return False
        nbytes = sum(part.nbytes for part in partial.rows.values() if part is not None)
        self._rows.finish(array, partial, nbytes)
        return True

    def _seal(
        self, array: ArrayAdmission, partial: PartialChunk, value: Array | None
    ) -> CompleteChunk:
        """Return a complete chunk, read-only; without the lock, as rows may have to be joined."""
        if value is None:
            value = join_rows(array, partial, self.pool)
        nbytes = value.nbytes
        released = self._released
        on_last_view(value, lambda: released(nbytes))
        # An array over a read-only view of the memory cannot be made writable again.
        cells = value.reshape(-1).view(np.uint8).data.toreadonly()
        final: Array = np.frombuffer(cells, value.dtype).reshape(value.shape) if nbytes else value
        return CompleteChunk(array.ordinal, partial.chunk, final, nbytes)


def _forget_from(array: ArrayAdmission, partial: PartialChunk, step: int) -> None:
    """Forget what of a step and of later ones has come of a chunk."""
    axis = array.contract.spec.steps
    times = array.contract.chunk_selection(partial.chunk).dims[0]
    if array.contract.spec.ragged:
        if axis.step(times.start) >= step:
            partial.missing += len(partial.rows)
            partial.rows.clear()
        return
    if array.contract.spec.ids:
        again = {
            (rank, time)
            for rank, time in partial.answered
            if axis.step(times.start + time * times.step) >= step
        }
        partial.answered -= again
        partial.missing += len(again)
        if partial.table is not None:
            for time in {time for _, time in again}:
                partial.table.forget(time)
        return
    for box in list(partial.committed):
        if axis.step(times.start + box[0][0] * times.step) >= step:
            partial.committed.discard(box)
            partial.coverage.withdraw(box)
            partial.missing += prod(count for _, count, _ in box)
