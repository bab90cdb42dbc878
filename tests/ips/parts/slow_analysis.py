"""An analysis that takes its time."""

import time


def slow_sum(arrays):
    """The sum over space of each step, after some seconds."""
    (field,) = arrays.values()
    return {"sums": field.map_blocks(_slowly, dtype=field.dtype).sum(axis=1)}


def _slowly(block):
    time.sleep(5 if block.size else 0)
    return block
