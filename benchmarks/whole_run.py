"""The whole run, which a user waits and pays for: time to result and core-seconds of all systems.

Four MPI ranks make steps at a given pace; mean and standard deviation over time and the peak of
each step are wanted of the whole field. Measured is everything from the command to its end, in
wall seconds and in core-seconds of all processes, for

mpi
    a fifth rank that receives and reduces with NumPy: what a specialist writes for one question;
post hoc
    ``np.save`` by rank and step (into the page cache, since there is no parallel file system here),
    then a `LocalCluster` of two workers over the files with one chunk for each;
this package
    ``ips.py`` with one config: pool, ranks, analysis in transit, results, record, report.

Each system also runs with next to no data: what is left after taking that away is the cost of the
work without start and end.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._accounting import measured
from benchmarks._harness import KIB, MIB, ROOT, Load, interleave, machine, ratio, spread, write

RANKS = 4
SYSTEMS = ("mpi", "post hoc", "this package")
#: Bytes of a rank's block, steps, seconds between them.
ROWS = {
    "512 KiB": (512 * KIB, 200, 0.005),
    "8 MiB": (8 * MIB, 60, 0.020),
    "64 MiB": (64 * MIB, 12, 0.0),
}
QUICK = {"512 KiB": (512 * KIB, 40, 0.005), "8 MiB": (8 * MIB, 12, 0.020)}
EMPTY = (8 * KIB, 2, 0.0)
GOALS = {"wall over post hoc": 0.6, "core over post hoc": 0.5, "core beyond start over mpi": 2.0}

CONFIG = """\
RUN_ID = whole_run
RUN_COMMENT = benchmark
SIM_NAME = whole_run
SIM_ROOT = {folder}/run
LOG_FILE = {folder}/run.log
LOG_LEVEL = WARNING
SIMULATION_MODE = NORMAL
USE_PORTAL = False
[PORTS]
    NAMES = DRIVER SIMULATION ANALYTICS
    [[DRIVER]]
        IMPLEMENTATION = DRIVER
    [[SIMULATION]]
        IMPLEMENTATION = RANKS
    [[ANALYTICS]]
        IMPLEMENTATION = REDUCTIONS
[TIME_LOOP]
    MODE = REGULAR
    START = 0
    FINISH = 1
    NSTEP = {steps}
[DRIVER]
    CLASS = ips_components
    SUB_CLASS = driver
    NAME = Driver
    NPROC = 1
    BIN_PATH =
    INPUT_FILES =
    OUTPUT_FILES =
    SCRIPT =
    MODULE = ips_components.driver
[RANKS]
    CLASS = ips_components
    SUB_CLASS = simulation
    NAME = Simulation
    NPROC = {ranks}
    EXECUTABLE = {python}
    ARGS = -m {module} put {folder}/job.json
    BIN_PATH =
    INPUT_FILES =
    OUTPUT_FILES =
    SCRIPT =
    MODULE = ips_components.simulation
[REDUCTIONS]
    CLASS = ips_components
    SUB_CLASS = analytics
    NAME = Analytics
    NPROC = 1
    DASK_NODES = 1
    DASK_WORKERS_PER_NODE = 2
    DASK_PPW = 1
    ANALYSIS = {module}:analysis
    BIN_PATH =
    INPUT_FILES =
    OUTPUT_FILES =
    SCRIPT =
    MODULE = ips_components.analytics
"""


def ips_command(
    folder: Path, module: str, steps: int, ranks: int, parameters: str = ""
) -> list[str]:
    """Write the config of a coupled run; return the command that runs it.

    Parameters
    ----------
    module
        Has the ranks (``python -m MODULE put JOB``) and the function ``analysis``.
    parameters
        Further lines of the section of the analytics.
    """
    config = CONFIG.format(
        folder=folder, module=module, steps=steps, ranks=ranks, python=sys.executable
    )
    (folder / "whole_run.config").write_text(f"{config}    {parameters}\n")
    ips = str(Path(sys.executable).parent / "ips.py")
    platform = str(ROOT / "platform" / "workstation.conf")
    return [ips, "--config", "whole_run.config", "--platform", platform]


def mpi_command(ranks: int, *program: str) -> list[str]:
    """Return the command that runs a program of Python on some ranks."""
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or "mpiexec"
    return [mpiexec, "-n", str(ranks), sys.executable, *program]


def turn(system: str, row: tuple[int, int, float], parameters: str = "") -> dict[str, float]:
    """Run one system once in a folder of its own; return what it took.

    Parameters
    ----------
    parameters
        Further lines of the section of the analytics.
    """
    block, steps, pause = row
    with tempfile.TemporaryDirectory(prefix="whole-run-") as name:
        folder = Path(name)
        job = {"block": block, "steps": steps, "pause": pause, "ranks": RANKS, "folder": name}
        (folder / "job.json").write_text(json.dumps(job))
        program = ["-m", "benchmarks._whole_run"]
        environment = {"PYTHONPATH": str(ROOT)}
        if system == "this package":
            command = ips_command(folder, "benchmarks._whole_run", steps, RANKS, parameters)
            return measured(command, folder, environment)
        if system == "mpi":
            command = mpi_command(RANKS + 1, *program, "mpi", "job.json")
            return measured(command, folder, environment)
        save = mpi_command(RANKS, *program, "save", "job.json")
        read = [sys.executable, *program, "read", "job.json"]
        parts = [measured(command, folder, environment) for command in (save, read)]
        return {name: sum(part[name] for part in parts) for name in parts[0]}


def run(quick: bool = False, repeat: int = 3, folder: Path | None = None) -> dict[str, Any]:
    """Measure all rows; write ``whole_run.json``."""
    load = Load()
    rows = QUICK if quick else ROWS
    turns = {
        "nothing": interleave(SYSTEMS, repeat, lambda system: turn(system, EMPTY)),
        **{
            name: interleave(SYSTEMS, repeat, lambda system, row=row: turn(system, row))
            for name, row in rows.items()
        },
    }
    document = {
        "machine": machine(),
        "load": load.facts(),
        "goals": GOALS,
        "rows": {name: _summary(found, turns["nothing"]) for name, found in turns.items()},
        "turns": turns,
    }
    write("whole_run", document, **({"folder": folder} if folder else {}))
    return document


def _summary(
    found: dict[str, list[dict[str, float]]], nothing: dict[str, list[dict[str, float]]]
) -> dict[str, Any]:
    """Return medians of one row, and the ratios that the goals are about."""
    table = {
        system: {what: spread([each[what] for each in turns]) for what in turns[0]}
        for system, turns in found.items()
        if turns
    }
    ours, theirs, mpi = (found[name] for name in ("this package", "post hoc", "mpi"))
    ratios: dict[str, Any] = {}
    for what in ("wall", "core"):
        ratios[f"{what} over post hoc"] = ratio(
            [each[what] for each in theirs], [each[what] for each in ours]
        )
    if found is not nothing and mpi:
        start = {
            system: float(np.median([each["core"] for each in nothing[system]]))
            for system in ("mpi", "this package")
        }
        ratios["core beyond start over mpi"] = ratio(
            [max(each["core"] - start["mpi"], 1e-3) for each in mpi],
            [max(each["core"] - start["this package"], 1e-3) for each in ours],
        )
    return {"systems": table, "ratios": ratios}
