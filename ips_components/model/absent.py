"""What stands for a chunk of a step that never came.

The chunks of an array with *at most* n steps are tasks of one graph. When the simulation ends
earlier, the rest of them are resolved with this value, and what depends on them goes on with the
steps that came.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ABSENT", "Absent"]


class Absent:
    """The type of `ABSENT`, of which there is one object in each process."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"

    def __reduce__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent()
"""The chunk of a step that never came."""
