"""External tasks for scripts: a Future or an array that another process will provide.

::

    future = external_future("temperature", client=analysis)      # it does not exist yet
    x = da.from_delayed(dask.delayed(future), shape=(10, 10), dtype=float)
    total = analysis.compute(x.sum())                             # waits

    provide({"temperature": values}, client=another)              # from any other process

    total.result()
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable, Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask.array.core import normalize_chunks
from dask.highlevelgraph import HighLevelGraph
from distributed import default_client
from distributed.protocol.serialize import to_serialize
from distributed.utils import wait_for

from ips_components.deadlines import Deadline
from ips_components.errors import ExternalTaskError
from ips_components.external import _compat
from ips_components.external.layer import ExternalLayer
from ips_components.external.names import Key, check_key, check_name
from ips_components.external.scheduler_plugin import ExternalTasksPlugin
from ips_components.external.worker_plugin import ExternalDataPlugin

if TYPE_CHECKING:
    from distributed import Client, Future

#: Seconds that provide waits for a worker and for the data to be taken in.
PROVIDE_TIMEOUT = 60.0
#: Seconds between two looks at a cluster that has no worker yet.
POLL_INTERVAL = 0.05

#: Group of the keys that are declared one by one.
FUTURES = "futures"
#: Outcomes after which the provider has done its part.
_FINE = frozenset({"memory", "replica", "early", "late"})


def external_future(key: Key, client: Client | None = None) -> Future:
    """Return a Future of a value that will come from outside Dask.

    The task is released when no Future of it is left and no graph needs it, as any other.

    Parameters
    ----------
    key : str or tuple of str and int
        Name under which the value will be provided.
    client : distributed.Client, optional
        Default: the current client.

    Returns
    -------
    distributed.Future
        Pending until :func:`provide`; awaitable if the client is asynchronous.

    Raises
    ------
    ExternalTaskError
        The key is not usable, or is an ordinary task of the cluster.

    Examples
    --------
    >>> future = external_future("temperature", client)             # doctest: +SKIP
    >>> client.submit(sum, future)                                  # doctest: +SKIP
    """
    client = client or default_client()
    return client.sync(_external_future, client, check_key(key))


def _scheduler(client: Client) -> Any:
    """Return what calls handlers of the scheduler, those of plugins included."""
    return client.scheduler


async def _external_future(client: Client, key: Key) -> Future:
    await ensure_plugins(client)
    await _scheduler(client).external_declare_keys(keys=[key], group=FUTURES, client=client.id)
    future = _compat.make_future(client, key)
    # On the same stream, hence after the client's own claim.
    _compat.send_to_scheduler(client, {"op": "external-release", "keys": [key]})
    return future


def external_array(
    name: str,
    shape: tuple[int, ...],
    chunks: Any = "auto",
    dtype: Any = float,
    client: Client | None = None,
) -> da.Array:
    """Return a dask array whose chunks will come from outside Dask.

    The chunk at ``(i, j, ...)`` is awaited under the key ``(name, i, j, ...)``; one of another
    shape or dtype makes its task err.  Chunks are held as long as the array, or anything made
    of it, is: drop it after submission and each chunk is freed after its last consumer.

    Parameters
    ----------
    name : str
        Name of the array, unique on the cluster.
    shape : tuple of int
    chunks
        As for :func:`dask.array.from_array`.
    dtype
        NumPy data type.
    client : distributed.Client, optional
        Default: the current client.

    Returns
    -------
    dask.array.Array
        Awaitable if the client is asynchronous.
    """
    client = client or default_client()
    check_name("the name of an external array", name)
    chunks = normalize_chunks(chunks, shape, dtype=np.dtype(dtype))
    return client.sync(_external_array, client, name, chunks, np.dtype(dtype))


async def _external_array(client: Client, name: str, chunks: Any, dtype: np.dtype) -> da.Array:
    await ensure_plugins(client)
    chunks = tuple(tuple(map(int, dim)) for dim in chunks)
    numblocks = tuple(map(len, chunks))
    group = f"array-{name}"
    await _scheduler(client).external_declare(
        name=name,
        numblocks=numblocks,
        group=group,
        chunks=chunks,
        dtype=dtype.str,
        client=client.id,
    )
    layer = ExternalLayer(name, numblocks)
    weakref.finalize(layer.hold, _release_group, weakref.ref(client), group).atexit = False
    graph = HighLevelGraph({name: layer}, {name: set()})
    return da.Array(graph, name, chunks, dtype=dtype)


def _release_group(client_ref: weakref.ref[Client], group: str) -> None:
    client = client_ref()
    if client is not None and client.status in ("running", "connecting"):
        # Behind the graphs that were submitted before, on the same stream.
        _compat.send_to_scheduler(client, {"op": "external-release", "group": group})


def provide(
    items: Mapping[Key, Any],
    client: Client | None = None,
    workers: str | Iterable[str] | None = None,
    timeout: float = PROVIDE_TIMEOUT,
) -> dict[Key, str]:
    """Give external tasks their values, from any client.

    Parameters
    ----------
    items : mapping
        Values by key.
    client : distributed.Client, optional
        Default: the current client.
    workers : address or addresses, optional
        Where to put the values; default: all running workers in turn.
    timeout : float
        Seconds to wait for a worker, and for the values to be taken in.

    Returns
    -------
    dict
        What became of each value: ``memory``; ``replica`` (another process had provided it);
        ``early`` (not declared yet; kept until it is); ``late`` (not wanted any more).
        Awaitable if the client is asynchronous.

    Raises
    ------
    ExternalTaskError
        A value does not fit what was declared, or cannot be kept.
    DeadlineExceeded
        There is no worker, or it did not answer.
    """
    client = client or default_client()
    items = {check_key(key): value for key, value in items.items()}
    if isinstance(workers, str):
        workers = [workers]
    return client.sync(_provide, client, items, workers, timeout)


async def _provide(
    client: Client, items: dict[Key, Any], workers: Iterable[str] | None, timeout: float
) -> dict[Key, str]:
    await ensure_plugins(client)
    addresses = await _running_workers(client, workers, timeout)
    shares: dict[str, dict[Key, Any]] = {}
    for address, (key, value) in zip(cycle(addresses), items.items(), strict=False):
        shares.setdefault(address, {})[key] = value
    outcomes: dict[Key, str] = {}
    for address, share in shares.items():
        outcomes.update(await _hand_over(client, address, share, timeout))
    if bad := {key: text for key, text in outcomes.items() if text not in _FINE}:
        raise ExternalTaskError("; ".join(f"{key!r} {text}" for key, text in bad.items()))
    return outcomes


async def _hand_over(
    client: Client, address: str, share: dict[Key, Any], timeout: float
) -> dict[Key, str]:
    data = {key: to_serialize(value) for key, value in share.items()}
    deadline = Deadline(timeout)
    async with client.rpc(address) as worker:
        # None: the worker is starting and has no plugin yet.
        while (answer := await wait_for(worker.external_provide(data=data), timeout)) is None:
            deadline.raise_if_expired(
                f"worker {address} did not set up the external data plugin within "
                f"{timeout:g} s; see its log for the reason"
            )
            await asyncio.sleep(POLL_INTERVAL)
    return dict(answer)


async def _running_workers(
    client: Client, workers: Iterable[str] | None, timeout: float
) -> list[str]:
    deadline = Deadline(timeout)
    while not (nthreads := await _scheduler(client).ncores_running(workers=workers)):
        deadline.raise_if_expired(
            f"no running worker {'among the given ones ' if workers else ''}within "
            f"{timeout:g} s to provide data to; start workers or raise the timeout"
        )
        await asyncio.sleep(POLL_INTERVAL)
    return sorted(nthreads)


async def ensure_plugins(client: Client) -> None:
    """Register the plugins on the client's cluster, unless they are there.

    Also on a cluster without workers, where no worker's plugin can install the scheduler's.
    """
    await _compat.register(client, ExternalTasksPlugin(), ExternalDataPlugin())
