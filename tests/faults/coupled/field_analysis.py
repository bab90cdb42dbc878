"""Analyses for tests; one that is right, and some that fail at different moments."""

import os
import signal
import time
from pathlib import Path


def analyse(arrays, fault="", slow=0.0):
    """Sums over space for every step, and the mean of all."""
    field = arrays["field"]
    if fault == "early":
        raise ValueError("the analysis does not like this field")
    if fault == "exit":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault or slow:
        field = field.map_blocks(hurt, fault, slow, dtype=field.dtype)
    return {"sums": field.sum(axis=1), "mean": field.mean()}


def slow_plugins(directory):
    """Return a worker plugin that copies for longer than it is given."""
    from distributed.diagnostics.plugin import WorkerPlugin

    class SlowCopy(WorkerPlugin):
        name = "slow-copy"

        def teardown(self, worker):
            for i in range(4):
                time.sleep(2)
                Path(directory, f"copied_{i}").touch()

    return [SlowCopy()]


def hurt(block, fault, slow):
    """Fail, or take time, when a block of step 5 comes by."""
    time.sleep(slow)
    if fault == "task" and block.size and 500.0 <= block.flat[0] < 600.0:
        raise ArithmeticError("step 5 cannot be analysed")
    return block
