"""What the fast way of a block needs, worked out once for all steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from ips_components.bridge.slots import Ring
from ips_components.model.pieces import BlockPlan
from ips_components.model.placement import Placement


class FastPlan:
    """What does not change from step to step of a block that is one piece of a chunk of its own.

    Parameters
    ----------
    plan
        Of the block.
    ring
        Of the first block that is put in a step.
    dtype, n_space
        Of the array; its chunks at one time index.
    placement
        Of its chunks; when they move, the array gives this up.
    """

    __slots__ = (
        "dst",
        "n_space",
        "nbytes",
        "owners",
        "plan",
        "ring",
        "size",
        "skipped",
        "space",
        "src",
    )

    def __init__(
        self,
        plan: BlockPlan,
        ring: Ring,
        dtype: np.dtype[Any],
        n_space: int,
        placement: Placement,
    ) -> None:
        cut = plan.single
        if cut is None:
            raise ValueError("a step of the block is not one piece of a chunk of its own")
        self.plan, self.ring = plan, ring
        self.space, self.src, self.size = cut.space, cut.src, cut.cells
        self.dst = ((0, 1, 1), *cut.dst)
        self.owners, self.n_space = placement.owners, n_space
        self.nbytes = cut.cells * dtype.itemsize
        self.skipped = plan.size * dtype.itemsize - self.nbytes
