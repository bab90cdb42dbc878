"""MPI ranks that believe to be on several hosts: contact file, steps, then a host for each part."""

import json
import sys

from coupled_processes import COLUMNS, ROWS, field, move_to
from mpi4py import MPI

from ips_components.bridge import Array, Bridge


def main() -> None:
    comm = MPI.COMM_WORLD
    contact, steps, *hosts = sys.argv[1:]
    move_to(hosts[comm.rank * len(hosts) // comm.size])
    mine = slice(comm.rank * COLUMNS, (comm.rank + 1) * COLUMNS)
    array = Array("t", (ROWS, COLUMNS * comm.size), offset=(0, mine.start), steps=int(steps))
    with Bridge(comm, contact=contact, arrays=[array]) as bridge:
        for step in range(int(steps)):
            bridge.put("t", step, field(step, comm.size)[:, mine])
        lanes = comm.gather(bridge.statistics().lanes)
    if comm.rank == 0:
        print(json.dumps(lanes))


if __name__ == "__main__":
    main()
