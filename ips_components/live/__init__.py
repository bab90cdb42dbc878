"""Look into a running simulation, and add an analysis to it.

Public names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ips_components.live.live_run import LiveRun, attach

__all__ = ["LiveRun", "attach"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.live_run"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
