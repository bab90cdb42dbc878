"""What is wanted in a random case, as bytes: stores do not know all of its types."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import random_cases


def to_bytes(cells):
    """The bytes of each cell along a new last dimension."""
    return np.ascontiguousarray(cells)[..., None].view("u1")


def analyse(arrays, seed):
    """All selections of all arrays."""
    results = {}
    for field in random_cases.case(seed).arrays:
        for number, key in enumerate(field.keys):
            part = arrays[field.name][key]
            results[f"{field.name}_{number}"] = part.map_blocks(
                to_bytes,
                dtype="u1",
                new_axis=part.ndim,
                chunks=(*part.chunks, (part.dtype.itemsize,)),
                meta=np.empty((0,) * (part.ndim + 1), "u1"),
            )
    return results
