"""Names of the dimensions, and units, of a plain dask array that is made of external arrays.

``arrays["t"].mean(axis=0)`` has no names, but its graph says which dimensions of ``t`` are left.
Layers that are understood exactly (views, blockwise operations, reductions, basic slicing, rechunk)
pass names on; behind any other layer a dimension has none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
from dask.blockwise import Blockwise
from dask.highlevelgraph import HighLevelGraph

from ips_components.analysis.time_axes import TimeAxis
from ips_components.analysis.view_layer import ViewLayer
from ips_components.analysis.views import View

logger = logging.getLogger(__name__)

#: Operations whose result has the units of their arguments; names of layers without the token.
_SAME_UNITS = frozenset(
    [
        "mean_chunk",
        "mean_combine",
        "mean_agg",
        "max",
        "min",
        "sum",
        "chunk_max",
        "chunk_min",
        "amax",
        "amin",
        "nanmax",
        "nanmin",
        "nansum",
        "nanmean",
        "chunk_nanmax",
        "chunk_nanmin",
        "add",
        "sub",
        "neg",
        "negative",
        "abs",
        "absolute",
        "round",
        "rint",
        "astype",
        "clip",
        "getitem",
        "transpose",
        "rechunk-merge",
        "rechunk-split",
        "cut",
    ]
)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the dimensions of an array come from.

    Parameters
    ----------
    dims
        Name of each dimension, empty where it is not known.
    units
        Empty where they are not known.
    time
        Steps along one of the dimensions, None where they are not known.
    """

    dims: tuple[str, ...] = ()
    units: str = ""
    time: TimeAxis | None = None


def provenance(array: da.Array) -> Provenance:
    """Return names and units that follow from the external arrays an array is made of."""
    graph = array.__dask_graph__()
    if not isinstance(graph, HighLevelGraph):
        return Provenance(("",) * array.ndim)
    try:
        found = _Tracer(graph).of(array.name)
    except Exception as error:  # a layer of another version of dask costs names, not the run
        logger.info("No names for the dimensions of %s: %r", array.name, error)
        found = None
    if found is None or len(found.dims) != array.ndim:
        return Provenance(("",) * array.ndim)
    unique = tuple(dim if found.dims.count(dim) == 1 else "" for dim in found.dims)
    time = found.time if found.time is not None and found.time.dim in unique else None
    return Provenance(unique, found.units, time)


class _Tracer:
    """Follows the layers of a graph up to the external arrays."""

    def __init__(self, graph: HighLevelGraph) -> None:
        self.graph = graph
        self.known: dict[str, Provenance | None] = {}

    def of(self, name: str) -> Provenance | None:
        """Return the provenance of the array that a layer makes, None if it is not known."""
        order = [name]  # deep graphs: without recursion
        while order:
            last = order[-1]
            above = [
                each for each in self.graph.dependencies.get(last, ()) if each not in self.known
            ]
            if last in self.known:
                order.pop()
            elif above:
                order += above
            else:
                self.known[order.pop()] = self._of_layer(last)
        return self.known[name]

    def _of_layer(self, name: str) -> Provenance | None:
        layer = self.graph.layers[name]
        if isinstance(layer, ViewLayer) and isinstance(view := layer.view, View):
            spec = view.source.spec
            units = str(spec.attrs.get("units", ""))
            return Provenance(tuple(spec.dims[dim] for dim in view.kept), units, _steps_of(view))
        if isinstance(layer, Blockwise):
            return self._of_blockwise(layer)
        above = self.graph.dependencies[name]
        if len(above) != 1:
            return None
        source = self.known[next(iter(above))]
        if source is None or not layer:
            return None
        key, task = next(iter(layer.items()))
        ndim = len(key) - 1 if type(key) is tuple else 0
        dims = _dims_after(source.dims, name, task)
        if dims is None or len(dims) != ndim:
            return None
        units = source.units if _operation(name) in _SAME_UNITS else ""
        return Provenance(dims, units, _time_after(source, dims, layer, name))

    def _of_blockwise(self, layer: Blockwise) -> Provenance:
        names: dict[Any, set[str]] = {}
        units: set[str] = set()
        times: dict[Any, set[TimeAxis | None]] = {}
        for argument, indices in layer.indices:
            if indices is None or not isinstance(argument, str):
                continue
            source = self.known.get(argument)
            dims = source.dims if source is not None else ("",) * len(indices)
            units.add(source.units if source is not None else "")
            for index, dim in zip(indices, dims, strict=True):
                names.setdefault(index, set()).add(dim)
                axis = source.time if source is not None else None
                mine = axis if axis is not None and axis.dim == dim else None
                times.setdefault(index, set()).add(mine)
        dims = tuple(
            next(iter(names[index])) if len(names.get(index, ())) == 1 else ""
            for index in layer.output_indices
        )
        function = getattr(getattr(layer, "task", None), "func", None)
        known = _operation(layer.output) in _SAME_UNITS and _is_library(function)
        same = len(units) == 1 and known
        known_times = [
            axis
            for index in layer.output_indices
            if len(times.get(index, ())) == 1 and (axis := next(iter(times[index]))) is not None
        ]
        time = known_times[0] if len(known_times) == 1 else None
        return Provenance(dims, units.pop() if same else "", time)


def _steps_of(view: View) -> TimeAxis | None:
    """Return the steps of a view of an external array."""
    if 0 not in view.kept:
        return None
    spec, selected = view.source.spec, view.selection.dims[0]
    first, every = spec.steps.start + spec.steps.every * selected.start, spec.steps.every
    stride = every * selected.step
    return TimeAxis(
        spec.dims[0], view.source.run, range(first, first + stride * selected.count, stride)
    )


def _time_after(
    source: Provenance, dims: tuple[str, ...], layer: Mapping[Any, Any], name: str
) -> TimeAxis | None:
    """Return the steps after a reduction, basic slicing or rechunk of one array."""
    if source.time is None or source.time.dim not in dims:
        return None
    axis, operation = source.dims.index(source.time.dim), _operation(name)
    if operation == "getitem":
        # Each task has the slice of its own chunk: only what takes all is known from it.
        indices = [[i for i in _parts(task)[1][1] if i is not None] for task in layer.values()]
        kept = all(len(each) <= axis or each[axis] == slice(None) for each in indices)
        return source.time if kept else None
    options = None if operation.startswith("rechunk") else _reduction(_first_function(layer))
    if options is not None:
        axes = options["axis"]
        if axis in set(axes if isinstance(axes, Iterable) else [axes]):
            return None  # it is kept with a single entry
    return source.time


def _first_function(layer: Mapping[Any, Any]) -> Any:
    return _parts(next(iter(layer.values())))[0]


def _dims_after(dims: tuple[str, ...], name: str, task: Any) -> tuple[str, ...] | None:
    """Return the names after a reduction, basic slicing or rechunk of one array."""
    operation = _operation(name)
    function, arguments = _parts(task)
    if operation.startswith("rechunk"):
        return dims
    if operation == "getitem":
        index = arguments[1] if len(arguments) > 1 else None
        return _sliced(dims, index) if isinstance(index, tuple) else None
    options = _reduction(function)
    if options is None:
        return None
    axes = options["axis"]
    axes = set(axes if isinstance(axes, Iterable) else [axes])
    if options["keepdims"]:
        return dims
    return tuple(dim for axis, dim in enumerate(dims) if axis not in axes)


def _sliced(dims: tuple[str, ...], index: tuple[Any, ...]) -> tuple[str, ...] | None:
    left: list[str] = []
    remaining = list(dims)
    for item in index:
        if item is None:
            left.append("")
            continue
        if item is Ellipsis or not remaining:
            return None
        dim = remaining.pop(0)
        if not isinstance(item, int):
            left.append(dim)
    return (*left, *remaining)


def _parts(task: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return function and arguments of a task in Dask's new or old form."""
    if type(task) is tuple:
        return task[0], task[1:]
    return getattr(task, "func", None), getattr(task, "args", ())


def _reduction(function: Any) -> Mapping[str, Any] | None:
    """Return axis and keepdims of a step of a reduction."""
    composed = [getattr(function, "first", function), *getattr(function, "funcs", ())]
    for each in composed:
        options = getattr(each, "keywords", None) or {}
        if "axis" in options and "keepdims" in options:
            return dict(options)
    return None


def _is_library(function: Any) -> bool:
    """Return whether a function is Python's, NumPy's or Dask's, not one that is named alike."""
    while hasattr(function, "keywords"):
        function = function.func
    module = str(getattr(function, "__module__", "")).partition(".")[0]
    return module in ("_operator", "operator", "builtins", "numpy", "dask")


def _operation(name: str) -> str:
    """Return the operation in the name of a layer: ``mean_agg`` of ``mean_agg-aggregate-1a2b``."""
    operation = name.rpartition("-")[0]
    return operation.removesuffix("-partial").removesuffix("-aggregate")
