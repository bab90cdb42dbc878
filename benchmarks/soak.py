"""A fast simulation, a slow analysis, hours of it: the memory stays flat and the ledger closes."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._cluster import CoupledRun, clustered, finish, mpiexec
from benchmarks._harness import KIB, MIB, Load, figure, machine, write
from benchmarks._ranks import ROWS
from benchmarks._turns import make_job, write_job

SLOWNESS = 0.02


def slow_means(arrays: Any, run: Any) -> dict[str, Any]:
    """Analysis of an open-ended run: the mean of every step, by a task that takes its time."""

    def slowly(chunk: np.ndarray) -> np.ndarray:
        time.sleep(SLOWNESS)
        return chunk.mean(axis=(1, 2), keepdims=True)

    count, total = 0, 0.0
    for window in run.rolling(arrays["t"], 1).map(lambda x: x.map_blocks(slowly).mean()):
        count, total = count + 1, total + float(window.value)
    return {"count": np.array(count), "total": np.array(total)}


def run(hours: float = 1.0, ranks: int = 4, folder: Path | None = None) -> dict[str, Any]:
    """Run for so many hours; write results and a plot of the workers' memory."""
    load, size = Load(), 2 * MIB
    with (
        tempfile.TemporaryDirectory() as scratch,
        clustered(workers=2, memory="1GB") as (
            cluster,
            client,
        ),
    ):
        place = Path(scratch)
        coupled = CoupledRun(client, place, "benchmarks.soak:slow_means", receivers=2)
        job = make_job("soak", size, [], ranks, place)
        file = write_job({**job, "contact": str(coupled.contact), "seconds": hours * 3600}, place)
        process = mpiexec(ranks, "benchmarks.soak", file)
        samples, begin = [], time.monotonic()
        while process.poll() is None:
            samples.append((time.monotonic() - begin, cluster.rss() / 1e6))
            time.sleep(max(0.5, hours))
        simulated = finish(process, file)
        results = coupled.results()
        record = coupled.end()
        coupled.close()
    account = record["ledger"]["arrays"]["t"]
    quarter = max(1, len(samples) // 4)
    memory = [
        round(statistics.median(mb for _, mb in samples[i * quarter : (i + 1) * quarter]))
        for i in range(4)
    ]
    document = {
        "machine": machine(),
        "load": load.facts(),
        "ranks": ranks,
        "block KiB": size // KIB,
        "minutes": round(hours * 60, 1),
        "steps": simulated["steps"],
        "steps analysed": int(results["count"]),
        "GB delivered": round(account["bytes"]["delivered"] / 1e9, 2),
        "ledger closed": bool(record["ledger"]["closed"]),
        "ledger, blocks": account["blocks"],
        "part of the time that ranks waited": round(simulated["waited"], 3),
        "memory of the workers, MB, quarter by quarter": memory,
        "peak MB": round(max(mb for _, mb in samples)),
        "peak MB of a rank": simulated["peak"],
    }
    options = {} if folder is None else {"folder": folder}
    write("soak", document, **options)
    figure("soak_memory", lambda axes: draw(axes, samples), **options)
    return document


def draw(axes: Any, samples: list[tuple[float, float]]) -> None:
    """Resident memory of the workers over time."""
    axes.plot([t / 60 for t, _ in samples], [mb for _, mb in samples])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident memory of both workers, MB")


def simulate(job: dict[str, Any], comm: Any) -> dict[str, Any]:
    """Put blocks as fast as it goes, until the time is over."""
    import resource

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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"steps": step, "waited": waited / seconds, "peak": round(peak / 1e3)}


def main() -> None:
    from mpi4py import MPI

    job = json.loads(Path(sys.argv[1]).read_text())
    mine = simulate(job, MPI.COMM_WORLD)
    if MPI.COMM_WORLD.rank == 0:
        Path(job["out"]).write_text(json.dumps(mine))


if __name__ == "__main__":
    main()
