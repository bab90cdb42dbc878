"""One rank of a random case under ``ips.py``.

random_rank.py SEED PACE
"""

import sys
from dataclasses import replace
from pathlib import Path

from mpi4py import MPI

sys.path.insert(0, str(Path(__file__).parents[1]))

import random_cases
import random_runs

comm = MPI.COMM_WORLD
seed, pace = int(sys.argv[1]), float(sys.argv[2])
case = replace(random_cases.case(seed), pace=pace)
random_runs.simulate(case, comm.rank, comm if case.together else None, None)
