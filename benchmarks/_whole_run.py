"""What runs inside `benchmarks.whole_run`: the ranks, the analyses, and the post hoc reader.

As a program: ``python -m benchmarks._whole_run MODE JOB`` where the job is a JSON file.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = 1024


def field_of(rank: int, rows: int) -> np.ndarray:
    """Return a block of a rank, (rows, `COLUMNS`) of float64; steps add to it."""
    return np.random.default_rng(rank).random((rows, COLUMNS))


def steps_of(job: dict[str, Any], rank: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield a rank's steps at the pace of the job: each changes every cell of one array in place.

    The rest of a pause is slept, as if the simulation computed on cores of its own.
    """
    rows = job["block"] // (8 * COLUMNS)
    block = field_of(rank, rows)
    for step in range(job["steps"]):
        until = time.perf_counter() + job["pause"]
        block += 0.001
        time.sleep(max(0.0, until - time.perf_counter()))
        yield step, block


def put_steps(job: dict[str, Any]) -> None:
    """Put every step through a bridge."""
    from mpi4py import MPI

    from ips_components.bridge import Array, Bridge

    comm = MPI.COMM_WORLD
    rows = job["block"] // (8 * COLUMNS)
    array = Array(
        "field",
        shape=(rows * comm.size, COLUMNS),
        dtype="f8",
        offset=(rows * comm.rank, 0),
        dims=("y", "x"),
        steps=job["steps"],
    )
    with Bridge(comm=comm, arrays=[array]) as bridge:
        for step, block in steps_of(job, comm.rank):
            bridge.put("field", step, block)


def save_steps(job: dict[str, Any]) -> None:
    """Save every step as a file of its own: into the page cache, on one machine."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    for step, block in steps_of(job, comm.rank):
        np.save(Path(job["folder"]) / f"{step:05d}_{comm.rank}.npy", block)
    comm.Barrier()


def reduce_by_mpi(job: dict[str, Any]) -> None:
    """Send every step to the last rank, which reduces it as it comes."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    last = comm.size - 1
    if comm.rank != last:
        for _, block in steps_of(job, comm.rank):
            comm.Send(block, dest=last)
        return
    rows = job["block"] // (8 * COLUMNS)
    step = np.empty((last, rows, COLUMNS))
    total, squares = np.zeros_like(step), np.zeros_like(step)
    peaks = np.empty(job["steps"])
    for t in range(job["steps"]):
        for rank in range(last):
            comm.Recv(step[rank], source=rank)
        total += step
        squares += step * step
        peaks[t] = step.max()
    mean = total / job["steps"]
    std = np.sqrt(np.maximum(squares / job["steps"] - mean * mean, 0))
    np.savez(Path(job["folder"]) / "results.npz", mean=mean, std=std, peak=peaks)


def reductions(field: Any) -> dict[str, Any]:
    """Return the analysis of all systems with Dask, lazily: plain dask.array."""
    return {"mean": field.mean(axis=0), "std": field.std(axis=0), "peak": field.max(axis=(1, 2))}


def analysis(arrays: Any) -> dict[str, Any]:
    """Return the same as the analysis of this package."""
    return reductions(arrays["field"])


def two_workers() -> Any:
    """Start what all systems with Dask alone analyse with."""
    from distributed import LocalCluster

    return LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1")


def stacked(blocks: Sequence[Sequence[Any]], shape: tuple[int, int]) -> Any:
    """Return an array (time, y, x) of delayed blocks of one shape, by step and rank."""
    import dask.array as da

    return da.stack(
        [da.concatenate([da.from_delayed(b, shape, "f8") for b in step]) for step in blocks]
    )


def read_files(job: dict[str, Any], shape: tuple[int, int]) -> Any:
    """Return an array of the files that `save_steps` or its like has written."""
    import dask

    folder, load = Path(job["folder"]), dask.delayed(np.load)
    return stacked(
        [
            [load(str(folder / f"{step:05d}_{rank}.npy")) for rank in range(job["ranks"])]
            for step in range(job["steps"])
        ],
        shape,
    )


def read_post_hoc(job: dict[str, Any]) -> None:
    """Read the files with Dask, a chunk for each, and write the results."""
    import dask
    from distributed import Client

    rows = job["block"] // (8 * COLUMNS)
    with two_workers() as cluster, Client(cluster):
        results = reductions(read_files(job, (rows, COLUMNS)))
        values = dask.compute(*results.values())
        np.savez(Path(job["folder"]) / "results.npz", **dict(zip(results, values, strict=True)))


MODES = {
    "put": put_steps,
    "save": save_steps,
    "mpi": reduce_by_mpi,
    "read": read_post_hoc,
}


if __name__ == "__main__":
    MODES[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
