"""The cells of views that a graph needs, found from its results backwards.

Culling a graph says which chunks are needed. Where a part of a chunk is cut out later on, behind
a rechunk, a reshape, a cast or a reduction over other dimensions, fewer of its cells are. The tasks
between the views and such cuts are asked, from the last one to the first, which cells of their
operands they need; all other tasks need whole blocks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from graphlib import TopologicalSorter
from math import prod
from typing import Any

import numpy as np
from dask._task_spec import DataNode, GraphNode, Task, convert_legacy_task
from dask.array.core import _pass_extra_kwargs
from dask.blockwise import Blockwise
from dask.highlevelgraph import Layer
from dask.utils import ensure_dict

from ips_components.analysis.cells.operations import (
    Constant,
    Elementwise,
    Operation,
    Ref,
    UnknownCells,
)
from ips_components.analysis.cells.region import Region, Shape
from ips_components.analysis.cells.tasks import narrows, operation_of, value_of
from ips_components.analysis.view_layer import ViewLayer
from ips_components.analysis.views import Index, View

logger = logging.getLogger(__name__)

#: Tasks that are looked at one by one; in a larger graph whole chunks are needed.
MAX_TASKS = 1_000_000

#: Bytes of values that are made, or read from files, to follow their shapes and masks.
MAX_MADE = 1 << 26


@dataclass(frozen=True, slots=True)
class CulledLayer:
    """A layer with the tasks that are needed, and what these depend on."""

    name: Any
    layer: Layer
    dependencies: Mapping[Any, Set[Any]]
    """Keys by key of the layer."""


Cells = dict[View, dict[Index, Region]]


@dataclass(frozen=True, slots=True)
class Search:
    """What a search for cells has found.

    Parameters
    ----------
    needed
        By view and index of the chunk. What is not in it is needed whole.
    used
        The same as it would be if functions that need whole blocks worked cell by cell.
    widened_by
        Names of such functions of whose result a part is used, by the name of the source.
    """

    needed: Cells
    used: Cells
    widened_by: Mapping[str, Set[str]]


def needed_cells(
    layers: Sequence[CulledLayer], outputs: Set[Any], views: Mapping[Any, View]
) -> Search:
    """Return the cells that are needed of those chunks of views that are not needed whole.

    Parameters
    ----------
    layers
        Consumers first.
    outputs
        Keys of the results.
    views
        By the name of their layer.
    """
    followed = _followed(layers)
    if not followed or sum(len(each.dependencies) for each in followed) > MAX_TASKS:
        return Search({}, {}, {})

    def search(assume: bool) -> _Search:
        each = _Search(followed, views, assume)
        names = {layer.name for layer in followed}
        each.wholly(outputs)
        for layer in layers:
            if layer.name not in names:
                for keys in layer.dependencies.values():
                    each.wholly(keys)
        each.run()
        return each

    strict = search(assume=False)
    needed = strict.found()
    if not strict.opaque:
        return Search(needed, needed, {})
    assumed = search(assume=True)
    return Search(needed, assumed.found(), assumed.widened_by())


def _followed(layers: Sequence[CulledLayer]) -> list[CulledLayer]:
    """Return cuts that depend on views, with all layers above them, consumers first."""
    of_key = {key: each.name for each in layers for key in each.dependencies}
    above = {
        each.name: {of_key.get(key) for keys in each.dependencies.values() for key in keys}
        for each in layers
    }
    external: set[Any] = set()
    for each in reversed(layers):
        view = each.layer if isinstance(each.layer, ViewLayer) else None
        if view is not None or above[each.name] & external:
            external.add(each.name)
    wanted: set[Any] = set()
    for each in layers:
        if each.name in wanted or (each.name in external and _cuts(each.layer)):
            wanted.add(each.name)
            wanted |= above[each.name] - {None}
    return [each for each in layers if each.name in wanted]


def _cuts(layer: Layer) -> bool:
    """Return whether some task of a layer may need a part of what it is made of."""
    if isinstance(layer, ViewLayer):
        return False
    if isinstance(layer, Blockwise):
        return narrows(getattr(layer.task, "func", None))
    return any(
        narrows(task[0] if type(task) is tuple and task else getattr(task, "func", None))
        for task in ensure_dict(layer).values()
    )


class _Search:
    """Goes through the tasks of some layers, forwards for shapes and backwards for cells."""

    def __init__(
        self, layers: Iterable[CulledLayer], views: Mapping[Any, View], assume: bool
    ) -> None:
        self._views = views
        self._assume = assume
        self.opaque: dict[str, Any] = {}
        """Functions that need whole blocks, with a task of each of which a part is used."""
        self._tasks: dict[Any, GraphNode] = {}
        self._whole: set[Any] = set()
        self._partial: dict[Any, Region] = {}
        self._shapes: dict[Any, Shape] = {}
        self._operations: dict[Any, Operation | Ref] = {}
        self._constants: dict[Any, Any] = {}
        self._made = 0  # bytes of the constants that were made here
        self._of_views: list[Any] = []
        self._assumed: set[Any] = set()
        self._reach: dict[Any, set[str]] = {}
        layers = list(layers)
        keys = {key for each in layers for keys in each.dependencies.values() for key in keys}
        keys.update(key for each in layers for key in each.dependencies)
        for each in layers:
            if isinstance(each.layer, ViewLayer):
                self._of_views += each.dependencies
                self._tasks.update(dict.fromkeys(each.dependencies))
                continue
            written = ensure_dict(each.layer)
            inside = keys | written.keys()
            for key, task in written.items():
                task = convert_legacy_task(key, task, inside)
                if isinstance(task, GraphNode) and not isinstance(task, DataNode):
                    self._tasks[key] = task
                else:
                    self._constants[key] = getattr(task, "value", task)

    def wholly(self, keys: Iterable[Any]) -> None:
        """Note that these blocks are needed whole."""
        self._whole.update(keys)

    def run(self) -> None:
        """Find the cells that are needed of every block."""
        graph = {
            key: [each for each in task.dependencies if each in self._tasks] if task else []
            for key, task in self._tasks.items()
        }
        order = list(TopologicalSorter(graph).static_order())
        for key in order:
            task = self._tasks[key]
            reach = {self._views[key[0]].source.name} if task is None else set()
            for each in graph[key]:
                reach |= self._reach.get(each, set())
            if reach:
                self._reach[key] = reach
            self._forward(key)
        for key in reversed(order):
            self._backward(key)

    def found(self) -> dict[View, dict[Index, Region]]:
        """Return the cells of the chunks of views that are not needed whole."""
        found: dict[View, dict[Index, Region]] = {}
        beyond = False
        for key in self._of_views:
            region = self._region(key)
            if region.is_whole or key not in self._shapes:  # the rows of a rank are not known
                continue
            shape = tuple(n for n in self._shapes[key] if n is not None)
            if not region.fits(shape):
                beyond = True
                continue
            if not (region := region.within(shape)).is_whole:
                found.setdefault(self._views[key[0]], {})[key[1:]] = region
        if beyond and not self._assume:
            logger.warning("Cells beyond a chunk seem to be needed: whole chunks are asked for")
            return {}  # some task was misunderstood: of no chunk can it be said what is needed
        return found

    def widened_by(self) -> dict[str, set[str]]:
        """Return the functions that need whole blocks, by the name of a source they depend on."""
        places: dict[str, set[str]] = {}
        for name, key in self.opaque.items():
            for source in self._reach.get(key, ()):
                places.setdefault(source, set()).add(name)
        return places

    # -- internals ---------------------------------------------------------------------

    def _forward(self, key: Any) -> None:
        task = self._tasks[key]
        if task is None:
            view = self._views[key[0]]
            if view.source.spec.ragged:
                return
            counts = view.box(key[1:], key[1:]).count
            self._shapes[key] = tuple(counts[dim] for dim in view.kept)
            return
        if (value := self._value(task)) is not None:
            self._constants[key] = value
            self._shapes[key] = value.shape
            return
        operation = operation_of(task, self._constants)
        if operation is not None and not (
            task.dependencies - set(_refs(operation)) - self._constants.keys()
        ):
            try:
                self._shapes[key] = self._shape(operation)
                self._operations[key] = operation
            except Exception as error:  # a task of another version of dask needs whole blocks
                logger.debug("Cells of %s are not followed: %r", key, error)
        if key in self._operations or key not in self._reach:
            return
        if self._assume and type(key) is tuple:
            ndim = len(key) - 1
            alike = [Ref(k) for k in task.dependencies if len(self._shapes.get(k, ())) == ndim]
            self._operations[key] = assumed = Elementwise(alike)
            self._shapes[key] = assumed.shape(self._shape) if alike else (None,) * ndim
            self._assumed.add(key)
        else:
            self.opaque.setdefault(function_name(task), key)

    def _value(self, task: GraphNode) -> Any:
        if self._made > MAX_MADE:
            return None
        try:
            value = value_of(task, self._constants)
        except Exception as error:
            logger.debug("The value of %s is not known: %r", task.key, error)
            return None
        if value is not None:
            sides = zip(value.shape, value.strides, strict=True)
            self._made += value.itemsize * prod(n for n, stride in sides if stride)
        return value

    def _shape(self, node: Any) -> Shape:
        if isinstance(node, Ref):
            known = self._shapes.get(node.key)
            if known is not None:
                return known
            if type(node.key) is not tuple:
                raise UnknownCells
            return (None,) * (len(node.key) - 1)
        if isinstance(node, Constant):
            return tuple(np.shape(node.value))
        return node.shape(self._shape)

    def _region(self, key: Any) -> Region:
        ndim = len(self._shapes.get(key, key[1:] if type(key) is tuple else ()))
        if key in self._whole or key not in self._partial:
            return Region.whole(ndim) if key in self._whole else Region()
        return self._partial[key]

    def _backward(self, key: Any) -> None:
        task = self._tasks[key]
        if task is None:
            return
        region = self._region(key)
        operation = self._operations.get(key)
        found: list[tuple[Any, Region]] | None = None
        if operation is not None and (region.is_whole or key not in self._whole):
            try:
                found = list(self._needs(operation, region))
            except Exception as error:
                logger.debug("Cells of %s are not followed: %r", key, error)
        if key in self._assumed:
            if region and not region.is_whole:
                self.opaque.setdefault(function_name(task), key)
            self.wholly(task.dependencies - set(_refs(operation)))
        if found is None:
            self.wholly(task.dependencies)  # even for nothing: no function sees made-up values
            return
        for each, part in found:
            if part.is_whole:
                self._whole.add(each)
            else:
                self._partial.setdefault(each, Region()).update(part)

    def _needs(self, node: Any, region: Region) -> Iterator[tuple[Any, Region]]:
        """Yield the cells of other tasks' results that a region of a node is made of."""
        if isinstance(node, Ref):
            yield node.key, region
        elif isinstance(node, Operation):
            for operand, part in node.backward(region, self._shape):
                if part:
                    yield from self._needs(operand, part)


def function_name(task: GraphNode) -> str:
    """Return the name of the function of a task, for messages."""
    function: Any = getattr(task, "func", None)
    while hasattr(function, "func"):
        function = function.func
    if function is _pass_extra_kwargs and isinstance(task, Task):
        function = getattr(task.args[0], "value", task.args[0])
    return str(getattr(function, "__name__", type(function).__name__))


def _refs(node: Any) -> Iterator[Any]:
    """Yield the keys that a node refers to."""
    if isinstance(node, Ref):
        yield node.key
    elif isinstance(node, Operation):
        for operand in node.operands:
            yield from _refs(operand)
