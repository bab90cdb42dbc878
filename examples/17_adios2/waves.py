"""Waves on a membrane, written with ADIOS2: MPI ranks hold rows of it. Compare waves.cpp.

mpiexec -n 4 python waves.py bp5.xml waves.bp 40

The program knows ADIOS2 only. What becomes of its output is said in the XML file.
"""

import sys

import adios2
import numpy as np
from mpi4py import MPI

NY, NX, DT = 48, 32, 0.05
MODES = [(1, 1, 1.0), (2, 1, 0.5), (2, 3, 0.25)]  # half waves along y and x, amplitude

comm = MPI.COMM_WORLD
config, output, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
first, last = (NY * rank // comm.size for rank in (comm.rank, comm.rank + 1))
y = (np.arange(first, last)[:, None] + 0.5) / NY
x = (np.arange(NX) + 0.5) / NX

io = adios2.Adios(config).declare_io("waves")
io.define_attribute("height/units", "mm")
# The ADIOS2 of PyPI has no MPI: each rank writes a file of its own.
with adios2.Stream(io, f"{output}.{comm.rank}", "w") as stream:
    for step in stream.steps(steps):
        time = step.current_step() * DT
        height, speed = np.zeros((2, last - first, NX))
        for m, n, amplitude in MODES:
            omega = np.pi * np.hypot(m, n)
            shape = amplitude * np.sin(m * np.pi * y) * np.sin(n * np.pi * x)
            height += shape * np.cos(omega * time)
            speed -= shape * omega * np.sin(omega * time)
        block = [NY, NX], [first, 0], [last - first, NX]
        stream.write("time", np.array(time))
        stream.write("height", height, *block)
        stream.write("speed", speed.astype(np.float32), *block)
