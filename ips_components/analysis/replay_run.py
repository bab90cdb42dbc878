"""Post hoc replay: the same analysis on a stored field instead of a live simulation.

The arrays are external arrays as in a live run, in the same chunks, and the contract is derived
from the graph in the same way. Only the external chunks are tasks that read boxes of the store.
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

from ips_components.analysis.coordinator_client import current_client
from ips_components.analysis.run import Run
from ips_components.analysis.stores import Box, StoredArray, stored_arrays
from ips_components.coordination.settings import RunSettings
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.step_times import StepTimes

logger = logging.getLogger(__name__)


def replay(settings: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
    """Run an analysis on a stored field; the counterpart of `run_analysis`.

    Parameters
    ----------
    settings : mapping
        A :class:`~.coordination.settings.RunSettings` as a dict. Arrays are described by the
        store; attributes that the settings have for an array are added.
    source : path-like
        See :func:`~.stores.stored_arrays`.

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
    parsed = RunSettings.from_dict(settings)
    stored = stored_arrays(source)
    attrs = {each["name"]: each.get("attrs", {}) for each in parsed.arrays or ()}
    with current_client() as client:
        field = StoredField(client, stored, attrs)
        run = Run(client, _for_store(parsed, stored), {parsed.run: field}, str(source))
        return run.execute()


class StoredField:
    """The coordinator of a replay: arrays and their chunks come from a store, at once.

    Parameters
    ----------
    client
        Client of the cluster.
    arrays
        What the store holds, by name.
    attrs
        Further attributes of arrays, by name.
    """

    def __init__(
        self,
        client: Client,
        arrays: Mapping[str, StoredArray],
        attrs: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.client = client
        self.arrays = arrays
        self.attrs = attrs
        self._contracts: tuple[ArrayContract, ...] = ()
        self._ahead: dict[Any, Any] = {}

    def open(self, settings: RunSettings) -> dict[str, Any]:
        """See `Coordinator`."""
        return {}

    def wait_for_receivers(self, n: int, timeout: float) -> None:
        """See `Coordinator`: a replay has no receivers."""

    def describe_arrays(self, timeout: float) -> list[dict[str, Any]]:
        """See `Coordinator`."""
        described = []
        for name, stored in self.arrays.items():
            attrs = {**stored.spec.attrs, **self.attrs.get(name, {})}
            described.append({**asdict(stored.spec), "attrs": attrs})
        return described

    def sign(
        self, blob: bytes, *, ahead: bool, remarks: dict[str, dict[str, Any]] | None = None
    ) -> None:
        """See `Coordinator`."""
        self._contracts = Contract.from_bytes(blob).arrays

    def commit(
        self, keys: list[Any], names: list[str], timeout: float, *, hold: bool = False
    ) -> None:
        """See `Coordinator`: no ranks wait."""

    def declare_ahead(self, array: int, first: int, stop: int) -> bool:
        """See `Coordinator`."""
        keys = [key for key in self._keys(array, first, stop) if key not in self._ahead]
        futures = self.client.get(self._reads(keys), keys, sync=False)
        self._ahead.update(zip(keys, futures, strict=True))
        return True

    def end_windows(self) -> None:
        """See `Coordinator`: no ranks wait."""

    def release_steps(self, array: int, first: int, stop: int) -> None:
        """See `Coordinator`."""
        for key in self._keys(array, first, stop):
            self._ahead.pop(key, None)

    def raise_if_failed(self) -> None:
        """See `Coordinator`: reading fails in the tasks that read."""

    def send(self, message: Mapping[str, Any]) -> None:
        """See `Coordinator`."""
        logger.info("Replay: %r for step %s has no listener", message["name"], message["step"])

    def publish(self, step: int, values: bytes) -> None:
        """See `Coordinator`: no workflow waits for them."""

    def times(self) -> StepTimes:
        """See `Coordinator`: a store has no time loop."""
        return StepTimes()

    def awaits(self, keys: list[Any]) -> None:
        """See `Coordinator`."""

    def windows_saved(self, number: int, wrong: str) -> None:
        """See `Coordinator`: a replay has no checkpoints."""

    def stop(self, reason: str) -> None:
        """See `Coordinator`."""
        logger.info("Replay: there is no simulation to stop (%s)", reason)

    def abort(self, cause: str) -> None:
        """See `Coordinator`: the error of the analysis is all there is."""

    def finish(self, outcome: Mapping[str, Any] | None) -> None:
        """See `Coordinator`."""
        self._ahead.clear()

    def with_sources(self, result: Any) -> Any:
        """Return a result in whose graph the external chunks are tasks that read."""
        graph = ensure_dict(result.__dask_graph__())
        used = {key for task in graph.values() for key in getattr(task, "dependencies", ())}
        reads = self._reads(used | graph.keys())
        if not reads:
            return result
        rebuild, arguments = result.__dask_postpersist__()
        return rebuild({**graph, **reads}, *arguments)

    def _reads(self, keys: Iterable[Any]) -> dict[Any, Task]:
        """Return the tasks that read the external chunks among these keys."""
        contracts = {contract.name: contract for contract in self._contracts}
        reads = {}
        for key in keys:
            contract = contracts.get(key[0]) if type(key) is tuple and key else None
            if contract is not None:
                stored = self.arrays[contract.spec.name]
                reads[key] = Task(key, stored.read, _box(contract, key[1:]))
        return reads

    def _keys(self, array: int, first: int, stop: int) -> list[Any]:
        """Return the external keys that hold time indices ``first .. stop - 1``."""
        contract = self._contracts[array]
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
