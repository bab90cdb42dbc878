"""What is agreed for one array: its chunks, the wanted cells, and the receivers that get them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ips_components.errors import ContractError
from ips_components.model.amr import BlockChoice
from ips_components.model.keys import array_name, chunk_key
from ips_components.model.layout import ChunkLayout, Ints
from ips_components.model.placement import Placement, place
from ips_components.model.progression import Progression
from ips_components.model.selection import Selection, cover, disjoint, join_boxes
from ips_components.model.spec import ArraySpec

Policy = Literal["block", "drop"]

#: Disjoint boxes that an array's contract consists of at most.
MAX_PARTS = 256

MAX_IDS = (1 << 32) - 1
"""Ids that a chunk may have: their positions in it travel as 32-bit numbers."""


@dataclass(frozen=True, slots=True)
class ArrayContract:
    """What is agreed for one array.

    Parameters
    ----------
    spec
        The array as the simulation offers it.
    layout
        Chunk grid over the whole field.
    cover
        Strided box around all that is wanted. The external chunk of a needed chunk ``c`` is
        ``cover ∩ c``, stored densely.
    wanted
        Disjoint strided boxes inside ``cover``: exactly these cells are sent. Other cells of an
        external chunk are zero.
    placement
        Receiver of each chunk.
    name
        Dask name of the external array.
    policy
        What a full receiver means: ``"block"`` lets ranks wait, ``"drop"`` leaves steps out.
    blocks
        Which rows of a ragged array with levels and places are wanted; None: all.

    Examples
    --------
    >>> spec = ArraySpec("t", "f8", (6, 8), StepAxis(count=10))
    >>> wanted = [Selection.from_key(np.s_[::5, :2], (10, 6, 8))]
    >>> array = ArrayContract.agree(spec, wanted, run="r1", receivers=(0, 1), n_receivers=2)
    >>> array.needed
    ((0, 1), (10, 11))
    >>> array.chunk_shape(10), array.chunk_cells(10), array.key(10)
    ((1, 2, 8), 16, ('external-t-82f3e9c6', 5, 0, 0))
    """

    spec: ArraySpec
    layout: ChunkLayout
    cover: Selection
    wanted: tuple[Selection, ...]
    placement: Placement
    name: str
    policy: Policy = "block"
    blocks: BlockChoice | None = None
    _needed: list[tuple[tuple[int, int], ...]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        where = f"contract for array {self.spec.name!r}"
        index_shape = self.spec.index_shape
        if self.spec.ragged:  # the number of parts is the analyst's choice
            index_shape = (index_shape[0], *self.layout.shape[1:2], *index_shape[2:])
        if self.layout.shape != index_shape:
            raise ContractError(
                f"{where}: chunks are laid over shape {self.layout.shape}, "
                f"but the simulation offers {index_shape}"
            )
        if not self.wanted or any(not part.size for part in self.wanted):
            raise ContractError(f"{where}: nothing is wanted; leave the array out of the contract")
        for part in (self.cover, *self.wanted):
            if part.ndim != self.layout.ndim or any(
                b > n for b, n in zip(part.stop, self.layout.shape, strict=True)
            ):
                raise ContractError(
                    f"{where}: selection {part} is outside the shape {self.layout.shape}"
                )
        for i, part in enumerate(self.wanted):
            if not self.cover.contains(part):
                raise ContractError(f"{where}: wanted {part} is outside its cover {self.cover}")
            for other in self.wanted[:i]:
                if part.intersect(other) is not None:
                    raise ContractError(f"{where}: wanted {other} and {part} overlap")
        if self.spec.ragged and any(w.dims[2:] != self.cover.dims[2:] for w in self.wanted):
            raise ContractError(f"{where}: a ragged array sends the same columns at all steps")
        if self.blocks is not None and not self.spec.ragged:
            raise ContractError(f"{where}: only ragged arrays have blocks to choose from")
        if self.spec.ids:
            if any(w.dims[2:] != self.cover.dims[2:] for w in self.wanted):
                raise ContractError(f"{where}: an array by ids sends the same columns at all steps")
            if max(self.layout.chunks[1]) > MAX_IDS:
                raise ContractError(
                    f"{where}: a chunk of an array by ids has {MAX_IDS} ids at most"
                )
        if self.placement.n_space != self.layout.n_space:
            raise ContractError(
                f"{where}: placement is for {self.placement.n_space} chunks in space, "
                f"the layout has {self.layout.n_space}"
            )
        if self.policy not in ("block", "drop"):
            raise ContractError(f"{where}: policy must be 'block' or 'drop', got {self.policy!r}")

    @classmethod
    def agree(
        cls,
        spec: ArraySpec,
        selections: Iterable[Selection] | None = None,
        *,
        run: str,
        receivers: Iterable[int] = (0,),
        chunks: Any = None,
        n_receivers: int | None = None,
        layout: ChunkLayout | None = None,
        policy: Policy = "block",
        held: Iterable[Selection] = (),
        blocks: BlockChoice | None = None,
    ) -> ArrayContract:
        """Derive cover, disjoint wanted boxes, layout and placement from overlapping selections.

        Parameters
        ----------
        spec
            The array.
        selections
            What is wanted, in any order and overlap; None for everything.
        run
            Run id, for the Dask name.
        receivers
            Ordinals of the receivers.
        chunks, n_receivers
            For `ChunkLayout.from_spec`, unless ``layout`` is given.
        policy, blocks
            See `ArrayContract`.
        held
            What the cover has to hold beside what is wanted: cells of chunks that are zero.
        """
        ordinals = tuple(receivers)
        if layout is None:
            layout = ChunkLayout.from_spec(spec, chunks, n_receivers or len(ordinals))
        parts = [Selection.full(layout.shape)] if selections is None else list(selections)
        if spec.ragged:
            parts = _whole_rows(layout, parts)
        elif spec.ids:
            parts = _same_columns(parts, held)
        wanted = disjoint(_bounded(layout, join_boxes(parts)))
        if not wanted:
            raise ContractError(
                f"contract for array {spec.name!r}: nothing is wanted; leave the array out"
            )
        return cls(
            spec=spec,
            layout=layout,
            cover=cover([*wanted, *held]),
            wanted=wanted,
            placement=place(layout, ordinals, needed=_needed_space(layout, wanted)),
            name=array_name(spec.name, run),
            policy=policy,
            blocks=blocks,
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a cell."""
        return np.dtype(self.spec.dtype)

    @property
    def needed(self) -> tuple[tuple[int, int], ...]:
        """Numbers of the needed chunks as half-open ranges, ascending.

        Raises
        ------
        ContractError
            For an open-ended array; ask `needed_ids` for a span of time chunks.
        """
        if not self._needed:
            ids = self.needed_ids()
            breaks = np.flatnonzero(np.diff(ids) != 1) + 1
            parts = np.split(ids, breaks)
            self._needed.append(tuple((int(p[0]), int(p[-1]) + 1) for p in parts))
        return self._needed[0]

    def needed_ids(self, first: int = 0, last: int | None = None) -> Ints:
        """Return the numbers of the needed chunks among the time chunks ``first .. last - 1``."""
        if last is None:
            if self.layout.open_ended:
                raise ContractError(
                    f"array {self.spec.name!r} is open-ended: give the last time chunk"
                )
            last = self.layout.numblocks[0]
        found = []
        for part in self.wanted:
            linear = np.zeros(1, dtype=np.int64)
            for dim, indices in enumerate(part.dims):
                span = (first, last) if dim == 0 else (0, self.layout.numblocks[dim])
                hit = np.flatnonzero(self.layout.counts(dim, indices, *span)) + span[0]
                linear = np.add.outer(linear * self.layout.numblocks[dim], hit).reshape(-1)
            found.append(linear)
        return found[0] if len(found) == 1 else np.unique(np.concatenate(found))

    @property
    def needed_space(self) -> tuple[int, ...]:
        """Chunks in space that are needed at some step (C-order numbers)."""
        return _needed_space(self.layout, self.wanted)

    def chunk_selection(self, chunk: int) -> Selection:
        """Return ``cover ∩ c``: the global indices that the external chunk holds densely."""
        common = self.cover.intersect(self.layout.box(chunk))
        if common is None:
            raise ContractError(f"array {self.spec.name!r}: chunk {chunk} is not in the contract")
        return common

    def chunk_shape(self, chunk: int) -> tuple[int, ...]:
        """Return the shape of the external chunk; -1 for the rows of a ragged array."""
        shape = self.chunk_selection(chunk).count
        return (1, -1, *shape[2:]) if self.spec.ragged else shape

    def chunk_cells(self, chunk: int) -> int:
        """Return how many cells fill the chunk; for a ragged array, cells per row."""
        box = self.layout.box(chunk)
        return sum(common.size for part in self.wanted if (common := part.intersect(box)))

    def wanted_times(self, chunk: int) -> set[int]:
        """Return the time indices at which something of the chunk is wanted."""
        box = self.layout.box(chunk)
        common = [part.intersect(box) for part in self.wanted]
        times = [part.dims[0] for part in common if part is not None]
        return {t for time in times for t in range(time.start, time.stop, time.step)}

    def key(self, chunk: int) -> tuple[str | int, ...]:
        """Return the Dask key of a chunk."""
        return chunk_key(self.name, self.layout.unravel(chunk))

    def missing(self, chunk: int) -> np.ndarray[Any, np.dtype[Any]]:
        """Return what stands for a chunk of a simulation that is left out: NaN, or no rows.

        The array is read-only, and one number in memory, whatever its shape.
        """
        value = 0 if self.spec.ragged else np.nan
        shape = self.chunk_shape(chunk)
        if self.spec.ragged:
            shape = (*shape[:1], 0, *shape[2:])
        return np.broadcast_to(np.asarray(value, self.dtype), shape)

    def with_placement(self, placement: Placement) -> ArrayContract:
        """Return the same agreement with other receivers."""
        return replace(self, placement=placement)

    @property
    def wanted_bytes(self) -> int | None:
        """Bytes that all ranks send over the whole run; None when ragged or open-ended."""
        if self.spec.ragged or self.layout.open_ended:
            return None
        return sum(part.size for part in self.wanted) * self.spec.itemsize

    @property
    def fraction(self) -> float:
        """Share of the offered bytes that is sent."""
        full = Selection.full(self.layout.shape)
        return sum(part.size for part in self.wanted) / full.size

    def row(self) -> dict[str, Any]:
        """Return this array's row of `Contract.table`."""
        steps, *region = str(self.cover)[1:-1].split(", ")
        if self.spec.ragged:
            region[0] = "all rows" if self.blocks is None else str(self.blocks)
        more = "" if len(self.wanted) == 1 else f" in {len(self.wanted)} parts"
        axis = self.spec.steps
        of = " of at most" if axis.at_most else " of"
        n_steps = "" if axis.count is None else f"{of} {axis.count}"
        open_ended = self.layout.open_ended
        return {
            "name": self.spec.name,
            "dtype": self.spec.dtype,
            "shape": list(self.spec.shape),
            "dims": list(self.spec.dims),
            "steps": f"{steps}{n_steps}",
            "region": f"[{', '.join(region)}]{more}",
            "fraction": self.fraction,
            "bytes": self.wanted_bytes,
            "chunks": None if open_ended else sum(b - a for a, b in self.needed),
            "steps_per_chunk": max(self.layout.chunks[0]),
        }


def _whole_rows(layout: ChunkLayout, parts: list[Selection]) -> list[Selection]:
    """Give all selections of a ragged array the same columns, and all its parts."""
    parts = [part for part in parts if part.size]
    if not parts:
        return []
    columns = cover(parts).dims[2:]
    all_parts = Progression(0, layout.shape[1])
    return [Selection.of((part.dims[0], all_parts, *columns)) for part in parts]


def _bounded(layout: ChunkLayout, parts: Collection[Selection]) -> Collection[Selection]:
    """Return at most `MAX_PARTS` boxes around what is wanted, by chunks in space where possible.

    Each box costs every rank some work per step.
    """
    if len(parts) <= MAX_PARTS:
        return parts
    near: dict[tuple[int, ...], list[Selection]] = {}
    for part in parts:
        corner = tuple(layout.chunk_of(dim, i) for dim, i in enumerate(part.start) if dim)
        near.setdefault(corner, []).append(part)
    joined = join_boxes(cover(of_chunk) for of_chunk in near.values())
    return joined if len(joined) <= MAX_PARTS else [cover(joined)]


def _same_columns(parts: list[Selection], held: Iterable[Selection]) -> list[Selection]:
    """Give all selections of an array by ids the same columns: a rank sends a row as a whole."""
    parts = [part for part in parts if part.size]
    if not parts:
        return []
    columns = cover([*parts, *held]).dims[2:]
    return [Selection.of((*part.dims[:2], *columns)) for part in parts]


def _needed_space(layout: ChunkLayout, wanted: Iterable[Selection]) -> tuple[int, ...]:
    hit = np.zeros(layout.numblocks[1:], dtype=bool)
    for part in wanted:
        box = np.ones((), dtype=bool)
        for dim, indices in enumerate(part.dims[1:], start=1):
            box = np.logical_and.outer(box, layout.counts(dim, indices) > 0)
        hit |= box
    return tuple(np.flatnonzero(hit).tolist())
