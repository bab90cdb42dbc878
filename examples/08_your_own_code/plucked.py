"""A plucked string, in Python: MPI ranks hold parts of it. Compare plucked.c and plucked.f90.

mpiexec -n 2 python plucked.py 50
"""

import sys

import numpy as np
from mpi4py import MPI

from ips_components.bridge import Array, Bridge

POINTS, MODES, DT = 61, 8, 0.02


def displacement(x, t):
    """Of a string of length 1 that was plucked in its middle: standing waves."""
    u = np.zeros_like(x)
    for n in range(1, 2 * MODES, 2):
        amplitude = (-1) ** (n // 2) / n**2
        u += amplitude * np.sin(n * np.pi * x) * np.cos(n * np.pi * t)
    return u


comm = MPI.COMM_WORLD
steps = int(sys.argv[1])
first, last = (POINTS * r // comm.size for r in (comm.rank, comm.rank + 1))
x = np.arange(first, last) / (POINTS - 1)

array = Array("displacement", (POINTS,), "f8", offset=(first,), dims=("x",), steps=steps)
with Bridge(comm=comm, arrays=[array]) as bridge:
    for step in range(steps):
        bridge.put("displacement", step, displacement(x, step * DT))
