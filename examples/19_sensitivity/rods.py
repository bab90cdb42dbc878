"""An ensemble of heated rods in one program; each rank advances some rows of the design.

mpiexec -n 2 python rods.py --rows 128 --steps 40
"""

import argparse

import numpy as np
from design import members
from mpi4py import MPI

from ips_components.bridge import Array, Bridge

CELLS = 48


def main():
    comm = MPI.COMM_WORLD
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()

    first, last = (args.rows * r // comm.size for r in (comm.rank, comm.rank + 1))
    diffusion, heater, left = np.moveaxis(members(args.rows)[first:last, :, :, None], 2, 0)
    x = (np.arange(CELLS) + 0.5) / CELLS
    rods = np.zeros((last - first, diffusion.shape[1], CELLS + 2))
    temperature = Array(
        "temperature",
        (args.rows, rods.shape[1], CELLS),
        "f8",
        offset=(first, 0, 0),
        dims=("row", "member", "x"),
        attrs={"units": "K"},
        steps=args.steps,
    )
    with Bridge(comm=comm, arrays=[temperature]) as bridge:
        for step in range(args.steps):
            for _ in range(20):
                rods[..., :1], rods[..., -1] = left, rods[..., -2]
                change = rods[..., :-2] - 2 * rods[..., 1:-1] + rods[..., 2:]
                rods[..., 1:-1] += diffusion * change + heater * (abs(x - 0.6) < 0.1)
            bridge.put("temperature", step, np.ascontiguousarray(rods[..., 1:-1]))


if __name__ == "__main__":
    main()
