"""What the tests of the external tasks share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph
from distributed import Client

from ips_components.external.layer import ExternalLayer
from ips_components.external.tasks import EXTENSION, ExternalTasks
from ips_components.external.worker_plugin import ExternalDataPlugin, ExternalWorker


async def install(client: Client, **kwargs: Any) -> None:
    """Register the worker plugin, the one thing that a user does."""
    await client.register_plugin(ExternalDataPlugin(**kwargs))


def tasks_of(scheduler: Any) -> ExternalTasks:
    """Return the external tasks of a scheduler in this process."""
    return scheduler.extensions[EXTENSION]


def external_of(worker: Any) -> ExternalWorker:
    """Return the external half of a worker in this process."""
    return worker.extensions[EXTENSION]


async def until(predicate: Callable[[], Any], what: str, timeout: float = 20) -> Any:
    """Wait until `predicate` holds; an event loop has no other way to await foreign state."""
    deadline = monotonic() + timeout
    while not (value := predicate()):
        if monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s in vain for {what}")
        await asyncio.sleep(0.005)
    return value


NAME = "external-t-0a1b2c3d"


def lazy(n: int, name: str = NAME, shape: tuple[int, ...] = (4,)) -> da.Array:
    """An array of `n` chunks over declared keys."""
    chunks = ((shape[0],) * n, *((s,) for s in shape[1:]))
    numblocks = tuple(map(len, chunks))
    graph = HighLevelGraph({name: ExternalLayer(name, numblocks)}, {name: set()})
    return da.Array(graph, name, chunks, dtype=float)


def key(i: int, name: str = NAME) -> tuple:
    """The key of a chunk of a one-dimensional array."""
    return (name, i)


class Events:
    """Observer that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        self.infos: list[dict[str, Any]] = []

    def __call__(self, kind: str, keys: list[Any], info: Any) -> None:
        self.seen += [(kind, key) for key in keys]
        self.infos.append(dict(info, kind=kind))

    def of(self, kind: str) -> list[Any]:
        """Return the keys of all events of a kind."""
        return [key for k, key in self.seen if k == kind]


def chunk(value: float, shape: tuple[int, ...] = (4,)) -> np.ndarray:
    """Return a chunk filled with one number."""
    return np.full(shape, float(value))
