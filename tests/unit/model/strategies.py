"""Hypothesis strategies: random fields, decompositions, selections and chunkings."""

import os
from itertools import pairwise

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ips_components.model import Block, Selection

settings.register_profile(
    "quick", max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "thorough", max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
PROFILE = settings.get_profile(os.environ.get("GEOMETRY_PROFILE", "quick"))
"""``GEOMETRY_PROFILE=thorough pytest tests/unit/model`` tries thousands of geometries."""


def shapes(min_dims=1, max_dims=4, max_side=9):
    return st.lists(st.integers(1, max_side), min_size=min_dims, max_size=max_dims).map(tuple)


@st.composite
def partitions(draw, n):
    """Sizes >= 1 that add up to n."""
    cuts = draw(st.sets(st.integers(1, n - 1), max_size=4)) if n > 1 else set()
    edges = [0, *sorted(cuts), n]
    return tuple(b - a for a, b in pairwise(edges))


@st.composite
def chunks(draw, shape):
    return tuple(draw(partitions(n)) for n in shape)


@st.composite
def tilings(draw, shape):
    """Blocks that tile a shape by random cuts, irregular in general."""
    boxes = [Block((0,) * len(shape), shape)]
    for _ in range(draw(st.integers(0, 6))):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        dim = draw(st.integers(0, len(shape) - 1))
        cut = draw(st.integers(0, box.shape[dim]))  # empty blocks are allowed
        low, high = list(box.shape), list(box.shape)
        low[dim], high[dim] = cut, box.shape[dim] - cut
        offset = list(box.offset)
        offset[dim] += cut
        boxes += [Block(box.offset, tuple(low)), Block(tuple(offset), tuple(high))]
    return draw(st.permutations(boxes))


@st.composite
def keys(draw, shape, negative_steps=False):
    """A NumPy basic index for a shape."""
    items = []
    for n in shape:
        if draw(st.integers(0, 4)) == 0:
            items.append(draw(st.integers(-n, n - 1)))
            continue
        steps = st.sampled_from([None, 1, 2, 3, 5])
        if negative_steps:
            steps |= st.sampled_from([-1, -2, -3])
        bounds = st.none() | st.integers(-n - 2, n + 2)
        items.append(slice(draw(bounds), draw(bounds), draw(steps)))
    if draw(st.booleans()):
        first = draw(st.integers(0, len(items)))
        last = draw(st.integers(first, len(items)))
        items[first:last] = [Ellipsis]
    return tuple(items)


@st.composite
def selections(draw, shape, max_number=4):
    """A few non-empty selections that may overlap."""
    found = []
    for _ in range(draw(st.integers(1, max_number))):
        starts = tuple(draw(st.integers(0, n - 1)) for n in shape)
        steps = tuple(draw(st.integers(1, 4)) for _ in shape)
        counts = tuple(
            draw(st.integers(1, (n - 1 - a) // s + 1))
            for n, a, s in zip(shape, starts, steps, strict=True)
        )
        found.append(Selection(starts, counts, steps))
    return found


def mask(shape, parts):
    """How many of the parts select each cell."""
    count = np.zeros(shape, dtype=int)
    for part in parts:
        count[part.to_slices()] += 1
    return count
