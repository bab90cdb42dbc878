"""A wave that travels around a ring, each MPI rank with a part of it.

By itself: ``python simulation.py 50``, or with ``mpiexec -n 2`` before it.
"""

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
# alone: without ips.py the program runs as well, and nothing is sent.
with Bridge(comm=comm, arrays=[height], alone=True) as bridge:
    for step in range(steps):
        wave = np.sin(2 * np.pi * (x - 0.01 * step)) + 0.2 * np.sin(6 * np.pi * (x + 0.02 * step))
        bridge.put("height", step, wave)
