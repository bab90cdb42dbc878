"""A transport code: five steps of diffusion for each launch, counted from 0 as it always did.

It reads temperature and power from the state, and what the analysis has found: above a peak of 1 it
conducts better.
"""

import numpy as np
import xarray as xr
from mpi4py import MPI

from ips_components.bridge import Bridge

STEPS = 5
comm = MPI.COMM_WORLD
temperature, power = np.loadtxt("temperature.txt"), np.loadtxt("power.txt")
with xr.open_dataset("monitor.nc") as monitor:
    conductivity = 0.2 if float(monitor["peak"][-1]) < 1.0 else 0.4
own = slice(len(power) * comm.rank // comm.size, len(power) * (comm.rank + 1) // comm.size)
with Bridge(comm=comm) as bridge:
    for step in range(STEPS):
        temperature[1:-1] += conductivity * np.diff(temperature, 2) + power[1:-1]
        bridge.put("temperature", step, temperature[own])
if comm.rank == 0:
    np.savetxt("temperature.txt", temperature)
