"""Blocks of adaptive meshes: rows of a ragged array with a level of refinement and a place each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ips_components.errors import GeometryError

LEVELS, REFINEMENT, TABLE_OF = "block_levels", "block_refinement", "block_table_of"
"""Attributes of such an array, and of the table of its blocks."""
BLOCK_SHAPE = "block_shape"
"""Attribute of the table that a config describes: cells of a block along each dimension."""
NO_END = 2**31
"""End of a box whose slice has none: ranks count cells of the finest level in 64 bits."""


def table_name(array: str) -> str:
    """Return the name of the table of an array's blocks: level and place of each row."""
    return f"{array}.blocks"


@dataclass(frozen=True, slots=True)
class BlockChoice:
    """Which blocks the analysis wants: those of some levels that touch a box.

    Parameters
    ----------
    levels
        First level, and one past the last.
    box
        First cell and one past the last, per dimension, in cells of level 0. Empty: everywhere.
    refinement
        Cells of the next level along one cell.

    Examples
    --------
    >>> choice = BlockChoice((1, 3), ((0, 4), (0, 4)))
    >>> table = np.array([[0, 0, 0], [1, 0, 0], [1, 8, 0], [2, 12, 12]])
    >>> choice.accept(table, (4, 4)).tolist()
    [False, True, False, True]
    >>> print(choice)
    levels 1:3 in [0:4, 0:4]
    """

    levels: tuple[int, int]
    box: tuple[tuple[int, int], ...] = ()
    refinement: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.levels[0] < self.levels[1] or self.refinement < 1:
            raise GeometryError(f"there are no levels {self.levels} with {self.refinement} cells")
        if any(not 0 <= low < high for low, high in self.box):
            raise GeometryError(f"a box must have cells, got {self.box}")

    def accept(self, table: Any, shape: Sequence[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return which blocks are wanted.

        Parameters
        ----------
        table
            Level of each block, and the place of its first cell in cells of its own level:
            integers of shape (blocks, 1 + dimensions).
        shape
            Cells of a block.
        """
        levels = table[:, 0]
        kept: np.ndarray[Any, np.dtype[np.bool_]] = (levels >= self.levels[0]) & (
            levels < self.levels[1]
        )
        scale = self.refinement ** np.where(kept, levels, 0)
        for d, (low, high) in enumerate(self.box):
            first = table[:, 1 + d]
            kept &= (first < high * scale) & (first + shape[d] > low * scale)
        return kept

    def __str__(self) -> str:
        first, last = self.levels
        levels = f"level {first}" if last == first + 1 else f"levels {first}:{last}"
        inside = ", ".join(f"{low}:{'' if high == NO_END else high}" for low, high in self.box)
        return f"{levels} in [{inside}]" if self.box else levels

    @classmethod
    def of(
        cls, array: str, attrs: Mapping[str, Any], ndim: int, level: Any, box: Any
    ) -> BlockChoice:
        """Return the choice of an analysis.

        Parameters
        ----------
        array, attrs, ndim
            Name and attributes of the array, and dimensions of a block.
        level
            A level, negative from the finest one; or a slice of levels; None: all.
        box
            A slice for each dimension, in cells of level 0; None: everywhere.

        Raises
        ------
        GeometryError
            When the array has no such level, or its blocks another number of dimensions.
        """
        n = int(attrs.get(LEVELS, 0))
        if not n:
            raise GeometryError(
                f"array {array!r} has no blocks with levels; the simulation describes them by "
                "Array(..., levels=...), or the config by LEVELS"
            )
        chosen = range(n)[level if isinstance(level, slice) else slice(None)]
        if level is not None and not isinstance(level, slice):
            if not -n <= level < n:
                raise GeometryError(f"array {array!r} has levels 0 to {n - 1}, got {level}")
            chosen = range(level % n, level % n + 1)
        if not chosen or chosen.step != 1:
            raise GeometryError(f"array {array!r} has levels 0 to {n - 1}, got {level}")
        slices = () if box is None else box if isinstance(box, tuple) else (box,)
        if slices and len(slices) != ndim:
            raise GeometryError(
                f"array {array!r}: a box of its blocks has {ndim} dimensions, got {box}"
            )
        spans = []
        for one in slices:
            if not isinstance(one, slice) or one.step not in (None, 1):
                raise GeometryError(f"array {array!r}: a box is made of slices, got {box}")
            spans.append((int(one.start or 0), NO_END if one.stop is None else int(one.stop)))
        refinement = int(attrs.get(REFINEMENT, 2))
        return cls((chosen.start, chosen.stop), tuple(spans), refinement)
