"""The analysis' own state: what a later run needs to go on where this one ended.

An analysis that can be continued returns, under the name ``checkpoint``, a mapping of names to lazy
arrays or numbers, and takes it back, computed, in a parameter ``checkpoint``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ips_components.errors import ContractError

#: Name of the entry in what an analysis returns, and of its parameter.
NAME = "checkpoint"
#: File of the state, in the run's directory and in IPS's checkpoints.
FILE = "analysis_checkpoint.npz"
_PREFIX = "checkpoint/"


def take_out(returned: Any) -> tuple[Any, dict[str, Any]]:
    """Separate the state from the results of an analysis.

    Returns
    -------
    results : object
        What was returned, without the state.
    state : dict
        By names that no result has.

    Raises
    ------
    ContractError
        If the state is not a mapping of names.
    """
    if not isinstance(returned, Mapping) or NAME not in returned:
        return returned, {}
    state = returned[NAME]
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise ContractError(
            f"the analysis returned a {NAME!r} that is a {type(state).__name__}; return a mapping "
            "of names to arrays or numbers"
        )
    results = {name: value for name, value in returned.items() if name != NAME}
    return results, {_PREFIX + name: value for name, value in state.items()}


def save(values: dict[str, Any], directory: str | Path | None) -> str:
    """Remove the state from computed `values` and write it; return its path, or "" for none.

    Without a `directory` nothing is written.
    """
    state = {
        name.removeprefix(_PREFIX): np.asarray(values.pop(name))
        for name in list(values)
        if name.startswith(_PREFIX)
    }
    if not state or directory is None:
        return ""
    path = Path(directory, FILE)
    draft = path.with_name(f".{FILE}")
    with draft.open("wb") as file:
        np.savez(file, **state)
    draft.replace(path)
    return str(path)


def load(path: str | Path) -> dict[str, Any] | None:
    """Read a state; None when `path` is empty, for a new run."""
    if not path:
        return None
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
