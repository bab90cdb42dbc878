"""The worker's half of external tasks: values from outside enter the worker's memory.

:class:`ExternalDataPlugin` is the one thing that a user registers; it installs the scheduler's
half by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol.pickle import dumps

from ips_components.errors import DeadlineExceeded, ExternalTaskError
from ips_components.external import _compat
from ips_components.external._compat_versions import check
from ips_components.external.names import Key, check_key
from ips_components.external.packed_tasks import unpack_arrivals
from ips_components.external.scheduler_plugin import ExternalTasksPlugin
from ips_components.external.tasks import EXTENSION

if TYPE_CHECKING:
    from distributed import Worker

logger = logging.getLogger(__name__)

#: Seconds after which a value that Dask does not take in is given up.
PUT_DEADLINE = 120.0
#: Seconds between two attempts.
PUT_INTERVAL = 0.05
#: Seconds between two announcements.  Dask's stream holds messages back as long anyway, so that
#: gathering what comes meanwhile into one message delays nothing.
ANNOUNCE_INTERVAL = 0.002


class Companion(Protocol):
    """What lives beside the external tasks on a worker, for example a receiver of data."""

    async def setup(self, worker: Worker, external: ExternalWorker) -> None: ...

    async def teardown(self) -> None: ...


@dataclass(slots=True)
class _Kept:
    """A value that Dask would drop now, since a transfer of the same key is under way."""

    value: Any
    deadline: float


class ExternalWorker:
    """Takes values into a worker's memory and announces them to the scheduler.

    Found as ``worker.extensions["external-tasks"]``.  What is announced must be held: the
    scheduler sends consumers to this worker, and nothing in Dask mends a false announcement.
    Announcements therefore travel on the worker's own stream, in order with Dask's messages
    about the same keys, and are checked at the very moment of sending.

    Parameters
    ----------
    worker : distributed.Worker
    deadline : float
        Seconds after which a value that the worker does not accept is given up.
    """

    def __init__(self, worker: Worker, deadline: float = PUT_DEADLINE) -> None:
        self.worker = worker
        self.deadline = deadline
        self.users = 0
        self._kept: dict[tuple[Key, str], _Kept] = {}
        self._announcements: dict[str, dict[Key, tuple[Any, int]]] = {}
        self._awaited: dict[tuple[Key, str], asyncio.Future[str]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next: asyncio.TimerHandle | None = None
        self._announced_at = 0.0
        self._stimuli = count()
        self._undo = _compat.forget_dead_peers(worker)

    @property
    def pending(self) -> int:
        """Number of values that were handed over and are not announced yet; event loop only."""
        return len(self._kept) + len(self._announcements)

    # -- for receivers: any thread, never waits ------------------------------------------

    def deliver(self, items: Mapping[Key, Any], stimulus: str = "") -> None:
        """Hand over values; thread-safe, returns at once.

        The values enter the worker's memory in the event loop, and all that arrive within
        ``ANNOUNCE_INTERVAL`` are announced to the scheduler in one message, after they are held.

        Parameters
        ----------
        items : mapping
            Values by key.
        stimulus : str
            What caused it, for the logs.
        """
        self.worker.loop.add_callback(self._deliver, dict(items), stimulus)

    # -- for clients: wait for the outcome -----------------------------------------------

    async def provide(self, items: Mapping[Key, Any]) -> dict[Key, str]:
        """Take values in and return what the scheduler made of each.

        Raises
        ------
        DeadlineExceeded
            The worker could not take a value in within the deadline.
        """
        if not isinstance(items, Mapping):
            raise ExternalTaskError(f"values come by key, in a mapping, got {type(items).__name__}")
        stimulus = self._stimulus()
        loop = asyncio.get_running_loop()
        waiting = {(check_key(key), stimulus): loop.create_future() for key in items}
        self._awaited.update(waiting)
        try:
            self._deliver(dict(items), stimulus)
            outcomes = await asyncio.gather(*waiting.values())
        finally:
            for each in waiting:
                self._awaited.pop(each, None)
        return dict(zip(items, outcomes, strict=True))

    def on_outcome(self, keys: Iterable[Key], outcomes: Iterable[str], stimulus_id: str) -> None:
        """The scheduler answers an announcement whose outcome is awaited."""
        for key, outcome in zip(keys, outcomes, strict=True):
            waiter = self._awaited.get((key, stimulus_id))
            if waiter is not None and not waiter.done():
                waiter.set_result(outcome)

    # -- internals: event loop only ------------------------------------------------------

    def _deliver(self, items: dict[Key, Any], stimulus: str) -> None:
        ready = {}
        for key, value in items.items():
            if _compat.accepts(self.worker, key):
                ready[key] = value
            else:
                self._keep(key, value, stimulus, monotonic() + self.deadline)
        self._put(ready, stimulus)

    def _put(self, values: dict[Key, Any], stimulus: str) -> None:
        """Put values into memory and announce them; keep those that Dask did not take."""
        if not values:
            return
        held = _compat.put(self.worker, values, stimulus or "external-put")
        for key, value in values.items():
            if key in held:
                if self._next is None:
                    loop = asyncio.get_running_loop()
                    # In the next tick, unless something was announced a moment ago.
                    when = self._announced_at + ANNOUNCE_INTERVAL
                    self._next = loop.call_at(when, self._announce)
                self._announcements.setdefault(stimulus, {})[key] = (value, held[key])
            else:
                self._keep(key, value, stimulus, monotonic() + self.deadline)

    def _announce(self) -> None:
        self._next = None
        self._announced_at = asyncio.get_running_loop().time()
        announcements, self._announcements = self._announcements, {}
        for stimulus, values in announcements.items():
            items = []
            for key, (value, nbytes) in values.items():
                if _compat.holds(self.worker, key):
                    items.append(_description(key, value, nbytes))
                else:
                    # Dask has removed it since, answering a message of before.
                    self._keep(key, value, stimulus, monotonic() + self.deadline)
            if items:
                message: dict[str, Any] = {"op": "external-arrived", "items": items}
                # Without a given cause, all that came meanwhile is one event.
                message["stimulus_id"] = stimulus or self._stimulus()
                message["reply"] = any((key, stimulus) in self._awaited for key in values)
                self.worker.batched_send(message)
                _compat.send_now(self.worker.batched_stream)

    def _keep(self, key: Key, value: Any, stimulus: str, deadline: float) -> None:
        self._kept[key, stimulus] = _Kept(value, deadline)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PUT_INTERVAL, self._retry)

    def _retry(self) -> None:
        """Try again to put in what is kept; give up what is past its deadline."""
        self._timer = None
        now = monotonic()
        for (key, stimulus), kept in list(self._kept.items()):
            if _compat.accepts(self.worker, key):
                del self._kept[key, stimulus]
                self._put({key: kept.value}, stimulus)
            elif now > kept.deadline:
                del self._kept[key, stimulus]
                self._give_up(key, stimulus)
        if self._kept and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PUT_INTERVAL, self._retry)

    def _give_up(self, key: Key, stimulus: str) -> None:
        why = (
            f"worker {self.worker.address} did not take in {key!r} within {self.deadline:g} s, "
            "since a transfer of the same key from another worker neither succeeded nor failed; "
            "lower distributed.comm.timeouts"
        )
        waiter = self._awaited.get((key, stimulus))
        if waiter is None:
            message = {"op": "external-undeliverable", "keys": [key], "why": why}
            self.worker.batched_send({**message, "stimulus_id": stimulus or self._stimulus()})
        elif not waiter.done():
            waiter.set_exception(DeadlineExceeded(why))

    def _stimulus(self) -> str:
        return f"external-{self.worker.address}-{next(self._stimuli)}"

    def close(self) -> None:
        """Drop what is kept and stop trying."""
        self._undo()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._next is not None:
            self._next.cancel()
            self._announce()
        self._kept.clear()
        for waiter in self._awaited.values():
            if not waiter.done():
                waiter.set_exception(ExternalTaskError(f"{self.worker.address} is closing"))


def _description(key: Key, value: Any, nbytes: int) -> tuple[Any, ...]:
    """Return what the scheduler learns of a value: never the value itself."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is None or type(shape) is not tuple:
        return (key, nbytes)
    return (key, nbytes, getattr(dtype, "str", str(dtype)), shape)


async def _handle_provide(external: ExternalWorker, data: dict[Key, Any]) -> list[Any]:
    return list((await external.provide(data)).items())


class ExternalDataPlugin(WorkerPlugin):
    """Lets values from outside Dask enter a cluster; registering it is all there is to do.

    Parameters
    ----------
    companions : sequence, optional
        Objects with ``async setup(worker, external)`` and ``async teardown()``, one copy per
        worker; set up in order, torn down in reverse order.
    scheduler_companions : sequence of str, optional
        Dotted names ``package.module:Class`` of what lives beside the external tasks in the
        scheduler's process.
    name : str, optional
        Name of the plugin; default: from the names of the companions' classes.

    Examples
    --------
    >>> from distributed import Client                                  # doctest: +SKIP
    >>> client = Client()                                               # doctest: +SKIP
    >>> client.register_plugin(ExternalDataPlugin())                    # doctest: +SKIP
    """

    idempotent = True

    def __init__(
        self,
        companions: Iterable[Companion] = (),
        scheduler_companions: Iterable[str] = (),
        name: str | None = None,
    ) -> None:
        check()
        self.companions = list(companions)
        self.scheduler_companions = list(scheduler_companions)
        parts = [type(each).__name__ for each in self.companions] + self.scheduler_companions
        self.name = name or "-".join(["external-data", *parts])
        self._running: list[Companion] = []

    @property
    def scheduler_plugin(self) -> ExternalTasksPlugin:
        """The scheduler's half, to register it while workers are still being started."""
        return ExternalTasksPlugin(self.scheduler_companions)

    async def setup(self, worker: Worker) -> None:
        """Install the scheduler's half, then this worker's, then the companions."""
        await worker.scheduler.register_scheduler_plugin(
            plugin=dumps(ExternalTasksPlugin()), name=ExternalTasksPlugin.name, idempotent=True
        )
        if self.scheduler_companions:
            await worker.scheduler.external_install(companions=self.scheduler_companions)
        external = worker.extensions.get(EXTENSION)
        if external is None:
            external = worker.extensions[EXTENSION] = ExternalWorker(worker)

            async def provide(data: dict[Key, Any]) -> list[Any]:
                return await _handle_provide(external, data)

            worker.handlers["external_provide"] = provide
            worker.stream_handlers["external-outcome"] = external.on_outcome
        external.users += 1
        unpack_arrivals()
        for companion in self.companions:
            await companion.setup(worker, external)
            self._running.append(companion)

    async def teardown(self, worker: Worker) -> None:
        """Take the companions down in reverse order, then this worker's half."""
        while self._running:
            await self._running.pop().teardown()
        external = worker.extensions.get(EXTENSION)
        if external is None:
            return
        external.users -= 1
        if external.users == 0:
            external.close()
            del worker.extensions[EXTENSION]
            worker.handlers.pop("external_provide", None)
            worker.stream_handlers.pop("external-outcome", None)
