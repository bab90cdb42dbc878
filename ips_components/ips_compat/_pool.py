"""Task pools of IPS on current distributed: started, watched, gathered, ended without a trace."""

import contextlib
import copy
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import wraps
from importlib import import_module, metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ips_components.container import check_versions
from ips_components.errors import IPSComponentsError
from ips_components.ips_compat import guard
from ips_components.ips_compat._component import terminating
from ips_components.ips_compat._ips import Component, ServicesProxy, TaskPool
from ips_components.ips_compat._launchers import Launchers, write_launchers
from ips_components.ips_compat._teardown import ClosingWorkers, remove_reports, reporter
from ips_components.ips_compat._text import describe, tail
from ips_components.ips_compat._tls import Credentials

_CONNECT_TIME_OUT = 300.0
_TEARDOWN_TIME_OUT = 3600.0
_POLL_INTERVAL = 0.25


class TaskPoolError(IPSComponentsError):
    """Tasks of a pool failed, or the pool itself did.

    Attributes
    ----------
    results : dict
        Exit statuses of the tasks that ended well, by name.
    failures : dict
        Exceptions of the tasks that did not, by name.
    """

    def __init__(
        self,
        message: str,
        results: dict[str, Any] | None = None,
        failures: dict[str, BaseException] | None = None,
    ) -> None:
        super().__init__(message, results or {}, failures or {})
        self.results = results or {}
        self.failures = failures or {}

    def __str__(self) -> str:
        return str(self.args[0])


def _connect(**options: Any) -> Any:
    """Make the client that IPS asks for, with the method that distributed has renamed."""
    from distributed import Client

    class PoolClient(Client):  # type: ignore[misc]
        def register_worker_plugin(self, plugin: Any, name: str | None = None) -> Any:
            if type(plugin).__module__.split(".")[0] == "ips_components":
                check_versions(self)  # the other side must have this package, too
            return self.register_plugin(plugin, name=name)

        def scheduler_info(self, n_workers: int = -1, **keywords: Any) -> Any:
            # Some versions list five workers unless told otherwise; IPS wants all of them.
            return super().scheduler_info(n_workers=n_workers, **keywords)

    return PoolClient(**options)


class RunningPool:
    """A pool that runs on Dask: watches its processes, and ends them.

    Attributes
    ----------
    on_poll : callable
        Called without arguments several times a second while somebody waits for the pool; what it
        raises ends the wait and the pool.
    """

    def __init__(self, pool: Any, launchers: Launchers) -> None:
        self.pool = pool
        self.launchers = launchers
        self.on_poll: Callable[[], None] = lambda: None
        self._n_workers = 0

    @property
    def client(self) -> Any:
        """Client of the pool's scheduler."""
        return self.pool.dask_client

    def check(self) -> None:
        """Raise TaskPoolError when the scheduler or the workers are gone."""
        if trouble := self.trouble():
            raise TaskPoolError(f"task pool {self.pool.name!r}: {trouble}{self.story()}")

    def wait_for_workers(self, count: int, timeout: float) -> None:
        """Wait until so many workers have come, or it is clear that they will not."""
        deadline = time.monotonic() + timeout
        while (found := len(self.client.scheduler_info()["workers"])) < count:
            self.check()
            if time.monotonic() > deadline:
                raise TaskPoolError(
                    f"task pool {self.pool.name!r}: {found} of {count} Dask workers came within "
                    f"{timeout:g} s (CONNECT_TIME_OUT); are there free cores for them beside the "
                    f"tasks that run already?{self.story()}"
                )
            time.sleep(0.1)

    def wait_for_tasks(self) -> dict[str, BaseException]:
        """Wait until all tasks have ended; return what failed. They are gathered later."""
        _settled(self.pool, self, _parameter(self.pool, "CONNECT_TIME_OUT", _CONNECT_TIME_OUT))
        futures = zip(self.pool.active_tasks, self.pool.futures, strict=True)
        return {name: error for name, each in futures if (error := _error_of(each)) is not None}

    def close(self) -> None:
        """End the pool at once, whatever state it is in."""
        close(self.pool)

    @property
    def workers(self) -> Any:
        """Process of the task that holds all workers, or None."""
        task = self.pool.services.task_map.get(self.pool.dask_workers_tid)
        return None if task is None else task.process

    def trouble(self) -> str:
        """What makes it pointless to wait any longer, or ""."""
        pid = self.pool.dask_sched_pid
        if pid is not None and not guard.started(pid):
            return f"the Dask scheduler (pid {pid}) ended"
        if self.workers is not None and self.workers.poll() is not None:
            return f"all Dask workers ended, exit status {self.workers.returncode}"
        return ""

    def story(self) -> str:
        """Last lines of the logs, to go with a message of trouble."""
        return "".join(
            f"\n--- last lines of {log}\n{text}"
            for log in self.launchers.logs()[-2:]
            if (text := tail(log))
        )

    def wait_for_scheduler(self, timeout: float) -> None:
        """Wait for the file in which the scheduler tells its address."""
        deadline = time.monotonic() + timeout
        while not Path(self.pool.dask_file_name).exists():
            trouble = self.trouble()
            if not trouble and time.monotonic() > deadline:
                trouble = f"the Dask scheduler told no address within {timeout:g} s"
            if trouble:
                name = self.pool.name
                raise TaskPoolError(f"task pool {name!r}: {trouble}{self.story()}")
            time.sleep(0.02)

    def end_scheduler(self) -> None:
        """Wait until the scheduler has ended, and see to it if it has not."""
        pid = self.pool.dask_sched_pid
        if pid is None:
            return
        for signum, patience in (
            (0, 3.0),
            (signal.SIGTERM, guard.GRACE + 6.0),
            (signal.SIGKILL, 2),
        ):
            with contextlib.suppress(OSError):
                os.kill(pid, signum)
            if _gone(pid, patience):
                return

    def end_workers(self) -> None:
        """End the task that holds the workers, and give its cores back to IPS."""
        process = self.workers
        if process is None:
            return
        process.terminate()
        try:
            process.wait(guard.GRACE + 8.0)
        except subprocess.TimeoutExpired:
            process.kill()
        self.pool.services.wait_task(self.pool.dask_workers_tid)

    def terminate_async(self) -> None:
        """Ask scheduler and workers to end, and do not wait for that."""
        if self.pool.dask_sched_pid is not None:
            with contextlib.suppress(OSError):
                os.kill(self.pool.dask_sched_pid, signal.SIGTERM)
        process = self.workers
        if process is not None:
            process.terminate()

    @contextlib.contextmanager
    def bounded_shutdown(self, time_out: float) -> Iterator[None]:
        """Bound the shutdown of the pool within the block, which IPS waits for without a deadline.

        The teardown of worker plugins has as long as it makes progress, at most *time_out* seconds.
        A worker that is still starting is unknown to the scheduler, so that nobody asks it to end;
        it is not waited for longer than for the others.

        Raises
        ------
        TaskPoolError
            When a teardown was cut; all processes have ended then, too.
        """
        scratch = self._scratch()
        over, asked = threading.Event(), threading.Event()
        shutdown = self.client.shutdown

        def shut_down() -> None:
            asked.set()
            shutdown()

        self.client.shutdown = shut_down  # IPS calls it when it has gathered all results
        cut: list[str] = []

        def closing() -> ClosingWorkers:
            return ClosingWorkers(self._reports, self._n_workers, scratch, time_out)

        arguments = (over, asked, closing, cut)
        thread = threading.Thread(target=self._bound, args=arguments, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            asked.set()
            thread.join()
        if cut:
            message = f"task pool {self.pool.name!r}: {cut[0]}"
            self.pool.services.error("%s", message)
            raise TaskPoolError(message)

    def _bound(
        self,
        over: threading.Event,
        asked: threading.Event,
        closing: Callable[[], ClosingWorkers],
        cut: list[str],
    ) -> None:
        asked.wait()
        workers = closing()
        while not over.wait(_POLL_INTERVAL):
            verdict = workers.verdict()
            if verdict is not None:
                if verdict:
                    cut.append(verdict)
                self.terminate_async()
                return

    @property
    def _reports(self) -> Path:
        return self.launchers.worker.parent

    def report_closing(self, client: Any) -> None:
        """Have workers report how they close; before other plugins, whose teardown may block."""
        remove_reports(self._reports)
        client.register_plugin(reporter(self._reports))

    def _scratch(self) -> list[Path]:
        """Directories of the workers, which they remove last; none if some are on other hosts."""
        with contextlib.suppress(Exception):  # a scheduler that is lost; the deadline is left
            workers = self.client.scheduler_info()["workers"].values()
            here = self.client.scheduler.address.split("://")[-1].rsplit(":", 1)[0]
            self._n_workers = len(workers)
            if all(each["host"] == here for each in workers):
                return [Path(each["local_directory"]) for each in workers]
        return []


def _gone(pid: int, patience: float) -> bool:
    """Whether a child has ended within so many seconds; its remains are collected."""
    deadline = time.monotonic() + patience
    while True:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return True
        except ChildProcessError:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


def running_pool(services: Any, name: str) -> RunningPool:
    """The pool *name* of a component, which was submitted to Dask and not gathered yet."""
    running: RunningPool | None = services.task_pools[name].__dict__.get("_ips_components_watch")
    if running is None:
        raise TaskPoolError(f"task pool {name!r} is not running on Dask")
    return running


def close(pool: Any) -> None:
    """End a pool whatever state it is in: tasks, workers, scheduler, client."""
    running: RunningPool | None = pool.__dict__.pop("_ips_components_watch", None)
    if running is None:
        return
    if terminating.is_set():
        running.terminate_async()  # the guards see to the rest
        return
    client, pool.dask_client = pool.dask_client, None
    if client is not None:
        # The connection goes first: a client that sees its scheduler die has much to say about it.
        with contextlib.suppress(Exception):
            client.close(timeout=2)
    running.end_workers()
    running.end_scheduler()
    with contextlib.suppress(OSError, TypeError):
        Path(pool.dask_file_name).unlink(missing_ok=True)
    pool.active_tasks, pool.futures = {}, []
    pool.dask_file_name = pool.dask_workers_tid = pool.dask_sched_pid = None
    pool.dask_pool, pool.serial_pool = False, True


def _settled(pool: Any, running: RunningPool, connect_time_out: float) -> None:
    """Wait until every task of the pool is done, or until it is clear that this will not happen."""
    woken = threading.Event()
    for future in pool.futures:
        future.add_done_callback(lambda _: woken.set())
    total, told = len(pool.futures), 0
    deadline = time.monotonic() + connect_time_out
    connected = False
    while pending := [future for future in pool.futures if future.status == "pending"]:
        done = total - len(pending)
        if (done - told) * 10 >= total and total >= 20:
            told = done
            pool.services.info("task pool %s: %d of %d tasks done", pool.name, done, total)
        running.on_poll()
        trouble = running.trouble() or _disconnected(pool)
        if not trouble and not connected:
            connected = done > 0 or bool(pool.dask_client.scheduler_info()["workers"])
            if not connected and time.monotonic() > deadline:
                trouble = (
                    f"no Dask worker came within {connect_time_out:g} s (CONNECT_TIME_OUT); are "
                    "there free cores for them beside the tasks that run already?"
                )
        if trouble:
            raise TaskPoolError(
                f"task pool {pool.name!r}: {running.trouble() or trouble}, while {len(pending)} of "
                f"{total} tasks were not done{running.story()}"
            )
        woken.wait(_POLL_INTERVAL)
        woken.clear()
    if trouble := _disconnected(pool):
        # The client notices first; a moment later it is known which process is gone.
        time.sleep(_POLL_INTERVAL)
        raise TaskPoolError(
            f"task pool {pool.name!r}: {running.trouble() or trouble}, while tasks were not done"
            f"{running.story()}"
        )


def _disconnected(pool: Any) -> str:
    """A client that loses its scheduler cancels its futures, and would try again for ever."""
    lost = any(future.status in ("cancelled", "lost") for future in pool.futures)
    return "the connection to the Dask scheduler was lost" if lost else ""


def _error_of(future: Any) -> BaseException | None:
    """Exception of a task that has ended, None when it ended well."""
    if future.status == "finished":
        return None
    error: BaseException | None = future.exception() if future.status == "error" else None
    return error or RuntimeError(f"the task was {future.status}")


def _failed(pool: Any) -> dict[str, BaseException]:
    """Exceptions of the tasks that failed; their futures are taken out of the pool."""
    failures: dict[str, BaseException] = {}
    succeeded = []
    for name, future in zip(pool.active_tasks, pool.futures, strict=True):
        error = _error_of(future)
        if error is None:
            succeeded.append(future)
            continue
        failures[name] = error
        pool.services._send_monitor_event(
            "IPS_TASK_END", f"task_name = {name}, failed: {describe(failures[name])}", ok=False
        )
    pool.futures = succeeded
    return failures


def _parameter(pool: Any, name: str, default: float) -> float:
    return float(pool.services.component_ref.config.get(name) or default)


def _submit(pool: Any, original: Any, *args: Any, **keywords: Any) -> int:
    """``submit_dask_tasks`` with executables that exist, and nothing left behind when it fails."""
    if pool.__dict__.get("_ips_components_watch") is not None:
        raise TaskPoolError(
            f"task pool {pool.name!r} is running on Dask already: get its finished tasks before "
            "submitting more"
        )
    credentials: Credentials | None = pool.__dict__.get("credentials")
    options = credentials.options() if credentials else []
    launchers = write_launchers(
        Path.cwd(),
        pool.name,
        workers_per_node=int(_parameter(pool, "DASK_WORKERS_PER_NODE", 1)),
        scheduler_options=options,
        worker_options=options,
        shifter=type(pool).shifter,
        secrets=pool.__dict__.get("secrets", ()),
    )
    pool.dask_scheduler, pool.dask_worker = str(launchers.scheduler), str(launchers.worker)
    pool.shifter = str(launchers.shifter)
    pool.dask_client = None
    running = pool._ips_components_watch = RunningPool(pool, launchers)
    time_out = _parameter(pool, "CONNECT_TIME_OUT", _CONNECT_TIME_OUT)

    def connect(**options: Any) -> Any:
        running.wait_for_scheduler(time_out)
        if credentials:
            options["security"] = credentials.security()
        client = pool.dask_client = _connect(**options)
        # In a container, Dask may be another one than here: better refused than misunderstood.
        check_versions(client, packages=("python", "dask", "distributed"))
        running.report_closing(client)
        return client

    # IPS makes its client in the middle of the method; this one waits for the scheduler first.
    pool.dask = SimpleNamespace(distributed=SimpleNamespace(Client=connect))
    try:
        submitted: int = original(pool, *args, **keywords)
    except BaseException:
        close(pool)
        raise
    return submitted


def _finish(pool: Any, original: Any) -> dict[str, Any]:
    """``get_dask_finished_tasks_status`` that ends, whatever happens to the pool."""
    running: RunningPool = pool._ips_components_watch
    _make_event_logs(pool, running)
    results: dict[str, Any] = {}
    cut: TaskPoolError | None = None
    try:
        _settled(pool, running, _parameter(pool, "CONNECT_TIME_OUT", _CONNECT_TIME_OUT))
        failures = _failed(pool)
        time_out = _parameter(pool, "TEARDOWN_TIME_OUT", _TEARDOWN_TIME_OUT)
        with running.bounded_shutdown(time_out):
            scheduler = pool.dask_sched_pid
            results = original(pool)
            pool.dask_sched_pid = scheduler  # IPS forgets it without a look whether it is gone
    except TaskPoolError as error:
        if not results:
            raise
        cut = error
    finally:
        close(pool)
    if failures:
        name, first = next(iter(failures.items()))
        raise TaskPoolError(
            f"task pool {pool.name!r}: {len(failures)} of {len(failures) + len(results)} tasks "
            f"failed, the first of them {name!r}: {describe(first)}",
            results,
            failures,
        )
    if cut is not None:
        raise TaskPoolError(str(cut), results)
    return results


def _make_event_logs(pool: Any, running: RunningPool) -> None:
    """Make the log of a worker that has run no task; IPS reports a missing one as an error."""
    if pool.worker_event_logfile is None:
        return
    with contextlib.suppress(Exception):  # a scheduler that is lost is found out later
        for worker in running.client.scheduler_info()["workers"].values():
            word = "".join(c for c in str(worker["name"]) if c.isalnum())
            Path(pool.worker_event_logfile.format(word)).touch()


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
        # The class is looked up when a pool is made: whoever reloads IPS's modules has a new one.
        _adapt(sys.modules[ServicesProxy.__module__].TaskPool)
        create(self, task_pool_name)

    get_config_param = ServicesProxy.get_config_param

    @wraps(get_config_param)
    def quiet_get_config_param(self: Any, param: str, silent: bool = False) -> Any:
        # IPS asks for this one to learn whether there is a portal: "no" is no error.
        return get_config_param(self, param, silent or param == "PORTAL_RUNID")

    ServicesProxy.create_task_pool = create_task_pool
    ServicesProxy.get_config_param = quiet_get_config_param
