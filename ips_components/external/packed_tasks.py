"""Tasks that only workers unpack.

The scheduler unpickles every graph that it gets, and with it imports the modules of all functions
that its tasks call. Of an analysis these are dask.array and what it imports (xarray, pandas,
SciPy), zarr and the analyst's own: more than a second in which it does nothing else, before the
first step can come. It needs the keys and the dependencies of a task only.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from contextlib import suppress
from typing import Any

from dask._task_spec import GraphNode, Task, TaskRef
from dask.utils import funcname
from distributed.protocol.pickle import dumps, loads

__all__ = ["pack", "unpack_arrivals"]

#: Bytes up to which a task is small, and bytes that larger ones may have together. Large values are
#: often shared by the tasks of a graph, and packed they travel once for each.
SMALL = 4 << 10
MAX_LARGE = 2 << 20


class _Arrivals:
    """Whether tasks that arrive in this process are unpacked at once."""

    unpacked = False


def unpack_arrivals() -> None:
    """Unpack tasks as they arrive from now on: in workers; the scheduler passes them on.

    They arrive in the event loop, one after the other. In the threads that run them several would
    be unpickled at a time, and two threads that import dask.array and xarray, which import each
    other, get one of them half imported.
    """
    _Arrivals.unpacked = True


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

    __slots__ = ("__name__", "_keys", "_payload", "_task")

    def __init__(self, name: str, payload: bytes, keys: tuple[Hashable, ...]) -> None:
        self.__name__ = name
        self._payload = payload
        self._keys = keys
        self._task: GraphNode | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self.__name__, self._payload, self._keys)

    def __call__(self, *values: Any) -> Any:
        self.unpack()
        assert self._task is not None
        return self._task(dict(zip(self._keys, values, strict=True)))

    def unpack(self) -> None:
        """Unpickle the task, and so import what it needs."""
        if self._task is None:
            self._task = loads(self._payload)


def _arrive(name: str, payload: bytes, keys: tuple[Hashable, ...]) -> _Packed:
    packed = _Packed(name, payload, keys)
    if _Arrivals.unpacked:
        with suppress(Exception):  # which the task raises when it runs
            packed.unpack()
    return packed


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
