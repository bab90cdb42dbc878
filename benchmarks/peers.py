"""The same work by this package and by its alternatives: what the simulation pays, and all others.

Four MPI ranks hand over a block per step to one consumer node, which takes the mean of every step.
The methods take turns.  Every method runs through the same phases: some steps to warm up, steps
with pauses (as if the simulation computed), and steps as fast as it goes.

Methods
-------
in place, shm, tcp
    This package: computing into shared memory, one copy into it, and TCP over loopback. Every
    step is one external task; its consumer is on the scheduler before step 0.
deisa-dask
    deisa-dask 0.6.3 in an environment of its own (``BENCHMARK_DEISA_PYTHON``); its latency is that
    to the callback, which then computes the mean with Dask. Steps without a callback are counted.
scatter
    DEISA1's way: every rank a Dask client; ``Client.scatter(direct=True)`` and a queue.
zarr, hdf5
    Post hoc: ranks write to a local disk (that is, to the page cache), Dask reads afterwards.
adios2 sst
    ADIOS2's staging engine by the serial wheel of PyPI, a stream per rank, two steps in its queue.
mpi
    ``comm.Send`` to a consumer rank: what a message library does, without any analysis system.
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._cluster import clustered, environment
from benchmarks._harness import KIB, MIB, Load, figure, interleave, machine, ratio, spread, write
from benchmarks._turns import deisa_python, make_job, turn

METHODS = (
    "in place", "shm", "tcp", "mpi", "adios2 sst", "scatter", "deisa-dask", "zarr", "hdf5",
)  # fmt: skip

#: Bytes of a block: steps with pauses of so many seconds, and steps without.
SIZES = {
    32 * KIB: (30, 0.010, 60),
    2 * MIB: (15, 0.015, 30),
    8 * MIB: (10, 0.030, 16),
    64 * MIB: (5, 0.150, 6),
}
WARM = 4
#: Of the worker: its receiver has room for all steps flat out of the largest blocks.
MEMORY = "12GB"

#: Goals of this package: how much less than a peer it holds a rank, with pauses and without.
GOALS = {"deisa-dask": (20, 50), "scatter": (10, 25), "adios2 sst": (5, 25)}

#: What others have published about the peers, for the eye; other machines, other scales.
PUBLISHED = {
    "SC-W 2023": "external tasks against DEISA1: simulation up to 7 times, analytics up to 3 times "
    "less; 18 times less costly than post hoc with plain Dask",
    "HiPC 2021": "post hoc over DEISA1: simulation 1.5 to 3.0 times, in total 2.5 to 5.6 times",
}

IMPORTS = {
    "shm": "import ips_components.bridge",
    "mpi": "from mpi4py import MPI",
    "scatter": "from distributed import Client, Queue",
    "deisa-dask": "from deisa.dask import Bridge",
    "adios2 sst": "import adios2",
    "zarr": "import zarr",
    "hdf5": "import h5py",
}


def run(
    quick: bool = False,
    ranks: int = 4,
    repeat: int = 5,
    sizes: list[int] | None = None,
    methods: list[str] | None = None,
    folder: Path | None = None,
    import_repeat: int = 5,
) -> dict[str, Any]:
    """Run all turns and write results and plots."""
    load = Load()
    wanted, skipped = available(methods or list(METHODS))
    chosen = sizes or [size for size in SIZES if size <= (8 if quick else 64) * MIB]
    options = {} if folder is None else {"folder": folder}
    imported = imports(wanted, import_repeat)
    facts: dict[str, Any] = {
        "machine": machine(),
        "load": load.facts(),
        "ranks": ranks,
        "turns of each method": repeat,
        "not run": "; ".join(f"{name}: {why}" for name, why in skipped.items()) or "-",
        "published": PUBLISHED,
        "imports": imported,
    }
    tables: dict[str, list[Any]] = {"held": [], "ratios": [], "cost": []}
    with tempfile.TemporaryDirectory() as scratch, clustered(memory=MEMORY) as (cluster, client):
        for size in chosen:
            paced, pace, flat = SIZES.get(size, (4, 0.01, 4))
            phases = [("warm", WARM, pace), ("paced", paced, pace), ("flat out", flat, 0.0)]
            print(f"{size // KIB} KiB blocks")

            def once(method: str, phases: Any = phases, size: int = size) -> dict[str, Any]:
                with tempfile.TemporaryDirectory(dir=scratch) as place:
                    job = make_job(method, size, phases, ranks, Path(place))
                    return turn(job, cluster, client, Path(place))

            total, before = size * ranks * sum(steps for _, steps, _ in phases), dict(tables)

            def keep(
                turns: dict[str, list[Any]],
                size: int = size,
                flat: int = flat,
                total: int = total,
                before: dict[str, list[Any]] = before,
            ) -> None:
                mine: dict[str, list[Any]] = {"held": [], "ratios": [], "cost": []}
                for method in wanted:
                    if turns[method]:
                        mine["held"] += held_rows(size, method, turns[method], ranks, flat)
                        mine["cost"].append(cost_row(size, method, turns[method], total))
                mine["ratios"] = ratio_rows(size, turns)
                tables.update({name: before[name] + mine[name] for name in tables})
                facts.update({"load": load.facts(), **tables})
                write("peers", facts, **options)

            interleave(wanted, repeat, once, keep=keep)
            figure("peers_held", lambda axes: draw(axes, tables["held"]), **options)
    return facts


def available(methods: list[str]) -> tuple[list[str], dict[str, str]]:
    """Separate what can run here from what cannot, with the reason."""
    wanted, skipped = [], {}
    needs = {"adios2 sst": "adios2", "hdf5": "h5py", "mpi": "mpi4py", "zarr": "zarr"}
    for method in methods:
        try:
            if method == "deisa-dask":
                deisa_python()
            elif method in needs and importlib.util.find_spec(needs[method]) is None:
                raise ModuleNotFoundError(f"{needs[method]} is not installed")
        except (FileNotFoundError, ModuleNotFoundError) as error:
            skipped[method] = str(error)
            print(f"without {method}: {error}")
        else:
            wanted.append(method)
    return wanted, skipped


def held_rows(
    size: int, method: str, turns: list[dict[str, Any]], ranks: int, flat: int
) -> list[dict[str, Any]]:
    """How long a step held a rank, with its variability over ranks, steps and turns."""
    rows = []
    for phase in ("paced", "flat out"):
        each = [np.asarray(t["phases"][phase]["held"]) * 1e3 for t in turns]
        # How much the ranks differ, relative to their mean: the slowest holds up the others.
        means = [one.mean(axis=1) for one in each]
        latency = np.concatenate([t["phases"][phase]["latency"] for t in turns]) * 1e3
        row = {
            "block KiB": size // KIB,
            "phase": phase,
            "method": method,
            "held ms": spread(np.concatenate([one.ravel() for one in each])),
            "CPU of it ms": float(
                f"{np.median([t['phases'][phase]['cpu'] for t in turns]) * 1e3:.3g}"
            ),
            "between turns": f"{min(map(np.median, each)):.3g} to {max(map(np.median, each)):.3g}",
            "slowest rank over mean": round(
                float(np.median([m.max() / m.mean() if m.mean() else 1.0 for m in means])), 2
            ),
            "put to task ms": float(f"{np.nanmedian(latency):.3g}"),
        }
        if phase == "flat out":
            rates = [ranks * flat * size / t["phases"][phase]["seconds"] / 1e9 for t in turns]
            row["GB/s"] = round(statistics.median(rates), 3)
        rows.append(row)
    return rows


def cost_row(size: int, method: str, turns: list[dict[str, Any]], total: int) -> dict[str, Any]:
    """What the whole of a turn cost, start-up and imports left out."""
    post_hoc = method in ("zarr", "hdf5")
    return {
        "block KiB": size // KIB,
        "method": method,
        "time to result s": spread((t["time to result"] for t in turns), 3),
        "core-seconds": spread((t["core-seconds"] for t in turns), 3),
        "core-seconds of ranks": statistics.median(
            round(t["core-seconds of ranks"], 3) for t in turns
        ),
        "peak MB of a rank": round(statistics.median(t["peak MB of a rank"] for t in turns)),
        "steps never analysed": sum(t["not analysed"] for t in turns),
        # Written and read again is moved twice.
        "MB moved": round(turns[0].get("delivered", total * (2 if post_hoc else 1)) / 1e6, 1),
    }


def ratio_rows(size: int, turns: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """How much longer a peer holds a rank than ``shm``, turn by turn."""

    def medians(method: str, phase: str) -> list[float]:
        return [float(np.median(t["phases"][phase]["held"])) for t in turns.get(method, ())]

    rows = []
    for method in METHODS:
        if method == "shm" or not turns.get(method) or not turns.get("shm"):
            continue
        row: dict[str, Any] = {"block KiB": size // KIB, "held, over shm": method}
        for i, phase in enumerate(("paced", "flat out")):
            row[phase] = ratio(medians("shm", phase), medians(method, phase))
            if method in GOALS:
                row[f"goal {phase}"] = GOALS[method][i]
        rows.append(row)
    return rows


def imports(methods: list[str], repeat: int) -> list[dict[str, Any]]:
    """What its imports add to a process that has NumPy."""
    code = (
        "import resource,time,numpy\n"
        "r=lambda:resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "m,t=r(),time.process_time()\n{}\nprint((time.process_time()-t)*1e3,(r()-m)/1e3)"
    )
    rows = []
    for method, statement in IMPORTS.items():
        if method not in methods:
            continue
        python = deisa_python() if method == "deisa-dask" else sys.executable
        with tempfile.TemporaryDirectory() as cache:
            # Compiled, as an installed package is: the first run compiles and does not count.
            compiled = environment(PYTHONPYCACHEPREFIX=cache)
            compiled.pop("PYTHONDONTWRITEBYTECODE", None)
            runs = [
                subprocess.run(
                    [python, "-c", code.format(statement)],
                    env=compiled, capture_output=True, text=True, check=True,
                ).stdout.split()
                for _ in range(repeat + 1)
            ][1:]  # fmt: skip
        rows.append(
            {
                "import": statement,
                "CPU ms": spread(float(ms) for ms, _ in runs),
                "MB": round(statistics.median(float(mb) for _, mb in runs), 1),
            }
        )
    return rows


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Bars of the time that a step holds a rank, paced, with the spread."""
    sizes = sorted({row["block KiB"] for row in rows})
    methods = [m for m in METHODS if any(row["method"] == m for row in rows)]
    width = 0.85 / len(methods)
    for i, method in enumerate(methods):
        for j, size in enumerate(sizes):
            for row in rows:
                if (row["method"], row["block KiB"], row["phase"]) != (method, size, "paced"):
                    continue
                held = row["held ms"]
                axes.bar(
                    j + (i - len(methods) / 2) * width, held["median"], width,
                    color=f"C{i}", label=method if j == 0 else None,
                    yerr=[[held["median"] - held["p10"]], [held["p90"] - held["median"]]],
                    error_kw={"linewidth": 0.7},
                )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xticks(range(len(sizes)), [f"{size} KiB" for size in sizes])
    axes.set_xlabel("block of a rank")
    axes.set_ylabel("a step holds a rank, ms")
    axes.set_title("With pauses between steps: median, 10 to 90 %")
    axes.legend(fontsize=7, ncols=2)
