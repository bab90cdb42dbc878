"""An MPI simulation with DEISA's bridge: travelling waves, so that everything is known exactly.

mpiexec -n 4 python simulation.py
"""

import numpy as np
from mpi4py import MPI

from ips_components.deisa import Bridge

STEPS, NX, NY = 12, 16, 12


def waves(step, x, y):
    """Two waves that move across the plane, and a slow drift."""
    x, y = x[:, None] / NX, y[None, :] / NY
    return (
        np.sin(2 * np.pi * (x - 0.03 * step))
        + 0.3 * np.cos(2 * np.pi * (x + 2 * y) + 0.2 * step)
        + 0.01 * step
    )


def main():
    comm = MPI.COMM_WORLD
    px, py = MPI.Compute_dims(comm.size, 2)
    i, j = divmod(comm.rank, py)
    nx, ny = NX // px, NY // py
    x, y = np.arange(i * nx, (i + 1) * nx), np.arange(j * ny, (j + 1) * ny)
    described = {
        "global_t": {
            "sizes": [STEPS, NX, NY],
            "subsizes": [1, nx, ny],
            "starts": [0, i * nx, j * ny],
            "timedim": [0],
        }
    }
    bridge = Bridge(None, comm.size, comm.rank, described, {"global_t": "float64"})
    for step in range(STEPS):
        bridge.publish_data(waves(step, x, y)[np.newaxis], "global_t", step)


if __name__ == "__main__":
    main()
