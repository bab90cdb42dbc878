"""Lazy views of external arrays: what is selected is remembered, and cut where the data are.

A view belongs to one `Source` (one array that the simulation offers). It knows from the start
which chunks it consists of and under which external keys they will arrive. How to cut it out of
an external chunk is known later: when the contract is made, the source is *bound* to it. All views
share the source, so that graphs built before then become right without being touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
from dask._task_spec import Alias, GraphNode, Task, TaskRef
from dask.array.chunk import getitem

from ips_components.errors import ContractError, GeometryError, SelectionError
from ips_components.model.amr import BlockChoice
from ips_components.model.contract import ArrayContract
from ips_components.model.keys import array_name, chunk_key
from ips_components.model.layout import ChunkLayout
from ips_components.model.progression import Progression
from ips_components.model.selection import Selection
from ips_components.model.spec import ArraySpec

Key = tuple[Any, ...]
Index = tuple[int, ...]
Cut = tuple[slice | int, ...]
Cuts = tuple[slice | int | None, ...]


#: Views that a source remembers once its contract is made; a graph has its own.
MAX_VIEWS = 1000


def _forget_oldest(views: dict[str, Any]) -> None:
    if len(views) > MAX_VIEWS:
        del views[next(iter(views))]


@dataclass(slots=True)
class ChosenBlocks:
    """Which blocks of an adaptive mesh an analysis wants; None: it has not said, so all."""

    choice: BlockChoice | None = None


@dataclass(slots=True, eq=False)
class Source:
    """One offered array, shared by all its views; bound to the contract once there is one."""

    spec: ArraySpec
    layout: ChunkLayout
    run: str
    n_receivers: int
    contract: ArrayContract | None = None
    signed: bool = False
    """Whether the contract was made; without `contract` this array was not needed."""
    name: str = field(init=False)
    """Dask name of the external array."""
    views: dict[str, View] = field(default_factory=dict)
    early: dict[str, set[Index]] = field(default_factory=dict)
    """Chunks of views whose tasks were made before the contract, by name of the view."""
    needed: dict[str, set[Index]] = field(default_factory=dict)
    """Chunks of views that the contract was made for."""

    blank: dict[str, dict[Index, Index]] = field(default_factory=dict)
    """Shapes of the chunks of views of which no cell is needed: zeros that do not arrive."""

    resolved: dict[str, Resolved] = field(default_factory=dict)
    chosen: ChosenBlocks = field(default_factory=lambda: ChosenBlocks())
    """Of an adaptive mesh; shared with the table of its blocks."""
    widened: tuple[float, tuple[str, ...]] | None = None
    """How many times the cells that results use are sent, and for which functions' sake."""
    windowed: bool = False
    """Whether it is analysed by windows, all steps of which come."""
    unbounded: Source | None = None
    """The array as it is offered, where that has no number of steps: this one has as many as the
    graph spans until now, see `growing`."""
    asked: int = 0
    """Time indices below which all are that were asked for by their numbers."""

    @property
    def at_most(self) -> bool:
        """Whether it is not known how many of its steps come, and one graph spans all of them."""
        return self.spec.steps.at_most and not self.windowed

    @property
    def said_steps(self) -> str:
        """How many steps there are, for messages."""
        n = self.spec.steps.count
        return "any number of steps" if self.unbounded is not None else f"at most {n} steps"

    def __post_init__(self) -> None:
        self.name = array_name(self.spec.name, self.run)

    def choose(self, level: Any, box: Any) -> None:
        """Want some blocks of an adaptive mesh only, in this run.

        Raises
        ------
        SelectionError
            When the array has no such blocks.
        ContractError
            When others are wanted already, or the contract was made.
        """
        name = self.spec.name
        try:
            ndim = len(self.spec.shape) - 1
            choice = BlockChoice.of(name, self.spec.attrs, ndim, level, box)
        except GeometryError as error:
            raise SelectionError(str(error)) from None
        before = self.chosen.choice
        if self.signed or (before is not None and before != choice):
            what = "all of them" if before is None else f"those of {before}"
            raise ContractError(
                f"array {name!r}: blocks of {choice} are asked for, but the run has {what}; an "
                "array has one choice of blocks per run, made before results are: choose what all "
                "results need"
            )
        self.chosen.choice = choice

    def bind(
        self,
        contract: ArrayContract | None,
        needed: Mapping[str, set[Index]],
        blank: Mapping[str, dict[Index, Index]] | None = None,
    ) -> None:
        """Let all views cut themselves out of the chunks that this contract delivers."""
        self.blank = dict(blank or {})
        self.contract = contract
        self.signed = True
        self.needed = {name: needed.get(name, set()) for name in self.views}
        self.early = {}
        self.resolved = {}

    def view(self, selection: Selection, kept: tuple[int, ...]) -> View:
        """Return the view of a selection; the same one for the same selection."""
        whole = selection == Selection.full(self.layout.shape) and len(kept) == selection.ndim
        count: tuple[Any, ...] = selection.count
        if self.unbounded is not None and _reaches(selection.dims[0], self.layout.shape[0]):
            count = ("all", *count[1:])  # the same when the graph spans more steps
        text = f"{self.name} {selection.start} {count} {selection.step} {kept}"
        digest = sha256(text.encode()).hexdigest()[:16]
        name = self.name if whole else f"cut-{self.spec.name}-{digest}"
        if name not in self.views:
            grid = tuple(self._chunks_with(dim, p) for dim, p in enumerate(selection.dims))
            self.views[name] = View(self, name, selection, kept, grid)
            if self.signed:  # an analysis of windows makes new ones for ever
                _forget_oldest(self.views)
        return self.views[name]

    def _chunks_with(self, dim: int, indices: Progression) -> Sequence[int]:
        """Return the numbers of the base chunks along a dimension that hold some of the indices."""
        numbers = self.layout.overlapping(dim, indices.start, indices.stop)
        hit = self.layout.counts(dim, indices, numbers.start, numbers.stop) > 0
        return numbers if hit.all() else tuple((np.flatnonzero(hit) + numbers.start).tolist())


def _reaches(indices: Progression, length: int) -> bool:
    """Whether there is no further index before the end of a dimension."""
    return indices.count > 1 and indices.start + indices.count * indices.step >= length


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A selection of a source as a grid of chunks that follows the base grid's boundaries."""

    source: Source
    name: str
    selection: Selection
    kept: tuple[int, ...]
    """Dimensions of the source that the view has (an integer index removes one)."""
    grid: tuple[Sequence[int], ...]
    """Numbers of the base chunks with cells of the view, per dimension of the source."""

    @property
    def numblocks(self) -> tuple[int, ...]:
        """Number of the view's chunks, per dimension kept."""
        return tuple(len(self.grid[dim]) for dim in self.kept)

    @property
    def chunks(self) -> tuple[tuple[float, ...], ...]:
        """Sizes of the view's chunks in Dask's notation.

        They are unknown (nan) for the rows of particles, and for steps that may not come.
        """
        layout, ragged = self.source.layout, self.source.spec.ragged
        sizes: list[tuple[float, ...]] = []
        for dim in self.kept:
            numbers = self.grid[dim]
            if (ragged and dim == 1) or (dim == 0 and self.source.at_most):
                sizes.append((np.nan,) * len(numbers))
                continue
            counts = layout.counts(dim, self.selection.dims[dim], numbers[0], numbers[-1] + 1)
            sizes.append(tuple(counts[np.array(numbers) - numbers[0]].tolist()))
        return tuple(sizes)

    def base_index(self, index: Index) -> Index:
        """Return the grid index of the base chunk that a chunk of the view lies in."""
        base = [numbers[0] for numbers in self.grid]
        for dim, i in zip(self.kept, index, strict=True):
            base[dim] = self.grid[dim][i]
        return tuple(base)

    def box(self, first: Index, last: Index) -> Selection:
        """Return what the view selects of its chunks ``first`` to ``last``, both included."""
        layout = self.source.layout
        dims = []
        low, high = self.base_index(first), self.base_index(last)
        for dim, indices in enumerate(self.selection.dims):
            bounds = layout.bounds(dim, low[dim])[0], layout.bounds(dim, high[dim])[1]
            dims.append(indices.clip(*bounds))
        return Selection.of(dims)

    @property
    def is_whole(self) -> bool:
        """Whether this is the whole array: its chunks are the external ones, by the same keys."""
        return self.name == self.source.name

    @property
    def dtype(self) -> str:
        """Type of a cell; empty for an array whose rows differ from step to step."""
        spec = self.source.spec
        return "" if spec.ragged else np.dtype(spec.dtype).str

    def resolve(self) -> Resolved:
        """Return how to cut the view out of the external chunks.

        Raises
        ------
        ContractError
            There is no contract yet, or none for this array.
        """
        source = self.source
        if self.name in source.resolved:
            return source.resolved[self.name]
        cuts: tuple[Cuts | None, ...] = (None,) * self.selection.ndim
        if not self.is_whole:
            if source.contract is None:
                raise ContractError(
                    f"array {source.spec.name!r} has no contract: "
                    + (
                        "nothing of it was in the graph when the contract was made"
                        if source.signed
                        else "make it with contract_from_graph before the graph is submitted"
                    )
                )
            cuts = tuple(self._cuts(dim, source.contract) for dim in range(len(cuts)))
        blank = source.blank.get(self.name, {})
        resolved = Resolved(self.name, source.name, self.kept, self.grid, cuts, self.dtype, blank)
        source.resolved[self.name] = resolved
        _forget_oldest(source.resolved)
        return resolved

    def _cuts(self, dim: int, contract: ArrayContract) -> Cuts | None:
        """Return the cut of each chunk along one dimension; None where it takes everything."""
        dropped = dim not in self.kept
        if self.source.spec.ragged and dim == 1:
            return None
        if not dropped and self.selection.dims[dim] == contract.cover.dims[dim]:
            return None
        cuts: list[slice | int | None] = []
        for number in self.grid[dim]:
            bounds = contract.layout.bounds(dim, number)
            outer = contract.cover.dims[dim].clip(*bounds)
            mine = self.selection.dims[dim].clip(*bounds)
            if not outer.contains(mine):
                cuts.append(_MISSING)
                continue
            inner = mine.within(outer)
            if dropped:
                cuts.append(inner.start)
            else:
                cuts.append(
                    None
                    if inner.count == outer.count
                    else slice(inner.start, inner.stop, inner.step)
                )
        return None if all(cut is None for cut in cuts) else tuple(cuts)


_MISSING = slice(0, 0, 0)
"""The cut of a chunk that the contract does not deliver (no valid slice has step 0)."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A bound view as plain data: all that a scheduler needs to make its tasks."""

    name: str
    external: str
    kept: tuple[int, ...]
    grid: tuple[Sequence[int], ...]
    cuts: tuple[Cuts | None, ...]
    """Per dimension of the source: the cut of each chunk along it, None for everything."""
    dtype: str = ""
    """Type of a cell; empty for an array whose rows differ from step to step."""
    blank: Mapping[Index, Index] = field(default_factory=dict)
    """Shapes of the chunks that do not arrive, since none of their cells is needed."""

    def target(self, index: Index) -> Key:
        """Return the external key that a chunk of the view is cut out of."""
        base = [numbers[0] for numbers in self.grid]
        for dim, i in zip(self.kept, index, strict=True):
            base[dim] = self.grid[dim][i]
        return chunk_key(self.external, base)

    def cut(self, index: Index) -> Cut | None:
        """Return what to cut out of the external chunk; None for everything."""
        numbers = [0] * len(self.grid)
        for dim, i in zip(self.kept, index, strict=True):
            numbers[dim] = i
        parts = [
            None if cuts is None else cuts[n] for cuts, n in zip(self.cuts, numbers, strict=True)
        ]
        if _MISSING in parts:
            raise ContractError(
                f"chunk {index} of {self.name!r} is not in the contract: it was not in the graph "
                "when the contract was made"
            )
        if all(part is None for part in parts):
            return None
        return tuple(slice(None) if part is None else part for part in parts)

    def task(self, index: Index) -> GraphNode:
        """Return the task of a chunk.

        The whole array gets aliases of keys to themselves: Dask drops them, but graphs in the old
        notation (xarray's ``map_blocks``) recognise keys only if the graph has them.
        """
        key, target = (self.name, *index), self.target(index)
        if index in self.blank:
            return Task(key, blank_chunk, self.blank[index], self.dtype)
        cut = self.cut(index)
        if cut is None:
            return Alias(key, target)
        return Task(key, getitem, TaskRef(target), cut)


@dataclass(frozen=True, slots=True, eq=False)
class Later:
    """A cut that is not known yet, inside a task; pickled or run, it must be known."""

    view: View
    index: Index

    def __call__(self) -> Cut | None:
        return self.view.resolve().cut(self.index)

    def __reduce__(self) -> Any:
        return Known, (self(),)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("external-cut", self.view.name, self.index)


@dataclass(frozen=True, slots=True)
class Known:
    """What a `Later` is once it has travelled."""

    cut: Cut | None

    def __call__(self) -> Cut | None:
        return self.cut


def blank_chunk(shape: Index, dtype: str) -> Any:
    """Return zeros, in place of a chunk of which no cell is needed."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def cut_later(chunk: Any, cut: Later | Known) -> Any:
    """Cut a view out of an external chunk, by a cut that was not known when the task was made."""
    known = cut()
    return chunk if known is None else getitem(chunk, known)
