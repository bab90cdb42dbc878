"""Post hoc replay: the same analysis on a stored field instead of a live simulation.

The arrays are the very external arrays of a live run, in the same chunks; the contract is derived
from the graph as ever. But the external chunks are tasks that read boxes of the store, in the
graph like any others. So the analysis cannot tell the difference, and neither can its numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dask._task_spec import Task
from dask.utils import ensure_dict
from distributed import Client

from ips_components.analysis.contract import submit
from ips_components.analysis.run import Run, current_client
from ips_components.analysis.stores import Box, StoredArray, stored_arrays
from ips_components.coordination.settings import RunSettings
from ips_components.errors import ContractError
from ips_components.model.contract import ArrayContract

logger = logging.getLogger(__name__)


def replay(settings: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """Run an analysis on a stored field; the counterpart of `run_analysis`.

    Parameters
    ----------
    settings : mapping
        A :class:`~._settings.RunSettings` as a dict. Arrays are described by the store; what
        the settings say about attributes of an array is added.
    source : path-like
        See :func:`~._stores.stored_arrays`.

    Returns
    -------
    dict
        ``{"results": path, "variables": {...}, "contract": [rows]}``.

    Raises
    ------
    ConfigError
        If the source does not exist or is of no known kind.
    Exception
        Whatever the analysis raises.
    """
    with current_client() as client:
        return Replay(client, RunSettings.from_dict(settings), source).execute()


class Replay(Run):
    """A run whose external chunks are read from a store.

    Parameters
    ----------
    client, settings
        See `Run`.
    source : path-like
        The store.
    """

    def __init__(self, client: Client, settings: RunSettings, source: str | Path) -> None:
        self.stored: dict[str, StoredArray] = stored_arrays(source)
        super().__init__(client, _for_store(settings, self.stored))
        self.offered_by = str(source)
        self._attrs = {each["name"]: each.get("attrs", {}) for each in settings.arrays or ()}
        self._ahead: dict[Any, Any] = {}

    def _submit(self, lazy: Mapping[str, Any]) -> dict[str, Any]:
        return submit(self.client, {name: self._with_reads(each) for name, each in lazy.items()})

    def _with_reads(self, result: Any) -> Any:
        """Return a result in whose graph the external chunks are tasks that read."""
        graph = ensure_dict(result.__dask_graph__())
        used = {key for task in graph.values() for key in getattr(task, "dependencies", ())}
        rebuild, arguments = result.__dask_postpersist__()
        return rebuild({**graph, **self._reads(used | graph.keys())}, *arguments)

    def _reads(self, keys: Iterable[Any]) -> dict[Any, Task]:
        """Return the tasks that read the external chunks among these keys."""
        contracts = {} if self.contract is None else {a.name: a for a in self.contract.arrays}
        reads = {}
        for key in keys:
            contract = contracts.get(key[0]) if type(key) is tuple and key else None
            if contract is not None:
                stored = self.stored[contract.spec.name]
                reads[key] = Task(key, stored.read, _box(contract, key[1:]))
        return reads

    # -- what the coordinator of a live run answers ------------------------------------

    def _call(self, method: str, **arguments: Any) -> Any:
        answer = getattr(self, f"_on_{method}", None)
        return None if answer is None else answer(**arguments)

    def _on_described(self, timeout: float) -> list[dict[str, Any]]:
        offers = []
        for name, stored in self.stored.items():
            offer = asdict(stored.spec)
            offer["attrs"] = {**stored.spec.attrs, **self._attrs.get(name, {})}
            offers.append(offer)
        return offers

    def _on_feedback(self, message: Mapping[str, Any]) -> None:
        logger.info("Replay: %r for step %s has no listener", message["name"], message["step"])

    def _on_stop(self, reason: str) -> None:
        logger.info("Replay: there is no simulation to stop (%s)", reason)

    def _on_declare_ahead(self, array: int, first: int, stop: int) -> None:
        keys = [key for key in self._keys(array, first, stop) if key not in self._ahead]
        futures = self.client.get(self._reads(keys), keys, sync=False)
        self._ahead.update(zip(keys, futures, strict=True))

    def _on_let_go_steps(self, array: int, first: int, stop: int) -> None:
        for key in self._keys(array, first, stop):
            self._ahead.pop(key, None)

    def _keys(self, array: int, first: int, stop: int) -> list[Any]:
        """Return the external keys that hold time indices ``first .. stop - 1``."""
        if self.contract is None:
            raise ContractError("a replay has no contract yet")
        contract = self.contract.arrays[array]
        rows = contract.layout.chunk_of(0, first), contract.layout.chunk_of(0, stop - 1) + 1
        return [contract.key(int(chunk)) for chunk in contract.needed_ids(*rows)]


def _for_store(settings: RunSettings, stored: Mapping[str, StoredArray]) -> RunSettings:
    """Return the settings without descriptions, and with nothing about arrays not in the store."""
    plain = settings.to_dict()
    for name in ("chunks", "policies"):
        plain[name] = {array: value for array, value in plain[name].items() if array in stored}
    return RunSettings.from_dict({**plain, "arrays": None})


def _box(contract: ArrayContract, index: tuple[int, ...]) -> Box:
    """Return the cells of an external chunk: what the contract covers of it."""
    dims = contract.chunk_selection(contract.layout.ravel(index)).dims
    return tuple(slice(each.start, each.stop, each.step) for each in dims)
