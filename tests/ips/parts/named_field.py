"""A simulation for tests: one array of a name, and values that tell it, on MPI ranks.

named_field.py NAME CELLS STEPS SCALE [--fail-at STEP] [--undescribed] [--comm world|self|split]
               [--leave-at STEP [--who one|all]]
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

from ips_components.bridge import Array, Bridge

parser = argparse.ArgumentParser()
parser.add_argument("name")
parser.add_argument("cells", type=int)
parser.add_argument("steps", type=int)
parser.add_argument("scale", type=float)
parser.add_argument("--fail-at", type=int, default=-1)
parser.add_argument("--undescribed", action="store_true")
parser.add_argument("--pace", type=float, default=0.0)
parser.add_argument("--comm", choices=("world", "self", "split"), default="world")
parser.add_argument("--leave-at", type=int, default=-1)  # with status 0, the bridge still open
parser.add_argument("--who", choices=("one", "all"), default="all")
options = parser.parse_args()
comm = MPI.COMM_WORLD
if options.comm == "self":  # as processes that were started by the mpiexec of another MPI
    comm = MPI.COMM_SELF
elif options.comm == "split":
    comm = comm.Split(comm.rank % 2)
edges = [options.cells * rank // comm.size for rank in range(comm.size + 1)]
mine = slice(edges[comm.rank], edges[comm.rank + 1])
field = Array(options.name, shape=(options.cells,), offset=(mine.start,), steps=options.steps)
with Bridge(comm=comm, arrays=None if options.undescribed else [field]) as bridge:
    for step in range(options.steps):
        if step == options.fail_at:
            raise ValueError(f"{options.name} cannot go on")
        if step == options.leave_at and (options.who == "all" or comm.rank == 1):
            os._exit(0)
        bridge.put(options.name, step, options.scale * (np.arange(options.cells)[mine] + step))
        time.sleep(options.pace)
if comm.rank == 0:
    Path("finished").touch()
