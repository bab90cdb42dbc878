"""Task pools of IPS on current distributed: started, watched, gathered, ended without a trace."""

import contextlib
import copy
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import wraps
from importlib import import_module, metadata
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ips_components.ips_compat._ips import Component, ServicesProxy, TaskPool
from ips_components.ips_compat._launch import CoupledPool, coupled_pool, within_pool
from ips_components.ips_compat._launchers import write_launchers
from ips_components.ips_compat._running_pool import (
    CONNECT_TIME_OUT,
    RunningPool,
    TaskPoolError,
    close,
    error_of,
    pool_parameter,
    wait_until_settled,
)
from ips_components.ips_compat._security import make_security
from ips_components.ips_compat._text import describe
from ips_components.ips_compat.container import check_versions

_TEARDOWN_TIME_OUT = 3600.0


def _connect(coupled: CoupledPool | None = None, **options: Any) -> Any:
    """Make the client that IPS asks for, with the method that distributed has renamed."""
    from distributed import Client

    class PoolClient(Client):  # type: ignore[misc]
        def submit(self, function: Any, *args: Any, **keywords: Any) -> Any:
            run = coupled.wrap(function) if coupled else function
            # Without a portal, IPS's tasks would print their events among the output of the run.
            if keywords.get("worker_event_logfile", "") is None:
                keywords["worker_event_logfile"] = os.devnull
            return super().submit(run, *args, **keywords)

        def register_worker_plugin(self, plugin: Any, name: str | None = None) -> Any:
            if type(plugin).__module__.split(".")[0] == "ips_components":
                check_versions(self)  # the other side must have this package, too
                if half := getattr(plugin, "scheduler_plugin", None):
                    self.register_plugin(half)
            return self.register_plugin(plugin, name=name)

        def scheduler_info(self, n_workers: int = -1, **keywords: Any) -> Any:
            # Some versions list five workers by default; IPS wants all of them.
            return super().scheduler_info(n_workers=n_workers, **keywords)

    return PoolClient(**options)


def _failed(pool: Any) -> dict[str, BaseException]:
    """Exceptions of the tasks that failed; their futures are taken out of the pool."""
    failures: dict[str, BaseException] = {}
    succeeded = []
    for name, future in zip(pool.active_tasks, pool.futures, strict=True):
        error = error_of(future)
        if error is None:
            succeeded.append(future)
            continue
        failures[name] = error
        pool.services._send_monitor_event(
            "IPS_TASK_END", f"task_name = {name}, failed: {describe(failures[name])}", ok=False
        )
    pool.futures = succeeded
    return failures


def _submit(pool: Any, original: Any, *args: Any, **keywords: Any) -> int:
    """``submit_dask_tasks`` with executables that exist, and nothing left behind when it fails."""
    if pool.__dict__.get("_ips_components_watch") is not None:
        raise TaskPoolError(
            f"task pool {pool.name!r} is running on Dask already: get its finished tasks before "
            "submitting more"
        )
    security = pool.security = make_security(pool)
    launchers = write_launchers(
        Path.cwd(),
        pool.name,
        workers_per_node=int(pool_parameter(pool, "DASK_WORKERS_PER_NODE", 1)),
        scheduler_options=security.options(),
        worker_options=security.options(),
        environment=security.environment(),
        shifter=type(pool).shifter,
        libraries=pool.__dict__.get("libraries", ()),
        secrets=[*pool.__dict__.get("secrets", ()), *security.directories],
    )
    pool.dask_scheduler, pool.dask_worker = str(launchers.scheduler), str(launchers.worker)
    pool.shifter = str(launchers.shifter)
    pool.dask_client = None
    running = pool._ips_components_watch = RunningPool(pool, launchers)
    coupled = coupled_pool(pool.services, pool.name, len(pool.queued_tasks))
    running.coupled_ended = coupled.ended if coupled else None
    time_out = pool_parameter(pool, "CONNECT_TIME_OUT", CONNECT_TIME_OUT)

    def connect(**options: Any) -> Any:
        running.wait_for_scheduler(time_out)
        client = pool.dask_client = _connect(coupled, **options, **security.client())
        # In a container, Dask may be another one than here: better refused than misunderstood.
        check_versions(client, packages=("python", "dask", "distributed"))
        running.report_closing(client)
        return client

    # IPS makes its client in the middle of the method; this one waits for the scheduler first.
    pool.dask = SimpleNamespace(distributed=SimpleNamespace(Client=connect))
    try:
        with within_pool(pool.services, "workers"):
            submitted: int = original(pool, *args, **keywords)
    except BaseException:
        close(pool)
        raise
    return submitted


def _finish(pool: Any, original: Any) -> dict[str, Any]:
    """``get_dask_finished_tasks_status`` that ends, whatever happens to the pool."""
    running: RunningPool = pool._ips_components_watch
    results: dict[str, Any] = {}
    cut: TaskPoolError | None = None
    try:
        wait_until_settled(
            pool, running, pool_parameter(pool, "CONNECT_TIME_OUT", CONNECT_TIME_OUT)
        )
        failures = _failed(pool)
        running.tasks_ended(next(iter(failures.values()), None))
        time_out = pool_parameter(pool, "TEARDOWN_TIME_OUT", _TEARDOWN_TIME_OUT)
        with running.bounded_shutdown(time_out):
            results = _gather(pool)
    except TaskPoolError as error:
        if not results:
            raise
        cut = error
    finally:
        close(pool)
    if failures:
        name, first = next(iter(failures.items()))
        total = len(failures) + len(results)
        which = (
            f"task {name!r} failed"
            if total == 1
            else f"{len(failures)} of {total} tasks failed, the first of them {name!r}"
        )
        raise TaskPoolError(
            f"task pool {pool.name!r}: {which}: {describe(first)}", results, failures
        )
    if cut is not None:
        raise TaskPoolError(str(cut), results)
    return results


def _gather(pool: Any) -> dict[str, Any]:
    """What IPS does, but for its pause of a second: ended workers have written their events."""
    results = dict(pool.dask_client.gather(pool.futures))
    events = _event_files(pool)
    pool.dask_client.shutdown()
    pool.services.wait_task(pool.dask_workers_tid)
    pool.finished_tasks = {}
    _pass_events_on(pool.services, events)
    return results


def _event_files(pool: Any) -> list[Path]:
    """Files in which the workers of a pool write the events of its tasks; none without a portal."""
    if pool.worker_event_logfile is None:
        return []
    names = [str(each["name"]) for each in pool.dask_client.scheduler_info()["workers"].values()]
    words = ["".join(filter(str.isalnum, name)) for name in names]
    return [Path(pool.worker_event_logfile.format(word)) for word in words]


def _pass_events_on(services: Any, files: Sequence[Path]) -> None:
    """Send the portal what workers have written of their tasks, in the order of time."""
    events: list[dict[str, Any]] = []
    for file in files:
        with contextlib.suppress(OSError):  # a worker without a task has written none
            events.extend(_complete_events(services, file))
            file.unlink()
    for event in sorted(events, key=itemgetter("event_time")):
        services._send_monitor_event(**event)


def _complete_events(services: Any, file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # the worker ended while it wrote
            services.warning("an event in %s is cut off: %s", file, line)


def _add(pool: Any, original: Any, name: str, nproc: int, cwd: str, binary: Any, *args: Any,
         **keywords: Any) -> None:  # fmt: skip
    """``add_task`` that takes a method of a component as it is.

    Such a method drags its component along to the worker, and queues cannot travel: a copy of the
    component, which IPS makes without them, goes instead.
    """
    owner = getattr(binary, "__self__", None)
    if isinstance(owner, Component):
        binary = getattr(copy.copy(owner), binary.__name__)
    original(pool, name, nproc, cwd, binary, *args, **keywords)


class _LazyDask:
    """Stands for the package ``dask`` on IPS's class of pools; imports it when it is needed."""

    distributed = SimpleNamespace(Client=_connect)

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module("dask"), name)


class _LazyDistributed:
    """Stands for ``dask.distributed``; IPS wants a version of digits."""

    def __init__(self) -> None:
        release = metadata.version("distributed").partition("+")[0].split(".")[:3]
        self.__version__ = ".".join(release)

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module("distributed"), name)


def _adapt(pool_class: Any) -> None:
    """Change the class of task pools, once; nothing of Dask is imported for it."""
    if "_ips_components_adapted" in pool_class.__dict__:
        return
    pool_class._ips_components_adapted = True
    pool_class.dask = _LazyDask()
    pool_class.distributed = _LazyDistributed()
    pool_class.shifter = shutil.which("shifter")
    replacements = {
        "submit_dask_tasks": _submit,
        "get_dask_finished_tasks_status": _finish,
        "terminate_tasks": _terminate,
        "add_task": _add,
    }
    for name, replacement in replacements.items():
        original = getattr(pool_class, name)

        def method(
            self: Any, *args: Any, _new: Any = replacement, _old: Any = original, **keywords: Any
        ) -> Any:
            return _new(self, _old, *args, **keywords)

        setattr(pool_class, name, wraps(original)(method))


def _terminate(pool: Any, original: Any) -> None:
    original(pool)
    close(pool)


def install() -> None:
    """Make ``submit_tasks(use_dask=True)`` run on the installed distributed."""
    _adapt(TaskPool)
    create = ServicesProxy.create_task_pool

    @wraps(create)
    def create_task_pool(self: Any, task_pool_name: str) -> None:
        # Looked up when a pool is made: IPS's modules may have been reloaded.
        _adapt(sys.modules[ServicesProxy.__module__].TaskPool)
        create(self, task_pool_name)

    get_config_param = ServicesProxy.get_config_param

    @wraps(get_config_param)
    def quiet_get_config_param(self: Any, param: str, silent: bool = False) -> Any:
        # IPS asks for this one to learn whether there is a portal: "no" is no error.
        return get_config_param(self, param, silent or param == "PORTAL_RUNID")

    ServicesProxy.create_task_pool = create_task_pool
    ServicesProxy.get_config_param = quiet_get_config_param
