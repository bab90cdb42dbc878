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
#: Seconds between two writings of what there is so far.
KEEP_EVERY = 60.0
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
        options = {} if folder is None else {"folder": folder}
        document: dict[str, Any] = {
            "machine": machine(),
            "ranks": ranks,
            "block KiB": SIZE // KIB,
            "minutes": round(hours * 60, 1),
            "outcome": "not at its end",
        }

        def keep(**facts: Any) -> None:
            document.update({"load": load.facts(), "workers killed and replaced": kills, **facts})
            document.update(memory(samples))
            write("soak", document, **options)

        begin = kept = time.monotonic()
        kills = 0
        following = begin + rng.expovariate(1 / kill_every) if kill_every else math.inf
        try:
            while process.poll() is None:
                now = time.monotonic()
                rss = [cluster.rss(), cluster.scheduler_rss(), ranks_rss(process.pid)]
                samples.append((now - begin, *(each / 1e6 for each in rss)))
                if now > kept + KEEP_EVERY:
                    kept = now
                    keep()
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
        except Exception as error:
            keep(outcome=f"{type(error).__name__}: {error}")
            raise
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(PATIENCE)
        account = record["ledger"]["arrays"]["t"]
        keep(
            outcome="complete",
            **{
                "steps": simulated["steps"],
                "steps analysed": int(results["count"]),
                "mean of all steps, which is 1": float(results["total"] / results["count"]),
                "GB delivered": round(account["bytes"]["delivered"] / 1e9, 2),
                "ledger closed": bool(record["ledger"]["closed"]),
                "ledger, blocks": account["blocks"],
                "part of the time that ranks waited": round(simulated["waited"], 3),
            },
        )
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


def memory(samples: list[tuple[float, ...]]) -> dict[str, Any]:
    """What became of the memory: by quarters, and its slope when the first fifth is left out."""
    if len(samples) < 10:
        return {}
    found: dict[str, Any] = {}
    for column, who in enumerate(WATCHED, 1):
        found[f"memory of {who}, MB, quarter by quarter"] = quarters(samples, column)
        found[f"slope of {who}, MB per hour"] = slope(samples[len(samples) // 5 :], column)
    return found


def slope(samples: list[tuple[float, ...]], column: int) -> float:
    """Median of the slopes between all pairs of some moments (Theil and Sen); per hour.

    A worker that is dead for a moment, or grows up again, does not tilt it.
    """
    some = np.array(samples[:: max(1, len(samples) // 300)])
    first, second = np.triu_indices(len(some), 1)
    hours = (some[second, 0] - some[first, 0]) / 3600
    return float(f"{np.median((some[second, column] - some[first, column]) / hours):.3g}")


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
