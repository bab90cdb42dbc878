"""What a live run and a replay share: finding the analysis function, offering arrays."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from ips_components.errors import ConfigError, ContractError


def load_analysis(name: str) -> Callable[..., Any]:
    """Import ``package.module:function``.

    Raises
    ------
    ConfigError
        If the module or the function does not exist.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ConfigError(f"ANALYSIS must be package.module:function, got {name!r}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"ANALYSIS = {name}: no module {error.name!r}; it must be importable by the Dask "
            "workers (installed, or in PYTHONPATH)"
        ) from error
    function: Callable[..., Any] | None = getattr(module, function_name, None)
    if function is None or not callable(function):
        offered = [n for n, value in vars(module).items() if callable(value) and n[0] != "_"]
        close = difflib.get_close_matches(function_name, offered, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"ANALYSIS = {name}: {module_name!r} has no function {function_name!r}{hint}"
        )
    return function


class Offered(dict[str, Any]):
    """The arrays on offer; asking for another one says what there is.

    Parameters
    ----------
    arrays : mapping of str to dask.array.Array
    offered_by : str
        The simulation that offers them, for the message.
    """

    def __init__(self, arrays: Mapping[str, Any], offered_by: str = "the simulation") -> None:
        super().__init__(arrays)
        self.offered_by = offered_by

    def __missing__(self, name: str) -> Any:
        close = difflib.get_close_matches(str(name), self, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ContractError(
            f"the analysis asks for array {name!r}, which {self.offered_by} does not offer; "
            f"it offers {', '.join(sorted(self)) or 'nothing'}{hint}"
        )
