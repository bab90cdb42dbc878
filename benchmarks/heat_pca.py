"""Heat equation in 2-D with an incremental PCA over all steps: what simulation and analysis cost.

The work that DEISA was published with, in three ways:

post hoc
    files by rank and step (in the page cache), Dask over them afterwards;
scatter
    DEISA's first way: a client in each rank scatters its block, its future goes through a queue,
    and the analysis submits an update for each step;
this package
    ``ips.py`` with one config.

Costs as there: rank-seconds of the loop of the simulation, and core-seconds of everything that is
not a rank, less those of a run with next to no data (start and end). Weak: a rank has as many rows
however many there are. Strong: the field has.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._accounting import measured
from benchmarks._harness import ROOT, Load, figure, interleave, machine, ratio, spread, write
from benchmarks.whole_run import ips_command, mpi_command

MODULE = "benchmarks._heat_pca"
SYSTEMS = ("post hoc", "scatter", "this package")
#: Rows of the field (of 256 columns of float64) by number of ranks, and steps.
WEAK = {1: 256, 2: 512, 4: 1024}
STRONG = {1: 1024, 2: 1024, 4: 1024}
STEPS = 60
#: Ranks, rows and steps of a run with next to no data.
EMPTY = (1, 8, 2)
#: Published ratios of the first way to external tasks, and of post hoc, on large machines.
GOALS = {"simulation": 7.0, "analytics": 3.0, "total": 18.0}


def turn(system: str, ranks: int, rows: int, steps: int) -> dict[str, Any]:
    """Run one system once in a folder of its own; return what it cost.

    Returns
    -------
    dict
        ``simulation`` (rank-seconds of the loop), ``analytics`` (core-seconds without the ranks'),
        ``wall`` (seconds), ``held`` (seconds, by rank and step), ``singular values``.
    """
    with tempfile.TemporaryDirectory(prefix="heat-pca-") as name:
        folder = Path(name)
        job = {"ranks": ranks, "rows": rows, "steps": steps, "folder": name}
        (folder / "job.json").write_text(json.dumps(job))
        program = ("-m", MODULE)
        if system == "this package":
            commands = [ips_command(folder, MODULE, steps, ranks)]
        elif system == "scatter":
            commands = [[sys.executable, *program, "follow", "job.json"]]
        else:
            commands = [
                mpi_command(ranks, *program, "save", "job.json"),
                [sys.executable, *program, "read", "job.json"],
            ]
        environment = {"PYTHONPATH": str(ROOT)}
        parts = [measured(command, folder, environment) for command in commands]
        facts = [json.loads((folder / f"rank_{r}.json").read_text()) for r in range(ranks)]
        total = sum(part["core"] for part in parts)
        return {
            "wall": sum(part["wall"] for part in parts),
            "simulation": sum(each["loop"] for each in facts),
            "analytics": total - sum(each["cpu"] for each in facts),
            "held": [each["held"] for each in facts],
            "singular values": _singular_values(folder),
        }


def _singular_values(folder: Path) -> list[float]:
    if (saved := folder / "singular_values.npy").exists():
        values = np.load(saved)
    else:
        import xarray as xr

        (results,) = folder.glob("run/run_*/results.zarr")
        with xr.open_zarr(results, consolidated=False) as dataset:
            values = dataset["singular_values"].values
    return [float(value) for value in values]


def run(quick: bool = False, repeat: int = 3, folder: Path | None = None) -> dict[str, Any]:
    """Measure all sizes; write ``heat_pca.json`` and a plot."""
    load = Load()
    steps = 12 if quick else STEPS
    sizes = {(ranks, rows): kind for kind, of in (("strong", STRONG), ("weak", WEAK))
             for ranks, rows in of.items()}  # fmt: skip
    if quick:
        sizes = {(2, 64): "weak"}
    rows: list[dict[str, Any]] = []
    last: dict[str, list[dict[str, Any]]] = {}
    start = {system: turn(system, *EMPTY)["analytics"] for system in SYSTEMS}
    for (ranks, height), kind in sizes.items():
        print(f"{kind}: {ranks} ranks, {height} rows")
        found = interleave(
            SYSTEMS,
            1 if quick else repeat,
            lambda system, n=ranks, m=height: turn(system, n, m, steps),
        )
        _compare(found)
        for system, turns in found.items():
            for each in turns:
                each["analytics"] = max(each["analytics"] - start[system], 1e-3)
                each["total"] = each["analytics"] + each["simulation"]
        rows.append({"kind": kind, "ranks": ranks, "rows": height, **_summary(found)})
        last = found
    document = {
        "machine": machine(),
        "load": load.facts(),
        "goals": GOALS,
        "steps": steps,
        "start": start,
        "rows": rows,
    }
    options = {"folder": folder} if folder else {}
    write("heat_pca", document, **options)
    held = {system: np.array(turns[-1]["held"]) for system, turns in last.items() if turns}

    def draw(axes: Any) -> None:
        for system, values in held.items():
            (line,) = axes.plot(np.median(values, axis=0) * 1e3, label=system)
            low, high = values.min(axis=0) * 1e3, values.max(axis=0) * 1e3
            axes.fill_between(range(values.shape[1]), low, high, color=line.get_color(), alpha=0.25)
        axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel("ms that a rank is held: median, least and most of all ranks")
        axes.legend()

    figure("heat_pca_held", draw, **options)
    return document


def _compare(found: dict[str, list[dict[str, Any]]]) -> None:
    """Refuse figures of systems that came to other results."""
    values = {name: turns[0]["singular values"] for name, turns in found.items() if turns}
    for name, each in values.items():
        np.testing.assert_allclose(each, values["post hoc"], rtol=1e-6, err_msg=name)


def _summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return medians of each system, and how many times more the others cost."""
    costs = ("simulation", "analytics", "total", "wall")
    systems = {
        name: {
            **{cost: spread([each[cost] for each in turns]) for cost in costs},
            "held": spread(np.ravel([each["held"] for each in turns])),
        }
        for name, turns in found.items()
        if turns
    }
    ours = found["this package"]
    ratios = {
        f"{name} over this package": {
            cost: ratio([each[cost] for each in ours], [each[cost] for each in found[name]])
            for cost in costs
        }
        for name in SYSTEMS[:2]
        if found[name]
    }
    return {"systems": systems, "ratios": ratios}
