"""A scheduler and workers as processes of their own, and coupled runs on them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks._harness import ROOT

PATIENCE = 120.0
DEADLINES = {"connect": 60.0, "contract": 60.0, "step": 60.0, "drain": 60.0}


class Cluster:
    """Processes of one Dask cluster.

    Parameters
    ----------
    workers, threads
        How many workers with how many threads each.
    python
        Interpreter of an environment that has distributed.
    memory
        Memory limit of each worker.
    host
        Where the scheduler listens; workers listen on loopback as well, or else where Dask says.
    folder
        Parent of the cluster's folder, where all of its nodes see it.
    launch
        Words before the command of a worker, such as those of ``srun``.
    """

    def __init__(
        self,
        workers: int = 1,
        threads: int = 2,
        python: str = sys.executable,
        memory: str = "4GB",
        host: str = "127.0.0.1",
        folder: Path | None = None,
        launch: Sequence[str] = (),
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="benchmark", dir=folder))
        self.python, self.threads, self.memory = python, threads, memory
        self.host, self.launch = host, launch
        self.scheduler_file = self.folder / "scheduler.json"
        self.scheduler = self._start(
            "dask_scheduler", "--host", host, "--port", "0", "--no-dashboard"
        )
        self.workers = [self.add_worker() for _ in range(workers)]

    def add_worker(self) -> subprocess.Popen[bytes]:
        """Start one worker more; it registers by itself."""
        where = ("--host", self.host) if self.host == "127.0.0.1" else ()
        return self._start(
            "dask_worker", *where, "--no-nanny", "--no-dashboard",
            "--nthreads", str(self.threads), "--memory-limit", self.memory,
            "--local-directory", str(self.folder), launch=self.launch,
        )  # fmt: skip

    def _start(
        self, module: str, *arguments: str, launch: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*launch, self.python, "-m", f"distributed.cli.{module}",
                 "--scheduler-file", str(self.scheduler_file), *arguments],
                stdout=log, stderr=log, env=environment(), cwd=self.folder,
            )  # fmt: skip

    @property
    def address(self) -> str:
        """Address of the scheduler, once it is known."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                return json.loads(self.scheduler_file.read_text())["address"]
            if self.scheduler.poll() is not None:
                break
            time.sleep(0.05)
        raise TimeoutError(f"the scheduler did not start: {self.log()}")

    def wait_for_worker(self) -> None:
        """Wait until all workers serve, without a client of our own version."""
        deadline = time.monotonic() + PATIENCE
        while self.log().count("Registered to:") < len(self.workers):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no worker within {PATIENCE:g} s: {self.log()}")
            time.sleep(0.05)

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far of the scheduler, and of all workers that live."""
        return {
            "scheduler": _cpu(self.scheduler.pid),
            "workers": sum(_cpu(w.pid) for w in self.workers if w.poll() is None),
        }

    def rss(self) -> int:
        """Resident bytes of all workers that live."""
        alive = [w.pid for w in self.workers if w.poll() is None]
        return sum(psutil.Process(pid).memory_info().rss for pid in alive)

    def scheduler_rss(self) -> int:
        """Resident bytes of the scheduler."""
        return psutil.Process(self.scheduler.pid).memory_info().rss

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def close(self) -> None:
        """End everything; the scheduler first, for workers would hand their data on."""
        for process in (self.scheduler, *self.workers):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(15)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def environment(**more: str) -> dict[str, str]:
    """The environment of all processes: one thread per numerical library, our modules in reach."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "DASK_DISTRIBUTED__ADMIN__TICK__LIMIT": "1h",
        **more,
    }


class CoupledRun:
    """One run of this package on a cluster: the analysis is on its way, the contact is written."""

    def __init__(
        self,
        client: Any,
        folder: Path,
        analysis: str,
        *,
        receivers: int = 1,
        contact_options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        from ips_components.analysis import run_analysis, wait_for_receivers
        from ips_components.coordination import RunSettings, run_plugin
        from ips_components.wire.contact import Contact, Endpoint, write

        self.client, self.name = client, "b" + secrets.token_hex(4)
        self.contact = folder / f"{self.name}.contact"
        parsed = RunSettings(
            run=self.name,
            token=secrets.token_hex(32),
            analysis=analysis,
            n_receivers=receivers,
            results=str(folder / f"{self.name}.zarr"),
            run_dir=str(folder),
            # One step in a chunk: what is measured is measured step by step.
            **{"deadlines": DEADLINES, "chunk_bytes": 0, **settings},
        )
        self.plugin = run_plugin(parsed)
        client.wait_for_workers(receivers, timeout=PATIENCE)
        client.register_plugin(self.plugin)
        endpoints = wait_for_receivers(client, self.name, receivers, PATIENCE)
        known = Endpoint.__dataclass_fields__
        options = {
            "lanes": parsed.lanes,
            "on_analytics_loss": parsed.on_analytics_loss,
            "replay_steps": parsed.replay_steps,
            "slot_bytes": parsed.slot_bytes,
            **(contact_options or {}),
        }
        there = tuple(Endpoint(**{k: e[k] for k in known}) for e in endpoints)
        write(self.contact, Contact(self.name, parsed.token, there, parsed.deadlines, options))
        self.future = client.submit(run_analysis, parsed.to_dict(), pure=False)

    def record(self) -> dict[str, Any]:
        from ips_components.analysis import run_record

        return run_record(self.client, self.name)

    def end(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """Wait for the end of the simulation; the record of the run."""
        from ips_components.analysis import wait_for_end

        return wait_for_end(self.client, self.name, timeout)

    def results(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """Wait for the analysis; its results as NumPy arrays."""
        import xarray

        path = self.future.result(timeout)["results"]
        with xarray.open_zarr(path, consolidated=False) as dataset:
            return {str(name): variable.values for name, variable in dataset.items()}

    def close(self) -> None:
        """Take the receivers of this run away, so that the next finds the workers as new."""
        self.future = None
        with contextlib.suppress(ValueError):  # a run that is over has taken its plugin away
            self.client.unregister_worker_plugin(self.plugin.name)


@contextlib.contextmanager
def clustered(**options: Any) -> Iterator[tuple[Cluster, Any]]:
    """Give a cluster and a client of it."""
    from distributed import Client

    with Cluster(**options) as cluster, Client(cluster.address, timeout=PATIENCE) as client:
        client.wait_for_workers(len(cluster.workers), timeout=PATIENCE)
        yield cluster, client


def victim(client: Any, run: CoupledRun) -> int:
    """Return the process of a worker that does not run the analysis, as soon as there is one."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        pids = client.run(os.getpid)
        busy = {address for address, keys in client.processing().items() if run.future.key in keys}
        others = [pid for address, pid in pids.items() if address not in busy]
        if busy and others:
            return others[0]
        time.sleep(0.02)
    raise TimeoutError(
        f"no worker beside that of the analysis within {PATIENCE:g} s: workers {sorted(pids)}, "
        f"of the analysis {sorted(busy)}"
    )


def mpiexec(
    ranks: int,
    module: str,
    job: Path,
    python: str = sys.executable,
    launch: Sequence[str] = (),
) -> subprocess.Popen:
    """Start a module of the benchmarks on MPI ranks; its words go into a file beside the job.

    Without the words `launch` of another launcher, mpiexec starts them.
    """
    if not launch:
        beside = Path(python).with_name("mpiexec")
        command = str(beside) if beside.exists() else shutil.which("mpiexec")
        if command is None:
            raise FileNotFoundError(
                "mpiexec: install an MPI, for instance `pip install mpich mpi4py`"
            )
        launch = (command, "-n", str(ranks))
    with job.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [*launch, python, "-m", module, str(job)],
            stdout=log, stderr=log, env=environment(),
        )  # fmt: skip


def finish(process: subprocess.Popen, job: Path, timeout: float = PATIENCE) -> dict[str, Any]:
    """Wait for ranks to end; what the first of them wrote."""
    log = job.with_suffix(".log")
    try:
        status = process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(15)
        raise TimeoutError(
            f"ranks did not end in {timeout:g} s: {log.read_text()[-800:]}"
        ) from None
    if status:
        raise RuntimeError(f"ranks ended with status {status}: {log.read_text()[-800:]}")
    return json.loads(job.with_suffix(".out").read_text())
