"""The pieces of one connection: from its socket or its shared memory into their chunks."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from ips_components.errors import ProtocolError
from ips_components.receiver.claims import Claim
from ips_components.receiver.delivery import Delivery
from ips_components.receiver.peer import Peer
from ips_components.receiver.reading import Input
from ips_components.receiver.slots import Acknowledgements, MappedSlots
from ips_components.wire import messages as m


class PieceReader:
    """Takes the pieces of one rank over one of its connections; used by the reader only.

    Parameters
    ----------
    peer, generation
        The rank, and its generation with this connection: once the rank has another one, nothing
        is taken any more.
    delivery
        Where pieces go.
    reading, slots, acks
        Bytes, shared memory and answers of the connection.
    dtype
        Returns the type of an array's cells.
    """

    def __init__(
        self,
        peer: Peer,
        generation: int,
        delivery: Delivery,
        reading: Input,
        slots: MappedSlots,
        acks: Acknowledgements,
        dtype: Callable[[int], np.dtype[Any]],
    ) -> None:
        self._peer = peer
        self._generation = generation
        self._delivery = delivery
        self._input = reading
        self._slots = slots
        self._acks = acks
        self._dtype = dtype

    def receive(self, piece: m.Piece, nbytes: int) -> Generator[memoryview, int, None]:
        """Receive a piece of ``nbytes`` straight into its chunk."""
        claim = self._delivery.begin(self._peer.rank, piece)
        if claim is None:
            yield from self._input.discard(nbytes)
            return
        try:
            if claim.cells.nbytes != nbytes:
                raise ProtocolError(
                    f"a piece of {claim.cells.nbytes} bytes came with {nbytes} bytes"
                )
            yield from self._input.read_cells(claim.cells)
            self._commit(claim)
        except BaseException:
            self._delivery.abandon(claim)
            raise

    def take_slot(self, piece: m.Piece) -> None:
        """Take a piece that lies in shared memory: as the chunk itself, or by a copy."""
        cells, slot = self._slots.cells(piece, self._dtype(piece.array))
        peer = self._peer
        if cells.flags.c_contiguous and self._acks.may_hold(slot):
            with peer.lock:
                peer.check_generation(self._generation)
                complete = self._delivery.adopt_slot(piece, cells)
            if complete is not None:
                self._acks.hold(slot.ring, (piece.slot, piece.generation), cells)
                del cells
                self._delivery.deliver(complete)
                return
        claim = self._delivery.begin(peer.rank, piece)
        if claim is not None:
            try:
                if claim.cells.shape != cells.shape:
                    raise ProtocolError(
                        f"a piece of shape {cells.shape}, expected {claim.cells.shape}"
                    )
                np.copyto(claim.cells, cells)
                self._commit(claim)
            except BaseException:
                self._delivery.abandon(claim)
                raise
        # Only now: the rank may write into the slot as soon as it is released.
        self._acks.release((piece.slot, piece.generation))

    def _commit(self, claim: Claim) -> None:
        with self._peer.lock:
            self._peer.check_generation(self._generation)
            complete = self._delivery.commit(claim)
        claim.clear()  # the last view must be that of the chunk's consumers
        self._delivery.deliver(complete)
