"""One graph over *at most* n steps, whose results are those of the steps that came.

The arrays have n chunks in time of unknown length (nan): whatever Dask can do with chunks of
unknown size it does, and what it cannot do it says before step 0. When the simulation ends
earlier, the chunks of the steps that never came are resolved with `ABSENT`, and each task does with
it what its rule says, see `absence`. That no number can be wrong is checked before the graph is
submitted: for each task it is known which step must come for it to have a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask._task_spec import (
    Alias,
    DataNode,
    GraphNode,
    List,
    Task,
    TaskRef,
    convert_legacy_graph,
    fuse_linear_task_spec,
)
from dask._task_spec import cull as cull_tasks
from dask.base import tokenize
from dask.blockwise import Blockwise, fuse_roots, optimize_blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.utils import ensure_dict

from ips_components.analysis.absence import assemble
from ips_components.analysis.inlining import inline_cuts
from ips_components.analysis.step_needs import REMEDY, Guards
from ips_components.analysis.streaming import stream_reductions
from ips_components.analysis.time_axes import step_coordinate
from ips_components.analysis.view_layer import ViewLayer
from ips_components.analysis.views import Source, View
from ips_components.errors import ContractError, IPSComponentsError
from ips_components.external._compat import gc_paused
from ips_components.external.packed_tasks import pack
from ips_components.model.absent import ABSENT

if TYPE_CHECKING:
    from distributed import Client, Future

_ARITHMETIC = {
    "add",
    "sub",
    "subtract",
    "mul",
    "multiply",
    "truediv",
    "true_divide",
    "divide",
    "floordiv",
    "floor_divide",
    "mod",
    "remainder",
    "pow",
    "power",
}
"""Functions of which every value is nan where an argument is."""


def submit_at_most(
    client: Client, results: Mapping[str, Any], sources: Iterable[Source], *, streaming: bool = True
) -> dict[str, Future]:
    """Submit lazy results over arrays of at most n steps, after the contract was made.

    Parameters
    ----------
    client
        Client of the cluster.
    results
        Dask collections by name.
    sources
        All arrays on offer.
    streaming
        Make chains with a running state of the reductions over time.

    Returns
    -------
    dict
        A future for each result, by name.

    Raises
    ------
    ContractError
        A result cannot be had when the number of steps is known at the end only.
    """
    with gc_paused():
        tasks, keys = graph_at_most(results, sources, streaming=streaming)
        futures = client.get(pack(tasks), list(keys.values()), sync=False)
    return dict(zip(keys, futures, strict=True))


@dataclass(frozen=True, slots=True)
class AtMostGraph:
    """The graph of some results over arrays of at most n steps.

    Parameters
    ----------
    tasks
        All tasks, by key.
    keys
        Key of each result, by its name.
    views
        Names of the views whose chunks the tasks use.
    """

    tasks: dict[Any, GraphNode]
    keys: dict[str, Any]
    views: set[str]

    def fused(
        self, tasks: Mapping[Any, GraphNode], kept: Iterable[Any] = ()
    ) -> dict[Any, GraphNode]:
        """Return some of the tasks as they are submitted.

        Results keep their keys and those of the parts that they consist of, not the chunks that
        these are cut out of; further keys that are to be kept are given.
        """
        results = {key for key in self.keys.values() if key in tasks}
        outputs = results.union(kept, *(tasks[key].dependencies for key in results))
        inlined = inline_cuts(tasks, self.views, outputs)
        fused: dict[Any, GraphNode] = fuse_linear_task_spec(inlined, keys=outputs)
        return fused


def graph_at_most(
    results: Mapping[str, Any], sources: Iterable[Source], *, streaming: bool = True
) -> tuple[dict[Any, GraphNode], dict[str, Any]]:
    """Return all tasks of some results, and the key of each result by its name.

    Raises
    ------
    ContractError
        See `submit_at_most`.
    """
    graph = build_at_most(results, sources, streaming=streaming)
    return graph.fused(graph.tasks), graph.keys


def build_at_most(
    results: Mapping[str, Any],
    sources: Iterable[Source],
    *,
    streaming: bool = True,
    growing: bool = False,
) -> AtMostGraph:
    """Return the graph of some results.

    Parameters
    ----------
    results, sources, streaming
        See `submit_at_most`.
    growing
        Give tasks the same keys in a graph over more steps, wherever they are the same.

    Raises
    ------
    ContractError
        See `submit_at_most`.
    """
    sources = [source for source in sources if source.at_most]
    tasks: dict[Any, GraphNode] = {}
    last: dict[str, Task] = {}
    for name, result in results.items():
        plain, chunks, nested = _blocks_of(name, result)
        graph, outputs = plain.__dask_graph__(), set(flatten([nested]))
        if isinstance(graph, HighLevelGraph):
            _refuse_lengths(name, graph)
            if streaming and chunks is not None:
                graph = stream_reductions(graph, growing=growing)
            graph = fuse_roots(optimize_blockwise(graph, keys=outputs), keys=outputs).cull(outputs)
        made = cull_tasks(convert_legacy_graph(ensure_dict(graph)), list(outputs))
        tasks |= {
            key: task
            for key, task in made.items()
            if not (isinstance(task, Alias) and task.target == key)
        }
        key = f"result-{tokenize(name, nested)}"
        last[name] = Task(key, _result, name, chunks, _refs(nested))
    guards = Guards(tasks, sources)
    for name, task in last.items():
        guards.check_result(name, task)
        around = DataNode(None, _around(results[name], guards))
        last[name] = Task(task.key, _result, *task.args, around)
    views = {name for source in sources for name in source.views}
    finals = {task.key: task for task in last.values()}
    keys = {name: task.key for name, task in last.items()}
    return AtMostGraph({**guards.tasks(), **finals}, keys, views)


def _blocks_of(name: str, result: Any) -> tuple[Any, tuple[Any, ...] | None, Any]:
    """Return the collection whose graph is taken, sizes of its blocks, and their keys."""
    if isinstance(result, xr.DataArray):
        lazy = [
            str(c) for c in result.coords if isinstance(result.coords[c].variable._data, da.Array)
        ]
        if lazy:
            raise ContractError(
                f"result {name!r} has the lazy coordinates {', '.join(lazy)}; where the number of "
                "steps is not known, return them as results of their own"
            )
        result = result.data
    if isinstance(result, da.Array):
        keys = result.__dask_keys__()
        return result, result.chunks, keys if result.ndim else keys[0]
    keys = result.__dask_keys__()
    if len(keys) != 1:
        raise ContractError(
            f"result {name!r} is a {type(result).__name__} of {len(keys)} parts; where the number "
            f"of steps is not known, results are arrays or single values: {REMEDY}"
        )
    return result, None, keys[0]


def _refuse_lengths(name: str, graph: HighLevelGraph) -> None:
    """Refuse arithmetic with an unknown length: all of it would be nan."""
    for layer in graph.layers.values():
        if not isinstance(layer, Blockwise):
            continue
        function = layer.output.rpartition("-")[0]
        if function not in _ARITHMETIC:
            continue
        for value, index in layer.indices:
            number = getattr(value, "value", value)
            if index is None and isinstance(number, float | np.floating) and np.isnan(number):
                raise ContractError(
                    f"result {name!r}: {function} with nan, which is how Dask writes a "
                    "length that is not known before the end (such as array.shape[0]); use "
                    "functions that count the steps which come, such as mean"
                )


def _around(result: Any, guards: Guards) -> Any:
    """Return dims, coordinates, attributes and name of a DataArray, and the steps that it is of."""
    if not isinstance(result, xr.DataArray):
        return None
    coords = dict(result.coords)
    unknown = [axis for axis, size in enumerate(result.shape) if np.isnan(size)]
    of_steps = None
    if len(unknown) == 1 and result.dims[unknown[0]] not in coords:
        found = guards.steps_along(flatten(result.data.__dask_keys__()), unknown[0])
        of_steps = (unknown[0], *found) if found else None
    return result.dims, coords, result.attrs, result.name, of_steps


def _result(name: str, chunks: Any, blocks: Any, around: Any) -> Any:
    value = assemble(name, chunks, blocks)
    if around is None:
        return value
    dims, coords, attrs, own, of_steps = around
    if of_steps is not None:
        axis, steps, run = of_steps
        came = value.shape[axis]
        if sum(block is not ABSENT for block in _along(blocks, axis)) == came:
            coords[dims[axis]] = step_coordinate(str(dims[axis]), run, steps[:came])
    return xr.DataArray(value, dims=dims, coords=coords, attrs=attrs, name=own)


def _along(blocks: Any, axis: int) -> list[Any]:
    """Return the blocks along an axis, the first ones along all others."""
    if axis == 0:
        found = []
        for each in blocks:
            while isinstance(each, list):
                each = each[0]
            found.append(each)
        return found
    return _along(blocks[0], axis - 1)


def _refs(keys: Any) -> Any:
    return List(*map(_refs, keys)) if isinstance(keys, list) else TaskRef(keys)


def is_at_most(result: Any, sources: Iterable[Source]) -> bool:
    """Return whether a lazy result may depend on an array of at most n steps."""
    names = {source.name for source in sources if source.at_most}
    if not names:
        return False
    graph = result.__dask_graph__()
    if not isinstance(graph, HighLevelGraph):
        return True
    views = [layer for layer in graph.layers.values() if isinstance(layer, ViewLayer)]
    return not views or any(isinstance(v.view, View) and v.view.source.name in names for v in views)


def is_growing(results: Mapping[str, Any], sources: Iterable[Source]) -> bool:
    """Whether one of some lazy results depends on an array that has no number of steps."""
    open_ones = [source for source in sources if source.unbounded is not None]
    return any(is_at_most(each, open_ones) for each in results.values())


def refuse_stored(names: Iterable[str]) -> None:
    """Refuse results that workers write, where the graph is made again as steps come."""
    if name := min(names, default=""):
        raise ContractError(
            f"result {name!r} is too large for one process, which writes the results over arrays "
            "that have no number of steps; return a part of it (a region, every tenth cell), or "
            "give a number that is never exceeded (STEPS = 0:1000 and AT_MOST = True)"
        )


def has_growing_views(result: Any) -> bool:
    """Whether views of an array that has no number of steps are in the graph of a result."""
    layers = getattr(result.__dask_graph__(), "layers", {})
    views = [layer.view for layer in layers.values() if isinstance(layer, ViewLayer)]
    return any(isinstance(v, View) and v.source.unbounded is not None for v in views)


def refuse_large(results: Mapping[str, Any], limit: int, came: int | None = None) -> None:
    """Refuse results as long as the run that would not fit into the memory of one process.

    Parameters
    ----------
    results
        Dask collections by name.
    limit
        In bytes.
    came
        Steps that have come, where there is no number of steps.

    Raises
    ------
    ContractError
        A result of unknown length that has more than `limit` bytes if every step comes.
    """
    for name, result in results.items():
        data = result.data if isinstance(result, xr.DataArray) else result
        if not isinstance(data, da.Array) or not np.isnan(data.nbytes):
            continue
        sizes = [sum(1 if np.isnan(size) else size for size in parts) for parts in data.chunks]
        if came is not None:
            unknown = [bool(np.isnan(sum(parts))) for parts in data.chunks]
            sizes = [min(n, came) if nan else n for n, nan in zip(sizes, unknown, strict=True)]
        steps = "all of its steps" if came is None else f"{came} steps"
        nbytes = float(np.prod(sizes)) * data.dtype.itemsize
        if nbytes > limit:
            raise ContractError(
                f"result {name!r} has {nbytes / 2**20:.0f} MiB if {steps} come, and is "
                f"written at the end by one process, which takes {limit / 2**20:.0f} MiB at most; "
                "return a part of it (a region, every tenth step), or reduce it"
            )


@contextmanager
def noted(sources: Sequence[Source]) -> Iterator[None]:
    """Add to what Dask says of unknown lengths where they come from, and what can be done."""
    try:
        yield
    except (AssertionError, TypeError, ValueError, IPSComponentsError) as error:
        bounded = [s for s in sources if s.at_most]
        if bounded and (not isinstance(error, IPSComponentsError) or "nan" in str(error)):
            error.add_note(
                f"array {bounded[0].spec.name!r} has {bounded[0].said_steps}: the length of its "
                f"time is not known before the end (nan); {REMEDY}"
            )
        raise
