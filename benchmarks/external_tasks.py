"""What external tasks cost the scheduler, beside what Dask's own ways cost, in one run.

    python -m benchmarks.external_tasks                       # 1e3 and 1e4 tasks, minutes
    python -m benchmarks.external_tasks --sizes 100000 --plain 100000

Scheduler and workers are processes of their own; CPU is that of the scheduler's process, and
memory is what its resident set grows by (for declared keys also what Python allocates for them,
since a resident set that has been larger before does not grow).  Ways to submit the same
reduction take turns.  Prints a table and writes JSON.  Take ratios: the absolute figures are those
of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
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
import distributed
import numpy as np
from dask.highlevelgraph import HighLevelGraph
from distributed import Client

from benchmarks._harness import interleave
from ips_components.external import ExternalDataPlugin
from ips_components.external._contract import submit as external_submit
from ips_components.external._layer import ExternalLayer
from ips_components.external._tasks import EXTENSION

TIMEOUT = 900

#: Goals: declare at most 10 us and 2.5 kB per key and 20 times less CPU than plain Dask; an
#: arrival at most 15 us and 10 times less than a scatter.
GOALS = {"declare_us": 10, "declare_kb": 2.5, "arrive_us": 15}


# -- what runs in the other processes ------------------------------------------------------


def probe(dask_scheduler: Any) -> tuple[float, float]:
    """CPU seconds and resident bytes of the scheduler's process."""
    import gc

    import psutil

    gc.collect()
    return time.process_time(), float(psutil.Process().memory_info().rss)


def count(name: str, state: str, dask_scheduler: Any) -> int:
    """Tasks of a group in a state; costs nothing however many there are."""
    found = dask_scheduler.task_groups.get(name)
    return found.states[state] if found else 0


def n_tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def knows(key: Any, dask_scheduler: Any) -> bool:
    return key in dask_scheduler.tasks


def declare(name: str, n: int, dask_scheduler: Any) -> float:
    tasks = dask_scheduler.extensions[EXTENSION]
    start = time.process_time()
    tasks.declare(name, (n,), None, group=name)
    return time.process_time() - start


def let_go(name: str, dask_scheduler: Any) -> None:
    tasks = dask_scheduler.extensions[EXTENSION]
    if name in tasks.registry.groups:
        tasks.let_go(name)


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
        self.cpu, self.rss = self.client.run_on_scheduler(probe)
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        wall = time.perf_counter() - self.start
        cpu, rss = self.client.run_on_scheduler(probe)
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
    until(lambda: client.run_on_scheduler(count, name, "memory") == n, f"{n} chunks of {name}")


def measure_declare(client: Client, n: int) -> dict[str, float]:
    """Declare, and let go again."""
    name = f"external-declared{n}-00000000"
    with Meter(client, n) as meter:
        seconds = client.run_on_scheduler(declare, name, n)
    meter.figures["cpu_us"] = seconds / n * 1e6
    name_again = f"external-allocated{n}-00000000"
    meter.figures["allocated_kb"] = client.run_on_scheduler(allocated, name_again, n) / n / 1e3
    client.run_on_scheduler(let_go, name_again)
    before = client.run_on_scheduler(probe)[0]
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
    client.run_on_scheduler(let_go, name)
    idle(client)
    return meter.figures


def send(client: Client, name: str, n: int) -> None:
    workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
    client.run(deliver, name, n, workers)


def measure_arrive(client: Client, n: int) -> dict[str, float]:
    """Deliver chunks that nobody consumes yet: the bare cost of an arrival."""
    name = f"external-arrived{n}-00000000"
    client.run_on_scheduler(declare, name, n)
    with Meter(client, n) as meter:
        send(client, name, n)
        in_memory(client, name, n)
    client.run_on_scheduler(let_go, name)
    idle(client)
    return meter.figures


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
    client.run_on_scheduler(let_go, name)
    future.release()
    idle(client)
    return submit.figures


def measure_reduce(client: Client, n: int) -> dict[str, float]:
    """Deliver all chunks of a reduction that is submitted, and await the number."""
    name = f"external-reduced{n}-00000000"
    client.run_on_scheduler(declare, name, n)
    future = external_submit(client, {"sum": external_array(name, n).sum()})["sum"]
    registered(client, future.key)
    client.run_on_scheduler(let_go, name)
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


def measure_ways(client: Client, n: int, turns: int) -> dict[str, dict[str, float]]:
    """All ways to submit, in turns; medians."""
    taken = interleave(WAYS, turns, lambda way: measure_submit(client, n, *WAYS[way]), tell)
    return {
        way: {name: statistics.median(turn[name] for turn in each) for name in each[0]}
        for way, each in taken.items()
    }


def tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


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


def run(sizes: list[int], plain: int, workers: int, turns: int = 3) -> dict[str, Any]:
    results: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform()},
        "load_before": os.getloadavg()[0],
        "distributed": distributed.__version__,
        "sizes": {},
    }
    with cluster(workers) as client:
        measure_arrive(client, 100)  # imports, caches
        measure_reduce(client, 100)
        results["scatter"] = measure_scatter(client, 500)
        for n in sizes:
            figures: dict[str, Any] = {}
            results["sizes"][n] = figures
            for name, measure in (
                ("declare", measure_declare),
                ("arrive", measure_arrive),
                ("deliver and reduce", measure_reduce),
                ("plain", measure_plain),
            ):
                if name == "plain" and n > plain:
                    continue
                tell(f"measuring {name} of {n} ...")
                figures[name] = measure(client, n)
            figures.update(measure_ways(client, n, turns))
    return results


def report(results: dict[str, Any]) -> None:
    scatter = results["scatter"]["cpu_us"]
    print(
        f"distributed {results['distributed']}, {results['machine']['cpus']} CPUs, "
        f"load {results['load_before']:.1f} before the run"
    )
    print(f"Client.scatter(direct=True), one by one: {scatter:.0f} us of scheduler CPU each\n")
    for n, figures in results["sizes"].items():
        print(f"{n} external tasks                       wall s   CPU us/key   kB/key   client us")
        for name, row in figures.items():
            for label, each in row.items() if name == "plain" else [("", row)]:
                print(
                    f"  {name.replace('_', ' '):<30}{label:<9}{each['wall_s']:6.2f}"
                    f"{each['cpu_us']:12.1f}{each['memory_kb']:9.2f}"
                    + (f"{each['client_cpu_us']:12.1f}" if "client_cpu_us" in each else "")
                )
        declared, arrived = figures["declare"], figures["arrive"]
        print(
            f"  a worker joins in {declared['join_s']:.2f} s, {declared['join_cpu_ms']:.0f} ms CPU"
        )
        print(f"  an arrival costs {scatter / arrived['cpu_us']:.1f} times less than a scatter")
        if "plain" in figures:
            ratio = figures["plain"]["persist"]["cpu_us"] / declared["cpu_us"]
            print(f"  declaring costs {ratio:.0f} times less CPU than da.zeros(...).persist()")
        print(
            f"  goals: declare <= {GOALS['declare_us']} us, {GOALS['declare_kb']} kB:"
            f" {declared['cpu_us']:.1f} us, {declared['allocated_kb']:.2f} kB;"
            f" arrive <= {GOALS['arrive_us']} us: {arrived['cpu_us']:.1f} us\n"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--plain", type=int, default=10_000, help="largest size for plain Dask")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3, help="turns of each way to submit")
    parser.add_argument("--json", type=Path, default=Path("external_tasks.json"))
    arguments = parser.parse_args()
    results = run(arguments.sizes, arguments.plain, arguments.workers, arguments.turns)
    report(results)
    arguments.json.write_text(json.dumps(results, indent=1))
    print(f"written: {arguments.json}")


if __name__ == "__main__":
    main()
