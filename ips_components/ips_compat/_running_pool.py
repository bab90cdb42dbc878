"""A task pool that runs on Dask: watched, waited for, ended without a trace."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ips_components.deadlines import Deadline, poll_until
from ips_components.errors import IPSComponentsError
from ips_components.ips_compat import guard
from ips_components.ips_compat._component import terminating
from ips_components.ips_compat._launchers import Launchers
from ips_components.ips_compat._teardown import (
    ClosingWorkers,
    prepare_closing,
    remove_reports,
    reporter,
)
from ips_components.ips_compat._text import tail

CONNECT_TIME_OUT = 300.0
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


class RunningPool:
    """A pool that runs on Dask: watches its processes, and ends them.

    Attributes
    ----------
    on_poll : callable
        Called without arguments several times a second while the pool is waited for; what it
        raises ends the wait and the pool.
    """

    def __init__(self, pool: Any, launchers: Launchers) -> None:
        self.pool = pool
        self.launchers = launchers
        self.on_poll: Callable[[], None] = lambda: None
        self.coupled_ended: Callable[[BaseException | None], None] | None = None
        self._n_workers = 0

    @property
    def client(self) -> Any:
        """Client of the pool's scheduler."""
        return self.pool.dask_client

    def tasks_ended(self, error: BaseException | None) -> None:
        """Report once that the tasks have ended, to whatever follows those that put data."""
        ended, self.coupled_ended = self.coupled_ended, None
        if ended is not None:
            ended(error)

    def check(self) -> None:
        """Raise TaskPoolError when the scheduler or the workers are gone."""
        if loss := self.loss():
            raise TaskPoolError(f"task pool {self.pool.name!r}: {loss}{self.log_tails()}")

    def wait_for_workers(self, count: int, timeout: float) -> None:
        """Wait until so many workers have come, or it is clear that they will not."""
        deadline = Deadline(timeout)
        while (found := len(self.client.scheduler_info()["workers"])) < count:
            self.check()
            if deadline.expired:
                raise TaskPoolError(
                    f"task pool {self.pool.name!r}: {found} of {count} Dask workers came within "
                    f"{timeout:g} s (CONNECT_TIME_OUT); are there free cores for them beside the "
                    f"tasks that run already?{self.log_tails()}"
                )
            time.sleep(0.1)

    def wait_for_tasks(self) -> dict[str, BaseException]:
        """Wait until all tasks have ended; return what failed. They are gathered later."""
        wait_until_settled(
            self.pool, self, pool_parameter(self.pool, "CONNECT_TIME_OUT", CONNECT_TIME_OUT)
        )
        futures = self._futures()
        return {n: error for n, each in futures.items() if (error := error_of(each)) is not None}

    def peek(self, task: str) -> Any:
        """What a task that has ended returned, which is gathered later all the same.

        None if it failed.
        """
        future = self._futures()[task]
        return dict([future.result()])[task] if future.status == "finished" else None

    def _futures(self) -> dict[str, Any]:
        """Futures of the tasks by name."""
        return dict(zip(self.pool.active_tasks, self.pool.futures, strict=True))

    def close(self) -> None:
        """End the pool at once, whatever state it is in."""
        close(self.pool)

    @property
    def workers(self) -> Any:
        """Process of the task that holds all workers, or None."""
        task = self.pool.services.task_map.get(self.pool.dask_workers_tid)
        return None if task is None else task.process

    def loss(self) -> str:
        """Return what makes it pointless to wait any longer, or ""."""
        pid = self.pool.dask_sched_pid
        if pid is not None and not guard.started(pid):
            return f"the Dask scheduler (pid {pid}) ended"
        if self.workers is not None and self.workers.poll() is not None:
            said = f"all Dask workers ended, exit status {self.workers.returncode}"
            return f"{said}{_outside_of_slurm(self.pool.services)}"
        return ""

    def log_tails(self) -> str:
        """Return the last lines of the logs, for a message about a loss."""
        return "".join(
            f"\n--- last lines of {log}\n{text}"
            for log in self.launchers.logs()[-2:]
            if (text := tail(log))
        )

    def wait_for_scheduler(self, timeout: float) -> None:
        """Wait for the file in which the scheduler writes its address."""
        address = Path(self.pool.dask_file_name)
        poll_until(lambda: address.exists() or self.loss(), Deadline(timeout), pause=0.02)
        if not address.exists():
            loss = self.loss() or f"the Dask scheduler wrote no address within {timeout:g} s"
            raise TaskPoolError(f"task pool {self.pool.name!r}: {loss}{self.log_tails()}")

    def end_scheduler(self) -> None:
        """Wait until the scheduler has ended, and end it if it has not."""
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
        A worker that is still starting is unknown to the scheduler, so that it is not asked to end;
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
            prepare_closing(self.client)
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
            from distributed.comm.addressing import get_address_host

            workers = self.client.scheduler_info()["workers"].values()
            here = get_address_host(self.client.scheduler.address)
            self._n_workers = len(workers)
            if all(each["host"] == here for each in workers):
                return [Path(each["local_directory"]) for each in workers]
        return []


def _outside_of_slurm(services: Any) -> str:
    """Return what is wrong where the launcher is that of a batch system that is not there."""
    with contextlib.suppress(Exception):  # a platform file need not have a launcher
        launcher = services.get_config_param("MPIRUN", silent=True)
        if launcher == "srun" and "SLURM_JOB_ID" not in os.environ:
            return (
                "; MPIRUN = srun has started them, but this is no job of Slurm (SLURM_JOB_ID is "
                "not set): run ips.py in a job, by sbatch or salloc, or give MPIRUN = mpiexec in "
                "the platform file"
            )
    return ""


def _gone(pid: int, patience: float) -> bool:
    """Whether a child has ended within so many seconds; it is reaped."""

    def reaped() -> bool:
        try:
            return os.waitpid(pid, os.WNOHANG)[0] == pid
        except ChildProcessError:
            return True

    return poll_until(reaped, Deadline(patience), pause=0.02)


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
        running.terminate_async()  # the guards end what is left
        return
    running.tasks_ended(TaskPoolError(f"task pool {pool.name!r} was ended before its tasks were"))
    client, pool.dask_client = pool.dask_client, None
    if client is not None:
        # The connection goes first: a client that loses its scheduler logs a lot.
        with contextlib.suppress(Exception):
            client.close(timeout=2)
    running.end_workers()
    running.end_scheduler()
    with contextlib.suppress(OSError, TypeError):
        Path(pool.dask_file_name).unlink(missing_ok=True)
    pool.security.remove()
    pool.active_tasks, pool.futures = {}, []
    pool.dask_file_name = pool.dask_workers_tid = pool.dask_sched_pid = None
    pool.dask_pool, pool.serial_pool = False, True


def wait_until_settled(pool: Any, running: RunningPool, connect_time_out: float) -> None:
    """Wait until every task of the pool is done, or until it is clear that this will not happen."""
    woken = threading.Event()
    for future in pool.futures:
        future.add_done_callback(lambda _: woken.set())
    total, reported = len(pool.futures), 0
    deadline = Deadline(connect_time_out)
    connected = False
    while pending := [future for future in pool.futures if future.status == "pending"]:
        done = total - len(pending)
        if (done - reported) * 10 >= total and total >= 20:
            reported = done
            pool.services.info("task pool %s: %d of %d tasks done", pool.name, done, total)
        running.on_poll()
        loss = running.loss() or _disconnected(pool)
        if not loss and not connected:
            connected = done > 0 or bool(pool.dask_client.scheduler_info()["workers"])
            if not connected and deadline.expired:
                loss = (
                    f"no Dask worker came within {connect_time_out:g} s (CONNECT_TIME_OUT); are "
                    "there free cores for them beside the tasks that run already?"
                )
        if loss:
            raise TaskPoolError(
                f"task pool {pool.name!r}: {running.loss() or loss}, while {len(pending)} of "
                f"{total} tasks were not done{running.log_tails()}"
            )
        woken.wait(_POLL_INTERVAL)
        woken.clear()
    if loss := _disconnected(pool):
        # The client notices first; a moment later it is known which process is gone.
        time.sleep(_POLL_INTERVAL)
        raise TaskPoolError(
            f"task pool {pool.name!r}: {running.loss() or loss}, while tasks were not done"
            f"{running.log_tails()}"
        )


def _disconnected(pool: Any) -> str:
    """A client that loses its scheduler cancels its futures, and would try again for ever."""
    lost = any(future.status in ("cancelled", "lost") for future in pool.futures)
    return "the connection to the Dask scheduler was lost" if lost else ""


def error_of(future: Any) -> BaseException | None:
    """Exception of a task that has ended, None when it ended well."""
    if future.status == "finished":
        return None
    error: BaseException | None = future.exception() if future.status == "error" else None
    return error or RuntimeError(f"the task was {future.status}")


def pool_parameter(pool: Any, name: str, default: float) -> float:
    return float(pool.services.component_ref.config.get(name) or default)
