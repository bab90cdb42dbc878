"""What is not in the contract costs nothing: cost against the part of the field that is wanted."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._cluster import clustered
from benchmarks._harness import KIB, MIB, Load, figure, interleave, machine, spread, write
from benchmarks._turns import make_job, ours

FRACTIONS = {"100 %": 1.0, "10 %": 0.1, "1 %": 0.01, "0": 0.0}
LANES = ("shm", "tcp")


def run(
    quick: bool = False, ranks: int = 4, repeat: int = 5, size: int = 0, folder: Path | None = None
) -> dict[str, Any]:
    """Run all turns; write results and a plot.

    The selection is the first columns of every rank's block, hence not contiguous in memory. With
    a fraction of 0 the analysis wants another array, of one number per rank, which is also put.
    """
    load, size = Load(), size or 8 * MIB
    paced, flat = (8, 12) if quick else (30, 60)
    phases = [("warm", 3, 0.03), ("paced", paced, 0.03), ("flat out", flat, 0.0)]
    names = [f"{fraction} by {lane}" for lane in LANES for fraction in FRACTIONS]
    with tempfile.TemporaryDirectory() as scratch, clustered() as (cluster, client):

        def once(name: str) -> dict[str, Any]:
            fraction, lane = name.split(" by ")
            job = make_job(lane, size, phases, ranks, Path(scratch))
            columns = round(FRACTIONS[fraction] * job["columns"])
            wanted = {"columns": columns} if columns else {"name": "clock"}
            job["clock"] = True
            return ours(job, cluster, client, Path(scratch), parameters=wanted)

        turns = interleave(names, repeat, once)
    produced = size * ranks * sum(steps for _, steps, _ in phases)
    rows = []
    for name in names:
        fraction, lane = name.split(" by ")
        for phase in ("paced", "flat out"):
            held = [np.ravel(t["phases"][phase]["held"]) * 1e3 for t in turns[name]]
            if not held:
                continue
            cpu = [np.median(t["phases"][phase]["cpu"]) * 1e3 for t in turns[name]]
            delivered = statistics.median(t["delivered"] for t in turns[name])
            rows.append(
                {
                    "lane": lane,
                    "phase": phase,
                    "wanted": fraction,
                    "held ms": spread(np.concatenate(held)),
                    "CPU of it ms": float(f"{statistics.median(cpu):.3g}"),
                    "delivered of produced": float(f"{delivered / produced:.3g}"),
                    "core-seconds": float(
                        f"{statistics.median(t['core-seconds'] for t in turns[name]):.3g}"
                    ),
                }
            )
    document = {
        "machine": machine(),
        "load": load.facts(),
        "ranks": ranks,
        "block KiB": size // KIB,
        "turns of each fraction": repeat,
        "rows": rows,
    }
    options = {} if folder is None else {"folder": folder}
    write("contract", document, **options)
    figure("contract_held", lambda axes: draw(axes, rows), **options)
    return document


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Time held against the fraction wanted."""
    labels = list(FRACTIONS)
    for lane in LANES:
        for phase, style in (("paced", "o-"), ("flat out", "s--")):
            mine = [r for r in rows if (r["lane"], r["phase"]) == (lane, phase)]
            x = [labels.index(r["wanted"]) for r in mine]
            y = [r["held ms"]["median"] for r in mine]
            error = [
                [abs(r["held ms"]["median"] - r["held ms"][edge]) for r in mine]
                for edge in ("p10", "p90")
            ]
            axes.errorbar(x, y, error, fmt=style, label=f"{lane}, {phase}", capsize=2)
    axes.set_yscale("log")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("part of the field that the analysis wants")
    axes.set_ylabel("a step holds a rank, ms")
    axes.legend()
