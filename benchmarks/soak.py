"""A fast simulation, a slow analysis, workers that die: memory stays flat, the ledger closes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks._cluster import PATIENCE, Cluster, CoupledRun, clustered, finish, mpiexec, victim
from benchmarks._harness import KIB, Load, figure, machine, write
from benchmarks._ranks import ROWS
from benchmarks._turns import make_job, write_job

SLOWNESS = 0.02
SIZE = 512 * KIB
#: What ranks keep to send it again: more than a worker may hold unanalysed.
REPLAY = 128


def slow_means(arrays: Any, run: Any) -> dict[str, Any]:
    """Analysis of an open-ended run: the mean of every step, by a task that takes its time."""

    def slowly(chunk: np.ndarray) -> np.ndarray:
        time.sleep(SLOWNESS)
        return chunk.mean(axis=(1, 2), keepdims=True)

    count, total = 0, 0.0
    for window in run.rolling(arrays["t"], 1).map(lambda x: x.map_blocks(slowly).mean()):
        count, total = count + 1, total + float(window.value)
    return {"count": np.array(count), "total": np.array(total)}


def run(
    hours: float = 1.0,
    ranks: int = 4,
    kill_every: float = 60.0,
    seed: int = 0,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Run for so many hours; write results and a plot of the memory.

    Two workers.  About every `kill_every` seconds (exponentially distributed, 0 for never) the one
    that does not run the analysis gets SIGKILL, and a new one is started.
    """
    load, rng = Load(), random.Random(seed)
    with (
        tempfile.TemporaryDirectory() as scratch,
        clustered(workers=2, memory="1GB") as (cluster, client),
    ):
        place = Path(scratch)
        coupled = CoupledRun(
            client, place, "benchmarks.soak:slow_means", receivers=2, replay_steps=REPLAY
        )
        job = make_job("soak", SIZE, [], ranks, place)
        file = write_job({**job, "contact": str(coupled.contact), "seconds": hours * 3600}, place)
        process = mpiexec(ranks, "benchmarks.soak", file)
        samples: list[tuple[float, ...]] = []
        begin, kills = time.monotonic(), 0
        following = begin + rng.expovariate(1 / kill_every) if kill_every else math.inf
        while process.poll() is None:
            now = time.monotonic()
            rss = [cluster.rss(), cluster.scheduler_rss(), ranks_rss(process.pid)]
            samples.append((now - begin, *(each / 1e6 for each in rss)))
            # Not in the last moments: a worker that dies after the ranks have gone takes its
            # chunks with it, as it should.
            if now > following and now - begin < hours * 3600 - 5:
                replace(cluster, client, coupled)
                kills += 1
                following = time.monotonic() + 5 + rng.expovariate(1 / kill_every)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.5, hours))
        simulated = finish(process, file)
        results = coupled.results()
        record = coupled.end()
        coupled.close()
    account = record["ledger"]["arrays"]["t"]
    document = {
        "machine": machine(),
        "load": load.facts(),
        "ranks": ranks,
        "block KiB": SIZE // KIB,
        "minutes": round(hours * 60, 1),
        "workers killed and replaced": kills,
        "steps": simulated["steps"],
        "steps analysed": int(results["count"]),
        "mean of all steps, which is 1": float(results["total"] / results["count"]),
        "GB delivered": round(account["bytes"]["delivered"] / 1e9, 2),
        "ledger closed": bool(record["ledger"]["closed"]),
        "ledger, blocks": account["blocks"],
        "part of the time that ranks waited": round(simulated["waited"], 3),
        **{
            f"memory of {who}, MB, quarter by quarter": quarters(samples, column)
            for column, who in enumerate(WATCHED, 1)
        },
    }
    options = {} if folder is None else {"folder": folder}
    write("soak", document, **options)
    figure("soak_memory", lambda axes: draw(axes, samples), **options)
    return document


WATCHED = ("the workers", "the scheduler", "the ranks")


def replace(cluster: Cluster, client: Any, coupled: CoupledRun) -> None:
    """Kill the worker that does not run the analysis, and start another."""
    pid = victim(client, coupled)
    os.kill(pid, signal.SIGKILL)
    dead = next(worker for worker in cluster.workers if worker.pid == pid)
    dead.wait(PATIENCE)
    cluster.workers.remove(dead)
    cluster.workers.append(cluster.add_worker())
    client.wait_for_workers(len(cluster.workers), timeout=PATIENCE)


def ranks_rss(mpiexec_pid: int) -> int:
    """Resident bytes of the ranks."""
    total = 0
    for child in psutil.Process(mpiexec_pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += child.memory_info().rss
    return total


def quarters(samples: list[tuple[float, ...]], column: int) -> list[int]:
    """Median of each quarter of the run."""
    quarter = max(1, len(samples) // 4)
    parts = [samples[i * quarter : (i + 1) * quarter] or samples[-1:] for i in range(4)]
    return [round(statistics.median(sample[column] for sample in part)) for part in parts]


def draw(axes: Any, samples: list[tuple[float, ...]]) -> None:
    """Resident memory over time; a dip of the workers is a death."""
    for column, who in enumerate(WATCHED, 1):
        axes.plot([s[0] / 60 for s in samples], [s[column] for s in samples], label=who)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident memory, MB")
    axes.legend()


def simulate(job: dict[str, Any], comm: Any) -> dict[str, Any]:
    """Put blocks as fast as it goes, until the time is over."""
    from ips_components.bridge import Array, Bridge

    shape = (ROWS * comm.size, job["columns"])
    array = Array("t", shape, "f8", grid=(comm.size, 1))
    block, step, waited = np.ones((ROWS, job["columns"])), 0, 0.0
    with Bridge(comm, contact=job["contact"], arrays=[array]) as bridge:
        begin = time.monotonic()
        over = False
        while not over:
            start = time.monotonic()
            bridge.put("t", step, block)
            waited += time.monotonic() - start
            step += 1
            over = comm.bcast(time.monotonic() - begin > job["seconds"])
        seconds = time.monotonic() - begin
    return {"steps": step, "waited": waited / seconds}


def main() -> None:
    from mpi4py import MPI

    job = json.loads(Path(sys.argv[1]).read_text())
    mine = simulate(job, MPI.COMM_WORLD)
    if MPI.COMM_WORLD.rank == 0:
        Path(job["out"]).write_text(json.dumps(mine))


if __name__ == "__main__":
    main()
