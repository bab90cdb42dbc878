"""A simulation for tests that can be continued: cells that walk away from what they were.

walking.py NAME CELLS STEPS SCALE --first STEP

Its state is in ``state.npy``: what rank 0 would put next. A continued one refuses another's state.
"""

import argparse
from pathlib import Path

import numpy as np
from mpi4py import MPI

from ips_components.bridge import Array, Bridge

parser = argparse.ArgumentParser()
parser.add_argument("name")
parser.add_argument("cells", type=int)
parser.add_argument("steps", type=int)
parser.add_argument("scale", type=float)
parser.add_argument("--first", type=int, default=0)
options = parser.parse_args()
comm = MPI.COMM_WORLD
edges = [options.cells * rank // comm.size for rank in range(comm.size + 1)]
mine = slice(edges[comm.rank], edges[comm.rank + 1])
state = np.arange(options.cells) * options.scale
if options.first:
    state = np.load("state.npy")
comm.Barrier()
field = Array(
    options.name,
    shape=(options.cells,),
    offset=(mine.start,),
    steps=range(options.first, options.steps),
)
with Bridge(comm=comm, arrays=[field]) as bridge:
    for step in range(options.first, options.steps):
        bridge.put(options.name, step, state[mine])
        state = state + options.scale * np.sin(state + step)
if comm.rank == 0:
    np.save(Path("state.npy"), state)
