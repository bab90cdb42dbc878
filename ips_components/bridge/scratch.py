"""Memory for what is computed and not sent."""

from __future__ import annotations

from typing import Any

import numpy as np

from ips_components.bridge.outgoing import Cells


class Scratch:
    """Memory for blocks of steps that are not wanted.

    Each block that is open has its own: what is computed must not depend on which steps the
    analysis wants.
    """

    def __init__(self) -> None:
        self._unused: dict[tuple[Any, ...], list[Cells]] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Cells:
        """Return memory of an array."""
        unused = self._unused.get((name, shape, dtype))
        return unused.pop() if unused else np.empty(shape, dtype)

    def give_back(self, name: str, cells: Cells) -> None:
        """Keep memory for the next block of this array."""
        self._unused.setdefault((name, cells.shape, cells.dtype), []).append(cells)
