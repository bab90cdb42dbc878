"""Reductions over the time of external arrays as chains with a running state.

Dask reduces an array by a tree. Over time, and with data that arrive step by step, a chain with a
state of fixed size per chunk in space does the same with a fraction of the memory traffic. The
layers that dask.array makes for its reductions are recognised in a graph and replaced; their
output keeps its keys. A graph without exactly these layers is left as it is.

The order of additions differs from the tree's: floating-point sums agree to rounding, integers
and extremes exactly. Floats are accumulated in double precision.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from dask._task_spec import GraphNode, Task, TaskRef, convert_legacy_task
from dask.array import chunk as chunk_functions
from dask.array import reductions
from dask.base import tokenize
from dask.blockwise import Blockwise
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

from ips_components.algorithms.running_state import Statistic, finish, update
from ips_components.analysis.view_layer import ViewLayer

_SIMPLE: dict[Any, tuple[str, bool, Any]] = {
    chunk_functions.sum: ("sum", False, chunk_functions.sum),
    chunk_functions.prod: ("prod", False, chunk_functions.prod),
    chunk_functions.any: ("any", False, chunk_functions.any),
    chunk_functions.all: ("all", False, chunk_functions.all),
    chunk_functions.nansum: ("sum", True, chunk_functions.sum),
    chunk_functions.nanprod: ("prod", True, chunk_functions.prod),
    reductions.chunk_min: ("min", False, chunk_functions.min),
    reductions.chunk_max: ("max", False, chunk_functions.max),
    reductions._nanmin_skip: ("min", True, reductions._nanmin_skip),
    reductions._nanmax_skip: ("max", True, reductions._nanmax_skip),
}
"""Functions of chunks: the reduction, whether it leaves NaN out, the function of the last layer."""

_SKIPNA = {"sum": chunk_functions.nansum, "numel": reductions.nannumel}


def stream_reductions(graph: HighLevelGraph, *, growing: bool = False) -> HighLevelGraph:
    """Return a graph in which reductions over the time of views are chains.

    Parameters
    ----------
    graph
        A graph with layers of views.
    growing
        Give the chains of graphs over more steps the same keys. Otherwise those of two graphs
        with other outputs differ: they must not share a state, which each changes in place.

    Returns
    -------
    HighLevelGraph
        With the same output keys; the same graph if it has no such reduction.
    """
    found: dict[str, list[tuple[str, Statistic, bool]]] = defaultdict(list)
    for name, layer in graph.layers.items():
        recognised = _recognise(graph, name, layer)
        if recognised is not None:
            view, statistic, keepdims = recognised
            found[view].append((name, statistic, keepdims))
    if not found:
        return graph
    layers: dict[str, Layer] = dict(graph.layers)
    dependencies = {name: set(of) for name, of in graph.dependencies.items()}
    for view, outputs in found.items():
        source = graph.layers[view]
        assert isinstance(source, ViewLayer)
        needs = tuple(sorted({need for _, statistic, _ in outputs for need in statistic.needs}))
        ends = sorted(repr(each[1:]) if growing else each[0] for each in outputs)
        chain = f"running-{tokenize(view, needs, ends)}"
        layers[chain] = MaterializedLayer(_chain(chain, source, needs))
        dependencies[chain] = {view}
        last = source.numblocks[0] - 1
        for name, statistic, keepdims in outputs:
            tasks: dict[Any, GraphNode] = {}
            for space in product(*map(range, source.numblocks[1:])):
                key = (name, 0, *space) if keepdims else (name, *space)
                tasks[key] = Task(key, finish, TaskRef((chain, last, *space)), statistic, keepdims)
            layers[name] = MaterializedLayer(tasks)
            dependencies[name] = {chain}
    return _without_unused(layers, dependencies, graph)


def _chain(
    name: str, view: ViewLayer, needs: tuple[tuple[str, bool, str], ...]
) -> dict[Any, GraphNode]:
    tasks: dict[Any, GraphNode] = {}
    times = range(view.numblocks[0])
    for space in product(*map(range, view.numblocks[1:])):
        before: Any = None
        for time in times:
            key = (name, time, *space)
            chunk = TaskRef((view.name, time, *space))
            tasks[key] = Task(key, update, before, chunk, time, needs, view.name)
            before = TaskRef(key)
    return tasks


def _without_unused(
    layers: dict[str, Layer], dependencies: dict[str, set[str]], before: HighLevelGraph
) -> HighLevelGraph:
    """Drop the layers that only the replaced ones used."""
    used_before = {name for of in before.dependencies.values() for name in of}
    while True:
        used = {name for of in dependencies.values() for name in of}
        unused = [name for name in layers if name not in used and name in used_before]
        if not unused:
            return HighLevelGraph(layers, dependencies)
        for name in unused:
            del layers[name], dependencies[name]


def _recognise(
    graph: HighLevelGraph, name: str, layer: Layer
) -> tuple[str, Statistic, bool] | None:
    """Return view, statistic and whether time stays, if this is the last layer of a reduction."""
    if not name.partition("-")[2].startswith("aggregate-") or isinstance(layer, Blockwise):
        return None
    below = _only(graph.dependencies[name])
    while below is not None and "-partial-" in below:
        below = _only(graph.dependencies[below])
    chunks = graph.layers.get(below or "")
    if not isinstance(chunks, Blockwise) or below is None:
        return None
    view = graph.layers.get(_only(graph.dependencies[below]) or "")
    if not isinstance(view, ViewLayer) or len(view.numblocks) < 2 or view.view.kept[0] != 0:
        return None
    if not view.view.dtype or not _supported(view.view.dtype):
        return None
    if len(chunks.indices) != 1 or chunks.indices[0][1] != chunks.output_indices:
        return None
    function, options = _unwrap(chunks.task.func, chunks.task.kwargs)
    if options.pop("axis", None) != (0,) or options.pop("keepdims", None) is not True:
        return None
    last, last_options = _last_function(layer)
    if last is None or last_options.pop("axis", None) != (0,):
        return None
    keepdims = last_options.pop("keepdims", None)
    statistic = _statistic(function, options, last, last_options, view.view.dtype)
    if statistic is None or not isinstance(keepdims, bool):
        return None
    return view.name, statistic, keepdims


def _statistic(
    function: Any, options: dict[str, Any], last: Any, last_options: dict[str, Any], data: str
) -> Statistic | None:
    dtype = options.pop("dtype", None)
    if last_options.pop("dtype", dtype) != dtype:
        return None
    if function in _SIMPLE:
        kind, skipna, expected = _SIMPLE[function]
        if options or last_options or last is not expected:
            return None
        if kind in ("any", "all"):
            dtype = np.dtype(bool)
        elif kind in ("min", "max"):
            dtype = np.dtype(data).newbyteorder("=")
        if dtype is None or not _supported(dtype):
            return None
        return Statistic(kind, skipna, np.dtype(dtype).str)
    skipna = options.items() >= _SKIPNA.items()
    for option in _SKIPNA if skipna else ():
        del options[option]
    if dtype is None or np.dtype(dtype) not in (np.dtype("f4"), np.dtype("f8")):
        return None
    if function is reductions.mean_chunk and last is reductions.mean_agg:
        if options or last_options:
            return None
        return Statistic("mean", skipna, np.dtype(dtype).str)
    if function is reductions.moment_chunk and last is reductions.moment_agg:
        options.pop("implicit_complex_dtype", None)
        ddof = last_options.pop("ddof", 0)
        last_options.pop("sum", None)
        if options or last_options:  # a higher moment
            return None
        return Statistic("var", skipna, np.dtype(dtype).str, float(ddof))
    return None


def _supported(dtype: Any) -> bool:
    dtype = np.dtype(dtype)
    return dtype.kind in "iub" or (dtype.kind == "f" and dtype.itemsize in (4, 8))


def _only(names: Any) -> str | None:
    return next(iter(names)) if len(names) == 1 else None


def _unwrap(function: Any, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Take a partial apart."""
    options = dict(options)
    while hasattr(function, "func") and hasattr(function, "keywords") and not function.args:
        options = {**function.keywords, **options}
        function = function.func
    return function, options


def _last_function(layer: Layer) -> tuple[Any, dict[str, Any]]:
    """Return the function of an aggregation, without the concatenation before it."""
    key, task = next(iter(dict(layer).items()), (None, None))
    task = convert_legacy_task(key, task, set()) if task is not None else None
    function: Any = getattr(task, "func", None)
    options: Mapping[str, Any] = getattr(task, "kwargs", None) or {}
    if hasattr(function, "funcs"):
        inner, _ = _unwrap(function.first, {})
        if inner is not reductions._concatenate2 or len(function.funcs) != 1:
            return None, {}
        function = function.funcs[0]
    return _unwrap(function, options)
