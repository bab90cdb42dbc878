"""External arrays: dask arrays whose basic slicing reaches down into the simulation.

``arrays["temperature"][::10, :64]`` is a `dask.array.Array` like any other, and everything of
dask.array and xarray works on it. But the slicing is remembered: the simulation will send these
steps and cells only. Slices of slices compose; integers, lists and masks are pushed down as well
(for lists the box around them). Whatever is computed first and sliced later is still right, and
costs whole chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from operator import index as as_index
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask._task_spec import Task, TaskRef
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from ips_components.analysis.views import Source, View, ViewLayer
from ips_components.errors import ContractError, SelectionError
from ips_components.model.layout import ChunkLayout
from ips_components.model.progression import Progression, cover
from ips_components.model.selection import Selection
from ips_components.model.spec import OPEN_ENDED, ArraySpec

if TYPE_CHECKING:
    import dask.dataframe as dd
    import xarray as xr


class OfferedArrays(dict[str, Any]):
    """The arrays on offer, by name; asking for another one says what there is."""

    def __missing__(self, name: str) -> Any:
        close = get_close_matches(str(name), self, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ContractError(
            f"the analysis asks for array {name!r}, but the simulation offers "
            f"{', '.join(map(repr, sorted(self))) or 'nothing'}{hint}"
        )


def external_arrays(
    specs: Sequence[ArraySpec], *, run: str, n_receivers: int, chunks: Any = None
) -> dict[str, ExternalArray | OpenEndedArray]:
    """Make the lazy arrays of everything that a simulation offers.

    Parameters
    ----------
    specs
        The arrays, as described by the simulation or by the configuration.
    run
        Run id.
    n_receivers
        Number of receivers; the default chunks are one per step and receiver.
    chunks
        Chunks in Dask's notation for all arrays, or a mapping from names of arrays to such.

    Returns
    -------
    dict
        By name. Asking for a name that is not offered raises `ContractError`.
    """
    if isinstance(chunks, Mapping) and set(chunks) <= {spec.name for spec in specs}:
        per_array = dict(chunks)
    else:
        per_array = dict.fromkeys([spec.name for spec in specs], chunks)
    arrays = OfferedArrays()
    for spec in specs:
        layout = ChunkLayout.from_spec(spec, per_array.get(spec.name), n_receivers)
        source = Source(spec, layout, run, n_receivers)
        if layout.open_ended:
            arrays[spec.name] = OpenEndedArray(source)
        else:
            whole = Selection.full(layout.shape)
            arrays[spec.name] = ExternalArray(source.view(whole, tuple(range(layout.ndim))))
    return arrays


class ExternalArray(da.Array):
    """A view of an array that a simulation will deliver: (time, \\*space), lazy.

    Made by `external_arrays` and by slicing. Chunks follow the boundaries of the array's chunk
    grid; chunks without a cell of the view are left out.

    Attributes
    ----------
    view : View
        What is selected of which array.
    spec : ArraySpec
        The array as the simulation offers it.
    """

    view: View

    def __new__(cls, view: View) -> ExternalArray:
        graph = HighLevelGraph({view.name: ViewLayer(view)}, {view.name: set()})
        self = super().__new__(cls, graph, view.name, view.chunks, dtype=view.source.spec.dtype)
        self.view = view
        return self

    @property
    def spec(self) -> ArraySpec:
        """The array as the simulation offers it."""
        return self.view.source.spec

    @property
    def source(self) -> Source:
        """What this is a view of; shared by all views of the array."""
        return self.view.source

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions of this view."""
        return tuple(self.spec.dims[dim] for dim in self.view.kept)

    @property
    def steps(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Simulation steps of the selected time indices."""
        axis, time = self.spec.steps, self.view.selection.dims[0]
        return axis.start + axis.every * (time.start + time.step * np.arange(time.count))

    def __getitem__(self, index: Any) -> da.Array:
        items = index if isinstance(index, tuple) else (index,)
        lengths = [self.view.selection.count[dim] for dim in self.view.kept]
        parts = _split(items, lengths, self)
        if parts is None:
            return super().__getitem__(index)
        pushed, rest = parts
        if any(isinstance(p, Progression) and not p.count for p in pushed):
            if self.spec.ragged:
                return super().__getitem__(index)
            shape = np.broadcast_to(np.zeros(()), self.shape)[index].shape
            return da.zeros(shape, dtype=self.dtype)  # depends on nothing external
        view = self if all(map(_is_all, pushed, lengths)) else ExternalArray(self._select(pushed))
        if all(isinstance(item, slice) and item == slice(None) for item in rest):
            return view
        return da.Array.__getitem__(view, rest)

    def _select(self, pushed: Sequence[Progression | int]) -> View:
        """Return the view that takes these positions (an integer removes the dimension)."""
        source, selection = self.view.source, self.view.selection
        dims = list(selection.dims)
        kept = []
        for dim, positions in zip(self.view.kept, pushed, strict=True):
            if isinstance(positions, int):
                dims[dim] = dims[dim].compose(Progression(positions, 1))
            else:
                dims[dim] = dims[dim].compose(positions)
                kept.append(dim)
        return source.view(Selection.of(dims), tuple(kept))

    def to_xarray(self) -> xr.DataArray:
        """Return a DataArray with names of dimensions, steps as coordinates, and attributes."""
        import xarray as xr

        coords = {self.spec.dims[0]: self.steps} if 0 in self.view.kept else {}
        return xr.DataArray(
            self, dims=self.dims, coords=coords, attrs=dict(self.spec.attrs), name=self.spec.name
        )

    def to_dataframe(self, columns: Sequence[str] | None = None) -> dd.DataFrame:
        """Return the rows of a ragged array (particles) as a dataframe.

        Parameters
        ----------
        columns
            Names of the columns; default ``"0", "1", ...``.

        Returns
        -------
        dask.dataframe.DataFrame
            One partition per step and part, in that order.
        """
        import dask.dataframe as dd

        spec = self.spec
        if not spec.ragged or 1 not in self.view.kept or self.ndim - (0 in self.view.kept) > 2:
            raise ContractError(
                f"array {spec.name!r}: only a ragged array with one or no dimension besides time "
                f"and rows makes a dataframe, got dimensions {self.dims}"
            )
        width = self.shape[-1] if self.view.kept[-1] > 1 else 1
        names = [str(i) for i in range(width)] if columns is None else list(columns)
        if len(names) != width:
            raise ContractError(
                f"array {spec.name!r} has {width} columns, got {len(names)} names: {names}"
            )
        name = f"rows-{spec.name}-{tokenize(self.name)}"
        tasks = {}
        for number, index in enumerate(np.ndindex(*self.numblocks)):
            key = (name, number, 0)
            tasks[key] = Task(key, _rows, TaskRef((self.name, *index)), width)
        graph = HighLevelGraph.from_collections(name, tasks, dependencies=[self])
        rows = da.Array(graph, name, ((np.nan,) * len(tasks), (width,)), dtype=self.dtype)
        return dd.from_dask_array(rows, columns=names)


class OpenEndedArray:
    """An offered array whose number of steps is not known: slice its time to get windows.

    Examples
    --------
    >>> from ips_components.model import StepAxis
    >>> spec = ArraySpec("t", "f8", (8,), StepAxis())
    >>> array = external_arrays([spec], run="r1", n_receivers=2)["t"]
    >>> array[10:20, ::2].shape
    (10, 4)
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.spec = source.spec
        self.dtype = np.dtype(source.spec.dtype)
        self.dims = source.spec.dims

    def __getitem__(self, index: Any) -> ExternalArray:
        items = index if isinstance(index, tuple) else (index,)
        time, *space = items
        if isinstance(time, slice):
            if min(time.start or 0, -1 if time.stop is None else time.stop) < 0:
                raise SelectionError(
                    f"array {self.spec.name!r} is open-ended: a slice of its time needs bounds "
                    f">= 0, got {time.start}:{time.stop}"
                )
            first, last = time.start or 0, time.stop
            time = slice(0, None, time.step)
        else:
            first = as_index(time)
            last, time = first + 1, 0
        if not 0 <= first < last <= OPEN_ENDED:
            raise SelectionError(
                f"array {self.spec.name!r} is open-ended: there is no time {first} to {last}"
            )
        shape = self.source.layout.shape
        dims = [Progression(first, last - first), *(Progression(0, n) for n in shape[1:])]
        window = ExternalArray(self.source.view(Selection.of(dims), tuple(range(len(shape)))))
        return window[(time, *space)]


def _is_all(part: Progression | int, length: int) -> bool:
    return isinstance(part, Progression) and part.count == length


def _split(
    items: Sequence[Any], lengths: Sequence[int], array: ExternalArray
) -> tuple[list[Progression | int], tuple[Any, ...]] | None:
    """Split an index into what is pushed down and what is left for dask; None to push nothing.

    Pushed down is one integer or progression per dimension. What is left has an entry for each
    dimension that stays, and for each new one.
    """
    given = sum(item is not None and not isinstance(item, EllipsisType) for item in items)
    gaps = sum(isinstance(item, EllipsisType) for item in items)
    if gaps > 1 or given > len(lengths):
        return None  # dask's own message is as good as any
    if not gaps:
        items = (*items, Ellipsis)
    fancy = any(isinstance(item, list | np.ndarray) for item in items)
    pushed: list[Progression | int] = []
    rest: list[Any] = []
    for item in items:
        dim = len(pushed)
        if item is None:
            rest.append(None)
        elif isinstance(item, EllipsisType):
            missing = len(lengths) - given
            pushed += [Progression(0, n) for n in lengths[dim : dim + missing]]
            rest += [slice(None)] * missing
        elif isinstance(item, slice):
            if _is_rows(array, dim):
                if item != slice(None):
                    return None
                pushed.append(Progression(0, lengths[dim]))
                rest.append(slice(None))
                continue
            positions, left = _slice(item, lengths[dim], array, dim)
            pushed.append(positions)
            rest.append(left)
        elif isinstance(item, list | np.ndarray):
            found = _fancy(item, lengths[dim], array, dim)
            if found is None:
                return None
            pushed.append(found[0])
            rest.append(found[1])
        else:
            try:
                position = as_index(item)
            except TypeError:
                return None
            if isinstance(item, bool) or _is_rows(array, dim):
                return None
            position = _position(position, lengths[dim], array, dim)
            # With a list beside it, an integer takes part in where the result's dimension goes.
            pushed.append(Progression(position, 1) if fancy else position)
            if fancy:
                rest.append(0)
    return pushed, tuple(rest)


def _is_rows(array: ExternalArray, dim: int) -> bool:
    return array.spec.ragged and array.view.kept[dim] == 1


def _where(array: ExternalArray, dim: int, length: int) -> str:
    return f"array {array.spec.name!r}, dimension {array.dims[dim]!r} of size {length}"


def _position(i: int, length: int, array: ExternalArray, dim: int) -> int:
    if not -length <= i < length:
        raise SelectionError(f"{_where(array, dim, length)}: index {i} is out of range")
    return i % length


def _slice(item: slice, length: int, array: ExternalArray, dim: int) -> tuple[Progression, slice]:
    """Return the positions of a slice, ascending, and whether dask must turn them round."""
    try:
        positions = range(*item.indices(length))
    except (TypeError, ValueError) as error:
        raise SelectionError(f"{_where(array, dim, length)}: {error}") from None
    if not positions and item.start is not None and as_index(item.start) > length:
        # NumPy would give an empty array; here a whole analysis would silently see nothing.
        raise SelectionError(
            f"{_where(array, dim, length)}: slice {item.start}:{item.stop} is out of range"
        )
    if positions.step < 0:
        turned = positions[::-1]
        return Progression(turned.start, len(turned), turned.step), slice(None, None, -1)
    return Progression(positions.start, len(positions), positions.step), slice(None)


def _fancy(
    item: Any, length: int, array: ExternalArray, dim: int
) -> tuple[Progression, np.ndarray[Any, Any] | slice] | None:
    """Return the smallest progression around the positions of a list or mask, and the rest."""
    wanted = np.asarray(item)
    if wanted.ndim != 1 or wanted.dtype.kind not in "iub" or _is_rows(array, dim):
        return None
    if wanted.dtype.kind == "b":
        if len(wanted) != length:
            raise SelectionError(
                f"{_where(array, dim, length)}: a mask of length {len(wanted)} does not fit"
            )
        wanted = np.flatnonzero(wanted)
    if not len(wanted):
        return None
    for extreme in (int(wanted.min()), int(wanted.max())):
        _position(extreme, length, array, dim)
    wanted = np.where(wanted < 0, wanted + length, wanted)
    around = cover(Progression(int(i), 1) for i in np.unique(wanted))
    left = (wanted - around.start) // around.step
    return around, slice(None) if np.array_equal(left, np.arange(around.count)) else left


def _rows(chunk: Any, width: int) -> Any:
    """Bring a chunk of particles, with or without a time dimension, to rows and columns."""
    return chunk.reshape(-1, width)
