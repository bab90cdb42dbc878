"""IPS components that couple MPI simulations to Dask analytics in transit.

Importing this package loads neither dask nor ipsframework: simulation ranks import
:mod:`ips_components.bridge` and must stay light. `attach` and `LiveRun` are loaded when they are
first used, see `ips_components.live`.
"""

from importlib import import_module
from typing import Any

from ips_components._version import __version__

_HOMES = {
    "LiveRun": "live",
    "Run": "runs",
    "RunResult": "runs",
    "attach": "live",
    "run": "runs",
}

__all__ = ["LiveRun", "Run", "RunResult", "__version__", "attach", "run"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"ips_components.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
