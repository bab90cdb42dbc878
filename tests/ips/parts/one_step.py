"""A code without MPI that puts one step of a whole field: one_step.py NAME CELLS."""

import sys

import numpy as np

from ips_components.bridge import Bridge

with Bridge() as bridge:
    step = bridge.first_step
    bridge.put(sys.argv[1], step, 100.0 * step + np.arange(int(sys.argv[2])))
