"""A simulation for tests that cleans up when its analysis has failed, and may not come to an end.

leaving.py STEPS [stay]

Each rank leaves a file ``left_RANK`` after two seconds of work; with ``stay`` rank 1 never ends.
"""

import sys
import threading
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

from ips_components.bridge import Array, Bridge
from ips_components.errors import IPSComponentsError

comm = MPI.COMM_WORLD
steps = int(sys.argv[1])
field = Array("field", shape=(2 * comm.size,), offset=(2 * comm.rank,), steps=steps)
try:
    with Bridge(comm=comm, arrays=[field]) as bridge:
        for step in range(steps):
            bridge.put("field", step, np.full(2, float(step)))
            time.sleep(0.02)
except IPSComponentsError:
    if "stay" in sys.argv and comm.rank == 1:
        threading.Event().wait()
    time.sleep(2.0)  # a restart file, say
    Path(f"left_{comm.rank}").touch()
