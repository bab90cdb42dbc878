"""External tasks on stock Dask: graphs over data that somebody else will provide.

Public names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ips_components.external._futures import external_array, external_future, provide
    from ips_components.external._worker_plugin import ExternalDataPlugin

_HOMES = {
    "ExternalDataPlugin": "_worker_plugin",
    "external_array": "_futures",
    "external_future": "_futures",
    "provide": "_futures",
}

__all__ = ["ExternalDataPlugin", "external_array", "external_future", "provide"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
