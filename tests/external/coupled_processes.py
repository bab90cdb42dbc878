"""A whole run without MPI and IPS whose every part is a process that can be killed.

Scheduler, workers and ranks are forked from a server that has imported everything, so that a run
takes a second. Ranks stop at the moments that a test names, and go on (or not) as it tells them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import secrets
import select
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr
from distributed import Client, Scheduler, Worker

from ips_components.analysis import run_analysis, run_record, wait_for_end, wait_for_receivers
from ips_components.bridge import Array, Bridge
from ips_components.coordination import RunSettings, run_plugin
from ips_components.receiver.receiver import Receiver
from ips_components.wire.contact import Contact, Endpoint, write

STEPS, ROWS, COLUMNS = 12, 4, 3
PATIENCE = 40.0
"""Seconds after which a test says that something hangs."""
DEADLINES = {"connect": 6.0, "contract": 15.0, "step": 15.0, "drain": 6.0}

_context = multiprocessing.get_context("forkserver")


def field(step: int, ranks: int = 2) -> np.ndarray:
    """The whole field at one step."""
    cells = np.arange(ROWS * COLUMNS * ranks, dtype=float)
    return cells.reshape(ROWS, COLUMNS * ranks) + 1000.0 * step


def series(steps: int = STEPS, ranks: int = 2) -> np.ndarray:
    """The field at all steps."""
    return np.stack([field(step, ranks) for step in range(steps)])


# -- analyses ------------------------------------------------------------------------------


def sums(arrays):
    """One result per step, as soon as the step is there."""
    t = arrays["t"]
    return {f"sum_{k}": t[k].sum() for k in range(t.shape[0])}


def held(arrays):
    """Keeps every chunk until the last step has come."""
    t = arrays["t"]
    return {"held": (t + t[-1:]).sum(axis=(1, 2)), "first": t[0].sum()}


def mean(arrays):
    """One result of all steps."""
    return {"mean": arrays["t"].mean(axis=0)}


def slow(arrays, seconds):
    """Takes its time with every chunk."""

    def wait(block):
        time.sleep(seconds)
        return block

    return {"mean": arrays["t"].map_blocks(wait, dtype=float).mean(axis=0)}


def raising(arrays, when):
    """Raises before its contract, in its graph, or over its results."""
    t = arrays["t"]
    if when == "at once":
        raise ArithmeticError("the analysis gave up")

    def boom(block, step):
        if block.size and block.flat[0] >= 1000.0 * step:
            raise ArithmeticError("the analysis gave up")
        return block

    step = {"first step": 0, "in a step": 5, "last step": STEPS - 1}[when]
    return {"first": t[0].sum(), "bad": t.map_blocks(boom, step, dtype=float).mean()}


def raising_after_commit(arrays, run):
    """Raises in its own code while the graph runs."""
    run.commit(sums(arrays))
    for name, _ in run.completed():
        raise ArithmeticError(f"the analysis gave up after {name}")


# -- processes -----------------------------------------------------------------------------


class Gone(AssertionError):
    """A process ended, or said nothing, where a word was expected."""


class Peer:
    """A process, and a pipe to talk to it."""

    def __init__(self, name: str, target: Callable[..., None], *arguments: Any) -> None:
        self.name = name
        self.pipe, theirs = _context.Pipe()
        self.process = _context.Process(target=target, args=(theirs, *arguments), name=name)
        self.process.start()
        theirs.close()
        self.pid = self.process.pid
        self.said: list[Any] = []

    def hear(self, timeout: float = PATIENCE) -> Any:
        """Return the next thing that it says."""
        try:
            if not self.pipe.poll(timeout):
                raise Gone(f"{self.name} has said nothing for {timeout:g} s, last {self.said[-1:]}")
            self.said.append(self.pipe.recv())
        except (EOFError, ConnectionResetError):
            self.process.join(5)
            raise Gone(f"{self.name} ended with {self.process.exitcode}") from None
        return self.said[-1]

    def reached(self, moment: str, timeout: float = PATIENCE) -> None:
        """Wait until it has come to a moment, where it stops."""
        got = self.hear(timeout)
        assert got == ("at", moment), f"{self.name} should be at {moment}, says {got}"

    def go(self, word: str = "go") -> None:
        """Let it go on: ``go``, ``exit`` (without a word, status 0) or ``raise``."""
        self.pipe.send(word)

    def kill(self, signum: int = signal.SIGKILL) -> None:
        os.kill(self.pid, signum)

    def ended(self, timeout: float = PATIENCE) -> int:
        """Wait for its end; its exit status."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise Gone(f"{self.name} did not end within {timeout:g} s, said {self.said}")
        return self.process.exitcode

    def outcome(self, timeout: float = PATIENCE) -> tuple[str, Any]:
        """Wait for the last thing that a rank says: ("done", statistics) or ("error", text)."""
        while (heard := self.hear(timeout))[0] == "at":
            raise Gone(f"{self.name} waits at {heard[1]}")
        self.ended(timeout)
        return heard

    def close(self) -> None:
        """End it, whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)
            self.process.terminate()
        self.process.join(10)
        hung = self.process.exitcode is None
        if hung:
            self.process.kill()
            self.process.join(10)
        self.pipe.close()
        self.process.close()
        assert not hung, f"{self.name} did not end within 10 s"


def _scheduler(pipe: Any, log: str) -> None:
    _log_to(log)

    async def serve() -> None:
        async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
            pipe.send(scheduler.address)
            await scheduler.finished()

    asyncio.run(serve())


CLONE_NEWUTS = 0x04000000


def move_to(host: str) -> None:
    """Give this process a host name of its own; OSError when that is not permitted."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUTS):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    socket.sethostname(host)


def _worker(
    pipe: Any, log: str, scheduler: str, name: str, directory: str, proxy: int, host: str
) -> None:
    _log_to(log)
    if host:
        move_to(host)
    if proxy:
        own = Receiver.endpoint.fget

        def endpoint(receiver: Receiver) -> Endpoint:
            there = own(receiver)
            pipe.send(("port", there.port))
            return replace(there, port=proxy, unix="")

        Receiver.endpoint = property(endpoint)

    async def serve() -> None:
        worker = Worker(
            scheduler,
            nthreads=2,
            name=name,
            local_directory=directory,
            memory_limit="500MB",
            dashboard=False,
            death_timeout=10,
        )
        loop = asyncio.get_running_loop()
        closing = set()
        loop.add_signal_handler(
            signal.SIGTERM, lambda: closing.add(asyncio.ensure_future(worker.close()))
        )
        async with worker:
            await worker.finished()

    asyncio.run(serve())


def _rank(
    pipe: Any,
    log: str,
    rank: int,
    ranks: int,
    contact: str,
    pauses: set[str],
    pace: float,
) -> None:
    _log_to(log)

    def at(moment: str) -> None:
        if moment not in pauses:
            return
        pipe.send(("at", moment))
        word = pipe.recv()
        if word == "exit":
            os._exit(0)
        if word == "raise":
            raise ValueError("a negative density")

    try:
        at("start")
        mine = slice(rank * COLUMNS, (rank + 1) * COLUMNS)
        array = Array("t", (ROWS, COLUMNS * ranks), offset=(0, mine.start), steps=STEPS)
        with Bridge(contact=contact, arrays=[array], rank=rank, size=ranks) as bridge:
            at("open")
            for step in range(STEPS):
                at(f"step:{step}")
                bridge.put("t", step, field(step, ranks)[:, mine])
                time.sleep(pace)
            at("end")
        at("closed")
        pipe.send(("done", bridge.statistics().lost))
    except Exception as error:
        pipe.send(("error", f"{type(error).__name__}: {error}"))
        sys.exit(1)


def _log_to(path: str) -> None:
    with Path(path).open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    warnings.simplefilter("ignore")


@contextlib.contextmanager
def fork_server() -> Iterator[None]:
    """Keep a server that processes are forked from."""
    multiprocessing.set_forkserver_preload([__name__, "zarr", "distributed.shuffle"])
    before = os.environ.get("PYTHONPATH")
    # The server forgets the path that it is given, and would then import nothing beforehand.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), before]))
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    try:
        yield
    finally:
        forkserver._forkserver._stop()


# -- the network ---------------------------------------------------------------------------


class Proxy:
    """Stands between ranks and a worker's receiver, and can be cut, frozen and mended."""

    def __init__(self) -> None:
        self.target = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._up = True
        self._frozen = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Break all connections; new ones are broken as well."""
        with self._lock:
            self._up = False
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            _shut(pair)

    def freeze(self) -> None:
        """Let nothing through, and say nothing."""
        self._frozen.set()

    def mend(self) -> None:
        with self._lock:
            self._up = True
        self._frozen.clear()

    def close(self) -> None:
        self.cut()
        self._frozen.clear()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if not self._up:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:  # its receiver is closed
                    near.close()
                    continue
                self._pairs.add((near, far))
            thread = threading.Thread(target=self._carry, args=(near, far), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        try:
            while True:
                ready, _, _ = select.select([near, far], [], [], 0.05)
                if self._frozen.is_set():
                    self._frozen_wait((near, far))
                    continue
                for end in ready:
                    data = end.recv(1 << 16)
                    if not data:
                        return
                    other[end].sendall(data)
        except (OSError, ValueError):
            return
        finally:
            with self._lock:
                self._pairs.discard((near, far))
            _shut((near, far))
            near.close()
            far.close()

    def _frozen_wait(self, pair: tuple[socket.socket, socket.socket]) -> None:
        while self._frozen.is_set():
            if all(end.fileno() < 0 for end in pair):
                return
            threading.Event().wait(0.05)


def _shut(pair: Iterable[socket.socket]) -> None:
    for end in pair:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


# -- a run ---------------------------------------------------------------------------------


class Coupled:
    """One coupled run of processes.

    Parameters
    ----------
    directory
        Of logs, results and contact file.
    workers, ranks
        How many.
    proxies
        Whether ranks reach the workers through a `Proxy` each.
    hosts
        Names of hosts that workers believe to be on, in turn.
    """

    def __init__(
        self,
        directory: Path,
        workers: int = 2,
        ranks: int = 2,
        proxies: bool = False,
        hosts: tuple[str, ...] = ("",),
    ) -> None:
        self.hosts = hosts
        self.directory = directory
        self.n_ranks = ranks
        self.name = "r" + secrets.token_hex(4)
        self.results = directory / "results.zarr"
        self.contact = directory / "contact.json"
        self.scheduler = Peer("scheduler", _scheduler, str(directory / "scheduler.log"))
        self.address = self.scheduler.hear()
        self.proxies = [Proxy() for _ in range(workers)] if proxies else []
        self.workers: list[Peer] = []
        self.ranks: list[Peer] = []
        for _ in range(workers):
            self.add_worker()
        self.client = Client(self.address, timeout=10)
        self.future: Any = None
        self.settings: RunSettings | None = None

    def add_worker(self) -> Peer:
        n = len(self.workers)
        name, log = f"worker{n}", str(self.directory / f"worker{n}.log")
        directory = str(self.directory / name)
        proxy = self.proxies[n].port if self.proxies else 0
        host = self.hosts[n % len(self.hosts)]
        self.workers.append(Peer(name, _worker, log, self.address, name, directory, proxy, host))
        return self.workers[-1]

    def begin(
        self,
        analysis: str = "sums",
        *,
        analyst: int | None = 0,
        deadlines: dict[str, float] | None = None,
        module: str = __name__,
        **settings: Any,
    ) -> None:
        """Start the analysis (on worker number `analyst` for a start) and write the contact."""
        n = len(self.workers)
        self.settings = parsed = RunSettings(
            run=self.name,
            token=secrets.token_hex(32),
            analysis=f"{module}:{analysis}",
            n_receivers=n,
            results=str(self.results),
            run_dir=str(self.directory),
            n_steps=STEPS,
            deadlines={**DEADLINES, **(deadlines or {})},
            **{"replay_steps": STEPS, **settings},
        )
        self.client.wait_for_workers(n, timeout=PATIENCE)
        self.client.register_plugin(run_plugin(parsed))
        for worker, proxy in zip(self.workers, self.proxies, strict=False):
            proxy.target = worker.hear()[1]
        endpoints = wait_for_receivers(self.client, self.name, n, PATIENCE)
        known = Endpoint.__dataclass_fields__
        options = {
            "lanes": parsed.lanes,
            "on_analytics_loss": parsed.on_analytics_loss,
            "replay_steps": parsed.replay_steps,
            "slot_bytes": parsed.slot_bytes,
        }
        contact = Contact(
            self.name,
            parsed.token,
            tuple(Endpoint(**{k: e[k] for k in known}) for e in endpoints),
            {k: parsed.deadlines[k] for k in DEADLINES},
            options,
            scheduler=self.address,
        )
        write(self.contact, contact)
        where: dict[str, Any] = {}
        if analyst is not None:
            where = {"workers": [self.worker_address(analyst)], "allow_other_workers": True}
        self.future = self.client.submit(run_analysis, parsed.to_dict(), pure=False, **where)

    def worker_address(self, n: int) -> str:
        """Dask address of a worker."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        return next(a for a, facts in workers.items() if facts["name"] == f"worker{n}")

    def simulate(self, *pauses: str, pace: float = 0.0) -> list[Peer]:
        """Start the ranks; each stops at the moments that are named (``1/step:5``: only rank 1)."""
        for rank in range(self.n_ranks):
            mine = {
                pause.rpartition("/")[2]
                for pause in pauses
                if pause.partition("/")[0] == str(rank) or "/" not in pause
            }
            arguments = (rank, self.n_ranks, str(self.contact), mine, pace)
            log = str(self.directory / f"rank{rank}.log")
            self.ranks.append(Peer(f"rank {rank}", _rank, log, *arguments))
        return self.ranks

    def all_reach(self, moment: str, go: str = "") -> None:
        """Wait until all ranks are at a moment."""
        for rank in self.ranks:
            rank.reached(moment)
        if go:
            self.all_go(go)

    def all_go(self, word: str = "go") -> None:
        for rank in self.ranks:
            rank.go(word)

    def record(self) -> dict[str, Any]:
        return run_record(self.client, self.name)

    def until(self, predicate: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        """Wait until something holds of the run's record."""
        deadline = time.monotonic() + PATIENCE
        while not predicate(record := self.record()):
            assert time.monotonic() < deadline, f"waited in vain for {what}: {record}"
            threading.Event().wait(0.05)
        return record

    def delivered(self, n: int) -> None:
        """Wait until so many chunks are in memory or were."""
        done = ("memory", "released", "forgotten")
        self.until(
            lambda r: sum(r["states"].get(state, 0) for state in done) >= n,
            f"{n} chunks to be delivered",
        )

    def end(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """Wait until all ranks have left or the run has failed; the record."""
        return wait_for_end(self.client, self.name, timeout)

    def dataset(self) -> dict[str, np.ndarray]:
        """The results on disk."""
        with xr.open_zarr(self.results, consolidated=False) as results:
            return {str(name): variable.values for name, variable in results.items()}

    def logs(self) -> str:
        """What the processes have written."""
        paths = sorted(self.directory.glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in paths)

    def close(self) -> None:
        """End everything that still lives."""
        self.future = None
        # The client would try for long to reach a scheduler that is gone.
        with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
            self.client.close(timeout=3)
        errors = []
        for peer in (*self.ranks, *self.workers, self.scheduler):
            try:
                peer.close()
            except AssertionError as error:
                errors.append(str(error))
        for proxy in self.proxies:
            proxy.close()
        assert not errors, errors
