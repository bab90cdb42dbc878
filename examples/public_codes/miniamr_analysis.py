"""The blocks of miniAMR, all of them or only those that matter."""

import numpy as np


def everything(arrays):
    """Sum of each block, with its level and the place of its first cell; a result for each step."""
    sums, table = arrays["cells"].sum(axis=(2, 3, 4)), arrays["cells.blocks"]
    steps = range(sums.shape[0])
    return {f"sums_{i}": sums[i] for i in steps} | {f"blocks_{i}": table[i] for i in steps}


def corner(arrays):
    """Of the finest blocks in a corner, of four cells of the coarsest level along two sides."""
    finest = arrays["cells"].only(level=-1, box=np.s_[:4, :4, :])
    return {"total": finest.sum(axis=(1, 2, 3, 4))}
