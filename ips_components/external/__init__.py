"""External tasks on stock Dask: graphs over data that arrive from outside Dask.

This package is the Dask mechanism alone. It knows no simulation, no receiver and no coupled run.
Public names are loaded when they are first used.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ips_components.external.futures import external_array, external_future, provide
    from ips_components.external.worker_plugin import ExternalDataPlugin

__all__ = ["ExternalDataPlugin", "external_array", "external_future", "provide"]

_HOMES = {
    "ExternalDataPlugin": "worker_plugin",
    "external_array": "futures",
    "external_future": "futures",
    "provide": "futures",
}

_MOVED = {
    "RunSettings": "coordination",
    "RunWorker": "coordination",
    "run_plugin": "coordination",
    "Run": "analysis",
    "abort_run": "analysis",
    "open_live_page": "analysis",
    "replay": "analysis",
    "run_analysis": "analysis",
    "run_record": "analysis",
    "wait_for_end": "analysis",
    "wait_for_receivers": "analysis",
}
"""Names that lived here before 0.1 was split into packages, and where they are now."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _MOVED:
        home = f"ips_components.{_MOVED[name]}"
        warnings.warn(
            f"{__name__}.{name} has moved: import it from {home}", DeprecationWarning, stacklevel=2
        )
        return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
