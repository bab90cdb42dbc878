"""Components for tests: each behaviour is a method, named in the config."""

import faulthandler
import multiprocessing.util
import os
import signal
import threading
import time
from pathlib import Path

from ipsframework import Component

from ips_components import ips_compat

ips_compat.install()
faulthandler.register(signal.SIGUSR2, all_threads=True)


def slow_copy(directory, pause):
    """Make a worker plugin whose teardown writes three files, and blocks the worker meanwhile."""
    from distributed.diagnostics.plugin import WorkerPlugin

    class SlowCopy(WorkerPlugin):
        name = "slow-copy"

        def teardown(self, worker):
            for i in range(3):
                time.sleep(pause)
                Path(directory, f"copied_{i}").write_text("all of it")

    return SlowCopy()


class Part(Component):
    """Does what its section says: INIT, STEP and FINALIZE name methods of this class."""

    def init(self, timestamp=0.0, **keywords):
        self._do("INIT")

    def step(self, timestamp=0.0, **keywords):
        return self._do("STEP")

    def finalize(self, timestamp=0.0, **keywords):
        self._do("FINALIZE")

    def _do(self, phase):
        name = getattr(self, phase, "nothing")
        print(f"{self.ROLE} {phase} {name} {os.getpid()}", flush=True)
        return getattr(self, name)()

    def nothing(self):
        """Do nothing."""

    # --- a driver's behaviours

    def call_worker(self):
        self.services.call(self.services.get_port("WORKER"), "step", 0.0)

    def call_worker_and_cope(self):
        try:
            self.call_worker()
        except Exception as error:
            self.services.info("coped with: %s", error)

    def raise_while_busy(self):
        self.services.call_nonblocking(self.services.get_port("WORKER"), "step", 0.0)
        self._wait_for_file("busy")
        raise RuntimeError("the driver gave up")

    def wait_first(self):
        call = self.services.call_nonblocking(self.services.get_port("WORKER"), "step", 0.0)
        early = ips_compat.wait_first(self.services, [call], 0.3)
        late = ips_compat.wait_first(self.services, [call], 20.0)
        print("first", early, late == call, ips_compat.answer(self.services, call), flush=True)

    def two_workers(self):
        calls = [
            self.services.call_nonblocking(self.services.get_port(port), "step", 0.0)
            for port in ("WORKER", "OTHER")
        ]
        self.services.wait_call_list(calls)

    # --- things that go wrong

    def raise_error(self):
        raise ValueError(f"{self.ROLE} found a negative temperature")

    def raise_unpicklable(self):
        error = ValueError("not to be pickled")
        error.lock = threading.Lock()
        raise error

    def raise_unreadable(self):
        raise Unreadable("a", "b")

    def return_lock(self):
        return threading.Lock()

    def end_slowly(self):
        """Take a while at the exit, until long after the framework has asked again."""
        multiprocessing.util.Finalize(None, time.sleep, args=(2.0,), exitpriority=100)

    def kill_itself(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def exit_hard(self):
        os._exit(3)

    def system_exit(self):
        raise SystemExit(4)

    def read_parameter(self):
        return float(self.TEMPERATURE)

    def stage_missing(self):
        self.services.stage_input_files("not_there.dat")

    # --- tasks

    def task(self):
        cwd = self.services.get_working_dir()
        task = self.services.launch_task(1, cwd, *self.COMMAND.split(), logfile="task.log")
        self._say_busy()
        status = self.services.wait_task(task)
        if status != 0:
            raise RuntimeError(f"the task ended with exit status {status}")

    def task_with_time_out(self):
        cwd = self.services.get_working_dir()
        task = self.services.launch_task(1, cwd, *self.COMMAND.split())
        print("status", self.services.wait_task(task, timeout=1.0, delay=0.1), flush=True)

    def mpi_task(self):
        cwd = self.services.get_working_dir()
        task = self.services.launch_task(2, cwd, *self.COMMAND.split(), logfile="task.log")
        self._wait_for_file("rank_0", cwd)
        self._wait_for_file("rank_1", cwd)
        self._say_busy()
        self.services.wait_task(task)

    def launch_twice(self):
        cwd = self.services.get_working_dir()
        first = self.services.launch_task(8, cwd, "/bin/sleep", "0.1")
        self.services.launch_task(8, cwd, "/bin/sleep", "0.1")
        self.services.wait_task(first)

    # --- pools

    def pool_never_gathered(self):
        self._submit(self._sleepers(4, 100))
        self._wait_for_workers()
        self._say_busy()

    def pool_busy(self):
        self._submit(self._sleepers(2, 100))
        self._wait_for_workers()
        self._say_busy()
        self.services.get_finished_tasks("pool")

    def pool_raises(self):
        self._submit([("good", good), ("bad", bad), ("fine", good)])
        self.services.get_finished_tasks("pool")

    def pool_collects(self):
        self._submit([("good", good), ("bad", bad), ("fine", good)])
        try:
            self.services.get_finished_tasks("pool")
        except ips_compat.TaskPoolError as error:
            print("results", error.results, flush=True)
            print("failures", {k: str(v) for k, v in error.failures.items()}, flush=True)

    def many_lines(self):
        for number in range(500):
            self.services.warning("line %d of 500", number)

    def pool_of_hundreds(self):
        self._submit([(f"task_{i}", good) for i in range(300)])
        results = self.services.get_finished_tasks("pool")
        print("hundreds", len(results), set(results.values()), flush=True)

    def pool_of_all_kinds(self):
        cwd = self.services.get_working_dir()
        add = self.services.add_task
        self.services.create_task_pool("pool")
        add("pool", "binary", 1, cwd, "/bin/true")
        add("pool", "failing", 1, cwd, "/bin/false")
        add("pool", "slow", 1, cwd, "/bin/sleep", "100", timeout=1)
        add("pool", "function", 1, cwd, good)
        add("pool", "method", 1, cwd, self.method_task, "here")
        shell = [str(Path(cwd, "speak.sh"))]
        Path(cwd, "speak.sh").write_text('#!/bin/sh\necho "out $WORD"\necho "err" >&2\n')
        Path(cwd, "speak.sh").chmod(0o755)
        add("pool", "logged", 1, cwd, *shell, logfile="l.log", errfile="l.err",
            task_env={"WORD": "spoken"})  # fmt: skip
        self.services.submit_tasks("pool", use_dask=True, dask_nodes=1, dask_ppw=4)
        results = self.services.get_finished_tasks("pool")
        print("kinds", dict(sorted(results.items())), flush=True)
        print("files", Path("l.log").read_text(), Path("l.err").read_text(), flush=True)

    def pool_with_slow_teardown(self):
        cwd = self.services.get_working_dir()
        self.services.create_task_pool("pool")
        self.services.add_task("pool", "good", 1, cwd, good)
        plugin = slow_copy(cwd, float(self.PAUSE))
        self.services.submit_tasks(
            "pool", use_dask=True, dask_nodes=1, dask_ppw=2, dask_worker_plugin=plugin
        )
        print("results", self.services.get_finished_tasks("pool"), flush=True)

    def pool_of_one(self):
        self._submit([("good", good)])
        ips_compat.running_pool(self.services, "pool").wait_for_workers(2, 30.0)
        print("results", self.services.get_finished_tasks("pool"), flush=True)

    def pool_twice(self):
        for name in ("first", "second"):
            self._submit([("good", good)], name)
            print(name, self.services.get_finished_tasks(name), flush=True)
        self._submit([("good", good)], "third")
        print("third", self.services.get_finished_tasks("third"), flush=True)

    def method_task(self, where):
        print("method_task", self.ROLE, where, flush=True)
        return 0

    # --- helpers

    def _sleepers(self, count, seconds):
        return [(f"task_{i}", "/bin/sleep", str(seconds)) for i in range(count)]

    def _submit(self, tasks, pool="pool"):
        cwd = self.services.get_working_dir()
        self.services.create_task_pool(pool)
        for name, *task in tasks:
            self.services.add_task(pool, name, 1, cwd, *task)
        self.services.submit_tasks(pool, use_dask=True, dask_nodes=1, dask_ppw=2)

    def _wait_for_workers(self):
        ips_compat.running_pool(self.services, "pool").wait_for_workers(1, 30.0)

    def _say_busy(self):
        Path(self.services.sim_conf["SIM_ROOT"], "busy").touch()
        print("at work now", flush=True)

    def _wait_for_file(self, name, directory=None):
        path = Path(directory or self.services.sim_conf["SIM_ROOT"], name)
        deadline = time.monotonic() + 30.0
        while not path.exists():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{path} did not appear")
            time.sleep(0.02)


class Unreadable(Exception):
    """Can be pickled, but not read back: its constructor wants more than its message."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def good():
    """A task that ends well."""
    return 0


def bad():
    """A task that does not."""
    raise ZeroDivisionError("the task divided by nothing")
