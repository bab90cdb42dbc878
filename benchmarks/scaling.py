"""Weak and strong scaling with real ranks: on this machine, or on the nodes of a Slurm job.

Inside a job (``sbatch benchmarks/scaling.sbatch``) ranks and workers are steps of that job; on one
machine they are processes.  Weak: a block of each rank is as large however many there are.  Strong:
the whole field is.  There is a worker for so many ranks; every turn has a cluster of its own.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._cluster import PATIENCE, Cluster, CoupledRun, finish, mpiexec
from benchmarks._harness import KIB, MIB, Load, figure, interleave, machine, spread, write
from benchmarks._turns import make_job, write_job

WARM = 4
#: Bytes of a block (weak), of the whole field (strong); ranks of a worker.
BLOCK, FIELD, RANKS_PER_WORKER = MIB, 16 * MIB, 4
KINDS = ("weak", "strong")


def run(
    quick: bool = False,
    repeat: int = 5,
    sizes: list[int] | None = None,
    steps: int = 40,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Run all turns; write results and a plot.

    Without `sizes`, the numbers of ranks are 1, 2, 4, ... up to the tasks of the job, or to 4 (8
    if not `quick`) on one machine.
    """
    load, options = Load(), {} if folder is None else {"folder": folder}
    most = int(os.environ.get("SLURM_NTASKS", 4 if quick else 8))
    sizes = sizes or [2**k for k in range(most.bit_length())]
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {
        "machine": machine(),
        "load": load.facts(),
        "nodes": int(os.environ.get("SLURM_JOB_NUM_NODES", 1)),
        "ranks of a worker": RANKS_PER_WORKER,
        "steps": steps,
        "turns of each": repeat,
    }
    # Where all nodes see it: the directory of the job.
    with tempfile.TemporaryDirectory(dir=Path.cwd() if in_job() else None) as scratch:
        for n in sizes:
            print(f"{n} ranks")

            def once(kind: str, n: int = n) -> dict[str, Any]:
                size = BLOCK if kind == "weak" else max(4 * KIB, FIELD // n)
                with tempfile.TemporaryDirectory(dir=scratch) as place:
                    return turn(n, size, steps, Path(place))

            before = list(rows)

            def keep(turns: dict[str, list[Any]], n: int = n, before: list[Any] = before) -> None:
                rows[:] = before
                rows.extend(row_of(kind, n, each, rows) for kind, each in turns.items() if each)
                facts.update({"load": load.facts(), "rows": rows})
                write("scaling", facts, **options)

            interleave(KINDS, repeat, once, keep=keep)
    figure("scaling_rate", lambda axes: draw(axes, rows), **options)
    return facts


def in_job() -> bool:
    """Whether this runs on the nodes of a Slurm job."""
    return "SLURM_JOB_ID" in os.environ


def step_of_job(n: int, *more: str) -> list[str]:
    """The command that starts `n` processes on the job's nodes, evenly; empty without a job."""
    nodes = min(n, int(os.environ.get("SLURM_JOB_NUM_NODES", 1)))
    return ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={n}", *more] if in_job() else []


def turn(n: int, size: int, steps: int, folder: Path) -> dict[str, Any]:
    """Let `n` ranks put blocks as fast as they go; the sum of every step is computed."""
    from distributed import Client

    workers = -(-n // RANKS_PER_WORKER)
    where = {"host": os.uname().nodename} if in_job() else {}
    with (
        Cluster(
            1 if in_job() else workers,
            folder=folder,
            launch=step_of_job(workers, "--mpi=none"),
            **where,
        ) as cluster,
        Client(cluster.address, timeout=PATIENCE) as client,
    ):
        client.wait_for_workers(workers, timeout=PATIENCE)
        coupled = CoupledRun(
            client, folder, "benchmarks._consumers:reduced",
            receivers=workers, n_steps=WARM + steps,
        )  # fmt: skip
        try:
            job = make_job("shm", size, [("warm", WARM, 0.0), ("flat out", steps, 0.0)], n, folder)
            file = write_job({**job, "contact": str(coupled.contact)}, folder)
            before, begin = cluster.cpu()["scheduler"], time.monotonic()
            ranks = finish(mpiexec(n, "benchmarks._ranks", file, launch=step_of_job(n)), file)
            sums = coupled.results()["sums"]
            seconds = time.monotonic() - begin
            spent = cluster.cpu()["scheduler"] - before
            record = coupled.end()
        finally:
            coupled.close()
    if not record["ledger"]["closed"] or len(sums) != WARM + steps:
        raise RuntimeError(f"an open ledger, or {len(sums)} sums: {record['ledger']}")
    flat = [rank["phases"]["flat out"] for rank in ranks]
    return {
        "workers": workers,
        "block": size,
        "held": np.array([each["held"] for each in flat]),
        "rate": n * size * steps / max(each["seconds"] for each in flat),
        "scheduler": spent / (WARM + steps),
        "seconds": seconds,
    }


def row_of(
    kind: str, n: int, turns: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Medians and spread over the turns; the rate beside that of the fewest ranks."""
    rate = statistics.median(t["rate"] for t in turns) / 1e9
    fewest = next((row["GB/s"] for row in rows if row["scaling"] == kind), rate)
    return {
        "scaling": kind,
        "ranks": n,
        "workers": turns[0]["workers"],
        "block KiB": turns[0]["block"] // KIB,
        "held ms": spread(np.concatenate([t["held"].ravel() for t in turns]) * 1e3, 3),
        "GB/s": float(f"{rate:.3g}"),
        "times that of the fewest ranks": float(f"{rate / fewest:.3g}"),
        "scheduler CPU per step, ms": spread((t["scheduler"] * 1e3 for t in turns), 3),
        "time to result s": spread((t["seconds"] for t in turns), 3),
    }


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Bytes per second against the number of ranks."""
    for kind, style in zip(KINDS, ("o-", "s--"), strict=True):
        mine = [row for row in rows if row["scaling"] == kind]
        axes.plot([row["ranks"] for row in mine], [row["GB/s"] for row in mine], style, label=kind)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("ranks")
    axes.set_ylabel("GB/s from all ranks")
    axes.legend()
