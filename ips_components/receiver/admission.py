"""Which chunks of one array a receiver expects, row by row."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ips_components.model.contract import ArrayContract
from ips_components.model.pieces import ranks_of
from ips_components.model.placement import Placement
from ips_components.receiver.coverage import Coverage, Tiling
from ips_components.receiver.id_table import IdTable
from ips_components.wire.messages import Axes

Array: TypeAlias = np.ndarray[Any, Any]

_BATCH = 256


class ChunkSize(NamedTuple):
    """Shape and bytes of an external chunk, its wanted cells, and whether they fill it."""

    shape: tuple[int, ...]
    nbytes: int
    wanted: int
    full: bool
    times: int = 0
    """Steps of a chunk that is indexed by ids: every rank has a part in each."""


class PartialChunk:
    """A chunk that is being assembled.

    Parameters
    ----------
    chunk
        Number of the chunk.
    nbytes
        Bytes that are reserved for it.
    missing
        What it lacks: cells; ranks where the array is ragged, and at each step where it is
        indexed by ids.
    tiling
        Boxes of this chunk in space that are known to be disjoint.

    Notes
    -----
    The assembler's lock guards all fields but `buffer` and `table`, which are made once, and of
    which the table is used, under `buffer_lock`.
    """

    __slots__ = ("answered", "buffer", "buffer_lock", "chunk", "committed", "coverage", "missing",
                 "nbytes", "rows", "table")  # fmt: skip

    def __init__(self, chunk: int, nbytes: int, missing: int, tiling: Tiling) -> None:
        self.chunk = chunk
        self.nbytes = nbytes
        self.missing = missing
        self.coverage = Coverage(tiling)
        self.committed: set[Axes] = set()
        self.rows: dict[int, Array | None] = {}  # ragged: rows by rank, None if it has none
        self.answered: set[tuple[int, int]] = set()  # by ids: ranks and positions in time
        self.table: IdTable | None = None  # by ids: made with the buffer
        self.buffer: Array | None = None
        self.buffer_lock = threading.Lock()

    def came(self) -> list[tuple[int, int]]:
        """Return whose part has come, as (rank, time index within the chunk)."""
        cells = {(self.coverage.rank(box), box[0][0]) for box in self.committed}
        return sorted(cells.union(((rank, 0) for rank in self.rows), self.answered))


class ArrayAdmission:
    """The rows of one array: which were admitted, which chunks of them are still open.

    Parameters
    ----------
    ordinal
        Number of the array in the contract.
    contract
        Agreement on the array.
    receiver
        Ordinal of this receiver in placements.
    first_step
        Chunks whose steps are all before it are not expected.

    Notes
    -----
    Not safe by itself: the lock of the `ChunkAssembler` that owns it guards every field.
    """

    def __init__(
        self, ordinal: int, contract: ArrayContract, receiver: int, first_step: int = 0
    ) -> None:
        self.ordinal = ordinal
        self.contract = contract
        self.receiver = receiver
        self.n_space = contract.layout.n_space
        self.open: dict[int, PartialChunk] = {}
        self.again: set[int] = set()  # to be requested again, not yet admitted
        self.asked: set[int] = set()  # requested again, not yet complete
        self.skip: set[int] = set()  # given up before they were admitted
        self.ragged_bytes = 0  # of the largest ragged chunk so far
        self._tilings: dict[int, Tiling] = {}  # by position of the chunk in space
        self._batch: list[tuple[int, list[int]]] = []  # rows with own chunks, the last one first
        layout, axis = contract.layout, contract.spec.steps
        self.end = layout.chunk_of(0, contract.cover.stop[0] - 1) + 1
        first = axis.index_from(first_step)
        row = layout.chunk_of(0, first) if first < axis.length else self.end
        self.watermark = min(row, self.end)
        self._scanned = self.watermark
        self.horizon = self.end  # rows that are not declared yet must wait at their ranks
        self._kinds: dict[int, tuple[int, ...]] = {}
        self._sizes: dict[tuple[tuple[int, ...], int], ChunkSize] = {}

    @property
    def name(self) -> str:
        """Name of the array."""
        return self.contract.spec.name

    def place(self, placement: Placement, since: int, beyond: int) -> list[int]:
        """Follow another placement; own chunks that have another owner now are forgotten.

        Returns
        -------
        list of int
            Chunks that are new here in rows that were admitted, from row ``beyond`` on: ranks may
            send them at any time.
        """
        before, me = self.contract.placement, self.receiver
        self.contract = replace(self.contract, placement=placement)
        for chunk in [c for c in self.open if placement.owner(c) != me]:
            del self.open[chunk]
        for requests in (self.again, self.asked):  # their new owners request them
            requests.difference_update([c for c in requests if placement.owner(c) != me])
        needed = self.contract.needed_ids(min(beyond, self.watermark), self.watermark)
        welcome = [
            chunk
            for chunk in needed.tolist()
            if placement.owner(chunk) == me != before.owner(chunk)
        ]
        self.watermark = max(self.watermark, min(since, self.horizon))
        self._batch.clear()
        self._scanned = self.watermark
        return welcome

    def next_row(self) -> tuple[int, list[int]] | None:
        """Return the next row that has chunks of this receiver, with them."""
        owners = self.contract.placement.owners
        if self.receiver not in owners:
            return None
        while not self._batch:
            if self._scanned >= self.horizon and self.horizon < self.end:
                self.watermark = max(self.watermark, self._scanned)
                return None
            if self._scanned >= self.end:
                return None
            last = min(self._scanned + _BATCH, self.horizon)
            rows: dict[int, list[int]] = {}
            for chunk in self.contract.needed_ids(self._scanned, last).tolist():
                if owners[chunk % len(owners)] == self.receiver:
                    rows.setdefault(chunk // self.n_space, []).append(chunk)
            self._scanned = last
            self._batch = sorted(rows.items(), reverse=True)
        return self._batch[-1]

    def admit(self, row: int) -> list[int]:
        """Take the row that `next_row` returned; return its chunks that are to be expected."""
        _, chunks = self._batch.pop()
        self.watermark = row + 1
        expected = [chunk for chunk in chunks if chunk not in self.skip]
        self.skip = {chunk for chunk in self.skip if chunk // self.n_space > row}
        return expected

    def bytes_of_row(self, chunks: Iterable[int]) -> int:
        """Return the bytes that the chunks of a row need which are not open yet."""
        return sum(self.chunk_bytes(c) for c in chunks if c not in self.open and c not in self.skip)

    def step(self, row: int) -> int:
        """Return the simulation step at which a row begins."""
        axis = self.contract.spec.steps
        return axis.start + axis.every * self.contract.layout.bounds(0, row)[0]

    def chunk_bytes(self, chunk: int) -> int:
        """Return the bytes of an external chunk (ragged: an estimate from those that came)."""
        return self.ragged_bytes if self.contract.spec.ragged else self.size_of(chunk).nbytes

    def size_of(self, chunk: int) -> ChunkSize:
        """Return what the external chunk is made of; chunks that are alike are measured once."""
        row, space = divmod(chunk, self.n_space)
        kind = self._kinds.get(row)
        if kind is None:
            kind = self._kinds_from(row)
        known = self._sizes.get((kind, space))
        if known is None:
            shape = self.contract.chunk_shape(chunk)
            cells, wanted = prod(shape), self.contract.chunk_cells(chunk)
            nbytes = cells * self.contract.spec.itemsize
            times = len(self.contract.wanted_times(chunk)) if self.contract.spec.ids else 0
            known = ChunkSize(shape, nbytes, wanted, cells == wanted, times)
            self._sizes[kind, space] = known
        return known

    def _kinds_from(self, row: int) -> tuple[int, ...]:
        """Measure rows from one on along time; return how much of it every selection takes."""
        if len(self._kinds) > 4 * _BATCH:
            self._kinds.clear()
        last = min(row + _BATCH, self.end)
        times = (self.contract.cover, *self.contract.wanted)
        counts = [self.contract.layout.counts(0, s.dims[0], row, last).tolist() for s in times]
        self._kinds.update(zip(range(row, last), zip(*counts, strict=True), strict=True))
        return self._kinds[row]

    def contributors(self, chunk: int, size: int) -> range:
        """Return the ranks whose rows a ragged chunk holds, of ``size`` ranks."""
        return ranks_of(chunk % self.n_space, self.n_space, size)

    def expect(self, chunk: int, size: int) -> PartialChunk:
        """Open a chunk, empty, and return it."""
        if self.contract.spec.ragged:
            ranks = self.contributors(chunk, size)
            partial = PartialChunk(chunk, self.ragged_bytes, len(ranks), Tiling())
        else:
            made_of = self.size_of(chunk)
            tiling = self._tilings.setdefault(chunk % self.n_space, Tiling())
            lacking = size * made_of.times if self.contract.spec.ids else made_of.wanted
            partial = PartialChunk(chunk, made_of.nbytes, lacking, tiling)
        self.open[chunk] = partial
        return partial

    def finish(self, partial: PartialChunk) -> None:
        """Close a chunk that is complete."""
        del self.open[partial.chunk]
        self.asked.discard(partial.chunk)
        if not (self.contract.spec.ragged or self.contract.spec.ids):
            self._tilings[partial.chunk % self.n_space] = partial.coverage.learnt()
