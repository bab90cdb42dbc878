"""The place of a piece in its chunk: claims on cells, and what a piece must satisfy."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ips_components.errors import ProtocolError
from ips_components.model.by_id import row_bytes
from ips_components.model.contract import ArrayContract
from ips_components.receiver.admission import Array, ArrayAdmission, PartialChunk
from ips_components.receiver.buffers import BufferPool
from ips_components.receiver.coverage import ChunkSpoilt
from ips_components.wire.messages import Axes, Piece

_NO_CELLS: Array = np.empty(0)


class BlocksOverlap(ChunkSpoilt):
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


def claim_box(array: ArrayAdmission, partial: PartialChunk, rank: int, box: Axes) -> None:
    """Note that a rank puts the cells of a box.

    Raises
    ------
    BlocksOverlap
        When another rank has some of them.
    """
    overlap = partial.coverage.claim(rank, box)
    if overlap is not None:
        raise BlocksOverlap(
            f"array {array.name!r}, chunk {partial.chunk}: the blocks of rank {overlap.rank} "
            f"and rank {rank} overlap: {box_text(overlap.box)} and {box_text(box)} of the chunk; "
            "each cell must be put by one rank, without halo: check offsets and shapes"
        )


def place_in_chunk(
    contract: ArrayContract, piece: Piece, shape: tuple[int, ...]
) -> tuple[slice, ...]:
    """Return a piece's place in its chunk as slices.

    Raises
    ------
    ProtocolError
        When the piece reaches outside the chunk.
    """
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


def shape_of_rows(
    array: ArrayAdmission, rank: int, piece: Piece, *, size: int, budget: int
) -> tuple[int, ...]:
    """Return the shape of a rank's rows of a ragged chunk, of ``size`` ranks.

    Raises
    ------
    ProtocolError
        When the rank has no part in the chunk, the columns are others, or the rows exceed the
        budget.
    """
    columns = array.contract.chunk_shape(piece.chunk)[2:]
    ranks = array.contributors(piece.chunk, size)
    shape = piece.shape
    if rank not in ranks or shape[0] != 1 or shape[2:] != columns or len(shape) < 2:
        raise ProtocolError(
            f"array {array.name!r}, chunk {piece.chunk}: rank {rank} sent rows of shape "
            f"{shape}, expected (1, rows, {columns}) from ranks {ranks}"
        )
    nbytes = shape[1] * max(1, prod(columns)) * array.contract.spec.itemsize
    if nbytes > max(budget, 1 << 20):
        raise ProtocolError(
            f"array {array.name!r}, chunk {piece.chunk}: {shape[1]} rows of one rank exceed "
            f"the receiver's budget of {budget} bytes"
        )
    return (1, shape[1], *columns)


def shape_of_ids(array: ArrayAdmission, rank: int, piece: Piece) -> tuple[int, ...]:
    """Return the shape, in bytes, of a rank's rows of a chunk that is indexed by ids.

    Raises
    ------
    ProtocolError
        When these are no whole rows, or more than the chunk has.
    """
    steps, n_ids, *columns = array.size_of(piece.chunk).shape
    row = row_bytes(columns, array.contract.spec.itemsize)
    (time, count, _), (start, nbytes, stride) = (*piece.dst, (0, 0, 0), (0, 0, 0))[:2]
    if (len(piece.dst), count, start, stride) != (2, 1, 0, 1) or time >= steps:
        raise ProtocolError(
            f"array {array.name!r}, chunk {piece.chunk}: rank {rank} sent rows at {piece.dst}"
        )
    if nbytes % row or nbytes // row > n_ids:
        raise ProtocolError(
            f"array {array.name!r}, chunk {piece.chunk}: rank {rank} sent {nbytes} bytes, expected "
            f"at most {n_ids} rows of {row}"
        )
    return 1, nbytes


def join_rows(array: ArrayAdmission, partial: PartialChunk, pool: BufferPool) -> Array:
    """Return the rows of all ranks of a ragged chunk, in rank order."""
    parts = [rows for _, rows in sorted(partial.rows.items()) if rows is not None]
    columns = array.contract.chunk_shape(partial.chunk)[2:]
    shape = (1, sum(part.shape[1] for part in parts), *columns)
    value = pool.array(shape, array.contract.dtype)
    at = 0
    for part in parts:
        value[:, at : at + part.shape[1]] = part
        at += part.shape[1]
    return value


def box_text(box: Axes) -> str:
    """Return a box as it is written in Python."""
    parts = [f"{a}:{a + (n - 1) * s + 1}" + (f":{s}" if s > 1 else "") for a, n, s in box]
    return f"[{', '.join(parts)}]"
