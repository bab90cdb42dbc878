"""Running reductions: a state of fixed size that is carried from block to block.

Dask's own reductions are trees, which keep partial results of many blocks alive. Here every block
is folded into the state in the one task that consumes it, in the order of the first reduced axis
(time), so that memory does not grow with the number of steps and each block is free at once.
Chunks along the other reduced axes have states of their own, which are combined at the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from ips_components.algorithms._graph import Chain, Task, TaskRef, lazy_array, refs
from ips_components.errors import AnalysisError

__all__ = ["UPDATES", "Fold", "fold", "keep", "located"]

UPDATES: set[Callable[..., Any]] = set()
"""Functions that folds of this process are made of: ``f(state, blocks, axes, ...)``."""


def keep(state: Any, new: Any) -> Any:
    """Take a state in place of the one before; the one before stays where a block never came."""
    return new


UPDATES.add(keep)


def located(
    x: Any, axis: int | str | Sequence[int | str] | None
) -> tuple[da.Array, tuple[int, ...]]:
    """Give the dask array in `x` and the axes that `axis` names.

    Parameters
    ----------
    x : dask.array.Array, xarray.DataArray (duck-typed by ``dims`` and ``data``) or array_like
    axis : axes by number, or by name where `x` has named dimensions; None means all
    """
    names: tuple[Any, ...] = ()
    if hasattr(x, "dims") and hasattr(x, "data"):
        x, names = x.data, tuple(x.dims)
    array = x if isinstance(x, da.Array) else da.from_array(np.asarray(x))
    if axis is None:
        return array, tuple(range(array.ndim))
    wanted = [axis] if isinstance(axis, int | np.integer | str) else list(axis)
    axes = []
    for item in wanted:
        if item in names:
            axes.append(names.index(item))
        elif isinstance(item, int | np.integer) and -array.ndim <= item < array.ndim:
            axes.append(int(item) % array.ndim)
        else:
            raise AnalysisError(
                f"axis {item!r} is none of the {array.ndim} axes of the array"
                + (f", which are named {list(names)}" if names else "")
            )
    if len(set(axes)) != len(axes):
        raise AnalysisError(f"axes must differ from each other, got {wanted}")
    return array, tuple(axes)


@dataclass(frozen=True, slots=True)
class Fold:
    """The lazy final states of a running reduction, one for each chunk of the axes that remain."""

    chain: Chain
    token: str
    states: Mapping[tuple[int, ...], Hashable]
    chunks: tuple[tuple[int, ...], ...]

    def array(
        self,
        name: str,
        read: Callable[..., np.ndarray],
        *arguments: Any,
        leading: tuple[int, ...] = (),
        dtype: Any = np.float64,
    ) -> da.Array:
        """Make an array from ``read(state, *arguments)`` of every chunk.

        Parameters
        ----------
        leading : sizes of axes, in one chunk each, that stand before the axes that remain
        """
        name = f"{name}-{tokenize(self.token, name, arguments)}"
        tasks = {}
        for index, state in self.states.items():
            key = (name, *(0 for _ in leading), *index)
            tasks[key] = Task(key, read, TaskRef(state), *arguments)
        chunks = (*((size,) for size in leading), *self.chunks)
        return lazy_array(name, tasks, chunks, self.chain, dtype=dtype)


def fold(
    name: str,
    arrays: Sequence[da.Array],
    axes: tuple[int, ...],
    update: Callable[..., Any],
    combine: Callable[[list[Any]], Any],
    *arguments: Any,
) -> Fold:
    """Fold arrays of equal shape over `axes`, in the chunks of the first.

    Parameters
    ----------
    update : called as ``update(state, blocks, axes, *arguments)`` for each block; the first state
        is None
    combine : joins the states of chunks along all but the first of `axes`
    """
    first = arrays[0]
    if any(array.shape != first.shape for array in arrays):
        raise AnalysisError(f"expected equal shapes, got {[array.shape for array in arrays]}")
    arrays = [first, *(array.rechunk(first.chunks) for array in arrays[1:])]
    if not axes or 0 in first.shape:
        raise AnalysisError(f"nothing to reduce in shape {first.shape} over axes {axes}")
    UPDATES.add(update)
    token = tokenize(name, [array.name for array in arrays], axes, arguments)
    grid = [range(count) for count in first.numblocks]
    kept = [axis for axis in range(first.ndim) if axis not in axes]
    time, others = axes[0], axes[1:]
    tasks: dict[Hashable, Task] = {}
    states: dict[tuple[int, ...], Hashable] = {}
    for outer in itertools.product(*(grid[axis] for axis in kept)):
        ends = []
        for inner in itertools.product(*(grid[axis] for axis in others)):
            index = dict(zip((*kept, *others), (*outer, *inner), strict=True))
            key = None
            for step in grid[time]:
                index[time] = step
                position = tuple(index[axis] for axis in range(first.ndim))
                previous = None if key is None else TaskRef(key)
                blocks = refs((array.name, *position) for array in arrays)
                key = (f"{name}-update-{token}", *position)
                tasks[key] = Task(key, update, previous, blocks, axes, *arguments)
            ends.append(key)
        if len(ends) > 1:
            key = (f"{name}-combine-{token}", *outer)
            tasks[key] = Task(key, combine, refs(ends))
        states[outer] = key
    chain = Chain.build(f"{name}-{token}", tasks, *arrays)
    return Fold(chain, token, states, tuple(first.chunks[axis] for axis in kept))
