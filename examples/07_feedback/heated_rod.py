"""A rod between two cold walls with a heater in its middle, whose power the analysis decides.

mpiexec -n 2 python heated_rod.py --at-most 5000 --every 5
"""

import argparse

import numpy as np
from mpi4py import MPI

from ips_components.bridge import Array, Bridge
from ips_components.errors import RunStopped

CELLS, NUMBER, GAIN = 16, 0.4, 0.05  # GAIN = what a power of 1 adds to a heated cell per step, K


def main():
    comm = MPI.COMM_WORLD
    parser = argparse.ArgumentParser()
    parser.add_argument("--at-most", type=int, default=5000)
    parser.add_argument("--every", type=int, default=5, help="steps between two decisions")
    args = parser.parse_args()

    first, last = (CELLS * r // comm.size for r in (comm.rank, comm.rank + 1))
    rod = np.zeros(last - first + 2)
    heated = abs(np.arange(first, last) + 0.5 - CELLS / 2) < 2
    left = comm.rank - 1 if comm.rank > 0 else MPI.PROC_NULL
    right = comm.rank + 1 if comm.rank < comm.size - 1 else MPI.PROC_NULL
    power = 0.0

    temperature = Array("temperature", (CELLS,), "f8", offset=(first,), halo=1, dims=("x",))
    with Bridge(comm=comm, arrays=[temperature]) as bridge:
        for step in range(args.at_most):
            if step and step % args.every == 0:
                # Waits for the value that was sent for this very step; all ranks get the same.
                try:
                    power = bridge.receive("power", step=step)
                except RunStopped:
                    break
            bridge.put("temperature", step, rod)
            rod[0], rod[-1] = -rod[1], -rod[-2]
            comm.Sendrecv(rod[1:2].copy(), left, recvbuf=rod[-1:], source=right)
            comm.Sendrecv(rod[-2:-1].copy(), right, recvbuf=rod[:1], source=left)
            rod[1:-1] += NUMBER * (rod[:-2] - 2 * rod[1:-1] + rod[2:]) + GAIN * power * heated
        reason = bridge.stop_reason
    if comm.rank == 0:
        print(f"heated rod: ended before step {step}: {reason}")


if __name__ == "__main__":
    main()
