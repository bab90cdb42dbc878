"""Many ranks in a process, each with a bridge and connections of its own.

Run with the path of a job file; says ``open`` and ``put``, and waits for a line after each.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import numpy as np

from ips_components.bridge import Array, Bridge


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    n, steps = job["ranks"], job["steps"]
    shape = (job["rows"] * n, job["columns"])
    block = np.ones((job["rows"], job["columns"]))
    with contextlib.ExitStack() as stack:
        bridges = []
        for rank in range(*job["mine"]):
            array = Array("t", shape, "f8", grid=(n, 1), steps=steps)
            bridges.append(Bridge(contact=job["contact"], arrays=[array], rank=rank, size=n))
            stack.callback(bridges[-1].close)
        say("open")
        for step in range(steps):
            for bridge in bridges:
                bridge.put("t", step, block)
        for bridge in bridges:
            bridge.wait()
        say("put")


def say(word: str) -> None:
    print(word, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
