"""A coupled run on the scheduler and the workers: contract, placement, progress, ledger, ends.

Public names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ips_components.coordination.settings import RunSettings
    from ips_components.coordination.worker import RunWorker, run_plugin

__all__ = ["RunSettings", "RunWorker", "run_plugin"]

_HOMES = {"RunSettings": "settings", "RunWorker": "worker", "run_plugin": "worker"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
