"""Which chunks of which views, and which of their cells, a set of results depends on.

Dask's own culling keeps too much now and then (a layer is kept whole when it happens to have as
many tasks as there are keys asked for, whichever they are). That is harmless for Dask, but here
every chunk too many is data that the simulation would send for nothing. So the layers are culled
one by one, each asked for its own keys only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from graphlib import TopologicalSorter
from itertools import chain
from typing import Any

import dask
import numpy as np
from dask._task_spec import convert_legacy_graph
from dask._task_spec import cull as cull_tasks
from dask.blockwise import Blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from dask.utils import ensure_dict

from ips_components.analysis.cells import CulledLayer, Region, needed_cells
from ips_components.analysis.view_layer import ViewLayer
from ips_components.analysis.views import Index, Source, View
from ips_components.errors import ContractError

Chunks = dict[Index, Region | None]


class Needed(dict[View, Chunks]):
    """By view and index of the chunk: the cells that are needed of it, None for all of them.

    Attributes
    ----------
    used : dict
        The same as it would be if no function needed whole blocks; only what differs.
    widened_by : dict
        Names of such functions, by the Dask name of the array.
    """

    def __init__(self) -> None:
        super().__init__()
        self.used: dict[View, dict[Index, Region]] = {}
        self.widened_by: dict[str, set[str]] = {}


def needed_chunks(results: Any, sources: Iterable[Source]) -> Needed:
    """Return the chunks of views that nested results depend on, with their cells.

    Raises
    ------
    ContractError
        A result is not lazy, or does not depend on any external array.
    """
    search = _Search(list(sources))
    graphs: list[HighLevelGraph] = []
    keys: set[Any] = set()
    for path, result in named_results(results):
        graph, result_keys = _lowered(result)
        if not isinstance(graph, HighLevelGraph):
            alone = search.of_tasks(cull_tasks(convert_legacy_graph(graph), list(result_keys)))
            search.check(path, alone)
            search.add(alone)
            continue
        if not any(isinstance(layer, ViewLayer) for layer in graph.layers.values()):
            # The tasks may have been made before the contract: they are in other layers.
            search.check(path, search.of_layers(list(cull(graph, result_keys)), result_keys))
        graphs.append(graph)
        keys |= result_keys
    if graphs:
        search.add(search.of_layers(list(cull(HighLevelGraph.merge(*graphs), keys)), keys))
    return search.needed


def named_results(results: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Walk through nested results; yield each dask collection with a name for messages.

    Raises
    ------
    ContractError
        For anything that is no dask collection.
    """
    if dask.is_dask_collection(results):
        yield path or "the result", results
    elif isinstance(results, Mapping):
        for name, item in results.items():
            yield from named_results(item, f"{path}[{name!r}]" if path else str(name))
    elif isinstance(results, list | tuple | set | frozenset):
        for number, item in enumerate(results):
            yield from named_results(item, f"{path}[{number}]" if path else f"result {number}")
    else:
        raise ContractError(
            f"{path or 'the result'} is a {type(results).__name__}, not lazy: an analysis returns "
            "dask collections that depend on external arrays"
        )


def cull(graph: HighLevelGraph, keys: Iterable[Any]) -> Iterator[CulledLayer]:
    """Yield the layers of a graph, culled to what the keys depend on, consumers first."""
    legacy = any(layer.has_legacy_tasks for layer in graph.layers.values())
    all_keys = graph.get_all_external_keys() if legacy else set()
    wanted: dict[Any, set[Any]] = defaultdict(set)  # by the name in the key
    for key in keys:
        wanted[_name(key)].add(key)
    order = list(TopologicalSorter(graph.dependencies).static_order())
    for name in reversed(order):
        layer = graph.layers[name]
        mine = _own_keys(layer, wanted)
        if not mine:
            continue
        culled, dependencies = layer.cull(mine, all_keys)
        if isinstance(layer, ViewLayer):  # its chunks come from outside
            dependencies = {key: set() for key in dependencies}
        for key in chain.from_iterable(dependencies.values()):
            if key not in dependencies:
                wanted[_name(key)].add(key)
        yield CulledLayer(name, culled, dependencies)


def _own_keys(layer: Layer, wanted: Mapping[Any, set[Any]]) -> set[Any]:
    if isinstance(layer, ViewLayer):
        return set(wanted.get(layer.name, ()))
    if isinstance(layer, Blockwise):
        return set(wanted.get(layer.output, ()))
    return {key for key in layer.get_output_keys() if key in wanted.get(_name(key), ())}


def _name(key: Any) -> Any:
    return key[0] if type(key) is tuple and key else key


def _lowered(result: Any) -> tuple[Any, set[Any]]:
    """Return graph and keys of a collection; one that is an expression is optimised first."""
    if hasattr(result, "optimize") and hasattr(result, "expr"):
        result = result.optimize()
    return result.__dask_graph__(), set(flatten([result.__dask_keys__()]))


class _Search:
    """Looks for chunks of the views of some sources."""

    def __init__(self, sources: list[Source]) -> None:
        self.sources = sources
        self.needed = Needed()
        self.views = {name: view for source in sources for name, view in source.views.items()}

    def add(self, found: Needed) -> None:
        self.needed.used |= found.used
        for source, names in found.widened_by.items():
            self.needed.widened_by.setdefault(source, set()).update(names)
        for view, chunks in found.items():
            mine = self.needed.setdefault(view, {})
            for index, region in chunks.items():
                before = mine.get(index, region)
                if before is not None and region is not None and before is not region:
                    region.update(before)
                mine[index] = None if before is None else region

    def check(self, path: str, found: Needed) -> None:
        if not found:
            names = ", ".join(repr(source.spec.name) for source in self.sources) or "none"
            raise ContractError(
                f"{path} does not depend on any external array (offered: {names}); "
                "compute it outside of the analysis, or make it from the arrays"
            )

    def of_layers(self, layers: Sequence[CulledLayer], outputs: Set[Any]) -> Needed:
        """Return the chunks that culled layers consist of or, where tasks exist, refer to."""
        found = Needed()
        early = any(source.early for source in self.sources)
        for each in layers:
            layer = each.layer
            view = self.views.get(getattr(layer, "name", None))
            if isinstance(layer, ViewLayer) and view is layer.view:
                found.setdefault(view, {}).update(dict.fromkeys(layer.indices()))
            elif early and isinstance(layer, MaterializedLayer):
                tasks = self.of_tasks(convert_legacy_graph(ensure_dict(layer)))
                for user, indices in tasks.items():
                    found.setdefault(user, {}).update(indices)
        if not early:
            search = needed_cells(layers, outputs, self.views)
            for view, cells in search.needed.items():
                found[view].update(_arriving(view, cells))
            found.used, found.widened_by = search.used, dict(search.widened_by)
        return found

    def of_tasks(self, tasks: Mapping[Any, Any]) -> Needed:
        """Return the chunks of views whose tasks were made before the contract.

        Such a task is in the graph under its own key, or was fused into its consumer. Then only
        the external key can be seen: every view with a task for this chunk counts as needed.
        """
        fused: dict[Any, set[tuple[View, Index]]] = defaultdict(set)
        for source in self.sources:
            for name, indices in source.early.items():
                view = source.views[name]
                for index in indices:
                    fused[(source.name, *view.base_index(index))].add((view, index))
        found = Needed()
        for key, task in tasks.items():
            read = self.views.get(_name(key))
            if read is not None:
                found.setdefault(read, {})[key[1:]] = None
                continue
            for dependency in task.dependencies:
                for user, index in fused.get(dependency, ()):
                    found.setdefault(user, {})[index] = None
        return found


def _arriving(view: View, cells: Mapping[Index, Region]) -> Mapping[Index, Region]:
    """Return the cells that are needed, with one of each chunk that says whether its step came.

    A chunk of which no cell is needed is made where it is used, also of a step that may not come.
    """
    if not view.source.at_most:
        return cells
    first = tuple(np.zeros(1, np.int64) if dim else None for dim in view.kept)
    return {index: region or Region([first]) for index, region in cells.items()}


def needs_external(result: Any, sources: Sequence[Source]) -> bool:
    """Return whether a lazy result depends on any external array."""
    graph = result.__dask_graph__()
    if isinstance(graph, HighLevelGraph) and any(
        isinstance(layer, ViewLayer) for layer in graph.layers.values()
    ):
        return True
    try:
        needed_chunks({"": result}, sources)
    except ContractError:
        return False
    return True
