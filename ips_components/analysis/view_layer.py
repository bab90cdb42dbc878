"""The layer of a view in a graph: its tasks are made when they are asked for."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Set
from itertools import product
from math import prod
from typing import Any

from dask._task_spec import Alias, GraphNode, Task, TaskRef
from dask.base import clone_key
from dask.graph_manipulation import chunks as manipulated
from dask.highlevelgraph import Layer, MaterializedLayer

from ips_components.analysis.views import Index, Key, Later, Resolved, View, cut_later
from ips_components.external.layer import ChunkKeys
from ips_components.model.keys import chunk_key


class ViewLayer(Layer):
    """The leaves of a graph over external arrays: made without tasks, however many chunks.

    Parameters
    ----------
    view
        The view; a `Resolved` one after the layer has travelled to the scheduler.
    chosen
        Indices of the chunks that are left after culling; None for all.
    """

    has_legacy_tasks = False

    def __init__(self, view: View | Resolved, chosen: Set[Index] | None = None) -> None:
        super().__init__()
        self.view = view
        self.name = view.name
        self.chosen = chosen
        self.numblocks = tuple(len(view.grid[dim]) for dim in view.kept)

    @property
    def left(self) -> Set[Index] | None:
        """Indices of the chunks in this layer; None for all.

        Once there is a contract, a chunk that is not in it is not in the layer either, even where
        was not culled: nothing will ever ask for it.
        """
        if self.chosen is None and isinstance(self.view, View):
            return self.view.source.needed.get(self.name)
        return self.chosen

    def indices(self) -> Iterable[Index]:
        """Return the indices of the chunks in this layer."""
        left = self.left
        return product(*map(range, self.numblocks)) if left is None else left

    def __getitem__(self, key: Key) -> GraphNode:
        index = self._index(key)
        if index is None:
            raise KeyError(key)
        view = self.view
        if isinstance(view, Resolved):
            return view.task(index)
        source = view.source
        if source.signed or view.is_whole:
            if not source.signed:
                source.early.setdefault(self.name, set()).add(index)
            return view.resolve().task(index)
        source.early.setdefault(self.name, set()).add(index)
        target = chunk_key(source.name, view.base_index(index))
        return Task(key, cut_later, TaskRef(target), Later(view, index))

    def items(self) -> Any:
        """Return all keys with their tasks."""
        if isinstance(self.view, Resolved) or self.view.source.signed:
            resolved = self.view if isinstance(self.view, Resolved) else self.view.resolve()
            return [((self.name, *i), resolved.task(i)) for i in self.indices()]
        return [(key, self[key]) for key in self]

    def values(self) -> Any:
        """Return all tasks."""
        return [task for _, task in self.items()]

    def __iter__(self) -> Iterator[Key]:
        return ((self.name, *index) for index in self.indices())

    def __len__(self) -> int:
        left = self.left
        return prod(self.numblocks) if left is None else len(left)

    def __contains__(self, key: object) -> bool:
        index, left = self._index(key), self.left
        return index is not None and (left is None or index in left)

    def __repr__(self) -> str:
        return f"ViewLayer<name={self.name!r}, numblocks={self.numblocks}>"

    def is_materialized(self) -> bool:
        return False

    def get_output_keys(self) -> Set[Key]:
        return ChunkKeys(self.name, self.numblocks)

    def get_dependencies(self, key: Key, all_hlg_keys: Any) -> set[Key]:
        return self._above(key[1:])

    def cull(self, keys: Set[Key], all_hlg_keys: Any) -> tuple[ViewLayer, dict[Key, set[Key]]]:
        if len(keys) < len(self):
            chosen = {index for key in keys if (index := self._index(key)) is not None}
            if (left := self.left) is not None:
                chosen &= left
        else:
            name = self.name
            chosen = {index for index in self.indices() if (name, *index) in keys}
        dependencies = {(self.name, *i): self._above(i) for i in chosen}
        culled = ViewLayer(self.view, chosen)
        culled.annotations = self.annotations
        return culled, dependencies

    def clone(
        self, keys: Set[Key], seed: Hashable, bind_to: Key | None = None
    ) -> tuple[Layer, bool]:
        """Return the layer under other keys; the data still come from the external chunks."""
        tasks: dict[Key, GraphNode] = {}
        bound = False
        for key, task in self.items():
            if key in keys:
                key = clone_key(key, seed)
                if bind_to is not None:
                    arrived = TaskRef(task.target) if isinstance(task, Alias) else task
                    task = Task(key, manipulated.bind, arrived, TaskRef(bind_to))
                    bound = True
                elif isinstance(task, Alias):
                    task = Alias(key, task.target)
                else:
                    task = Task(key, task.func, *task.args, **task.kwargs)
            tasks[key] = task
        return MaterializedLayer(tasks), bound

    def __reduce__(self) -> Any:
        view, left = self.view, self.left
        if isinstance(view, View):
            if left is not None and not left:
                view = Resolved(view.name, view.source.name, view.kept, view.grid, (), view.dtype)
            else:
                view = view.resolve()
        if left is not None and len(left) == prod(self.numblocks):
            left = None
        return _layer, (view, left, self.annotations)

    @property
    def is_whole(self) -> bool:
        """Whether the chunks are the external ones, by the same keys."""
        return self.name == self._external

    @property
    def _external(self) -> str:
        return self.view.external if isinstance(self.view, Resolved) else self.view.source.name

    def _above(self, index: Index) -> set[Key]:
        """Return what a chunk is cut out of, if it does not arrive as it is."""
        view = self.view
        blank = view.blank if isinstance(view, Resolved) else view.source.blank.get(self.name, ())
        return set() if self.is_whole or index in blank else {self._target(index)}

    def _target(self, index: Index) -> Key:
        if isinstance(self.view, Resolved):
            return self.view.target(index)
        return chunk_key(self._external, self.view.base_index(index))

    def _index(self, key: object) -> Index | None:
        if type(key) is not tuple or len(key) != len(self.numblocks) + 1 or key[0] != self.name:
            return None
        return key[1:]


def _layer(view: Resolved, chosen: Set[Index] | None, annotations: Any) -> ViewLayer:
    layer = ViewLayer(view, chosen)
    layer.annotations = annotations
    return layer
