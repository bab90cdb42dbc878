"""Chunks of views, and cells inside of them, as selections of the whole array."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from ips_components.analysis.cells import Region
from ips_components.analysis.views import Index, View
from ips_components.model.array_contract import ArrayContract
from ips_components.model.progression import Progression, join_all
from ips_components.model.selection import Selection

Chunks = Mapping[Index, Region | None]


def whole_boxes(view: View, indices: Iterable[Index]) -> Iterator[Selection]:
    """Yield selections with exactly the cells of some chunks of a view; few if they are a grid."""
    if 0 not in view.kept:
        for index in sorted(indices):
            yield view.box(index, index)
        return
    times: dict[Index, list[int]] = defaultdict(list)
    for time, *space in indices:
        times[tuple(space)].append(time)
    rows: dict[Index, list[Index]] = defaultdict(list)
    for place, of_place in times.items():
        rows[tuple(sorted(of_place))].append(place)
    for of_rows, spaces in rows.items():
        for run in _runs(of_rows):
            for place in sorted(spaces):
                yield view.box((run.start, *place), (run.stop - 1, *place))


def boxes_of(needed: Mapping[View, Chunks]) -> list[Selection]:
    """Return selections with the cells that are needed of the views of an array; one at least."""
    boxes = [box for view, chunks in needed.items() for box in _boxes(view, chunks)]
    if not boxes:  # a contract is about some cell
        view, chunks = next(iter(needed.items()))
        index = next(iter(chunks))
        first = [Progression(dim.start, 1) for dim in view.box(index, index).dims]
        boxes = [Selection.of(first)]
    return boxes


def _boxes(view: View, chunks: Chunks) -> Iterator[Selection]:
    yield from whole_boxes(view, [index for index, region in chunks.items() if region is None])
    alike: dict[Any, list[Index]] = defaultdict(list)
    for index, region in chunks.items():
        if region:
            # Chunks at one place of which the same is needed at all of their times are one.
            steady = 0 in view.kept and all(cells[0] is None for cells in region)
            alike[(index[1:], region.key) if steady else index].append(index)
    for indices in alike.values():
        region = chunks[indices[0]]
        assert region is not None
        for first, last in _spans(indices):
            yield from _boxes_within(view, view.box(first, last), region)


def _boxes_within(view: View, outer: Selection, region: Region) -> Iterator[Selection]:
    """Yield the boxes of a region of a view's chunk, in the cells of the whole array."""
    shape = tuple(outer.count[dim] for dim in view.kept)
    for box in chain.from_iterable(region.boxes(shape)):
        dims = list(outer.dims)
        for dim, inside in zip(view.kept, box.dims, strict=True):
            dims[dim] = dims[dim].compose(inside)
        yield Selection.of(dims)


def _spans(indices: list[Index]) -> Iterator[tuple[Index, Index]]:
    """Yield the first and the last index of each run of indices that differ in time only."""
    if len(indices) == 1:
        yield indices[0], indices[0]
        return
    space = indices[0][1:]
    for run in _runs(index[0] for index in indices):
        yield (run.start, *space), (run.stop - 1, *space)


def blank_shapes(
    needed: Mapping[View, Chunks], contract: ArrayContract | None
) -> dict[str, dict[Index, Index]]:
    """Return the shapes of the chunks of views of which no cell is needed, by name and index.

    A chunk of the whole array that arrives for the sake of another view is not among them.
    """
    blank: dict[str, dict[Index, Index]] = {}
    if contract is None:
        return blank
    for view, chunks in needed.items():
        empty = [index for index, region in chunks.items() if region is not None and not region]
        if empty and view.is_whole:
            rows = view.source.layout.numblocks[0]
            arriving = set(contract.needed_ids(0, rows).tolist())
            empty = [index for index in empty if contract.layout.ravel(index) not in arriving]
        for index in empty:
            count = view.box(index, index).count
            shape = tuple(count[dim] for dim in view.kept)
            blank.setdefault(view.name, {})[index] = shape
    return blank


def _runs(numbers: Iterable[int]) -> Iterator[Progression]:
    """Yield the runs of consecutive numbers."""
    for part in join_all([Progression(n, 1) for n in numbers]):
        if part.step == 1:
            yield part
        else:
            yield from (Progression(part.start + i * part.step, 1) for i in range(part.count))
