"""Many ranks in a process, each with a bridge and connections of its own.

Run with the path of a job file; says ``open`` and ``put``, and waits for a line after each.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ips_components.bridge import Array, Bridge


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    n, steps = job["ranks"], job["steps"]
    shape = (job["rows"] * n, job["columns"])
    block = np.ones((job["rows"], job["columns"]))
    bridges: list[Bridge] = []
    try:
        for rank in range(*job["mine"]):
            array = Array("t", shape, "f8", grid=(n, 1), steps=steps)
            bridges.append(Bridge(contact=job["contact"], arrays=[array], rank=rank, size=n))
        say("open")
        for step in range(steps):
            for bridge in bridges:
                bridge.put("t", step, block)
        for bridge in bridges:
            bridge.wait()
        say("put")
    finally:
        # A rank may leave when all have said goodbye: they have to say it at the same time.
        with ThreadPoolExecutor(max(1, len(bridges))) as pool:
            list(pool.map(Bridge.close, bridges))


def say(word: str) -> None:
    print(word, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
