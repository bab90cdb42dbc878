"""Which boxes of a chunk have a rank, so that no two ranks fill the same cells.

A chunk is complete when the cells of its pieces add up to the cells that were agreed. That is only
true if no two pieces intersect: two overlapping blocks and a hole of the same size would add up as
well, and the hole would be delivered with unspecified cells.

Most decompositions do not change from step to step. The boxes of one chunk in space that were
found disjoint are therefore kept as a `Tiling`. A piece whose box is in the tiling costs one look
into a dict; only a box that is seen for the first time is compared with the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ips_components.errors import ProtocolError
from ips_components.model.progression import Progression
from ips_components.wire.messages import Axes

Array: TypeAlias = np.ndarray[Any, Any]

MAX_TILES = 1 << 16
"""Boxes that a tiling remembers; a chunk in more pieces is compared box by box."""


class ChunkSpoilt(ProtocolError):
    """What ranks put cannot make a right chunk; the connection that it came over goes on."""


class Tiling:
    """Boxes in space, each start, count and step per dimension, no two of which intersect.

    Examples
    --------
    >>> tiling = Tiling()
    >>> tiling.add(((0, 4, 1),)), tiling.add(((4, 4, 2),)), tiling.add(((5, 4, 2),))
    (None, None, None)
    >>> tiling.add(((3, 2, 1),))
    ((0, 4, 1),)
    """

    __slots__ = ("_boxes", "_indices", "_numbers")

    def __init__(self) -> None:
        self._boxes: list[Axes] = []
        self._indices: dict[Axes, int] = {}
        # Per dimension first index, last index and step of all boxes; twice as long when full.
        self._numbers: Array = np.empty((0, 3, 0), np.int64)

    def __contains__(self, box: object) -> bool:
        return box in self._indices

    def __len__(self) -> int:
        return len(self._boxes)

    def add(self, box: Axes) -> Axes | None:
        """Add a box; return the one that it intersects, if there is one, and do not add it then."""
        if box in self._indices:
            return box
        n = len(self._boxes)
        if n:
            near = np.ones(n, bool)
            for (start, count, step), known in zip(box, self._numbers[:, :, :n], strict=True):
                first, last, steps = known
                near &= (first <= start + (count - 1) * step) & (start <= last)
                if step > 1:  # boxes of equal steps are apart unless a multiple separates them
                    near &= (steps != step) | ((first - start) % step == 0)
            for index in near.nonzero()[0].tolist():
                if intersects(self._boxes[index], box):
                    return self._boxes[index]
        if n == self._numbers.shape[2]:
            grown = np.empty((len(box), 3, max(8, 2 * n)), np.int64)
            if n:
                grown[:, :, :n] = self._numbers
            self._numbers = grown
        for (start, count, step), known in zip(box, self._numbers, strict=True):
            known[:, n] = start, start + (count - 1) * step, step
        self._indices[box] = n
        self._boxes.append(box)
        return None


class Overlap(NamedTuple):
    """A box that another one intersects, and the rank that it belongs to."""

    rank: int
    box: Axes


class Coverage:
    """The boxes of one chunk, each with its rank.

    Parameters
    ----------
    tiling
        Boxes of this chunk in space that are known to be disjoint; it learns those of this chunk.

    Notes
    -----
    A box is given with its position in time first, which is one step (count 1): boxes of different
    steps are disjoint.
    """

    __slots__ = ("_by_step", "_ranks", "_tiling")

    def __init__(self, tiling: Tiling) -> None:
        self._tiling = tiling
        self._ranks: dict[Axes, int] = {}
        self._by_step: dict[int, Tiling] | None = None  # where the boxes are not of the tiling

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, box: object) -> bool:
        return box in self._ranks

    def rank(self, box: Axes) -> int:
        """Return the rank that has claimed a box."""
        return self._ranks[box]

    def claim(self, rank: int, box: Axes) -> Overlap | None:
        """Give a box to a rank; return what it intersects, if it does, and change nothing then.

        A rank may claim the same box again.
        """
        owner = self._ranks.get(box)
        if owner is not None:
            return None if owner == rank else Overlap(owner, box)
        space = box[1:]
        if self._by_step is None and space not in self._tiling:
            full = len(self._tiling) >= MAX_TILES
            if full or self._tiling.add(space) is not None:
                self._leave_tiling()
        if self._by_step is not None:
            tiling = self._by_step.setdefault(box[0][0], Tiling())
            found = tiling.add(space)
            if found is not None:
                other = ((box[0][0], 1, 1), *found)
                return Overlap(self._ranks[other], other)
        self._ranks[box] = rank
        return None

    def withdraw(self, box: Axes) -> None:
        """Forget a box whose cells did not come."""
        if self._ranks.pop(box, None) is not None and self._by_step is not None:
            self._leave_tiling()

    def learnt(self) -> Tiling:
        """Return the tiling with which the next chunk of this place should begin."""
        if not self._by_step:
            return self._tiling
        latest = self._by_step[max(self._by_step)]
        return latest if len(latest) < MAX_TILES else Tiling()

    def _leave_tiling(self) -> None:
        """Compare from now on with the boxes of this chunk alone, which are disjoint."""
        self._by_step = {}
        for box in self._ranks:
            self._by_step.setdefault(box[0][0], Tiling()).add(box[1:])


def intersects(a: Axes, b: Axes) -> bool:
    """Return whether two boxes have a cell in common.

    Examples
    --------
    >>> intersects(((0, 3, 2), (0, 4, 1)), ((1, 3, 2), (0, 4, 1)))
    False
    >>> intersects(((0, 4, 3),), ((1, 4, 4),))
    True
    """
    return all(
        Progression(*axis).intersect(Progression(*other)).count
        for axis, other in zip(a, b, strict=True)
    )
