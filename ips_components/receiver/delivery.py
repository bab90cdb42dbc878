"""From pieces to the sink: claims, commits, and chunks that will not come."""

from __future__ import annotations

from collections.abc import Callable

from ips_components.receiver.admission import Array
from ips_components.receiver.assembly import ChunkAssembler
from ips_components.receiver.claims import Claim, CompleteChunk
from ips_components.receiver.coverage import ChunkSpoilt
from ips_components.receiver.sink import Sink
from ips_components.wire.messages import Piece


class Delivery:
    """Places pieces and hands complete chunks over.

    Parameters
    ----------
    assembler
        The chunks under way.
    sink
        Gets what is complete, and what will not be.
    delivered
        Called after a chunk was handed over: there is room for another one.

    Notes
    -----
    Without state of its own; safe from any thread.
    """

    def __init__(
        self, assembler: ChunkAssembler, sink: Sink, delivered: Callable[[], None]
    ) -> None:
        self.assembler = assembler
        self._sink = sink
        self._delivered = delivered

    def begin(self, rank: int, piece: Piece) -> Claim | None:
        """Return the place of a piece; None: it is not needed.

        A chunk in which the blocks of two ranks overlap cannot be right: it is given up, and the
        sink gets the reason.
        """
        try:
            return self.assembler.begin(rank, piece)
        except ChunkSpoilt as error:
            self.give_up(piece.array, piece.chunk, rank, str(error))
            return None

    def adopt_slot(self, piece: Piece, cells: Array) -> CompleteChunk | None:
        """Take cells in shared memory as a chunk; None: they are not a whole one."""
        return self.assembler.adopt_slot(piece, cells)

    def commit(self, claim: Claim) -> CompleteChunk | None:
        """Note that the cells of a claim are there; return the chunk if that completes it."""
        try:
            return self.assembler.commit(claim)
        except ChunkSpoilt as error:
            self.give_up(claim.array.ordinal, claim.partial.chunk, claim.rank, str(error))
            return None

    def abandon(self, claim: Claim) -> None:
        """Give up a claim whose cells did not come."""
        self.assembler.abandon(claim)

    def no_rows(self, rank: int, array: int, chunk: int, t: int) -> None:
        """Note that a rank has no rows of a chunk that is ragged, or of a step by ids."""
        try:
            self.deliver(self.assembler.no_rows(rank, array, chunk, t))
        except ChunkSpoilt as error:
            self.give_up(array, chunk, rank, str(error))

    def deliver(self, complete: CompleteChunk | None) -> None:
        """Hand a complete chunk over, if there is one."""
        if complete is not None:
            self._sink.chunk(complete.array, complete.chunk, complete.value, complete.nbytes)
            self._delivered()

    def deliver_empty(self) -> None:
        """Hand over the chunks that are complete without any rank."""
        for complete in self.assembler.pop_empty_chunks():
            self.deliver(complete)

    def give_up(self, array: int, chunk: int, rank: int, why: str) -> None:
        """Expect a chunk no longer, and report why."""
        if self.assembler.give_up(array, chunk):
            self._sink.missing(array, chunk, rank, why)
