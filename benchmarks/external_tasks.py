"""What external tasks cost the scheduler, beside what Dask's own ways cost, in one run.

Scheduler and workers are processes of their own; CPU is that of the scheduler's process, and
memory is what its resident set grows by (for declared keys also what Python allocates for them,
since a resident set that has been larger before does not grow).  Everything takes turns.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph
from distributed import Client

from benchmarks._harness import Load, figure, interleave, machine, ratio, spread, write
from ips_components.analysis.contract import submit as external_submit
from ips_components.external import ExternalDataPlugin
from ips_components.external.layer import ExternalLayer
from ips_components.external.tasks import EXTENSION

TIMEOUT = 900

#: Goals: declare at most 10 us and 2.5 kB per key and 20 times less CPU than plain Dask; an
#: arrival at most 15 us and 10 times less than a scatter.
GOALS = {"declare, us": 10, "declare, kB": 2.5, "arrive, us": 15, "scatter over arrival": 10,
         "persist over declaration": 20}  # fmt: skip


# -- what runs in the other processes ------------------------------------------------------


def probe(dask_scheduler: Any) -> tuple[float, float, float]:
    """CPU seconds of the scheduler's process, resident bytes, and CPU seconds after all this."""
    import gc

    import psutil

    before = time.process_time()
    gc.collect()
    return before, float(psutil.Process().memory_info().rss), time.process_time()


async def arrive_all(name: str, n: int, dask_scheduler: Any) -> None:
    """Wait until `n` tasks of a group are in memory, which costs next to nothing here."""
    deadline = time.monotonic() + TIMEOUT
    while (group := dask_scheduler.task_groups.get(name)) is None or group.states["memory"] < n:
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {TIMEOUT} s in vain for {n} chunks of {name}")
        await asyncio.sleep(0.05)


def n_tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def knows(key: Any, dask_scheduler: Any) -> bool:
    return key in dask_scheduler.tasks


def declare(name: str, n: int, dask_scheduler: Any) -> float:
    tasks = dask_scheduler.extensions[EXTENSION]
    start = time.process_time()
    tasks.declare(name, (n,), None, group=name)
    return time.process_time() - start


def release_group(name: str, dask_scheduler: Any) -> None:
    tasks = dask_scheduler.extensions[EXTENSION]
    if name in tasks.registry.groups:
        tasks.release_group(name)


def rest_gc(paused: bool, dask_scheduler: Any) -> None:
    """Let the scheduler take in graphs as external tasks have it do, or as Dask does."""
    handlers = dask_scheduler.stream_handlers
    ours = dask_scheduler.__dict__.setdefault("_update_graph", handlers["update-graph"])
    handlers["update-graph"] = ours if paused else dask_scheduler.update_graph


def allocated(name: str, n: int, dask_scheduler: Any) -> float:
    """Bytes that Python allocates to declare `n` keys."""
    import tracemalloc

    tasks = dask_scheduler.extensions[EXTENSION]
    tracemalloc.start()
    try:
        tasks.declare(name, (n,), None, group=name)
        return float(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()


def handle_arrivals(name: str, n: int, batch: int, dask_scheduler: Any) -> float:
    """CPU seconds to decode and to carry out announcements of so many chunks each."""
    from distributed.protocol import dumps

    plugin = dask_scheduler.plugins["external-tasks"]
    tasks = dask_scheduler.extensions[EXTENSION]
    worker = next(iter(dask_scheduler.workers))
    messages = [
        dumps([{"items": [[(name, i), 8, "float64", (1,)] for i in range(first, first + batch)],
                "stimulus_id": f"external-arrived-{first}-{time.time()}"}])
        for first in range(0, n, batch)
    ]  # fmt: skip

    def handle(message: Any) -> None:
        plugin.on_arrived(worker=worker, **message)
        tasks.changes.flush()

    return cpu_of(messages, handle)


def cpu_of(messages: list[Any], handle: Callable[[Any], Any]) -> float:
    """CPU seconds to decode messages and to handle all that is in them."""
    from distributed.protocol import loads

    start = time.process_time()
    for frames in messages:
        for message in loads(frames):
            handle(message)
    return time.process_time() - start


def handle_finished(name: str, n: int, batch: int, dask_scheduler: Any) -> float:
    """The same for tasks of plain Dask that a worker has finished; the worker knows none of them.

    A client wants them, so that they stay; no task depends on them.
    """
    from dask._task_spec import Task
    from distributed.protocol import dumps, pickle
    from distributed.scheduler import ClientState

    scheduler = dask_scheduler
    client = scheduler.clients[name] = ClientState(name)
    address, worker = next(iter(scheduler.workers.items()))
    tasks = []
    for i in range(n):
        ts = scheduler.new_task((name, i), Task((name, i), float), "released")
        ts.priority, ts.who_wants = (0, 0, i), {client}
        client.wants_what.add(ts)
        ts.state, ts.waiting_on, ts.waiters = "waiting", set(), set()
        scheduler._add_to_processing(ts, worker, f"start-{i}")
        tasks.append(ts)
    kind = pickle.dumps(np.ndarray)
    messages = [
        dumps([{"key": ts.key, "run_id": ts.run_id, "nbytes": 8, "typename": "numpy.ndarray",
                "type": kind, "thread": 1, "metadata": {}, "stimulus_id": f"done-{time.time()}",
                "startstops": [{"action": "compute", "start": 1.0, "stop": 1.1}]}
               for ts in tasks[first : first + batch]])
        for first in range(0, n, batch)
    ]  # fmt: skip
    seconds = cpu_of(
        messages, lambda message: scheduler.handle_task_finished(worker=address, **message)
    )
    if scheduler.task_groups[name].states["memory"] != n:
        raise RuntimeError(f"not all of {n} finished tasks are in memory")
    # The worker has none of them: without replicas, they are forgotten without a word to it.
    for ts in tasks:
        scheduler.remove_all_replicas(ts)
    scheduler.client_releases_keys(keys=[ts.key for ts in tasks], client=name)
    del scheduler.clients[name]
    return seconds


async def deliver(name: str, n: int, workers: list[str], dask_worker: Any) -> None:
    """Hand over this worker's share of the chunks one by one, as a simulation does."""
    external = dask_worker.extensions[EXTENSION]
    for i in range(workers.index(dask_worker.address), n, len(workers)):
        external.deliver({(name, i): np.zeros(1)})
        await asyncio.sleep(0)


# -- the cluster ---------------------------------------------------------------------------


@contextmanager
def cluster(n_workers: int) -> Iterator[Client]:
    """Start a scheduler and workers as processes; end them whatever happens."""
    with tempfile.TemporaryDirectory() as scratch:
        contact = Path(scratch) / "scheduler.json"
        where = ["--scheduler-file", str(contact)]
        commands = [["dask_scheduler", "--port", "0", "--no-dashboard", *where]]
        commands += [
            ["dask_worker", *where, "--no-nanny", "--nthreads", "1", "--local-directory", scratch]
        ] * n_workers
        processes = []
        try:
            for module, *arguments in commands:
                processes.append(start(module, arguments, scratch))
            with Client(scheduler_file=str(contact), timeout=60) as client:
                client.wait_for_workers(n_workers, timeout=60)
                client.register_plugin(ExternalDataPlugin())
                yield client
        finally:
            # The scheduler first: workers that end would try to hand their data on.
            for process in processes:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    # A worker whose scheduler is gone now and then never ends its last task.
                    process.kill()
                    process.wait(20)


def start(module: str, arguments: list[str], scratch: str) -> subprocess.Popen:
    with Path(scratch, "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{module}", *arguments],
            stdout=log,
            stderr=log,
            env={**os.environ, "DASK_DISTRIBUTED__ADMIN__TICK__LIMIT": "1h"},
        )


def until(predicate: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {TIMEOUT} s in vain for {what}")
        time.sleep(0.2)  # each look costs the scheduler a millisecond


class Meter:
    """Wall time, and CPU and memory of the scheduler, between enter and exit."""

    def __init__(self, client: Client, n: int) -> None:
        self.client, self.n = client, n
        self.figures: dict[str, float] = {}

    def __enter__(self) -> Meter:
        _, self.rss, self.cpu = self.client.run_on_scheduler(probe)
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        wall = time.perf_counter() - self.start
        cpu, rss, _ = self.client.run_on_scheduler(probe)
        self.figures = {
            "wall_s": wall,
            "cpu_us": (cpu - self.cpu) / self.n * 1e6,
            "memory_kb": (rss - self.rss) / self.n / 1e3,
        }


# -- the measurements ----------------------------------------------------------------------


def external_array(name: str, n: int) -> da.Array:
    graph = HighLevelGraph({name: ExternalLayer(name, (n,))}, {name: set()})
    return da.Array(graph, name, ((1,) * n,), dtype=float)


def idle(client: Client) -> None:
    until(lambda: client.run_on_scheduler(n_tasks) == 0, "idle")


def registered(client: Client, key: Any) -> None:
    until(lambda: client.run_on_scheduler(knows, key), "the graph")


def in_memory(client: Client, name: str, n: int) -> None:
    client.run_on_scheduler(arrive_all, name, n)


def measure_declare(client: Client, n: int) -> dict[str, float]:
    """Declare, and release again."""
    name = f"external-declared{n}-00000000"
    with Meter(client, n) as meter:
        seconds = client.run_on_scheduler(declare, name, n)
    meter.figures["cpu_us"] = seconds / n * 1e6
    name_again = f"external-allocated{n}-00000000"
    meter.figures["allocated_kb"] = client.run_on_scheduler(allocated, name_again, n) / n / 1e3
    client.run_on_scheduler(release_group, name_again)
    before = client.run_on_scheduler(probe)[2]
    join = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        address = ["--nthreads", "1", "--no-nanny", "--local-directory", scratch]
        known = len(client.scheduler_info(n_workers=-1)["workers"])
        late = start("dask_worker", [client.scheduler.address, *address], scratch)
        try:
            client.wait_for_workers(known + 1, timeout=60)
            meter.figures["join_s"] = time.perf_counter() - join
            meter.figures["join_cpu_ms"] = (client.run_on_scheduler(probe)[0] - before) * 1e3
        finally:
            late.terminate()
            late.wait(30)
    client.run_on_scheduler(release_group, name)
    idle(client)
    return meter.figures


def send(client: Client, name: str, n: int) -> None:
    workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
    client.run(deliver, name, n, workers)


def measure_arrive(client: Client, n: int) -> dict[str, float]:
    """Deliver chunks that no task consumes yet: the bare cost of an arrival."""
    name = f"external-arrived{n}-00000000"
    client.run_on_scheduler(declare, name, n)
    with Meter(client, n) as meter:
        send(client, name, n)
        in_memory(client, name, n)
    client.run_on_scheduler(release_group, name)
    idle(client)
    return meter.figures


#: Arrivals and finished tasks of one message, where the handling alone is measured.
BATCH = 16


def measure_handling(client: Client, n: int) -> dict[str, dict[str, float]]:
    """What the scheduler's handlers cost alone: for arrivals, and for Dask's finished tasks."""
    n -= n % BATCH
    name = f"external-handled{n}-00000000"
    client.run_on_scheduler(declare, name, n)
    ours = client.run_on_scheduler(handle_arrivals, name, n, BATCH)
    client.run_on_scheduler(release_group, name)
    idle(client)
    theirs = client.run_on_scheduler(handle_finished, f"finished{n}", n, BATCH)
    idle(client)
    return {
        "arrival": {"cpu_us": ours / n * 1e6, "wall_s": ours},
        "finished": {"cpu_us": theirs / n * 1e6, "wall_s": theirs},
    }


def measure_submit(
    client: Client,
    n: int,
    split_every: int | None = None,
    gc_paused: bool = True,
    steps_per_chunk: int = 1,
) -> dict[str, float]:
    """Submit a reduction before the data exist; they never come.

    The collector pauses on both sides, as `ips_components.external.submit` has it, or on none.
    Figures are per step, of which a chunk may have several.
    """
    name = f"external-field{n}-{split_every or 0:04x}{steps_per_chunk:02x}{int(gc_paused):02x}"
    n_steps, n = n, -(-n // steps_per_chunk)
    client.run_on_scheduler(declare, name, n)
    client.run_on_scheduler(rest_gc, gc_paused)
    with Meter(client, n_steps) as submit:
        results = {"sum": external_array(name, n).sum(split_every=split_every)}
        start = time.process_time()
        future = (external_submit if gc_paused else stock_submit)(client, results)["sum"]
        client_cpu = time.process_time() - start
        registered(client, future.key)
    submit.figures["client_cpu_us"] = client_cpu / n_steps * 1e6
    client.run_on_scheduler(rest_gc, True)
    client.run_on_scheduler(release_group, name)
    future.release()
    idle(client)
    return submit.figures


def measure_reduce(client: Client, n: int) -> dict[str, float]:
    """Deliver all chunks of a reduction that is submitted, and await the number."""
    name = f"external-reduced{n}-00000000"
    client.run_on_scheduler(declare, name, n)
    future = external_submit(client, {"sum": external_array(name, n).sum()})["sum"]
    registered(client, future.key)
    client.run_on_scheduler(release_group, name)
    with Meter(client, n) as meter:
        send(client, name, n)
        if future.result(timeout=TIMEOUT) != 0:
            raise RuntimeError("the sum of zeros is not zero")
    future.release()
    idle(client)
    return meter.figures


def stock_submit(client: Client, results: dict[str, Any]) -> dict[str, Any]:
    return {name: client.compute(result) for name, result in results.items()}


#: Ways to submit the same reduction: split_every, collector paused, steps per chunk.
WAYS: dict[str, tuple[int | None, bool, int]] = {
    "submit as Dask does": (None, False, 1),
    "submit, gc paused": (None, True, 1),
    "submit, and split_every=32": (32, True, 1),
    "submit, 16 steps a chunk": (None, True, 16),
}


def measure_plain(client: Client, n: int) -> dict[str, dict[str, float]]:
    """The same number of chunks in plain Dask."""
    with Meter(client, n) as persist:
        x = client.persist(da.zeros(n, chunks=1))
        in_memory(client, x.name, n)
    with Meter(client, n) as submit:
        future = client.compute(x.mean())
        registered(client, future.key)
    future.result(timeout=TIMEOUT)
    del x, future
    idle(client)
    return {"persist": persist.figures, "submit": submit.figures}


def measure_scatter(client: Client, n: int) -> dict[str, float]:
    """One chunk after the other by Client.scatter, as DEISA1 did."""
    with Meter(client, n) as meter:
        futures = [client.scatter(np.zeros(1), direct=True, hash=False) for _ in range(n)]
    del futures
    idle(client)
    return meter.figures


#: What takes turns; of plain Dask persisting and submitting come from the same turn.
MEASURES: dict[str, Callable[[Client, int], Any]] = {
    "declare": measure_declare,
    "arrive": measure_arrive,
    "handling": measure_handling,
    "deliver and reduce": measure_reduce,
    "plain Dask": measure_plain,
    **{
        way: lambda client, n, options=options: measure_submit(client, n, *options)
        for way, options in WAYS.items()
    },
}


def run(
    quick: bool = False,
    repeat: int = 5,
    sizes: list[int] | None = None,
    plain: int = 10_000,
    scattered: int = 300,
    workers: int = 2,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Run all turns; write results and a plot.

    Plain Dask has at most `plain` chunks (100,000 take minutes), ``Client.scatter`` always
    `scattered`.
    """
    load, options = Load(), {} if folder is None else {"folder": folder}
    sizes = sizes or ([1000, 10_000] if quick else [1000, 10_000, 100_000])
    rows: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    document: dict[str, Any] = {
        "machine": machine(),
        "load": load.facts(),
        "workers": workers,
        "turns of each": repeat,
        "goals": GOALS,
    }
    with cluster(workers) as client:
        measure_arrive(client, 100)  # imports, caches
        measure_reduce(client, 100)
        for n in sizes:
            print(f"{n} external tasks")

            def once(name: str, n: int = n) -> dict[str, Any]:
                if name == SCATTER:
                    return measure_scatter(client, scattered)
                return MEASURES[name](client, n)

            def keep(
                turns: dict[str, list[Any]],
                n: int = n,
                rows: list[dict[str, Any]] = rows,
                ratios: list[dict[str, Any]] = ratios,
            ) -> dict[str, Any]:
                turns = split(turns)
                document.update(
                    {
                        "load": load.facts(),
                        "rows": rows + [row_of(n, *each) for each in turns.items() if each[1]],
                        "ratios": [*ratios, ratio_row(n, turns)],
                    }
                )
                write("external_tasks", document, **options)
                return document

            names = [SCATTER, *(name for name in MEASURES if name != "plain Dask" or n <= plain)]
            turns = interleave(names, repeat, once, keep=keep)
            rows, ratios = keep(turns)["rows"], document["ratios"]
            figure("external_tasks_cpu", lambda axes, rows=rows: draw(axes, rows), **options)
    return document


SCATTER = "Client.scatter, one by one"
#: Turns that measure two things.
PARTS = {
    "plain Dask": {"persist": "plain Dask: persist", "submit": "plain Dask: submit"},
    "handling": {
        "arrival": f"arrive, {BATCH} in a message: decoding and handling alone",
        "finished": f"plain Dask: task finished, {BATCH} in a message: decoding and handling alone",
    },
}


def split(turns: dict[str, list[Any]]) -> dict[str, list[dict[str, float]]]:
    """Make rows of their own of the parts of turns."""
    found: dict[str, list[dict[str, float]]] = {}
    for name, each in turns.items():
        for part, title in PARTS.get(name, {"": name}).items():
            found[title] = [turn[part] if part else turn for turn in each]
    return found


def row_of(n: int, name: str, turns: list[dict[str, float]]) -> dict[str, Any]:
    """Medians, and the spread of the scheduler's CPU time, per task."""

    def median(figure: str) -> float | None:
        if figure not in turns[0]:
            return None
        return float(f"{statistics.median(turn[figure] for turn in turns):.3g}")

    return {
        "external tasks": n,
        "what": name,
        "scheduler CPU us per task": spread((turn["cpu_us"] for turn in turns), 3),
        "kB per task": median("memory_kb"),
        "kB allocated per task": median("allocated_kb"),
        "client CPU us per task": median("client_cpu_us"),
        "wall s": median("wall_s"),
        "a worker joins in s": median("join_s"),
    }


def ratio_row(n: int, turns: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """How many times more Dask's own ways cost the scheduler, turn by turn."""

    def times(ours: str, theirs: str) -> dict[str, float] | None:
        if not turns.get(ours) or not turns.get(theirs):
            return None
        mine, others = ([turn["cpu_us"] for turn in turns[name]] for name in (ours, theirs))
        return ratio(mine, others)

    return {
        "external tasks": n,
        "scatter over arrival": times("arrive", SCATTER),
        "persist over declaration": times("declare", "plain Dask: persist"),
        "finished task over arrival, handling alone": times(*PARTS["handling"].values()),
    }


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """CPU of the scheduler per task, against their number."""
    for i, name in enumerate(dict.fromkeys(row["what"] for row in rows)):
        mine = [row for row in rows if row["what"] == name]
        axes.plot(
            [row["external tasks"] for row in mine],
            [row["scheduler CPU us per task"]["median"] for row in mine],
            "o-", color=f"C{i % 10}", markersize=3, label=name,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("external tasks")
    axes.set_ylabel("CPU of the scheduler per task, us")
    axes.legend(fontsize=7, ncols=2)
