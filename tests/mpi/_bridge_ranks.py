"""What the ranks of test_bridge_mpi.py run."""

import contextlib
import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

from ips_components.bridge import Array, Bridge
from ips_components.errors import ContactError


def shared_bytes() -> int:
    """Memory for blocks that this process shares, as far as it was written."""
    shared = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if "ips-components-slots" in str(descriptor.readlink()):
                shared += descriptor.stat().st_blocks * 512
    return shared


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
    if mode == "memory":
        arrays = [Array(name, (n, n), "f8", steps=steps, grid=(2, 2)) for name in "tu"]
        taken = 0
        with Bridge(comm, arrays=arrays) as bridge:
            for step in range(steps):
                for name in "tu":
                    bridge.put(name, step, np.full((half, half), step + 0.5 * (name == "u")))
                    taken = max(taken, shared_bytes())
        if peaks := comm.gather(taken):
            print(*peaks)
        return
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
