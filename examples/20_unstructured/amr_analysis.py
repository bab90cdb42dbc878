"""Blocks that the analysis does not name stay in the ranks."""

import numpy as np


def front(arrays):
    """Of the finest blocks in a quarter of the domain their number and sum; of the atoms a sum."""
    finest = arrays["front"].only(level=-1, box=np.s_[:16, :16])
    table = arrays["front.blocks"]
    return {
        "blocks": (table[:, :, 0] >= 0).sum(axis=1),
        "total": finest.sum(axis=(1, 2, 3)),
        "centre": arrays["atoms"][::2].sum(axis=1),
    }
