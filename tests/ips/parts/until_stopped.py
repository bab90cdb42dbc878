"""A simulation for tests: a plate on MPI ranks that goes on until a file says stop.

until_stopped.py STOP_FILE PACE
"""

import sys
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

from ips_components.bridge import Array, Bridge

ROWS, COLUMNS = 6, 4  # of a rank

stop, pace = Path(sys.argv[1]), float(sys.argv[2])
comm = MPI.COMM_WORLD
shape = (ROWS, COLUMNS * comm.size)
mine = slice(COLUMNS * comm.rank, COLUMNS * (comm.rank + 1))
cells = np.arange(ROWS * shape[1], dtype=float).reshape(shape)[:, mine]
plate = Array("plate", shape, offset=(0, mine.start), steps=100_000, attrs={"units": "K"})
with Bridge(comm=comm, arrays=[plate]) as bridge:
    step = 0
    while not comm.bcast(stop.exists(), root=0):
        bridge.put("plate", step, cells + 1000 * step)
        step += 1
        time.sleep(pace)
