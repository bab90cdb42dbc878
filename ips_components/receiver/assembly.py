"""Chunks under way: where pieces belong, what is missing, and how much memory chunks may take.

No I/O and no Dask. A connection claims the place of a piece with `ChunkAssembler.begin` and commits
the claim when the cells are there. Admission is by *rows* (chunks of one time index of one array):
a row is admitted when the budget has room for all of this receiver's chunks in it, the oldest
simulation step first. Every rank gets the same watermark, so that a piece is welcome exactly when
memory is reserved for its chunk. No rank can starve another, and the oldest incomplete step always
has what it needs.

A row larger than the budget passes when nothing else is held. A chunk that is requested again (its
worker died) passes in any case, one such row at a time: the steps that wait for it cannot leave
memory before it came.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from ips_components.errors import ProtocolError
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.placement import Placement
from ips_components.receiver.admission import Array, ArrayAdmission, PartialChunk
from ips_components.receiver.buffers import BufferPool, on_last_view
from ips_components.wire.messages import Axes, Piece

MAX_OPEN = 4096
"""Chunks that are expected at a time, at least all of one step; more would only cost time."""


_NO_CELLS: Array = np.empty(0)


class BlocksOverlap(ProtocolError):
    """The blocks of two ranks have cells in common, so that their chunk cannot be right."""


@dataclass(frozen=True, slots=True)
class CompleteChunk:
    """A chunk that is ready to be handed over."""

    array: int
    chunk: int
    value: Array
    nbytes: int


class Claim:
    """The place of one piece, for one connection, from `ChunkAssembler.begin` to its commit.

    Only the claim's own cells are committed: where a rank has reconnected in the middle of a
    piece, the claim of the earlier connection does not stand for that of the later one.
    """

    __slots__ = ("array", "box", "cells", "partial", "rank")

    def __init__(
        self, array: ArrayAdmission, partial: PartialChunk, rank: int, box: Axes, cells: Array
    ) -> None:
        self.array = array
        self.partial = partial
        self.rank = rank
        self.box = box
        self.cells = cells

    def clear(self) -> None:
        """Drop the view of the cells, so that the chunk belongs to its consumers alone."""
        self.cells = _NO_CELLS


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
    Safe from any thread. One lock guards all fields; it is held for bookkeeping only, never while
    cells are copied or cleared.
    """

    def __init__(self, pool: BufferPool, budget: int, released: Callable[[int], None]) -> None:
        self.pool = pool
        self.budget = budget
        self._released = released
        self._lock = threading.Lock()
        self._arrays: list[ArrayAdmission] = []
        self._horizons: dict[int, int] = {}
        self._size: int | None = None  # ranks, when it is known
        self._empty: list[CompleteChunk] = []  # ragged chunks to which no rank contributes
        self._again: list[tuple[int, int, int]] = []  # heap of (step, array, chunk)
        self._overdraft: set[tuple[int, int]] = set()
        self._newest: int | None = None  # step of the row that was admitted last
        self.reserved = 0  # bytes of admitted, incomplete chunks
        self.held = 0  # bytes of complete chunks with a living view
        self.completed = 0
        self.blocked = False  # a row waits for room
        self.needed = 0  # bytes of that row

    # -- what is expected ----------------------------------------------------------------------

    def set_contract(self, contract: Contract, receiver: int, size: int | None) -> None:
        """Begin to expect the contract's chunks from ``size`` ranks (None: not known yet)."""
        with self._lock:
            self._size = size
            self._arrays = [
                ArrayAdmission(i, array, receiver) for i, array in enumerate(contract.arrays)
            ]
        self.set_horizon({})

    def set_horizon(self, rows: Mapping[int, int]) -> None:
        """Bound the rows that may come, by array; what is declared later comes later."""
        with self._lock:
            self._horizons.update(rows)
            for array in self._arrays:
                array.horizon = min(self._horizons.get(array.ordinal, array.horizon), array.end)

    def set_size(self, size: int) -> None:
        """Set the number of ranks (ragged chunks are complete when all of theirs came).

        Rows that were admitted before learn it here; no rank can have sent any of them yet.
        """
        with self._lock:
            self._size = size
            for array in self._arrays:
                if array.contract.spec.ragged:
                    for partial in list(array.open.values()):
                        partial.missing = len(array.contributors(partial.chunk, size))
                        self._complete_empty(array, partial)

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
            for ordinal, placement in placements.items():
                array = self._arrays[ordinal]
                before = sum(partial.nbytes for partial in array.open.values())
                welcome = array.place(placement, *(rows or {}).get(ordinal, (0, array.end)))
                self.reserved -= before - sum(p.nbytes for p in array.open.values())
                self._overdraft = {
                    o for o in self._overdraft if o[0] != ordinal or o[1] in array.open
                }
                for chunk in welcome:
                    self._expect(array, chunk)
            for ordinal, chunk in skip:
                self._arrays[ordinal].skip.add(chunk)
            for ordinal, chunk in again:
                array = self._arrays[ordinal]
                array.skip.discard(chunk)
                if chunk in array.again or chunk in array.open:
                    continue
                array.again.add(chunk)
                row = chunk // array.n_space
                if row < array.watermark:  # later rows are admitted, and requested, in their turn
                    heapq.heappush(self._again, (array.step(row), ordinal, chunk))

    # -- admission -----------------------------------------------------------------------------

    def admit(self) -> list[tuple[int, int]]:
        """Admit what fits; return the chunks that ranks must be asked for again.

        Watermarks are read with `watermarks` afterwards.
        """
        with self._lock:
            requests = self._admit_again()
            while (found := self._next_row()) is not None:
                array, row, chunks = found
                if not self._fits(array, row, chunks):
                    break
                self._newest = array.step(row)
                for chunk in array.admit(row):
                    self._expect(array, chunk)
                    if chunk in array.again:
                        requests.append(self._request(array, chunk))
        return requests

    def _admit_again(self) -> list[tuple[int, int]]:
        """Admit chunks of earlier rows that were lost, in excess of the budget one at a time."""
        requests = []
        while self._again and not self._overdraft:
            _, ordinal, chunk = heapq.heappop(self._again)
            array = self._arrays[ordinal]
            if chunk in array.again:
                self._expect(array, chunk)
                if self.reserved + self.held > self.budget:
                    self._overdraft.add((ordinal, chunk))
                requests.append(self._request(array, chunk))
        return requests

    def _next_row(self) -> tuple[ArrayAdmission, int, list[int]] | None:
        """Return the row of the oldest step that is not admitted."""
        ahead = [(array, next_) for array in self._arrays if (next_ := array.next_row())]
        if not ahead:
            self.blocked = False
            return None
        array, (row, chunks) = min(ahead, key=lambda a: (a[0].step(a[1][0]), a[0].ordinal))
        return array, row, chunks

    def _fits(self, array: ArrayAdmission, row: int, chunks: list[int]) -> bool:
        """Return whether a row may be admitted now; note what it needs if memory is short."""
        self.blocked = False
        if array.step(row) != self._newest and self._n_open() >= MAX_OPEN:
            return False
        need = array.bytes_of_row(chunks)
        used = self.reserved + self.held
        # A ragged row of unknown size goes alone, until the first one has shown the size.
        alone = array.contract.spec.ragged and not array.ragged_bytes and array.open
        if (used and used + need > self.budget) or alone:
            self.blocked, self.needed = True, need
            return False
        return True

    def _request(self, array: ArrayAdmission, chunk: int) -> tuple[int, int]:
        array.again.discard(chunk)
        array.asked.add(chunk)
        return array.ordinal, chunk

    def _expect(self, array: ArrayAdmission, chunk: int) -> None:
        if chunk in array.open:
            return
        partial = array.expect(chunk, self._size or 1)
        self.reserved += partial.nbytes
        if self._size is not None:
            self._complete_empty(array, partial)

    def _complete_empty(self, array: ArrayAdmission, partial: PartialChunk) -> None:
        """Complete a ragged chunk to which no rank contributes: there are more parts than ranks."""
        if array.contract.spec.ragged and not partial.missing:
            self._close(array, partial, 0)
            self._empty.append(self._seal(array, partial, None))

    def pop_empty_chunks(self) -> list[CompleteChunk]:
        """Return the chunks that are complete without any rank, each once."""
        with self._lock:
            empty, self._empty = self._empty, []
        return empty

    def watermarks(self) -> list[int]:
        """Return, per array, the row below which pieces are welcome."""
        with self._lock:
            return [array.watermark for array in self._arrays]

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
            array, partial = self._find(piece.array, piece.chunk)
            if partial is None:
                return None
            where: tuple[slice, ...] | None = None
            full = True
            if array.contract.spec.ragged:
                if rank in partial.rows:
                    return None
                shape = self._check_rows(array, rank, piece)
            else:
                shape, _, _, full = array.size_of(piece.chunk)
                where = _check_fit(array.contract, piece, shape)
                self._claim(array, partial, rank, piece.dst)
                if piece.dst in partial.committed:
                    return None
        # Memory is taken, and cleared where ranks do not fill it, without the assembler's lock.
        if where is None:
            cells = self.pool.array(shape, array.contract.dtype)
        else:
            with partial.buffer_lock:
                buffer = partial.buffer
                if buffer is None:
                    buffer = self.pool.array(shape, array.contract.dtype, zeroed=not full)
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
            array, partial = self._find(piece.array, piece.chunk)
            if partial is None or len(partial.coverage) or array.contract.spec.ragged:
                return None
            shape, _, _, full = array.size_of(piece.chunk)
            if not full or value.shape != shape:
                return None
            _check_fit(array.contract, piece, shape)
            self._close(array, partial, value.nbytes)
        return self._seal(array, partial, value)

    def commit(self, claim: Claim) -> CompleteChunk | None:
        """Note that the cells of a claim are there; return the chunk if that completes it."""
        array, partial = claim.array, claim.partial
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

    def no_rows(self, rank: int, ordinal: int, chunk: int) -> CompleteChunk | None:
        """Note that a rank has no rows of a ragged chunk; return it if that completes it."""
        with self._lock:
            array, partial = self._find(ordinal, chunk)
            if not array.contract.spec.ragged:
                raise ProtocolError(f"array {array.name!r} is not ragged")
            if partial is None or not self._add_rows(array, partial, rank, None):
                return None
        return self._seal(array, partial, None)

    def give_up(self, ordinal: int, chunk: int) -> bool:
        """Expect a chunk no longer; return whether it was expected."""
        with self._lock:
            array = self._array(ordinal)
            array.again.discard(chunk)
            array.asked.discard(chunk)
            partial = array.open.pop(chunk, None)
            self._overdraft.discard((ordinal, chunk))
            if partial is None:
                if chunk // array.n_space < array.watermark or chunk in array.skip:
                    return False
                array.skip.add(chunk)
                return True
            self.reserved -= partial.nbytes
        self._released(0)
        return True

    def begin_launch(self, size: int, first_step: int) -> None:
        """Expect another launch of the simulation, which goes on at a step.

        Parts of that step and of later ones that an earlier launch sent are forgotten, where their
        chunk is not complete: the launch sends them again.
        """
        with self._lock:
            self._size = size
            for array in self._arrays:
                for partial in array.open.values():
                    self._forget_from(array, partial, first_step)

    def _forget_from(self, array: ArrayAdmission, partial: PartialChunk, step: int) -> None:
        axis = array.contract.spec.steps
        times = array.contract.chunk_selection(partial.chunk).dims[0]
        if array.contract.spec.ragged:
            if axis.step(times.start) >= step:
                partial.missing += len(partial.rows)
                partial.rows.clear()
            return
        for box in list(partial.committed):
            if axis.step(times.start + box[0][0] * times.step) >= step:
                partial.committed.discard(box)
                partial.coverage.withdraw(box)
                partial.missing += prod(count for _, count, _ in box)

    def row(self, ordinal: int, chunk: int) -> int:
        """Return the row of a chunk."""
        return chunk // self._array(ordinal).n_space

    # -- numbers -------------------------------------------------------------------------------

    def asked(self) -> list[tuple[int, int]]:
        """Return the chunks that were requested again and are not complete."""
        with self._lock:
            return [(array.ordinal, chunk) for array in self._arrays for chunk in array.asked]

    def freed(self, nbytes: int) -> None:
        """Note that views of complete chunks died (called by the owner's thread)."""
        with self._lock:
            self.held -= nbytes

    def open_chunks(self) -> int:
        """Return the number of admitted chunks that are not complete."""
        with self._lock:
            return self._n_open()

    # -- internals (the lock is held) ----------------------------------------------------------

    def _n_open(self) -> int:
        return sum(len(array.open) for array in self._arrays)

    def _array(self, ordinal: int) -> ArrayAdmission:
        if ordinal >= len(self._arrays):
            raise ProtocolError(
                f"array number {ordinal} is not in the contract of {len(self._arrays)} arrays"
            )
        return self._arrays[ordinal]

    def _find(self, ordinal: int, chunk: int) -> tuple[ArrayAdmission, PartialChunk | None]:
        array = self._array(ordinal)
        partial = array.open.get(chunk)
        if partial is None and chunk // array.n_space >= array.watermark:
            raise ProtocolError(
                f"array {array.name!r}: chunk {chunk} was sent without credit "
                f"(rows below {array.watermark} have it)"
            )
        return array, partial

    def _claim(self, array: ArrayAdmission, partial: PartialChunk, rank: int, box: Axes) -> None:
        overlap = partial.coverage.claim(rank, box)
        if overlap is not None:
            raise BlocksOverlap(
                f"array {array.name!r}, chunk {partial.chunk}: the blocks of rank {overlap.rank} "
                f"and rank {rank} overlap: {_text(overlap.box)} and {_text(box)} of the chunk; "
                "each cell must be put by one rank, without halo: check offsets and shapes"
            )

    def _check_rows(self, array: ArrayAdmission, rank: int, piece: Piece) -> tuple[int, ...]:
        """Return the shape of a rank's rows of a ragged chunk."""
        columns = array.contract.chunk_shape(piece.chunk)[2:]
        ranks = array.contributors(piece.chunk, self._size or 1)
        shape = piece.shape
        if rank not in ranks or shape[0] != 1 or shape[2:] != columns or len(shape) < 2:
            raise ProtocolError(
                f"array {array.name!r}, chunk {piece.chunk}: rank {rank} sent rows of shape "
                f"{shape}, expected (1, rows, {columns}) from ranks {ranks}"
            )
        nbytes = shape[1] * max(1, prod(columns)) * array.contract.spec.itemsize
        if nbytes > max(self.budget, 1 << 20):
            raise ProtocolError(
                f"array {array.name!r}, chunk {piece.chunk}: {shape[1]} rows of one rank exceed "
                f"the receiver's budget of {self.budget} bytes"
            )
        return (1, shape[1], *columns)

    def _add_cells(self, array: ArrayAdmission, partial: PartialChunk, claim: Claim) -> bool:
        """Count the cells of a claim; return whether the chunk is complete, and close it then."""
        if claim.box in partial.committed:
            return False
        self._claim(array, partial, claim.rank, claim.box)
        partial.committed.add(claim.box)
        partial.missing -= claim.cells.size
        if partial.missing < 0:
            raise ProtocolError(
                f"array {array.name!r}, chunk {partial.chunk}: ranks sent {-partial.missing} cells "
                f"more than were agreed, the last ones, {_text(claim.box)}, by rank {claim.rank}"
            )
        if partial.missing or partial.buffer is None:
            return False
        self._close(array, partial, partial.buffer.nbytes)
        return True

    def _add_rows(
        self, array: ArrayAdmission, partial: PartialChunk, rank: int, rows: Array | None
    ) -> bool:
        """Add a rank's rows; return whether the chunk is complete, and close it then."""
        if rank in partial.rows:
            return False
        partial.rows[rank] = rows
        partial.missing -= 1
        if partial.missing:
            return False
        self._close(array, partial, sum(r.nbytes for r in partial.rows.values() if r is not None))
        return True

    def _close(self, array: ArrayAdmission, partial: PartialChunk, nbytes: int) -> None:
        """Account for a chunk that is complete."""
        array.finish(partial)
        self._overdraft.discard((array.ordinal, partial.chunk))
        self.reserved -= partial.nbytes
        if array.contract.spec.ragged:
            array.ragged_bytes = max(array.ragged_bytes, nbytes, 1)
        self.held += nbytes
        self.completed += 1

    def _seal(
        self, array: ArrayAdmission, partial: PartialChunk, value: Array | None
    ) -> CompleteChunk:
        """Return a closed chunk, read-only; without the lock, since rows may have to be joined."""
        if value is None:
            value = self._join(array, partial)
        nbytes = value.nbytes
        released = self._released
        on_last_view(value, lambda: released(nbytes))
        # An array over a read-only view of the memory cannot be made writable again.
        cells = value.reshape(-1).view(np.uint8).data.toreadonly()
        final: Array = np.frombuffer(cells, value.dtype).reshape(value.shape) if nbytes else value
        return CompleteChunk(array.ordinal, partial.chunk, final, nbytes)

    def _join(self, array: ArrayAdmission, partial: PartialChunk) -> Array:
        """Return the rows of all ranks, in rank order."""
        parts = [rows for _, rows in sorted(partial.rows.items()) if rows is not None]
        columns = array.contract.chunk_shape(partial.chunk)[2:]
        shape = (1, sum(part.shape[1] for part in parts), *columns)
        value = self.pool.array(shape, array.contract.dtype)
        at = 0
        for part in parts:
            value[:, at : at + part.shape[1]] = part
            at += part.shape[1]
        return value


def _check_fit(contract: ArrayContract, piece: Piece, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the piece's place in its chunk as slices."""
    where = []
    if len(piece.dst) == len(shape) and piece.dst[0][1] == 1:
        for (start, count, step), n in zip(piece.dst, shape, strict=True):
            if count < 1 or step < 1 or start + (count - 1) * step >= n:
                break
            where.append(slice(start, start + (count - 1) * step + 1, step))
    if len(where) != len(shape):
        raise ProtocolError(
            f"array {contract.spec.name!r}, chunk {piece.chunk}: a piece of one step at "
            f"{piece.dst} is outside the chunk's shape {shape}"
        )
    return tuple(where)


def _text(box: Axes) -> str:
    """Return a box as it is written in Python."""
    parts = [f"{a}:{a + (n - 1) * s + 1}" + (f":{s}" if s > 1 else "") for a, n, s in box]
    return f"[{', '.join(parts)}]"
