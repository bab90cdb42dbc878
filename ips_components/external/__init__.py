"""External tasks on stock Dask: graphs over data that somebody else will provide.

Public names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ips_components.external._futures import external_array, external_future, provide
    from ips_components.external._replay import replay
    from ips_components.external._run import (
        Run,
        abort_run,
        open_live_page,
        run_analysis,
        run_record,
        wait_for_end,
        wait_for_receivers,
    )
    from ips_components.external._run_worker import RunWorker, run_plugin
    from ips_components.external._settings import RunSettings
    from ips_components.external._worker_plugin import ExternalDataPlugin

_HOMES = {
    "ExternalDataPlugin": "_worker_plugin",
    "Run": "_run",
    "RunSettings": "_settings",
    "RunWorker": "_run_worker",
    "abort_run": "_run",
    "external_array": "_futures",
    "external_future": "_futures",
    "open_live_page": "_run",
    "provide": "_futures",
    "replay": "_replay",
    "run_analysis": "_run",
    "run_plugin": "_run_worker",
    "run_record": "_run",
    "wait_for_end": "_run",
    "wait_for_receivers": "_run",
}

__all__ = [
    "ExternalDataPlugin",
    "Run",
    "RunSettings",
    "RunWorker",
    "abort_run",
    "external_array",
    "external_future",
    "open_live_page",
    "provide",
    "replay",
    "run_analysis",
    "run_plugin",
    "run_record",
    "wait_for_end",
    "wait_for_receivers",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
