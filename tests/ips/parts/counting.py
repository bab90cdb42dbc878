"""A simulation for tests of the time loop: each launch puts some steps of what it counts.

counting.py NAME CELLS STEPS [--from-zero] [--total N] [--die LAUNCH:STEP] [--launch N]
            [--exit LAUNCH:STEP] [--stall LAUNCH:STEP]
            [--kill WORD:LAUNCH:STEP] [--hold FILE] [--pace SECONDS] [--nan-from STEP]

The value of cell c at step s is ``100 s + c``. With ``--from-zero`` the code counts its steps from
0 at every launch, as codes do that know nothing of the bridge's. With ``--hold`` the first launch
stays after its first step until a file is there. With ``--nan-from`` the field is not a number any
more.
"""

import argparse
import os
import signal
import time as clock
from pathlib import Path

import numpy as np
from killing import kill
from mpi4py import MPI

from ips_components.bridge import Array, Bridge

parser = argparse.ArgumentParser()
parser.add_argument("name")
parser.add_argument("cells", type=int)
parser.add_argument("steps", type=int)
parser.add_argument("--from-zero", action="store_true")
parser.add_argument("--total", type=int)
parser.add_argument("--launch", type=int, default=0)
parser.add_argument("--die", default="")
parser.add_argument("--exit", default="")
parser.add_argument("--stall", default="")
parser.add_argument("--kill", default="")
parser.add_argument("--first", type=int)
parser.add_argument("--undescribed", action="store_true")
parser.add_argument("--read-state", default="")
parser.add_argument("--clock", type=float)
parser.add_argument("--hold", type=Path)
parser.add_argument("--pace", type=float, default=0.0)
parser.add_argument("--nan-from", type=int)
options = parser.parse_args()
comm = MPI.COMM_WORLD
if options.read_state and comm.rank == 0:
    import xarray as xr

    with xr.open_dataset(options.read_state) as state:
        words = f"{int(state['step'][-1])} {float(state['mean'][-1])}"
edges = [options.cells * rank // comm.size for rank in range(comm.size + 1)]
mine = np.arange(edges[comm.rank], edges[comm.rank + 1])
steps = range(options.total) if options.total is not None else None
array = Array(
    options.name,
    shape=(options.cells,),
    offset=(edges[comm.rank],),
    **({"steps": steps} if steps is not None else {}),
)
marker = Path(f"died_{options.launch}")
alive = marker.exists()
with Bridge(comm=comm, arrays=None if options.undescribed else [array]) as bridge:
    first = bridge.first_step
    if options.read_state and comm.rank == 0:
        Path(f"seen_{first // options.steps}").write_text(words)
    if options.first is not None and options.first != first:
        raise SystemExit(f"FIRST is {options.first}, the bridge says {first}")
    for count in range(options.steps):
        step = first + count
        if options.die == f"{options.launch}:{count}" and not alive and comm.rank == 0:
            bridge.wait()
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if options.exit == f"{options.launch}:{count}" and not alive:
            marker.touch()
            os._exit(3)
        if options.stall == f"{options.launch}:{count}" and not alive:
            marker.touch()
            signal.pause()
        word, _, when = options.kill.partition(":")
        if when == f"{options.launch}:{count}" and comm.rank == 0:
            bridge.wait()
            kill(word)
        time = None if options.clock is None else options.clock + 0.125 * count
        number = count if options.from_zero else step
        values = 100.0 * step + mine
        if options.nan_from is not None and step >= options.nan_from:
            values[:] = np.nan
        bridge.put(options.name, number, values, time=time)
        clock.sleep(options.pace)
        while options.hold and step == 0 and not options.hold.exists():
            clock.sleep(0.02)
