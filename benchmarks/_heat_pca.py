"""What runs inside `benchmarks.heat_pca`: the ranks of the heat equation, and the analyses.

As a program: ``python -m benchmarks._heat_pca MODE JOB`` where the job is a JSON file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._whole_run import read_files, stacked, two_workers

COLUMNS = 256
COMPONENTS = 5
LABELS = (["t", "y", "x"], ["x"], ["y"])
PATIENCE = 60.0

Couple = Callable[[int, np.ndarray], None]


def simulate(job: dict[str, Any], coupling: Callable[..., AbstractContextManager[Couple]]) -> None:
    """Run the heat equation on slabs of rows; each rank notes what coupling held it for.

    Parameters
    ----------
    coupling
        Function of the job and the communicator: a context with the function that takes a step.
    """
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    rows = job["rows"] // comm.size
    below, above = (
        rank if 0 <= rank < comm.size else MPI.PROC_NULL for rank in (comm.rank - 1, comm.rank + 1)
    )
    field = np.zeros((rows + 2, COLUMNS))
    field[1:-1] = np.random.default_rng(comm.rank).random((rows, COLUMNS))
    held = []
    with coupling(job, comm) as couple:
        comm.Barrier()
        began = time.perf_counter()
        for step in range(job["steps"]):
            comm.Sendrecv(field[1].copy(), below, recvbuf=field[-1], source=above)
            comm.Sendrecv(field[-2].copy(), above, recvbuf=field[0], source=below)
            inner = field[1:-1, 1:-1]
            inner += 0.2 * (
                field[:-2, 1:-1] + field[2:, 1:-1] + field[1:-1, :-2] + field[1:-1, 2:] - 4 * inner
            )
            before = time.perf_counter()
            couple(step, field[1:-1])
            held.append(time.perf_counter() - before)
        loop = time.perf_counter() - began
    facts = {"loop": loop, "held": held, "cpu": time.process_time()}
    (Path(job["folder"]) / f"rank_{comm.rank}.json").write_text(json.dumps(facts))


@contextmanager
def bridge(job, comm):
    """Put each step through a bridge."""
    from ips_components.bridge import Array, Bridge

    rows = job["rows"] // comm.size
    array = Array(
        "field",
        shape=(job["rows"], COLUMNS),
        dtype="f8",
        offset=(rows * comm.rank, 0),
        dims=("y", "x"),
        steps=job["steps"],
    )
    with Bridge(comm=comm, arrays=[array]) as opened:
        yield lambda step, block: opened.put("field", step, block)


@contextmanager
def files(job, comm):
    """Save each step as a file: into the page cache, on one machine."""
    folder = Path(job["folder"])
    yield lambda step, block: np.save(folder / f"{step:05d}_{comm.rank}.npy", block)
    comm.Barrier()


@contextmanager
def scatter(job, comm):
    """Scatter each block by a client of its own and queue its future, as DEISA's first version."""
    from distributed import Client, Queue

    with Client(job["scheduler"], set_as_default=False) as client:
        queue = Queue(f"rank-{comm.rank}", client=client)

        def couple(step, block):
            queue.put(client.scatter(block.copy(), direct=True, hash=False))

        yield couple
        comm.Barrier()
        Queue("done", client=client).get(timeout=PATIENCE)  # scattered data go with their client


def estimator():
    from ips_components.algorithms import InSituIncrementalPCA

    return InSituIncrementalPCA(COMPONENTS)


def analysis(arrays: Any) -> dict[str, Any]:
    """Return the singular values of all steps, lazily."""
    return {"singular_values": estimator().fit(arrays["field"], *LABELS).singular_values_}


def read(job: dict[str, Any]) -> None:
    """Analyse the files afterwards."""
    from distributed import Client

    with two_workers() as workers, Client(workers):
        field = read_files(job, (job["rows"] // job["ranks"], COLUMNS))
        _keep(job, analysis({"field": field})["singular_values"].compute())


def follow(job: dict[str, Any]) -> None:
    """Start the ranks; submit an update for each step once its blocks have been scattered."""
    import dask
    from distributed import Client, Queue

    from benchmarks.whole_run import mpi_command

    shape = (job["rows"] // job["ranks"], COLUMNS)
    with two_workers() as workers, Client(workers) as client:
        job = {**job, "scheduler": workers.scheduler_address}
        place = Path(job["folder"]) / "follow.json"
        place.write_text(json.dumps(job))
        command = mpi_command(job["ranks"], "-m", "benchmarks._heat_pca", "scatter", str(place))
        ranks = subprocess.Popen(command)
        try:
            queues = [Queue(f"rank-{rank}", client=client) for rank in range(job["ranks"])]
            pca = estimator()
            for _ in range(job["steps"]):
                blocks = [dask.delayed(each.get(timeout=PATIENCE)) for each in queues]
                pca.partial_fit(stacked([blocks], shape), *LABELS)
                pca = type(pca).from_state(dask.persist(pca.state())[0])
            _keep(job, pca.singular_values_.compute())
            done = Queue("done", client=client)
            for _ in queues:
                done.put(True)
            if ranks.wait(PATIENCE):
                raise RuntimeError(f"the ranks ended with {ranks.returncode}")
        finally:
            ranks.kill()


def _keep(job: dict[str, Any], values: np.ndarray) -> None:
    np.save(Path(job["folder"]) / "singular_values.npy", values)


MODES: dict[str, Callable[[dict[str, Any]], None]] = {
    "put": lambda job: simulate(job, bridge),
    "save": lambda job: simulate(job, files),
    "scatter": lambda job: simulate(job, scatter),
    "read": read,
    "follow": follow,
}


if __name__ == "__main__":
    MODES[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
