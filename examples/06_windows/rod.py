"""A cold rod is held at 1 K at its left end and at 0 K at its right one, until it is in balance.

It is not known beforehand after how many steps that is: the array has no number of steps. Explicit
finite differences; each rank holds a part of the rod.

    mpiexec -n 2 python rod.py --at-most 5000
"""

import argparse

import numpy as np
from mpi4py import MPI

from ips_components.bridge import Array, Bridge

CELLS, NUMBER, TOLERANCE = 16, 0.4, 1e-4  # NUMBER = diffusivity dt / dx^2


def main():
    comm = MPI.COMM_WORLD
    parser = argparse.ArgumentParser()
    parser.add_argument("--at-most", type=int, default=5000)
    at_most = parser.parse_args().at_most

    first, last = (CELLS * r // comm.size for r in (comm.rank, comm.rank + 1))
    rod = np.zeros(last - first + 2)  # with a cell of the neighbours, or of a wall, at each end
    left = comm.rank - 1 if comm.rank > 0 else MPI.PROC_NULL
    right = comm.rank + 1 if comm.rank < comm.size - 1 else MPI.PROC_NULL

    temperature = Array(
        "temperature", (CELLS,), "f8", offset=(first,), halo=1, dims=("x",), attrs={"units": "K"}
    )
    with Bridge(comm=comm, arrays=[temperature]) as bridge:
        for step in range(at_most):
            bridge.put("temperature", step, rod)
            rod[0], rod[-1] = 2.0 - rod[1], -rod[-2]  # images behind the walls
            comm.Sendrecv(rod[1:2].copy(), left, recvbuf=rod[-1:], source=right)
            comm.Sendrecv(rod[-2:-1].copy(), right, recvbuf=rod[:1], source=left)
            change = NUMBER * (rod[:-2] - 2 * rod[1:-1] + rod[2:])
            rod[1:-1] += change
            if comm.allreduce(abs(change).max(), MPI.MAX) < TOLERANCE:
                break
    if comm.rank == 0:
        print(f"rod: in balance after {step + 1} steps")


if __name__ == "__main__":
    main()
