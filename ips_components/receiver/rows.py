"""Which rows of chunks are admitted, and how much memory chunks may take.

Admission is by *rows* (chunks of one time index of one array): a row is admitted when the budget
has room for all of this receiver's chunks in it, the oldest simulation step first. Every rank gets
the same watermark, so that a piece is welcome exactly when memory is reserved for its chunk. No
rank can starve another, and the oldest incomplete step always has what it needs.

A row larger than the budget passes when nothing else is held. A chunk that is requested again (its
worker died) passes in any case, one such row at a time: the steps that wait for it cannot leave
memory before it came.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from ips_components.errors import ProtocolError
from ips_components.model.contract import Contract
from ips_components.model.placement import Placement
from ips_components.receiver.admission import ArrayAdmission, PartialChunk

MAX_OPEN = 4096
"""Chunks that are expected at a time, at least all of one step; more would only cost time."""


class RowAdmission:
    """Admits the rows of all arrays within one budget.

    Parameters
    ----------
    budget
        Bytes that chunks may take: those being assembled and those that Dask still holds.

    Attributes
    ----------
    size : int or None
        Number of ranks, when it is known.
    reserved, held : int
        Bytes of admitted, incomplete chunks, and of complete chunks with an open view.
    completed : int
        Chunks that were completed.
    blocked, needed : bool, int
        Whether a row waits for room, and its bytes.

    Notes
    -----
    Not safe by itself: the lock of the `ChunkAssembler` that owns it guards every field.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.size: int | None = None
        self.arrays: list[ArrayAdmission] = []
        self.reserved = 0
        self.held = 0
        self.completed = 0
        self.blocked = False
        self.needed = 0
        self._horizons: dict[int, int] = {}
        self._empty: list[tuple[ArrayAdmission, PartialChunk]] = []
        self._again: list[tuple[int, int, int]] = []  # heap of (step, array, chunk)
        self._overdraft: set[tuple[int, int]] = set()
        self._newest: int | None = None  # step of the row that was admitted last

    # -- what is expected ----------------------------------------------------------------------

    def set_contract(
        self, contract: Contract, receiver: int, size: int | None, first_step: int = 0
    ) -> None:
        """Begin to expect the contract's chunks from ``size`` ranks (None: not known yet).

        None of steps before the first one: they came before a checkpoint, and would keep memory.
        """
        self.size = size
        self.arrays = [
            ArrayAdmission(i, array, receiver, first_step)
            for i, array in enumerate(contract.arrays)
        ]
        self.set_horizon({})

    def set_horizon(self, rows: Mapping[int, int]) -> None:
        """Bound the rows that may come, by array; what is declared later comes later."""
        self._horizons.update(rows)
        for array in self.arrays:
            array.horizon = min(self._horizons.get(array.ordinal, array.horizon), array.end)

    def set_size(self, size: int) -> None:
        """Set the number of ranks (ragged chunks are complete when all of theirs came).

        Rows that were admitted before learn it here; no rank can have sent any of them yet.
        """
        self.size = size
        for array in self.arrays:
            if array.contract.spec.ids:
                for partial in array.open.values():
                    partial.missing = size * array.size_of(partial.chunk).times
            if array.contract.spec.ragged:
                for partial in list(array.open.values()):
                    partial.missing = len(array.contributors(partial.chunk, size))
                    self._finish_empty(array, partial)

    def set_placement(
        self,
        placements: Mapping[int, Placement],
        again: Iterable[tuple[int, int]],
        rows: Mapping[int, tuple[int, int]],
        skip: Iterable[tuple[int, int]],
    ) -> None:
        """Follow new placements, see `ChunkAssembler.set_placement`."""
        for ordinal, placement in placements.items():
            array = self.arrays[ordinal]
            before = sum(partial.nbytes for partial in array.open.values())
            welcome = array.place(placement, *rows.get(ordinal, (0, array.end)))
            self.reserved -= before - sum(p.nbytes for p in array.open.values())
            self._overdraft = {o for o in self._overdraft if o[0] != ordinal or o[1] in array.open}
            for chunk in welcome:
                self._expect(array, chunk)
        for ordinal, chunk in skip:
            self.arrays[ordinal].skip.add(chunk)
        for ordinal, chunk in again:
            array = self.arrays[ordinal]
            array.skip.discard(chunk)
            if chunk in array.again or chunk in array.open:
                continue
            array.again.add(chunk)
            row = chunk // array.n_space
            if row < array.watermark:  # later rows are admitted, and requested, in their turn
                heapq.heappush(self._again, (array.step(row), ordinal, chunk))

    # -- admission -----------------------------------------------------------------------------

    def admit(self) -> list[tuple[int, int]]:
        """Admit what fits; return the chunks that ranks must be asked for again."""
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
            array = self.arrays[ordinal]
            if chunk in array.again:
                self._expect(array, chunk)
                if self.reserved + self.held > self.budget:
                    self._overdraft.add((ordinal, chunk))
                requests.append(self._request(array, chunk))
        return requests

    def _next_row(self) -> tuple[ArrayAdmission, int, list[int]] | None:
        """Return the row of the oldest step that is not admitted."""
        ahead = [(array, next_) for array in self.arrays if (next_ := array.next_row())]
        if not ahead:
            self.blocked = False
            return None
        array, (row, chunks) = min(ahead, key=lambda a: (a[0].step(a[1][0]), a[0].ordinal))
        return array, row, chunks

    def _fits(self, array: ArrayAdmission, row: int, chunks: list[int]) -> bool:
        """Return whether a row may be admitted now; note what it needs if memory is short."""
        self.blocked = False
        if array.step(row) != self._newest and self.open_chunks() >= MAX_OPEN:
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
        partial = array.expect(chunk, self.size or 1)
        self.reserved += partial.nbytes
        if self.size is not None:
            self._finish_empty(array, partial)

    def _finish_empty(self, array: ArrayAdmission, partial: PartialChunk) -> None:
        """Complete a ragged chunk to which no rank contributes: there are more parts than ranks."""
        if array.contract.spec.ragged and not partial.missing:
            self.finish(array, partial, 0)
            self._empty.append((array, partial))

    # -- chunks that are expected no longer ----------------------------------------------------

    def finish(self, array: ArrayAdmission, partial: PartialChunk, nbytes: int) -> None:
        """Account for a chunk of ``nbytes`` that is complete."""
        array.finish(partial)
        self._overdraft.discard((array.ordinal, partial.chunk))
        self.reserved -= partial.nbytes
        if array.contract.spec.ragged:
            array.ragged_bytes = max(array.ragged_bytes, nbytes, 1)
        self.held += nbytes
        self.completed += 1

    def pop_empty(self) -> list[tuple[ArrayAdmission, PartialChunk]]:
        """Return the chunks that are complete without any rank, each once."""
        empty, self._empty = self._empty, []
        return empty

    def give_up(self, ordinal: int, chunk: int) -> bool:
        """Expect a chunk no longer; return whether it was expected."""
        array = self.array(ordinal)
        array.again.discard(chunk)
        array.asked.discard(chunk)
        partial = array.open.pop(chunk, None)
        self._overdraft.discard((ordinal, chunk))
        if partial is not None:
            self.reserved -= partial.nbytes
            return True
        if chunk // array.n_space < array.watermark or chunk in array.skip:
            return False
        array.skip.add(chunk)
        return True

    # -- questions -----------------------------------------------------------------------------

    def array(self, ordinal: int) -> ArrayAdmission:
        """Return an array by its number in the contract.

        Raises
        ------
        ProtocolError
            The contract has no such array.
        """
        if ordinal >= len(self.arrays):
            raise ProtocolError(
                f"array number {ordinal} is not in the contract of {len(self.arrays)} arrays"
            )
        return self.arrays[ordinal]

    def find(self, ordinal: int, chunk: int) -> tuple[ArrayAdmission, PartialChunk | None]:
        """Return an array and its open chunk; None: the chunk is not needed any more.

        Raises
        ------
        ProtocolError
            No credit was given for the chunk.
        """
        array = self.array(ordinal)
        partial = array.open.get(chunk)
        if partial is None and chunk // array.n_space >= array.watermark:
            raise ProtocolError(
                f"array {array.name!r}: chunk {chunk} was sent without credit "
                f"(rows below {array.watermark} have it)"
            )
        return array, partial

    def asked(self) -> list[tuple[int, int]]:
        """Return the chunks that were requested again and are not complete."""
        return [(array.ordinal, chunk) for array in self.arrays for chunk in array.asked]

    def open_chunks(self) -> int:
        """Return the number of admitted chunks that are not complete."""
        return sum(len(array.open) for array in self.arrays)
