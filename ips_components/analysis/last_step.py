"""Indices into the time of an array of at most n steps, whose end is known at the end only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import Task, TaskRef
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from ips_components.analysis.absence import latest
from ips_components.errors import SelectionError

__all__ = ["last_step", "of_time"]


def of_time(items: Sequence[Any], array: Any) -> tuple[int, Any]:
    """Return where in an index the entry for time is, and this entry.

    Raises
    ------
    SelectionError
        An index that counts from the end, or asks for a list of steps.
    """
    place = next((i for i, item in enumerate(items) if item is not None), len(items))
    item = items[place] if place < len(items) else slice(None)
    if item is Ellipsis:
        given = sum(each is not None and each is not Ellipsis for each in items)
        if given < array.ndim:
            return place, slice(None)
        place += 1
        item = items[place]
    what = f"array {array.spec.name!r} has {array.source.said_steps}"
    if isinstance(item, slice):
        bounds = [each for each in (item.start, item.stop, item.step) if each is not None]
        if any(each < 0 for each in bounds):
            raise SelectionError(
                f"{what}: a slice of its time counts from the start, got {_text(item)}; the last "
                "step that came is [-1]"
            )
    elif isinstance(item, int | np.integer) and not isinstance(item, bool):
        if item < -1:
            raise SelectionError(
                f"{what}: of those counted from the end only the last one, [-1], can be had, "
                f"got {item}; keep more of them with run.rolling(array, size)"
            )
    else:
        raise SelectionError(
            f"{what}: its time takes a number or a slice, got {item!r}; ask for single steps one "
            "by one, array[3]"
        )
    return place, item


def _text(item: slice) -> str:
    parts = ["" if each is None else str(each) for each in (item.start, item.stop, item.step)]
    return ":".join(parts if item.step is not None else parts[:2])


def last_step(array: Any, items: Sequence[Any], place: int) -> da.Array:
    """Return the last step that comes, as ``array[-1, ...]``: a chain that keeps the newest one.

    Parameters
    ----------
    array
        External array.
    items, place
        The index, and which of its entries is that of time.
    """
    if any(isinstance(item, list | np.ndarray | da.Array) for item in items):
        raise SelectionError(
            f"array {array.spec.name!r}: the last step [-1] goes with numbers and slices, got "
            f"{tuple(items)}; index the last step by itself, array[-1][...]"
        )
    whole = array[(*items[:place], slice(None), *items[place + 1 :])]
    axis = sum(item is None for item in items[:place])
    name = f"last-{array.spec.name}-{tokenize(whole.name, axis)}"
    tasks: dict[Any, Task] = {}
    space = [n for dim, n in enumerate(whole.numblocks) if dim != axis]
    for index in np.ndindex(*space):
        before: Any = None
        for time in range(whole.numblocks[axis]):
            at = (*index[:axis], time, *index[axis:])
            done = time == whole.numblocks[axis] - 1
            key = (name, *index) if done else (f"{name}-until", *at)
            tasks[key] = Task(key, latest, before, TaskRef((whole.name, *at)), axis)
            before = TaskRef(key)
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=[whole])
    chunks = tuple(sizes for dim, sizes in enumerate(whole.chunks) if dim != axis)
    return da.Array(graph, name, chunks, dtype=array.dtype)
