"""``ips-components new``: a coupled run to start from, in a directory of its own."""

import argparse
import re
import sys
from pathlib import Path

_CONFIG = """\
# {name}: an MPI simulation, analysed in transit by Dask. From this directory:
#
#     ips-components check --config {name}.config --platform workstation.conf
#     ips.py --config {name}.config --platform workstation.conf

RUN_ID = {name}
RUN_COMMENT = {name}, in transit
SIM_NAME = {name}
SIM_ROOT = $PWD/run
LOG_FILE = $SIM_ROOT/{name}.log
LOG_LEVEL = INFO
SIMULATION_MODE = NORMAL
USE_PORTAL = False

[PORTS]
    NAMES = DRIVER SIMULATION ANALYTICS
    [[DRIVER]]
        IMPLEMENTATION = DRIVER
    [[SIMULATION]]
        IMPLEMENTATION = SIMULATION
    [[ANALYTICS]]
        IMPLEMENTATION = ANALYTICS

# Steps 0 to NSTEP - 1.
[TIME_LOOP]
    MODE = REGULAR
    START = 0
    FINISH = 1
    NSTEP = 50

[DRIVER]
    CLASS = {name}
    SUB_CLASS = driver
    NAME = Driver
    NPROC = 1
    BIN_PATH =
    INPUT_FILES =
    OUTPUT_FILES =
    SCRIPT =
    MODULE = ips_components.driver

[SIMULATION]
    CLASS = {name}
    SUB_CLASS = simulation
    NAME = Simulation
    # MPI processes, and the program that they run; any executable will do
    NPROC = 2
    EXECUTABLE = python
    ARGS = $PWD/simulation.py {{NSTEP}}
    BIN_PATH =
    INPUT_FILES =
    OUTPUT_FILES =
    SCRIPT =
    MODULE = ips_components.simulation

[ANALYTICS]
    CLASS = {name}
    SUB_CLASS = analytics
    NAME = Analytics
    NPROC = 1
    # the function in analysis.py, and its keyword arguments
    ANALYSIS = analysis:analyse
    ANALYSIS_ARGS = every=5
    DASK_NODES = 1
    DASK_WORKERS_PER_NODE = 1
    DASK_PPW = 2
    BIN_PATH =
    INPUT_FILES =
    OUTPUT_FILES =
    SCRIPT =
    MODULE = ips_components.analytics
"""

_PLATFORM = """\
# A workstation or laptop with MPICH. For Open MPI, say MPIRUN = mpirun and OVERSUBSCRIBE = True.

HOST =
MPIRUN = mpiexec
NODE_DETECTION = manual
# slots for processes, which may be more than there are cores
CORES_PER_NODE = 8
SOCKETS_PER_NODE = 1
NODE_ALLOCATION_MODE = SHARED
"""

_SIMULATION = '''\
"""A wave that travels around a ring, each MPI rank with a part of it."""

import sys

import numpy as np
from mpi4py import MPI

from ips_components.bridge import Array, Bridge

comm = MPI.COMM_WORLD
steps = int(sys.argv[1])
cells = 1000
mine = range(cells * comm.rank // comm.size, cells * (comm.rank + 1) // comm.size)
x = np.array(mine) / cells

height = Array(
    "height",
    shape=(cells,),
    offset=(mine.start,),
    dims=("x",),
    steps=steps,
    attrs={"units": "m", "long_name": "height of the wave"},
)
with Bridge(comm=comm, arrays=[height]) as bridge:
    for step in range(steps):
        wave = np.sin(2 * np.pi * (x - 0.01 * step)) + 0.2 * np.sin(6 * np.pi * (x + 0.02 * step))
        bridge.put("height", step, wave)
'''

_ANALYSIS = '''\
"""What to make of the wave: written as though all of it were there already."""


def analyse(arrays, every=1):
    """Return lazy results by name; only what they need will leave the simulation.

    Parameters
    ----------
    arrays
        Dask arrays by name; the first axis is time.
    every
        Take one step of so many.
    """
    height = arrays["height"][::every]
    return {"mean": height.mean(axis=1), "highest": height.max(axis=0)}
'''


def add_subcommands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``new``."""
    parser = subparsers.add_parser(
        "new",
        help="write a coupled run to start from",
        description="Write a config file, a platform file, an MPI simulation and an analysis that "
        "run as they are, into a new directory.",
        epilog="example: ips-components new wave",
    )
    parser.set_defaults(function=new)
    parser.add_argument("name", help="name of the run, and of the directory")
    parser.add_argument("--directory", type=Path, help="another directory")


def new(options: argparse.Namespace) -> int:
    """Write the four files; nothing that exists is overwritten."""
    if not re.fullmatch(r"[A-Za-z]\w*", options.name):
        print(
            f"ips-components new: a name consists of letters, digits and _, got {options.name!r}",
            file=sys.stderr,
        )
        return 2
    directory = options.directory or Path(options.name)
    files = {
        f"{options.name}.config": _CONFIG.format(name=options.name),
        "workstation.conf": _PLATFORM,
        "simulation.py": _SIMULATION,
        "analysis.py": _ANALYSIS,
    }
    existing = [name for name in files if (directory / name).exists()]
    if existing:
        print(
            f"ips-components new: {directory} has {', '.join(existing)} already; give another "
            "name, or --directory",
            file=sys.stderr,
        )
        return 1
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    print(f"{directory} has a run that works. Try it, then put your own into its place:\n")
    print(f"    cd {directory}")
    print(f"    ips.py --config {options.name}.config --platform workstation.conf")
    return 0
