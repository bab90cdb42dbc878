"""Errors of a put name array, step and rank, wherever they come from."""

from __future__ import annotations

from typing import Any, NoReturn

from ips_components.errors import AnalyticsLost, BridgeError, IPSComponentsError

_PUT = "put of array "


def raise_naming(error: Exception, array: str, step: Any, rank: int) -> NoReturn:
    """Raise the error of a put again, with array, step and rank, unless it names them.

    That the analytics are lost is no error of the put, and stays as it is.

    Raises
    ------
    IPSComponentsError
        The error itself; a `BridgeError` where an argument is of a type or value that cannot be.
    """
    where = f"{_PUT}{array!r} at step {step} on rank {rank}"
    if isinstance(error, IPSComponentsError):
        if not (isinstance(error, AnalyticsLost) or str(error).startswith(_PUT)):
            error.args = (f"{where}: {error}",)
        raise error
    if isinstance(error, TypeError | ValueError | OverflowError):
        raise BridgeError(f"{where}: {error}") from error
    raise error
