"""Two MPI ranks that say that they are there, and then wait to be killed."""

import time
from pathlib import Path

from mpi4py import MPI

MPI.COMM_WORLD.Barrier()
Path(f"rank_{MPI.COMM_WORLD.rank}").touch()
time.sleep(100)
