"""From lazy arrays to a contract, a submitted graph, and results.

Public names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ips_components.analysis.coordinator_client import (
        abort_run,
        open_live_page,
        run_record,
        wait_for_end,
        wait_for_receivers,
    )
    from ips_components.analysis.replay_run import replay
    from ips_components.analysis.run import Run, run_analysis

__all__ = [
    "Run",
    "abort_run",
    "open_live_page",
    "replay",
    "run_analysis",
    "run_record",
    "wait_for_end",
    "wait_for_receivers",
]

_MODULES = {"Run": "run", "run_analysis": "run", "replay": "replay_run"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES.get(name, "coordinator_client")
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
