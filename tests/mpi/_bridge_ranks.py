"""What the ranks of test_bridge_mpi.py run."""

import sys

import numpy as np
from mpi4py import MPI

from ips_components.bridge import Array, Bridge
from ips_components.errors import ContactError


def main() -> None:
    comm = MPI.COMM_WORLD
    mode, steps, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if mode == "nofile":
        try:
            Bridge(comm)
        except ContactError:
            sys.exit(7)
    i, j = divmod(comm.rank, 2)
    half = n // 2
    arrays = [Array("t", (n, n), "f8", halo=1, steps=steps, grid=(2, 2))]
    with Bridge(comm, arrays=arrays) as bridge:
        gains = []
        for step in range(steps):
            field = np.arange(n * n, dtype="f8").reshape(n, n) + 1000 * step
            block = np.pad(field, 1)[i * half : i * half + half + 2, j * half : j * half + half + 2]
            if step % 2:
                bridge.put("t", step, block)
            else:
                with bridge.block("t", step) as out:
                    out[...] = block
            gains.append(bridge.receive("gain", step, default=None))
            if bridge.should_stop():
                break
        all_gains = comm.gather(gains)
        all_steps = comm.gather(step)
        if comm.rank == 0:
            assert all(one == all_gains[0] for one in all_gains), all_gains
            assert len(set(all_steps)) == 1, all_steps


if __name__ == "__main__":
    main()
