"""The scheduler's half of external tasks: hooks into Dask, and what clients may ask.

A user never registers this plugin: :class:`~._worker_plugin.ExternalDataPlugin` does.  Handlers
take nothing that needs unpickling; what they get is checked before it reaches the tasks.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import dask
from dask.utils import parse_bytes
from distributed.diagnostics.plugin import SchedulerPlugin

from ips_components.errors import ExternalTaskError
from ips_components.external.names import check_key, check_name
from ips_components.external.state import ImpossibleTransition
from ips_components.external.tasks import EARLY_LIMIT, EXTENSION, ExternalTasks

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

#: Most keys in one request or announcement.
MAX_KEYS = 1_000_000


class ExternalTasksPlugin(SchedulerPlugin):
    """Puts :class:`~._tasks.ExternalTasks` into a scheduler, once.

    Parameters
    ----------
    companions : sequence of str
        Dotted names ``package.module:Class`` of objects that live beside the external tasks;
        each is called with the :class:`ExternalTasks`.
    """

    name = "external-tasks"
    idempotent = True

    def __init__(self, companions: Iterable[str] = ()) -> None:
        self._names = tuple(companions)
        self.tasks: ExternalTasks | None = None

    def start(self, scheduler: Scheduler) -> None:  # type: ignore[override]
        """Install everything.  No coroutine: Dask calls this from another plugin's set-up."""
        self.tasks = scheduler.extensions.get(EXTENSION)
        if self.tasks is None:
            self._install_tasks(scheduler)
        self.install(self._names)

    def _install_tasks(self, scheduler: Scheduler) -> None:
        limit = parse_bytes(dask.config.get("ips-components.external.early-limit", EARLY_LIMIT))
        self.tasks = scheduler.extensions[EXTENSION] = ExternalTasks(scheduler, limit)
        scheduler.handlers.update(
            {
                "external_install": self.install,
                "external_declare": self.declare,
                "external_declare_keys": self.declare_keys,
                "external_release": self.release_group,
                "external_fail": self.fail,
                "external_state": self.state,
                "external_story": self.story,
                "external_counts": self.counts,
            }
        )
        scheduler.stream_handlers.update(
            {
                "external-arrived": self.on_arrived,
                "external-undeliverable": self.on_undeliverable,
                "external-release": self.on_release,
            }
        )

    async def close(self) -> None:
        """Give the scheduler back as it was."""
        if self.tasks is not None:
            self.tasks.close()

    # -- hooks ---------------------------------------------------------------------------

    def transition(
        self, key: Any, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any
    ) -> None:
        if self.tasks is None:
            return
        try:
            self.tasks.on_transition(key, start, finish, stimulus_id)
        except ImpossibleTransition:
            # Dask would hide an exception of a plugin among its informational messages.
            logger.exception("External tasks are out of step with Dask")

    def update_graph(
        self, scheduler: Scheduler, *, tasks: list[Any], stimulus_id: str, **kwargs: Any
    ) -> None:
        if self.tasks is not None:
            self.tasks.on_update_graph(tasks, stimulus_id)

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str = "", **kwargs: Any
    ) -> None:
        if self.tasks is not None:
            self.tasks.on_remove_worker(worker, stimulus_id)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        if self.tasks is not None:
            self.tasks.on_remove_client(client)

    def restart(self, scheduler: Scheduler) -> None:
        if self.tasks is not None:
            self.tasks.on_restart()

    # -- what clients and workers may ask ------------------------------------------------

    def install(self, companions: Iterable[str] = ()) -> list[str]:
        """Add companions by dotted name; those that are there already stay as they are."""
        for name in companions:
            if name not in self._tasks.companions:
                self._tasks.companions[name] = _load(name)(self._tasks)
        return list(self._tasks.companions)

    def declare(
        self,
        name: Any,
        numblocks: Any,
        group: Any,
        needed: Any = None,
        chunks: Any = None,
        dtype: Any = "",
        client: Any = None,
    ) -> int:
        """See :meth:`ExternalTasks.declare`."""
        if not isinstance(dtype, str) or len(dtype) > 1000:
            raise ExternalTaskError("dtype of an external array must be a short string")
        return self._tasks.declare(
            name,
            _tuple("numblocks", numblocks),
            None if needed is None else [_tuple("needed", each) for each in needed],
            group=check_name("a group of external tasks", group),
            chunks=None
            if chunks is None
            else tuple(_tuple("chunks", dim) for dim in _tuple("chunks", chunks)),
            dtype=dtype,
            client=None if client is None else check_name("a client", client),
        )

    def declare_keys(self, keys: Any, group: Any, client: Any = None) -> int:
        """See :meth:`ExternalTasks.declare_keys`."""
        return self._tasks.declare_keys(
            _keys(keys),
            group=check_name("a group of external tasks", group),
            client=None if client is None else check_name("a client", client),
        )

    def release_group(self, group: Any, when_known: Any = (), client: Any = None) -> None:
        """See :meth:`ExternalTasks.release_group`."""
        self._tasks.release_group(
            check_name("a group of external tasks", group),
            when_known=_tuple("when_known", when_known),
            client=None if client is None else check_name("a client", client),
        )

    def fail(self, keys: Any = (), group: Any = None, why: Any = "") -> int:
        """Err single keys, or all of a group that wait, with an ExternalTaskError of that text."""
        error = ExternalTaskError(str(why)[:10_000])
        if group is not None:
            return self._tasks.fail_remaining(check_name("a group", group), error)
        return self._tasks.fail(_keys(keys), error)

    def state(self, key: Any) -> str:
        """See :meth:`ExternalTasks.state`."""
        return str(self._tasks.state(check_key(key)))

    def story(self, key: Any) -> dict[str, Any]:
        """See :meth:`ExternalTasks.story`."""
        return self._tasks.story(check_key(key))

    def counts(self, group: Any) -> dict[str, int]:
        """See :meth:`ExternalTasks.counts`."""
        return self._tasks.counts(check_name("a group of external tasks", group))

    # -- streams: an exception here would cut the sender's connection --------------------

    def on_arrived(
        self, worker: str, items: Any, stimulus_id: str = "", reply: bool = False
    ) -> None:
        """A worker announces values."""

        def act() -> None:
            outcomes = self._tasks.arrived(worker, items, stimulus_id)
            if reply:
                keys = [item[0] for item in items]
                answer = {"op": "external-outcome", "keys": keys, "outcomes": outcomes}
                self._tasks.scheduler.worker_send(worker, {**answer, "stimulus_id": stimulus_id})

        self._guard(act, worker)

    def on_undeliverable(self, worker: str, keys: Any, why: str, stimulus_id: str) -> None:
        """A worker could not take values in."""
        self._guard(
            lambda: self._tasks.undeliverable(worker, _keys(keys), str(why)[:1000], stimulus_id),
            worker,
        )

    def on_release(self, client: str, group: Any = None, keys: Any = ()) -> None:
        """A client drops the hold on a group or on single keys, after what it sent before."""

        def act() -> None:
            if keys:
                self._tasks.release_keys(_keys(keys), client=client)
            elif group in self._tasks.registry.groups:
                self._tasks.release_group(group, client=client)

        self._guard(act, client)

    def _guard(self, act: Callable[[], Any], sender: str) -> None:
        try:
            act()
        except Exception:
            logger.exception("Refused a message about external tasks from %s", sender)

    @property
    def _tasks(self) -> ExternalTasks:
        if self.tasks is None:
            raise ExternalTaskError("external tasks are not installed on this scheduler")
        return self.tasks


def _load(name: str) -> Callable[[ExternalTasks], Any]:
    module, _, attribute = str(name).partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ExternalTaskError(
            f"the scheduler cannot load the companion {name!r} ({error}); expected "
            "'package.module:Class', importable in the scheduler's process"
        ) from error


def _tuple(what: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ExternalTaskError(f"{what} must be a tuple, got {type(value).__name__}")
    return tuple(value)


def _keys(keys: Any) -> list[Any]:
    if not isinstance(keys, list | tuple | set | frozenset) or len(keys) > MAX_KEYS:
        raise ExternalTaskError(f"keys must be a list of at most {MAX_KEYS} keys")
    return [check_key(key) for key in keys]
