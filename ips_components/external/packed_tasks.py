"""Tasks that only the worker that runs them unpacks.

The scheduler unpickles every graph that it gets, and with it imports the modules of all functions
that its tasks call. Of an analysis these are dask.array and what it imports (xarray, pandas,
SciPy), zarr and the analyst's own: more than a second in which it does nothing else, before the
first step can come. It needs the keys and the dependencies of a task only.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from dask._task_spec import GraphNode, Task, TaskRef
from dask.utils import funcname
from distributed.protocol.pickle import dumps, loads

__all__ = ["pack"]

#: Bytes up to which a task is small, and bytes that larger ones may have together. Large values are
#: often shared by the tasks of a graph, and packed they travel once for each.
SMALL = 4 << 10
MAX_LARGE = 2 << 20


class _Packed:
    """A function of the values of a task's dependencies, which are given in order.

    Parameters
    ----------
    name
        Of the function that the task calls, for messages.
    payload
        The task, pickled.
    keys
        Its dependencies.
    """

    __slots__ = ("__name__", "_keys", "_payload")

    def __init__(self, name: str, payload: bytes, keys: tuple[Hashable, ...]) -> None:
        self.__name__ = name
        self._payload = payload
        self._keys = keys

    def __reduce__(self) -> tuple[Any, ...]:
        return _Packed, (self.__name__, self._payload, self._keys)

    def __call__(self, *values: Any) -> Any:
        return loads(self._payload)(dict(zip(self._keys, values, strict=True)))


def pack(tasks: Mapping[Hashable, GraphNode]) -> dict[Hashable, GraphNode]:
    """Return the same tasks, with what they call and all their arguments pickled.

    Left as they are: values, aliases, coroutines, and large tasks when there are many.

    Parameters
    ----------
    tasks
        A whole graph, by key.

    Raises
    ------
    TypeError
        A task cannot be pickled.
    """
    packed = dict(tasks)
    large = 0
    for key, task in tasks.items():
        if type(task) is not Task or task.is_coro:
            continue
        try:
            payload = dumps(task)
        except Exception as error:
            raise TypeError(f"Could not serialize task {key!r}") from error
        if len(payload) > SMALL:
            large += len(payload)
            if large > MAX_LARGE:
                continue
        keys = tuple(task.dependencies)
        function = _Packed(funcname(task.func), payload, keys)
        refs = map(TaskRef, keys)
        packed[key] = Task(key, function, *refs, _data_producer=task.data_producer)
    return packed
