"""What all messages have in common."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Message:
    """Base of all messages; ``NAME`` stands for the class on the wire."""

    NAME: ClassVar[str] = ""

    def to_plain(self) -> dict[str, Any]:
        """Return the fields by name, as Dask's comms carry them."""
        return {each.name: getattr(self, each.name) for each in fields(self)}
