"""One turn of one method: start consumer and ranks, wait for both, and put the figures together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._cluster import Cluster, CoupledRun, environment, finish, mpiexec
from benchmarks._consumers import AFTERWARDS, DRIVEN, PROCESSES
from benchmarks._ranks import ROWS

OURS = ("in place", "shm", "tcp")
DEISA_PYTHON = "BENCHMARK_DEISA_PYTHON"


def make_job(
    method: str, size: int, phases: list[tuple[str, int, float]], ranks: int, folder: Path
) -> dict[str, Any]:
    """Describe a turn; blocks are `size` bytes, a phase is a name, steps and seconds between."""
    name = uuid.uuid4().hex[:8]
    return {
        "method": method,
        "name": name,
        "columns": size // (8 * ROWS),
        "ranks": ranks,
        "phases": phases,
        "steps": sum(steps for _, steps, _ in phases),
        "out": str(folder / f"{name}.out"),
        "store": str(folder / f"{name}.store"),
    }


def turn(job: dict[str, Any], cluster: Cluster, client: Any, folder: Path) -> dict[str, Any]:
    """Run one turn; raises when anything of it fails or the means are wrong."""
    method = job["method"]
    if method in OURS:
        return ours(job, cluster, client, folder)
    if method == "deisa-dask":
        # Its events and actors live as long as the scheduler: a new one for every turn.
        with Cluster(python=deisa_python()) as fresh:
            return peer({**job, "scheduler": fresh.address}, fresh, None, folder)
    return peer({**job, "scheduler": cluster.address}, cluster, client, folder)


def ours(
    job: dict[str, Any], cluster: Cluster, client: Any, folder: Path, **settings: Any
) -> dict[str, Any]:
    """A turn of this package."""
    lanes = ("tcp",) if job["method"] == "tcp" else ("shm", "tcp")
    run = CoupledRun(
        client, folder, "benchmarks._consumers:stamped", n_steps=job["steps"],
        lanes=lanes, **settings,
    )  # fmt: skip
    try:
        before = cluster.cpu()
        file = write_job({**job, "contact": str(run.contact)}, folder)
        ranks = finish(mpiexec(job["ranks"], "benchmarks._ranks", file), file)
        stamps = run.results()["stamps"]
        end = time.time()
        record = run.end()
        spent = _spent(before, cluster.cpu())
        if not record["ledger"]["closed"]:
            raise RuntimeError(f"the ledger is not closed: {record['ledger']}")
        moved = record["ledger"]["arrays"]
    finally:
        run.close()
    result = figures(job, ranks, stamps.tolist(), end, spent)
    result["delivered"] = sum(a["bytes"]["delivered"] for a in moved.values())
    return result


def peer(job: dict[str, Any], cluster: Cluster, client: Any, folder: Path) -> dict[str, Any]:
    """A turn of any other method."""
    method = job["method"]
    file = write_job(job, folder)
    python = deisa_python() if method == "deisa-dask" else sys.executable
    consumer = None
    if method == "deisa-dask":
        cluster.wait_for_worker()
    before, own = cluster.cpu(), time.process_time()
    if method in PROCESSES:
        with file.with_suffix(".consumer").open("wb") as log:
            consumer = subprocess.Popen(
                [python, "-m", "benchmarks._consumers", str(file)],
                stdout=log, stderr=log, env=environment(), cwd=folder,
            )  # fmt: skip
    try:
        process = mpiexec(job["ranks"] + (method == "mpi"), "benchmarks._ranks", file, python)
        try:
            stamps = DRIVEN[method](client, job) if method in DRIVEN else None
            end = time.time()
            ranks = finish(process, file)
        finally:
            if process.poll() is None:
                process.terminate()
        cpu = 0.0
        if method in AFTERWARDS:
            stamps = AFTERWARDS[method](client, job)
            end = time.time()
        elif method == "mpi":
            *ranks, consumed = ranks
            stamps, end, cpu = consumed["stamps"], consumed["end"], consumed["cpu"]
        elif consumer is not None:
            if consumer.wait(60):
                raise RuntimeError(file.with_suffix(".consumer").read_text()[-800:])
            consumed = json.loads(file.with_suffix(".consumed").read_text())
            stamps, end, cpu = consumed["stamps"], consumed["end"], consumed["cpu"]
    finally:
        if consumer is not None and consumer.poll() is None:
            consumer.terminate()
            consumer.wait(15)
    spent = _spent(before, cluster.cpu())
    if method in ("mpi", "adios2 sst"):
        spent = {"scheduler": 0.0, "workers": 0.0}  # Dask was not used
    elif method != "deisa-dask":
        cpu = time.process_time() - own
    return figures(job, ranks, stamps, end, {**spent, "consumer": cpu})


def figures(
    job: dict[str, Any],
    ranks: list[dict[str, Any]],
    stamps: Any,
    end: float,
    spent: dict[str, float],
) -> dict[str, Any]:
    """Put the figures of a turn together, after a look whether all steps came."""
    analysed = int(np.isfinite(np.asarray(stamps, float)).all(axis=1).sum())
    if analysed < job["steps"] and job["method"] != "deisa-dask":
        raise RuntimeError(f"{analysed} of {job['steps']} steps were analysed")
    result: dict[str, Any] = {
        "not analysed": job["steps"] - analysed,
        "time to result": end - min(rank["begin"] for rank in ranks),
        "core-seconds": sum(rank["cpu"] for rank in ranks) + sum(spent.values()),
        "core-seconds of ranks": sum(rank["cpu"] for rank in ranks),
        "peak MB of a rank": max(rank["peak_kb"] for rank in ranks) / 1e3,
        "phases": {},
    }
    first = 0
    for name, steps, _ in job["phases"]:
        mine = [rank["phases"][name] for rank in ranks]
        began = np.array([one["starts"] for one in mine]).max(axis=0)
        latency = np.array([at for _, at in stamps[first : first + steps]], float) - began
        result["phases"][name] = {
            "held": [one["held"] for one in mine],
            "cpu": [one["cpu"] for one in mine],
            "seconds": max(one["seconds"] for one in mine),
            "latency": latency.tolist(),
        }
        first += steps
    return result


def deisa_python() -> str:
    """The interpreter of an environment with deisa-dask."""
    python = os.environ.get(DEISA_PYTHON, "")
    if not python:
        raise FileNotFoundError(
            f"{DEISA_PYTHON} is not set: the Python of an environment with "
            "`pip install deisa-dask==0.6.3 mpi4py mpich`"
        )
    return python


def write_job(job: dict[str, Any], folder: Path) -> Path:
    """Write a job where its processes find it."""
    path = folder / f"{job['name']}.json"
    path.write_text(json.dumps(job))
    return path


def _spent(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in before}
