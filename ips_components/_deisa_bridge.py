"""The simulation's side of DEISA3's programming interface; see `ips_components.deisa`."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ips_components import bridge
from ips_components.bridge.rows import as_array
from ips_components.errors import ConfigError
from ips_components.wire.contact import ENVIRONMENT

CONTACT = "deisa_contact.json"
"""Name of the contact file beside the scheduler file, unless the environment names another."""


class Bridge:
    """DEISA's bridge inside a simulation rank.

    It closes itself after the last time step of every array, or when the program ends.

    Parameters
    ----------
    client
        None, or the path of the contact file or of the scheduler file beside it. Anything else
        (DEISA passes a Dask client) is ignored: the path is in the environment variable
        ``IPS_COMPONENTS_CONTACT``, else ``deisa_contact.json`` in this directory.
    Ssize, rank : int
        Number of ranks, and this one.
    arrays : mapping
        For each array ``sizes``, ``subsizes``, ``starts`` (with the time dimension) and
        ``timedim`` (0, or a list whose first entry is 0).
    deisa_arrays_dtype : mapping
        dtype of each array.

    Raises
    ------
    ConfigError
        If an array's description is incomplete or time is not its dimension 0.
    """

    def __init__(
        self,
        client: Any,
        Ssize: int,
        rank: int,
        arrays: Mapping[str, Mapping[str, Any]],
        deisa_arrays_dtype: Mapping[str, Any],
    ) -> None:
        described = [
            _described(name, one, deisa_arrays_dtype[name]) for name, one in arrays.items()
        ]
        self.rank = rank
        self._shapes = {
            name: tuple(int(n) for n in one["subsizes"][1:]) for name, one in arrays.items()
        }
        self._last = {name: int(one["sizes"][0]) - 1 for name, one in arrays.items()}
        self.bridge = bridge.Bridge(
            contact=_contact_beside(client), arrays=described, rank=rank, size=Ssize
        )
        atexit.register(self.close)

    def publish_data(self, data: Any, data_name: str, timestep: int) -> None:
        """Publish this rank's block of one time step, with or without the time dimension.

        Raises
        ------
        ConfigError
            If the array is not described, or the block has not its ``subsizes``.
        """
        shape = self._shapes.get(data_name)
        if shape is None:
            raise ConfigError(
                f"array {data_name!r} is not described; described are {', '.join(self._shapes)}"
            )
        block = as_array(data)
        if block.shape not in (shape, (1, *shape)):
            raise ConfigError(
                f"array {data_name!r}: expected a block of subsizes {shape}, got {block.shape}"
            )
        self.bridge.put(data_name, timestep, block.reshape(shape))
        if int(timestep) >= self._last[data_name]:
            del self._last[data_name]
            if not self._last:
                self.close()

    def close(self) -> None:
        """Say goodbye: no more time steps will come."""
        atexit.unregister(self.close)
        self.bridge.close()

    def __enter__(self) -> Bridge:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        atexit.unregister(self.close)
        self.bridge.__exit__(*exc_info)


def _described(name: str, one: Mapping[str, Any], dtype: Any) -> bridge.Array:
    missing = {"sizes", "subsizes", "starts"} - set(one)
    if missing:
        raise ConfigError(f"array {name!r}: no {', '.join(sorted(missing))} in its description")
    timedim = one.get("timedim", 0)
    if (timedim[0] if isinstance(timedim, (list, tuple)) else timedim) != 0:
        raise ConfigError(f"array {name!r}: time must be dimension 0, got timedim {timedim}")
    sizes = [int(n) for n in one["sizes"]]
    return bridge.Array(
        name,
        tuple(sizes[1:]),
        dtype,
        offset=tuple(int(n) for n in one["starts"][1:]),
        steps=sizes[0],
    )


def _contact_beside(client: Any) -> Path | None:
    """Find the contact file; None leaves it to the environment."""
    if isinstance(client, (str, os.PathLike)):
        path = Path(client)
        return path if "contact" in path.name else path.with_name(CONTACT)
    return None if os.environ.get(ENVIRONMENT) else Path(CONTACT)
