"""External arrays: dask arrays whose basic slicing reaches down into the simulation.

``arrays["temperature"][::10, :64]`` is a `dask.array.Array` like any other, and everything of
dask.array and xarray works on it. But the slicing is remembered: the simulation will send these
steps and cells only. Slices of slices compose; integers, lists and masks are pushed down as well
(for lists the box around them). Of what is computed first and sliced later, `cells` finds the cells
that are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from operator import index as as_index
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask._task_spec import Task, TaskRef
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from ips_components.analysis.derived import SlicedFirst, with_known_values
from ips_components.analysis.last_step import last_step, of_time
from ips_components.analysis.time_axes import step_coordinate
from ips_components.analysis.view_layer import ViewLayer
from ips_components.analysis.views import Source, View
from ips_components.errors import ContractError, GeometryError, SelectionError
from ips_components.model.amr import TABLE_OF
from ips_components.model.layout import ChunkLayout
from ips_components.model.progression import Progression, cover
from ips_components.model.selection import ParsedKey, Selection, parse_key
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
    specs: Sequence[ArraySpec],
    *,
    run: str,
    n_receivers: int,
    chunks: Any = None,
    steps: Mapping[str, int] | None = None,
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
    steps
        Steps in a chunk, by name of the array, where `chunks` does not say it; default 1.

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
        per_chunk = (steps or {}).get(spec.name, 1)
        layout = ChunkLayout.from_spec(spec, per_array.get(spec.name), n_receivers, per_chunk)
        source = Source(spec, layout, run, n_receivers)
        if layout.open_ended:
            arrays[spec.name] = OpenEndedArray(source)
        else:
            whole = Selection.full(layout.shape)
            arrays[spec.name] = ExternalArray(source.view(whole, tuple(range(layout.ndim))))
    for spec in specs:  # the table of blocks has the rows that are chosen of these
        of = spec.attrs.get(TABLE_OF)
        if of is not None and of in arrays:
            arrays[spec.name].source.chosen = arrays[of].source.chosen
    return arrays


class ExternalArray(SlicedFirst):
    """A view of an array that a simulation will deliver: (time, \\*space), lazy.

    Made by `external_arrays` and by slicing. Chunks follow the boundaries of the array's chunk
    grid; chunks without a cell of the view are left out.

    Attributes
    ----------
    external_view : View
        What is selected of which array.
    spec : ArraySpec
        The array as the simulation offers it.
    """

    external_view: View

    def __new__(cls, view: View) -> ExternalArray:
        graph = HighLevelGraph({view.name: ViewLayer(view)}, {view.name: set()})
        self = super().__new__(cls, graph, view.name, view.chunks, dtype=view.source.spec.dtype)
        self.external_view = view
        return self

    @property
    def spec(self) -> ArraySpec:
        """The array as the simulation offers it."""
        return (self.source.unbounded or self.source).spec

    @property
    def source(self) -> Source:
        """What this is a view of; shared by all views of the array."""
        return self.external_view.source

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions of this view."""
        return tuple(self.spec.dims[dim] for dim in self.external_view.kept)

    @property
    def steps(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Simulation steps of the selected time indices."""
        axis, time = self.spec.steps, self.external_view.selection.dims[0]
        return axis.start + axis.every * (time.start + time.step * np.arange(time.count))

    def __getitem__(self, index: Any) -> da.Array:
        if self.name != self.external_view.name:
            return super().__getitem__(index)  # something was assigned to a part of the array
        index = with_known_values(index)
        items = index if isinstance(index, tuple) else (index,)
        if self.source.at_most and 0 in self.external_view.kept:
            place, time = of_time(items, self)
            if time == -1 and isinstance(time, int | np.integer):
                return last_step(self, items, place)
            if self.source.unbounded is not None:
                self._note_asked(time)
        try:
            parts = _push_down(items, self)
        except GeometryError as error:
            raise SelectionError(f"array {self.spec.name!r}: {error}") from None
        if parts is None:
            return super().__getitem__(index)
        parsed, rest = parts
        if not parsed.selection.size:
            if self.spec.ragged:
                return super().__getitem__(index)
            shape = np.broadcast_to(np.zeros(()), self.shape)[index].shape
            return da.zeros(shape, dtype=self.dtype)  # depends on nothing external
        view = self._select(parsed)
        if all(map(_takes_all, rest)):
            return view
        return da.Array.__getitem__(view, rest)

    def _note_asked(self, time: Any) -> None:
        """Note which steps the graph must span: those that are asked for by their numbers.

        Of a slice without an end these are two, so that the graph shows how it goes on.
        """
        numbers = [time]
        if isinstance(time, slice):
            first = time.start or 0
            numbers = [first, first + (time.step or 1) if time.stop is None else time.stop - 1]
        mine = self.external_view.selection.dims[0]
        last = max(mine.start + mine.step * int(number) for number in numbers)
        self.source.asked = max(self.source.asked, last + 1)

    def _select(self, parsed: ParsedKey) -> ExternalArray:
        """Return the array of these positions (an integer removes the dimension)."""
        view = self.external_view
        if not parsed.dropped and parsed.selection == Selection.full(
            [view.selection.count[dim] for dim in view.kept]
        ):
            return self
        dims = list(view.selection.dims)
        for dim, positions in zip(view.kept, parsed.selection.dims, strict=True):
            dims[dim] = dims[dim].compose(positions)
        kept = [dim for i, dim in enumerate(view.kept) if i not in parsed.dropped]
        return ExternalArray(view.source.view(Selection.of(dims), tuple(kept)))

    def only(self, *, level: Any = None, box: Any = None) -> ExternalArray:
        """Want some blocks of an adaptive mesh only: the others do not leave the ranks.

        Parameters
        ----------
        level
            A level of refinement, negative from the finest one, or a slice of levels.
        box
            A slice per dimension, in cells of level 0: blocks that have none of these cells are
            left out. Blocks that touch the box come whole.

        Returns
        -------
        ExternalArray
            The same array. The choice holds for all of the run, and for the table
            ``"<name>.blocks"`` of levels and places, whose rows are those of this array.

        Raises
        ------
        SelectionError
            When the array has no levels, or not this one.
        ContractError
            When the run has another choice already.
        """
        self.source.choose(level, box)
        return self

    def to_xarray(self) -> xr.DataArray:
        """Return a DataArray with names of dimensions, steps as coordinates, and attributes.

        In results the steps become physical times, where these are known.

        An array of at most n steps has no steps as coordinates, since their number is not known.
        """
        import xarray as xr

        known = 0 in self.external_view.kept and not self.source.at_most
        dim = self.spec.dims[0]
        coords = {dim: step_coordinate(dim, self.source.run, self.steps)} if known else {}
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
        if (
            not spec.ragged
            or 1 not in self.external_view.kept
            or self.ndim - (0 in self.external_view.kept) > 2
        ):
            raise ContractError(
                f"array {spec.name!r}: only a ragged array with one or no dimension besides time "
                f"and rows makes a dataframe, got dimensions {self.dims}"
            )
        width = self.shape[-1] if self.external_view.kept[-1] > 1 else 1
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

    def only(self, *, level: Any = None, box: Any = None) -> OpenEndedArray:
        """Want some blocks of an adaptive mesh only, see `ExternalArray.only`."""
        self.source.choose(level, box)
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # others only ask whether there is such a method
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        raise ContractError(self._no_array(name))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        raise ContractError(self._no_array(ufunc.__name__))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise ContractError(self._no_array(function.__name__))

    def _no_array(self, what: str) -> str:
        return (
            f"array {self.spec.name!r} has no number of steps (it is open-ended), so that there is "
            f"no {what!r} of it where it has chunks of several steps or several simulations feed "
            "the analysis; give a number that is never exceeded (STEPS = 0:1000 and "
            "AT_MOST = True in its section), and the analysis runs over the steps that come; or "
            "take windows of its steps, run.rolling(array, size)"
        )

    def __getitem__(self, index: Any) -> ExternalArray:
        items = index if isinstance(index, tuple) else (index,)
        time, *space = items
        if isinstance(time, slice):
            said = ":".join("" if each is None else str(each) for each in (time.start, time.stop))
            first, last = time.start or 0, -1 if time.stop is None else time.stop
            time = slice(0, None, time.step)
        else:
            first = as_index(time)
            said = str(first)
            last, time = first + 1, 0
        if not 0 <= first < last <= OPEN_ENDED:
            raise SelectionError(self._no_array(f"{self.spec.name}[{said}]"))
        shape = self.source.layout.shape
        dims = [Progression(first, last - first), *(Progression(0, n) for n in shape[1:])]
        window = ExternalArray(self.source.view(Selection.of(dims), tuple(range(len(shape)))))
        cut: Any = window[(time, *space)]
        return cut


def _refused(name: str) -> Any:
    def operate(self: OpenEndedArray, *others: Any) -> Any:
        raise ContractError(self._no_array(name))

    return operate


for _name in ("add", "sub", "mul", "truediv", "pow", "radd", "rsub", "rmul", "rtruediv", "rpow"):
    setattr(OpenEndedArray, f"__{_name}__", _refused(_name))
for _name in ("lt", "le", "gt", "ge", "neg", "abs", "len"):
    setattr(OpenEndedArray, f"__{_name}__", _refused(_name))


def _push_down(
    items: Sequence[Any], array: ExternalArray
) -> tuple[ParsedKey, tuple[Any, ...]] | None:
    """Split an index into a basic one that is pushed down and one that is left for dask.

    What is left has an entry for each dimension that stays and for each new axis. Returns None
    for an index that dask has to apply as a whole.
    """
    view = array.external_view
    lengths = [view.selection.count[dim] for dim in view.kept]
    rows = view.kept.index(1) if array.spec.ragged and 1 in view.kept else None
    given = sum(item is not None and item is not Ellipsis for item in items)
    beside_list = any(isinstance(item, list | np.ndarray) for item in items)
    basic: list[Any] = []
    rest: dict[int, Any] = {}
    dim = 0
    for item in items:
        if item is None or item is Ellipsis:
            basic.append(item)
            dim += len(lengths) - given if item is Ellipsis else 0
            continue
        if dim >= len(lengths) or (dim == rows and not _takes_all(item)):
            return None
        if isinstance(item, list | np.ndarray):
            found = _slice_around(item, lengths[dim], f"dimension {array.dims[dim]!r}")
            if found is None:
                return None
            item, rest[dim] = found
        elif isinstance(item, slice):
            item = slice(*map(_integer, (item.start, item.stop, item.step)))
        elif isinstance(item, bool | np.bool_) or not isinstance(item, int | np.integer):
            return None
        elif beside_list and -lengths[dim] <= item < lengths[dim]:
            # An integer beside a list takes part in where the dimension of the result goes.
            item, rest[dim] = slice(item % lengths[dim], item % lengths[dim] + 1), 0
        basic.append(item)
        dim += 1
    parsed = parse_key(tuple(basic), lengths, array.dims)
    left = []
    for of in parsed.layout:
        whole = slice(None, None, -1) if of in parsed.flipped else slice(None)
        left.append(None if of is None else rest.get(of, whole))
    return parsed, tuple(left)


def _takes_all(item: Any) -> bool:
    return isinstance(item, slice) and item == slice(None)


def _integer(bound: Any) -> Any:
    """Return a bound of a slice; an integral float becomes an int, as in dask.array."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _slice_around(
    item: Any, length: int, label: str
) -> tuple[slice, np.ndarray[Any, Any] | slice] | None:
    """Return the smallest slice around the positions of a list or mask, and what it leaves."""
    wanted = np.asarray(item)
    if wanted.ndim != 1 or wanted.dtype.kind not in "iub":
        return None
    if wanted.dtype.kind == "b":
        if len(wanted) != length:
            raise GeometryError(
                f"{label} of size {length}: a mask of length {len(wanted)} does not fit"
            )
        wanted = np.flatnonzero(wanted)
    if not len(wanted):
        return None
    for extreme in (int(wanted.min()), int(wanted.max())):
        if not -length <= extreme < length:
            raise GeometryError(f"index {extreme} is out of bounds for {label} with size {length}")
    wanted = np.where(wanted < 0, wanted + length, wanted)
    around = cover(Progression(int(i), 1) for i in np.unique(wanted))
    left = (wanted - around.start) // around.step
    whole = np.array_equal(left, np.arange(around.count))
    return slice(around.start, around.stop, around.step), slice(None) if whole else left


def _rows(chunk: Any, width: int) -> Any:
    """Bring a chunk of particles, with or without a time dimension, to rows and columns."""
    return chunk.reshape(-1, width)
