"""The few words of Dask's task graphs that the hand-made graphs of this package need.

Tasks are written with explicit references (`TaskRef`) and not as plain tuples: the blocks of an
external array are keys without a task of their own, and only an explicit reference makes Dask see
that a task depends on such a key.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph

try:
    from dask.task_spec import List, Task, TaskRef
except ImportError:  # the public name is younger than the oldest Dask that is supported
    from dask._task_spec import List, Task, TaskRef

__all__ = ["Chain", "List", "Task", "TaskRef", "lazy_array", "refs"]


@dataclass(frozen=True, slots=True)
class Chain:
    """A layer of hand-made tasks and all below it: enough of a Dask collection to build on."""

    graph: HighLevelGraph
    layer: str

    @classmethod
    def build(cls, layer: str, tasks: Mapping[Hashable, Task], *parents: Any) -> Chain:
        """Put `tasks` as one layer named `layer` on top of the graphs of `parents`."""
        graph = HighLevelGraph.from_collections(layer, dict(tasks), dependencies=list(parents))
        return cls(graph, layer)

    def __dask_graph__(self) -> HighLevelGraph:
        return self.graph

    def __dask_layers__(self) -> tuple[str, ...]:
        return (self.layer,)


def refs(keys: Any) -> List:
    """Give a list argument of a task whose items are the values of `keys`."""
    return List(*(TaskRef(key) for key in keys))


def lazy_array(
    name: str,
    tasks: Mapping[Hashable, Task],
    chunks: tuple[tuple[int, ...], ...],
    *parents: Any,
    dtype: Any = np.float64,
) -> da.Array:
    """Make a dask array `name` whose blocks are the tasks with the keys ``(name, i, j, ...)``."""
    chain = Chain.build(name, tasks, *parents)
    return da.Array(chain.graph, name, chunks, dtype=dtype)
