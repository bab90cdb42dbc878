"""Blocks of an adaptive mesh, put by a program that describes nothing, and their analyses."""

import sys

import numpy as np

STEPS, SHAPE, LEVELS, REFINEMENT = 4, (2, 4), 3, 3
BOX = ((0, 4), (8, 99))  # in cells of level 0, of which there are 6 x 12


def blocks(step, rank, size):
    """Cells, levels and places of a rank's blocks; the last rank has none at the last step."""
    rng = np.random.default_rng((step, rank))
    n = 0 if (step, rank) == (STEPS - 1, size - 1) else 4 + 3 * rank + step
    levels = rng.integers(0, LEVELS, n)
    places = SHAPE * rng.integers(0, 3 * REFINEMENT ** levels[:, None], (n, 2))
    return rng.random((n, *SHAPE)), levels, places


def finest(arrays):
    """Of the finest level only."""
    return _sums(arrays, level=-1)


def box(arrays):
    """Of a box only, which is open to one side."""
    return _sums(arrays, box=np.s_[:4, 8:])


def _sums(arrays, **choice):
    rho = arrays["rho"].only(**choice)
    found = arrays["rho.blocks"][..., 0] >= 0
    return {"total": rho.sum(axis=(1, 2, 3)), "count": found.sum(axis=1)}


def main():
    """Put the blocks of this rank at each step."""
    from mpi4py import MPI

    from ips_components.bridge import Bridge

    comm = MPI.COMM_WORLD
    with Bridge(comm=comm) as bridge:
        for step in range(STEPS):
            cells, levels, places = blocks(step, comm.rank, comm.size)
            bridge.put("rho", step, cells, levels=levels, places=places)


if __name__ == "__main__":
    sys.exit(main())
