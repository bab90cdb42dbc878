"""Which chunks a receiver expects, what they lack, and how much memory they may take.

No I/O and no Dask: connections ask `Intake.begin` where a piece goes and tell `Intake.commit` when
it is there. Admission is by *rows* (chunks of one time index of one array): a row is admitted when
the budget has room for all of this receiver's chunks in it, oldest simulation step first. Every
rank learns the same watermark, so a piece is welcome exactly when its chunk's memory is set aside.
No rank can starve another, and the oldest incomplete step always has what it needs.

A row larger than the budget passes when nothing else is held. A chunk that is asked for again
(its worker died) passes in any case, one such row at a time: the steps that wait for it cannot
leave memory before it came.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ips_components.errors import ProtocolError
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.pieces import ranks_of
from ips_components.model.placement import Placement
from ips_components.receiver.buffers import BufferPool, on_last_view
from ips_components.wire.messages import Piece

logger = logging.getLogger(__name__)

Array: TypeAlias = np.ndarray[Any, Any]

_BATCH = 256
MAX_OPEN = 4096
"""Chunks that are expected at a time, at least all of one step; more cost time and help nobody."""


class _Size(NamedTuple):
    """Shape and bytes of an external chunk, its wanted cells, whether they fill it wholly."""

    shape: tuple[int, ...]
    nbytes: int
    wanted: int
    full: bool


@dataclass(slots=True)
class _Assembly:
    """A chunk on its way."""

    nbytes: int
    missing: int = 0  # cells; ragged: ranks
    buffer: Array | None = None
    seen: set[Any] = field(default_factory=set)
    rows: dict[int, Array] = field(default_factory=dict)  # ragged: rows by rank


@dataclass(frozen=True, slots=True)
class Complete:
    """A chunk that is ready to be handed over."""

    array: int
    chunk: int
    value: Array
    nbytes: int


class _ArrayIntake:
    """One array's rows: which were admitted, which chunks of them are still open."""

    def __init__(self, ordinal: int, contract: ArrayContract, receiver: int) -> None:
        self.ordinal = ordinal
        self.contract = contract
        self.receiver = receiver
        self.n_space = contract.layout.n_space
        self.watermark = 0
        self.open: dict[int, _Assembly] = {}
        self.again: set[int] = set()  # to be asked for again, not yet admitted
        self.asked: set[int] = set()  # asked for again, not yet complete
        self.skip: set[int] = set()  # given up before they were admitted
        self.ragged_bytes = 0  # of the largest ragged chunk so far
        self._batch: list[tuple[int, list[int]]] = []  # rows with chunks of ours, last one first
        self._scanned = 0
        layout = contract.layout
        self._end = layout.chunk_of(0, contract.cover.stop[0] - 1) + 1
        self.horizon = self._end  # rows that nobody has declared yet must wait at their ranks
        self._kinds: dict[int, tuple[int, ...]] = {}
        self._sizes: dict[tuple[tuple[int, ...], int], _Size] = {}

    def place(self, placement: Placement, since: int, beyond: int) -> list[int]:
        """Follow another placement; chunks of ours that are now another's are forgotten.

        Returns
        -------
        list of int
            Chunks that are ours now in rows that were admitted, from row ``beyond`` on: ranks may
            send them at any time.
        """
        before, me = self.contract.placement, self.receiver
        self.contract = replace(self.contract, placement=placement)
        for chunk in [c for c in self.open if placement.owner(c) != me]:
            del self.open[chunk]
        for wishes in (self.again, self.asked):  # whoever owns them now asks for them
            wishes.difference_update([c for c in wishes if placement.owner(c) != me])
        welcome = [
            chunk
            for chunk in self.contract.needed_ids(
                min(beyond, self.watermark), self.watermark
            ).tolist()
            if placement.owner(chunk) == me != before.owner(chunk)
        ]
        self.watermark = max(self.watermark, min(since, self.horizon))
        self._batch.clear()
        self._scanned = self.watermark
        return welcome

    def peek(self) -> tuple[int, list[int]] | None:
        """Return the next row that has chunks of ours, with them."""
        owners = self.contract.placement.owners
        if self.receiver not in owners:
            return None
        while not self._batch:
            if self._scanned >= self.horizon and self.horizon < self._end:
                self.watermark = max(self.watermark, self._scanned)
                return None
            if self._scanned >= self._end:
                return None
            last = min(self._scanned + _BATCH, self.horizon)
            rows: dict[int, list[int]] = {}
            for chunk in self.contract.needed_ids(self._scanned, last).tolist():
                if owners[chunk % len(owners)] == self.receiver:
                    rows.setdefault(chunk // self.n_space, []).append(chunk)
            self._scanned = last
            self._batch = sorted(rows.items(), reverse=True)
        return self._batch[-1]

    def admit(self, row: int) -> None:
        """Take the row that `peek` returned."""
        self._batch.pop()
        self.watermark = row + 1

    def step(self, row: int) -> int:
        """Return the simulation step at which a row begins."""
        axis = self.contract.spec.steps
        return axis.start + axis.every * self.contract.layout.bounds(0, row)[0]

    def chunk_bytes(self, chunk: int) -> int:
        """Return the bytes of an external chunk (ragged: an estimate from those that came)."""
        return self.ragged_bytes if self.contract.spec.ragged else self.size_of(chunk).nbytes

    def size_of(self, chunk: int) -> _Size:
        """Return what the external chunk is made of; chunks that are alike are measured once."""
        row, space = divmod(chunk, self.n_space)
        kind = self._kinds.get(row)
        if kind is None:
            kind = self._kinds_from(row)
        known = self._sizes.get((kind, space))
        if known is None:
            shape = self.contract.chunk_shape(chunk)
            cells, wanted = prod(shape), self.contract.chunk_cells(chunk)
            known = _Size(shape, cells * self.contract.spec.itemsize, wanted, cells == wanted)
            self._sizes[kind, space] = known
        return known

    def _kinds_from(self, row: int) -> tuple[int, ...]:
        """Measure rows from one on along time; return how much of it every selection takes."""
        if len(self._kinds) > 4 * _BATCH:
            self._kinds.clear()
        last = min(row + _BATCH, self._end)
        times = (self.contract.cover, *self.contract.wanted)
        counts = [self.contract.layout.counts(0, s.dims[0], row, last).tolist() for s in times]
        self._kinds.update(zip(range(row, last), zip(*counts, strict=True), strict=True))
        return self._kinds[row]

    def new_assembly(self, chunk: int, size: int) -> _Assembly:
        """Return the empty state of a chunk."""
        if self.contract.spec.ragged:
            part = chunk % self.n_space
            return _Assembly(self.ragged_bytes, len(ranks_of(part, self.n_space, size)))
        made_of = self.size_of(chunk)
        return _Assembly(made_of.nbytes, made_of.wanted)


class Intake:
    """All chunks of one receiver, and the bytes that they take.

    Parameters
    ----------
    pool
        Memory for chunks.
    budget
        Bytes that chunks may take: those being assembled and those that Dask still holds.
    released
        Called, without arguments and from any thread at any moment, when bytes became free; the
        owner then calls `pump` from a thread of its own.
    """

    def __init__(self, pool: BufferPool, budget: int, released: Callable[[int], None]) -> None:
        self.pool = pool
        self.budget = budget
        self._released = released
        self._lock = threading.Lock()
        self._arrays: list[_ArrayIntake] = []
        self._horizons: dict[int, int] = {}
        self._size: int | None = None  # ranks, when it is known
        self._empty: list[Complete] = []  # ragged chunks to which no rank contributes
        self._again: list[tuple[int, int, int]] = []  # heap of (step, array, chunk)
        self._overdraft: set[tuple[int, int]] = set()
        self.reserved = 0  # bytes of admitted, incomplete chunks
        self.held = 0  # bytes of complete chunks with a living view
        self.completed = 0
        self._newest: int | None = None  # step of the row that was admitted last
        self.blocked = False  # a row waits for room
        self.needed = 0  # bytes of that row

    def set_contract(self, contract: Contract, receiver: int, size: int | None) -> None:
        """Begin to expect the contract's chunks from ``size`` ranks (None: not known yet)."""
        with self._lock:
            self._size = size
            self._arrays = [
                _ArrayIntake(i, array, receiver) for i, array in enumerate(contract.arrays)
            ]
        self.set_horizon({})

    def set_horizon(self, rows: Mapping[int, int]) -> None:
        """Bound the rows that may come, by array; what is declared later comes later."""
        with self._lock:
            self._horizons.update(rows)
            for array in self._arrays:
                array.horizon = min(self._horizons.get(array.ordinal, array.horizon), array._end)

    def set_size(self, size: int) -> None:
        """Set the number of ranks (ragged chunks are complete when all of theirs came).

        Rows that were admitted before learn it here; no rank can have sent any of them yet.
        """
        with self._lock:
            self._size = size
            for array in self._arrays:
                if array.contract.spec.ragged:
                    for chunk, assembly in list(array.open.items()):
                        part = chunk % array.n_space
                        assembly.missing = len(ranks_of(part, array.n_space, size))
                        self._complete_empty(array, chunk, assembly)

    def set_placement(
        self,
        placements: dict[int, Placement],
        again: Iterable[tuple[int, int]],
        rows: Mapping[int, tuple[int, int]] | None = None,
        skip: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Follow new placements; ``again`` are chunks of ours that ranks must send (again).

        Parameters
        ----------
        placements, again
            See `Receiver.set_placement`.
        rows
            By array: nothing of the rows below the first number is on its way to us, nothing of
            the rows from the second on has been sent to anybody.
        skip
            Chunks that are ours now and had arrived elsewhere.
        """
        with self._lock:
            for ordinal, placement in placements.items():
                array = self._arrays[ordinal]
                before = sum(a.nbytes for a in array.open.values())
                welcome = array.place(placement, *(rows or {}).get(ordinal, (0, array._end)))
                self.reserved -= before - sum(a.nbytes for a in array.open.values())
                moved = {o for o in self._overdraft if o[0] == ordinal and o[1] not in array.open}
                self._overdraft -= moved
                for chunk in welcome:
                    if chunk not in array.open:
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
                if row < array.watermark:  # later rows are admitted, and asked for, in their turn
                    heapq.heappush(self._again, (array.step(row), ordinal, chunk))

    def pump(self) -> list[tuple[int, int]]:
        """Admit what fits; return the chunks that ranks must be asked for again.

        Watermarks are read with `watermarks` afterwards.
        """
        ask: list[tuple[int, int]] = []
        with self._lock:
            while self._again and not self._overdraft:
                _, ordinal, chunk = heapq.heappop(self._again)
                array = self._arrays[ordinal]
                if chunk in array.again:
                    self._expect(array, chunk)
                    array.again.discard(chunk)
                    array.asked.add(chunk)
                    if self.reserved + self.held > self.budget:
                        self._overdraft.add((ordinal, chunk))
                    ask.append((ordinal, chunk))
            while True:
                ahead = [(a.step(p[0]), a, p) for a in self._arrays if (p := a.peek())]
                self.blocked = False
                if not ahead:
                    break
                step, array, (row, chunks) = min(ahead, key=lambda one: (one[0], one[1].ordinal))
                if step != self._newest and self._n_open() >= MAX_OPEN:
                    break
                chunks = [chunk for chunk in chunks if chunk not in array.skip]
                need = sum(array.chunk_bytes(c) for c in chunks if c not in array.open)
                used = self.reserved + self.held
                # A ragged row of unknown size goes alone, until one has told the size.
                first = array.contract.spec.ragged and not array.ragged_bytes and array.open
                if (used and used + need > self.budget) or first:
                    self.blocked, self.needed = True, need
                    break
                array.admit(row)
                self._newest = step
                array.skip = {chunk for chunk in array.skip if chunk // array.n_space > row}
                for chunk in chunks:
                    if chunk not in array.open:
                        self._expect(array, chunk)
                    if chunk in array.again:
                        array.again.discard(chunk)
                        array.asked.add(chunk)
                        ask.append((array.ordinal, chunk))
        return ask

    def _expect(self, array: _ArrayIntake, chunk: int) -> None:
        assembly = array.new_assembly(chunk, self._size or 1)
        array.open[chunk] = assembly
        self.reserved += assembly.nbytes
        if self._size is not None:
            self._complete_empty(array, chunk, assembly)

    def _complete_empty(self, array: _ArrayIntake, chunk: int, assembly: _Assembly) -> None:
        """Complete a ragged chunk to which no rank contributes: there are more parts than ranks."""
        if array.contract.spec.ragged and not assembly.missing:
            value = self._join(array, chunk, assembly)
            self._empty.append(self._complete(array, chunk, assembly, value))

    def take_empty(self) -> list[Complete]:
        """Return the chunks that are complete without any rank, each once."""
        with self._lock:
            empty, self._empty = self._empty, []
        return empty

    def watermarks(self) -> list[int]:
        """Return, per array, the row below which pieces are welcome."""
        with self._lock:
            return [array.watermark for array in self._arrays]

    def begin(self, rank: int, piece: Piece) -> Array | None:
        """Return the cells of the chunk's buffer that a piece fills; None: it is not needed.

        Raises
        ------
        ProtocolError
            When the piece does not fit its chunk, or no credit was given for it.
        """
        with self._lock:
            array, assembly = self._find(piece.array, piece.chunk)
            if assembly is None or (rank, piece.dst) in assembly.seen:
                return None
            if array.contract.spec.ragged:
                return self._begin_ragged(array, assembly, rank, piece)
            if assembly.buffer is None:
                made_of = array.size_of(piece.chunk)
                buffer = self.pool.array(made_of.shape, array.contract.dtype)
                if not made_of.full:
                    buffer[...] = np.zeros((), buffer.dtype)
                assembly.buffer = buffer
            where = _check_fit(array.contract, piece, assembly.buffer.shape)
            return assembly.buffer[where]

    def adopt(self, piece: Piece, value: Array) -> Complete | None:
        """Take an array that is a whole chunk (it lies in shared memory); None: it is not.

        Raises
        ------
        ProtocolError
            As `begin` does.
        """
        with self._lock:
            array, assembly = self._find(piece.array, piece.chunk)
            if assembly is None or assembly.buffer is not None or array.contract.spec.ragged:
                return None
            shape, _, _, full = array.size_of(piece.chunk)
            if not full or value.shape != shape:
                return None
            _check_fit(array.contract, piece, shape)
            assembly.buffer = value
            return self._complete(array, piece.chunk, assembly, value)

    def commit(self, rank: int, piece: Piece) -> Complete | None:
        """Note that a piece lies in its place; return the chunk if it is complete by that."""
        with self._lock:
            array, assembly = self._find(piece.array, piece.chunk)
            if assembly is None:
                return None
            mark = rank if array.contract.spec.ragged else (rank, piece.dst)
            if mark in assembly.seen:
                return None
            assembly.seen.add(mark)
            if array.contract.spec.ragged:
                assembly.missing -= 1
                if assembly.missing:
                    return None
                value = self._join(array, piece.chunk, assembly)
                return self._complete(array, piece.chunk, assembly, value)
            assembly.missing -= prod(piece.shape)
            if assembly.missing < 0:
                raise ProtocolError(
                    f"array {array.contract.spec.name!r}, chunk {piece.chunk}: ranks sent more "
                    f"cells than were agreed; the blocks of two ranks overlap (rank {rank} sent "
                    f"{piece.dst})"
                )
            if assembly.missing or assembly.buffer is None:
                return None
            return self._complete(array, piece.chunk, assembly, assembly.buffer)

    def no_rows(self, rank: int, ordinal: int, chunk: int) -> Complete | None:
        """Note that a rank has no rows of a ragged chunk."""
        with self._lock:
            array, assembly = self._find(ordinal, chunk)
            if not array.contract.spec.ragged:
                raise ProtocolError(f"array {array.contract.spec.name!r} is not ragged")
            if assembly is None or rank in assembly.seen:
                return None
            assembly.seen.add(rank)
            assembly.missing -= 1
            if assembly.missing:
                return None
            return self._complete(array, chunk, assembly, self._join(array, chunk, assembly))

    def give_up(self, ordinal: int, chunk: int) -> bool:
        """Expect a chunk no longer; return whether it was expected."""
        with self._lock:
            array = self._array(ordinal)
            array.again.discard(chunk)
            array.asked.discard(chunk)
            assembly = array.open.pop(chunk, None)
            self._overdraft.discard((ordinal, chunk))
            if assembly is None:
                if chunk // array.n_space < array.watermark or chunk in array.skip:
                    return False
                array.skip.add(chunk)
                return True
            self.reserved -= assembly.nbytes
        self._released(0)
        return True

    def row(self, ordinal: int, chunk: int) -> int:
        """Return the row of a chunk."""
        return chunk // self._array(ordinal).n_space

    def asked(self) -> list[tuple[int, int]]:
        """Return the chunks that were asked for again and are not complete."""
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

    def _n_open(self) -> int:
        return sum(len(array.open) for array in self._arrays)

    def _array(self, ordinal: int) -> _ArrayIntake:
        if ordinal >= len(self._arrays):
            raise ProtocolError(
                f"array number {ordinal} is not in the contract of {len(self._arrays)} arrays"
            )
        return self._arrays[ordinal]

    def _find(self, ordinal: int, chunk: int) -> tuple[_ArrayIntake, _Assembly | None]:
        array = self._array(ordinal)
        assembly = array.open.get(chunk)
        if assembly is None and chunk // array.n_space >= array.watermark:
            raise ProtocolError(
                f"array {array.contract.spec.name!r}: chunk {chunk} was sent without credit "
                f"(rows below {array.watermark} have it)"
            )
        return array, assembly

    def _begin_ragged(
        self, array: _ArrayIntake, assembly: _Assembly, rank: int, piece: Piece
    ) -> Array:
        columns = array.contract.chunk_shape(piece.chunk)[2:]
        ranks = ranks_of(piece.chunk % array.n_space, array.n_space, self._size or 1)
        shape = piece.shape
        if rank not in ranks or shape[0] != 1 or shape[2:] != columns or len(shape) < 2:
            raise ProtocolError(
                f"array {array.contract.spec.name!r}, chunk {piece.chunk}: rank {rank} sent rows "
                f"of shape {shape}, expected (1, rows, {columns}) from ranks {ranks}"
            )
        rows = shape[1]
        if rows * max(1, prod(columns)) * array.contract.spec.itemsize > max(self.budget, 1 << 20):
            raise ProtocolError(
                f"array {array.contract.spec.name!r}, chunk {piece.chunk}: {rows} rows of one rank "
                f"exceed the receiver's budget of {self.budget} bytes"
            )
        if rank in assembly.seen:
            return self.pool.array((1, rows, *columns), array.contract.dtype)
        buffer = assembly.rows[rank] = self.pool.array((1, rows, *columns), array.contract.dtype)
        return buffer

    def _join(self, array: _ArrayIntake, chunk: int, assembly: _Assembly) -> Array:
        parts = [assembly.rows[rank] for rank in sorted(assembly.rows)]
        columns = array.contract.chunk_shape(chunk)[2:]
        shape = (1, sum(part.shape[1] for part in parts), *columns)
        value = self.pool.array(shape, array.contract.dtype)
        at = 0
        for part in parts:
            value[:, at : at + part.shape[1]] = part
            at += part.shape[1]
        return value

    def _complete(
        self, array: _ArrayIntake, chunk: int, assembly: _Assembly, value: Array
    ) -> Complete:
        del array.open[chunk]
        array.asked.discard(chunk)
        self._overdraft.discard((array.ordinal, chunk))
        self.reserved -= assembly.nbytes
        nbytes = value.nbytes
        if array.contract.spec.ragged:
            array.ragged_bytes = max(array.ragged_bytes, nbytes, 1)
        self.held += nbytes
        self.completed += 1
        released = self._released
        on_last_view(value, lambda: released(nbytes))
        # Over a read-only view of the memory nobody can make the array writable again.
        cells = value.reshape(-1).view(np.uint8).data.toreadonly()
        final: Array = np.frombuffer(cells, value.dtype).reshape(value.shape) if nbytes else value
        return Complete(array.ordinal, chunk, final, nbytes)


def _check_fit(contract: ArrayContract, piece: Piece, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the piece's place in its chunk as slices."""
    where = []
    if len(piece.dst) == len(shape):
        for (start, count, step), n in zip(piece.dst, shape, strict=True):
            if count < 1 or step < 1 or start + (count - 1) * step >= n:
                break
            where.append(slice(start, start + (count - 1) * step + 1, step))
    if len(where) != len(shape):
        raise ProtocolError(
            f"array {contract.spec.name!r}, chunk {piece.chunk}: a piece at {piece.dst} is outside "
            f"the chunk's shape {shape}"
        )
    return tuple(where)
