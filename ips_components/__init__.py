"""IPS components that couple MPI simulations to Dask analytics in transit.

Importing this package loads neither dask nor ipsframework: simulation ranks import
:mod:`ips_components.bridge` and must stay light.
"""

from importlib import import_module
from typing import Any

from ips_components._version import __version__

__all__ = ["Run", "RunResult", "__version__", "run"]


def __getattr__(name: str) -> Any:
    if name in ("Run", "RunResult", "run"):
        return getattr(import_module("ips_components.runs"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
