"""A simulation for tests: a known field on MPI ranks, with a fault at a moment.

    field.py STEPS [--name NAME] [--fault RANK:HOW@WHEN] [--pace SECONDS] [--until FILE]

RANK is a number or all; HOW is raise, exit, kill, crash or stop; WHEN is start, open, step:N, end
(bridge open) or closed.
"""

import argparse
import os
import signal
import time
from pathlib import Path

import numpy as np
from killing import kill
from mpi4py import MPI

from ips_components.bridge import Array, Bridge

CELLS = 64
SIGNALS = {"kill": signal.SIGKILL, "crash": signal.SIGSEGV, "stop": signal.SIGSTOP}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("steps", type=int)
    parser.add_argument("--name", default="field")
    parser.add_argument("--fault", default="")
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--until", type=Path, help="put the second half when this file is there")
    parser.add_argument("--kill", help="kill what has this word in its command before all else")
    parser.add_argument("--no-bridge", action="store_true")
    parser.add_argument("--end-at", type=int, default=1 << 30, help="end well before this step")
    options = parser.parse_args()
    comm = MPI.COMM_WORLD
    Path(f"rank_{comm.rank}.pid").write_text(str(os.getpid()))
    Path(f"name_{comm.rank}").write_text(options.name)
    rank, _, rest = options.fault.partition(":")
    how, _, moment = rest.partition("@")

    def now(when):
        if rank in ("all", str(comm.rank)) and when == moment:
            fail(how)

    now("start")
    if options.kill and comm.rank == 0:
        kill_soon(options.kill)
    if options.no_bridge:
        return
    mine = slice(CELLS * comm.rank // comm.size, CELLS * (comm.rank + 1) // comm.size)
    field = Array(options.name, shape=(CELLS,), offset=(mine.start,), steps=options.steps)
    with Bridge(comm=comm, arrays=[field]) as bridge:
        now("open")
        for step in range(min(options.steps, options.end_at)):
            now(f"step:{step}")
            bridge.put(options.name, step, np.arange(CELLS)[mine] + 100.0 * step)
            while options.until and step == options.steps // 2 and not options.until.exists():
                time.sleep(0.02)
            time.sleep(options.pace)
            if comm.rank == 0:
                Path("last_step").write_text(str(step))
        now("end")
    now("closed")
    Path(f"rank_{comm.rank}.done").touch()


def kill_soon(word):
    """Kill processes of the workflow as soon as they are there."""
    deadline = time.monotonic() + 60
    while True:
        try:
            kill(word)
            return
        except ProcessLookupError:
            assert time.monotonic() < deadline, f"no process to kill: {word}"
            time.sleep(0.02)


def fail(how):
    if how == "raise":
        raise ValueError("the simulation found a negative density")
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), SIGNALS[how])


main()
