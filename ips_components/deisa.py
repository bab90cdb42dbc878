"""DEISA3's programming interface on stock Dask: change the import line, keep the program.

The analytics side::

    from ips_components.deisa import Deisa
    from ips_components.algorithms import InSituIncrementalPCA

    deisa = Deisa("scheduler.json", "config.yml")
    client = deisa.get_client()
    arrays = deisa.get_deisa_arrays()
    gt = arrays["global_t"][...]
    arrays.validate_contract()

and the simulation side::

    from ips_components.deisa import Bridge

    bridge = Bridge(None, size, rank, {"global_t": {"sizes": ..., "subsizes": ..., ...}}, dtypes)
    bridge.publish_data(data, "global_t", timestep)

What DEISA passes through Dask (its ``Client`` in every rank, ``Queue``, ``Variable``) goes through
the contact file and the receivers here; ranks never connect to the scheduler.  The interface is
that of DEISA3 (Gueroudji, Bigot, Raffin, Ross: "Dask-Extended External Tasks for HPC/ML In Transit
Workflows", SC-W 2023).
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ips_components.errors import ConfigError, ContractError

if TYPE_CHECKING:
    import dask.array as da
    from distributed import Client

logger = logging.getLogger(__name__)

#: Name of the contact file beside the scheduler file, unless the environment names another.
CONTACT = "deisa_contact.json"


class Deisa:
    """The adaptor of the analytics side.

    Parameters
    ----------
    scheduler_info : path-like
        Scheduler file of a running Dask cluster (also as ``scheduler_file_name``).
    config_file : path-like, optional
        YAML or JSON file; its entry ``workers`` is the number of workers to wait for.
    nb_workers : int, optional
        Instead of the config file.
    use_ucx : bool
        Accepted and ignored: the data do not travel through Dask's communication.
    contact : path-like, optional
        Where the simulation finds this run; default: the environment variable
        ``IPS_COMPONENTS_CONTACT``, else ``deisa_contact.json`` beside the scheduler file.
    timeout : float
        Seconds to wait for the workers and for the simulation's description of its arrays.

    Raises
    ------
    ConfigError
        If the scheduler file or the config file cannot be used.
    DeadlineExceeded
        If the workers do not come.
    """

    def __init__(
        self,
        scheduler_info: str | os.PathLike[str] | None = None,
        config_file: str | os.PathLike[str] | None = None,
        *,
        scheduler_file_name: str | os.PathLike[str] | None = None,
        nb_workers: int | str | None = None,
        use_ucx: bool = False,
        contact: str | os.PathLike[str] | None = None,
        timeout: float = 120.0,
    ) -> None:
        from ips_components.external import RunSettings, run_plugin, wait_for_receivers
        from ips_components.wire.contact import ENVIRONMENT, Contact, Endpoint, new_token, write

        scheduler_file = Path(scheduler_info or scheduler_file_name or "scheduler.json")
        self.timeout = timeout
        self._client = _client(scheduler_file)
        self.settings = RunSettings(
            run=f"deisa-{uuid.uuid4().hex[:8]}",
            token=new_token(),
            analysis="deisa:program",
            n_receivers=_workers(config_file, nb_workers),
        )
        self._client.deisa = self
        self._client.register_plugin(run_plugin(self.settings))
        endpoints = wait_for_receivers(
            self._client, self.settings.run, self.settings.n_receivers, timeout
        )
        self.contact = Path(
            contact or os.environ.get(ENVIRONMENT) or scheduler_file.with_name(CONTACT)
        )
        known = Endpoint.__dataclass_fields__
        write(
            self.contact,
            Contact(
                self.settings.run,
                self.settings.token,
                tuple(Endpoint(**{k: v for k, v in e.items() if k in known}) for e in endpoints),
            ),
        )

    def get_client(self) -> Client:
        """Return the Dask client; its ``persist`` takes DEISA's ``release=True``."""
        return self._client

    def get_deisa_arrays(self) -> DeisaArrays:
        """Return what the simulation offers, as arrays that record what is selected of them."""
        from ips_components.external._arrays import external_arrays

        described = self._call("described", timeout=self.timeout)
        arrays = external_arrays(
            self.settings.specs_from(described),
            run=self.settings.run,
            n_receivers=self.settings.n_receivers,
        )
        return DeisaArrays(self, arrays)

    def get_dask_arrays(self, as_list: bool = False) -> dict[str, Any]:
        """Return whole dask arrays (or lists of steps); the contract is over everything."""
        arrays = self.get_deisa_arrays()
        whole = {name: arrays[name][...] for name in arrays}
        arrays.validate_contract()
        return {name: list(array) if as_list else array for name, array in whole.items()}

    def wait_for_last_bridge_and_shutdown(self) -> None:
        """Wait until every rank has closed its bridge, then shut the cluster down."""
        from ips_components.external import wait_for_end

        wait_for_end(self._client, self.settings.run, self.timeout)
        self.close()
        self._client.shutdown()

    def close(self) -> None:
        """Withdraw the contact file."""
        self.contact.unlink(missing_ok=True)

    def _call(self, method: str, **arguments: Any) -> Any:
        from ips_components.external._run import call

        return call(self._client, method, self.settings.run, **arguments)


class DeisaArray:
    """One array of the simulation; remembers what is selected of it."""

    def __init__(self, name: str, array: da.Array) -> None:
        self.name = name
        self.array = array
        self.views: list[da.Array] = []

    def __getitem__(self, index: Any) -> da.Array:
        view = self.array[index]
        self.views.append(view)
        return view

    def __repr__(self) -> str:
        return f"DeisaArray({self.name!r}, {self.array!r})"


class DeisaArrays(Mapping[str, DeisaArray]):
    """All arrays of the simulation, and the contract over them."""

    def __init__(self, deisa: Deisa, arrays: Mapping[str, Any]) -> None:
        self._deisa = deisa
        self._external = dict(arrays)
        self.arrays = {name: DeisaArray(name, array) for name, array in arrays.items()}
        self.contract: dict[str, Any] | None = None

    def __getitem__(self, name: str) -> DeisaArray:
        if name not in self.arrays:
            raise ContractError(
                f"array {name!r} is not offered; the simulation offers {', '.join(self.arrays)}"
            )
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def get_deisa_array(self, name: str) -> DeisaArray:
        """Return one array."""
        return self[name]

    def drop_arrays(self, names: str | list[str]) -> None:
        """Forget what was selected of these arrays."""
        for name in [names] if isinstance(names, str) else names:
            self[name].views.clear()

    def reset_contract(self) -> None:
        """Forget everything that was selected."""
        self.drop_arrays(list(self.arrays))
        self.contract = None

    def check_contract(self) -> dict[str, Any]:
        """Return what the contract will name: shapes selected so far, by array.

        Returns
        -------
        dict
            ``{name: [shape, ...]}``; arrays of which nothing is selected are not sent at all.
        """
        self.contract = {
            name: [view.shape for view in array.views]
            for name, array in self.arrays.items()
            if array.views
        }
        return self.contract

    generate_contract = check_contract

    def validate_contract(self) -> None:
        """Sign the contract: the simulation sends what is selected, and nothing else.

        Raises
        ------
        ContractError
            If nothing is selected.
        """
        from ips_components.external._contract import contract_from_graph

        selected = {
            f"{name}[{i}]": view
            for name, array in self.arrays.items()
            for i, view in enumerate(array.views)
        }
        if not selected:
            raise ContractError(
                "nothing is selected; write gt = arrays['global_t'][...] before the contract"
            )
        contract = contract_from_graph(selected, self._external, run=self._deisa.settings.run)
        self.check_contract()
        self._deisa._call("contract", blob=contract.to_bytes())
        self._deisa._call("committed", keys=[], timeout=self._deisa.timeout, hold=True)

    handle_contract = share_contract = validate_contract


class Bridge:
    """DEISA's bridge inside a simulation rank.

    Parameters
    ----------
    client
        Ignored (DEISA1 to 3 pass a Dask client); may be a path of the contact file.
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
        from ips_components import bridge

        described = [
            _bridge_array(bridge.Array, name, one, deisa_arrays_dtype[name])
            for name, one in arrays.items()
        ]
        contact = client if isinstance(client, (str, os.PathLike)) else None
        self.rank = rank
        self.bridge = bridge.Bridge(contact=contact, arrays=described, rank=rank, size=Ssize)

    def publish_data(self, data: Any, data_name: str, timestep: int) -> None:
        """Publish this rank's block of one time step."""
        block = np.asarray(data)
        if block.shape[:1] == (1,) and block.ndim == self.bridge.ndim(data_name) + 1:
            block = block[0]
        self.bridge.put(data_name, int(timestep), block)

    def close(self) -> None:
        """Say goodbye: no more time steps will come."""
        self.bridge.close()

    def __enter__(self) -> Bridge:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.bridge.__exit__(*exc_info)


def _bridge_array(kind: Any, name: str, one: Mapping[str, Any], dtype: Any) -> Any:
    missing = {"sizes", "subsizes", "starts"} - set(one)
    if missing:
        raise ConfigError(f"array {name!r}: no {', '.join(sorted(missing))} in its description")
    timedim = one.get("timedim", 0)
    if (timedim[0] if isinstance(timedim, (list, tuple)) else timedim) != 0:
        raise ConfigError(f"array {name!r}: time must be dimension 0, got timedim {timedim}")
    sizes = [int(n) for n in one["sizes"]]
    return kind(
        name,
        tuple(sizes[1:]),
        dtype,
        offset=tuple(int(n) for n in one["starts"][1:]),
        steps=sizes[0],
    )


def _client(scheduler_file: Path) -> Any:
    from distributed import Client

    class DeisaClient(Client):
        """A client whose ``persist`` can give the external chunks free."""

        deisa: Deisa

        def persist(
            self, collections: Any, *args: Any, release: bool = False, **kwargs: Any
        ) -> Any:
            """Persist; with ``release=True`` a chunk is freed after its last consumer."""
            persisted = super().persist(collections, *args, **kwargs)
            if release:
                from distributed import futures_of

                keys = [future.key for future in futures_of(persisted)]
                self.deisa._call("committed", keys=keys, timeout=self.deisa.timeout)
            return persisted

    try:
        address = json.loads(scheduler_file.read_text())["address"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{scheduler_file} is not the scheduler file of a running Dask cluster ({error!r}); "
            "start one with dask scheduler --scheduler-file, or let IPS do it"
        ) from error
    return DeisaClient(address)


def _workers(config_file: str | os.PathLike[str] | None, nb_workers: int | str | None) -> int:
    if nb_workers is not None:
        return int(nb_workers)
    if config_file is None:
        return 1
    import yaml

    content = yaml.safe_load(Path(config_file).read_text()) or {}
    try:
        return int(content["workers"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{config_file}: expected an entry workers = number of Dask workers, "
            f"got {content!r:.200}"
        ) from error
