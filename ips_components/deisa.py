"""DEISA3's programming interface on stock Dask: change the import line, keep the program.

The analytics side::

    from ips_components.deisa import Deisa

    deisa = Deisa("scheduler.json", "config.yml")
    client = deisa.get_client()
    arrays = deisa.get_deisa_arrays()
    gt = arrays["global_t"][...]
    arrays.validate_contract()

and the simulation side::

    from ips_components.deisa import Bridge

    bridge = Bridge(None, size, rank, {"global_t": {"sizes": ..., "subsizes": ..., ...}}, dtypes)
    bridge.publish_data(data, "global_t", timestep)

Such a program runs against a Dask cluster of your own, found by its scheduler file, or under
``ips.py`` with ``ANALYSIS = ips_components.deisa:run_program``; see `run_program`.

What DEISA passes through Dask (its ``Client`` in every rank, ``Queue``, ``Variable``) goes through
the contact file and the receivers here; ranks never connect to the scheduler. The interface is
that of DEISA3 (Gueroudji, Bigot, Raffin, Ross: "Dask-Extended External Tasks for HPC/ML In Transit
Workflows", SC-W 2023).
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ips_components._deisa_bridge import CONTACT, Bridge
from ips_components.errors import ConfigError, ContractError

if TYPE_CHECKING:
    import dask.array as da

    from ips_components.analysis import Run

__all__ = ["Bridge", "Deisa", "DeisaArray", "DeisaArrays", "DeisaClient", "run_program"]

_run_of_ips: ContextVar[Run | None] = ContextVar("run_of_ips", default=None)


def run_program(
    arrays: Mapping[str, Any], run: Run, *, program: str, keep: str | Sequence[str] = ()
) -> dict[str, Any]:
    """Run a program that was written for DEISA as the analysis of a coupled run: for ``ANALYSIS``.

    The program's ``Deisa(...)`` then stands for this run; the files that it names are not read.

    Parameters
    ----------
    arrays, run
        Given by the run.
    program : path-like
        The program; it runs as ``__main__``.
    keep : str or sequence of str
        Names of its global variables that are results of the run: dask collections, arrays or
        numbers.

    Raises
    ------
    ContractError
        If the program selected nothing, or has no variable of a name in `keep`.
    """
    before, sys.argv = sys.argv, [program]
    attached = _run_of_ips.set(run)
    try:
        left = runpy.run_path(program, run_name="__main__")
    finally:
        _run_of_ips.reset(attached)
        sys.argv = before
    if run.contract is None:
        raise ContractError(f"{program} has neither validated a contract nor persisted anything")
    names = keep.strip("[]").replace(",", " ").split() if isinstance(keep, str) else list(keep)
    if missing := [name for name in names if name not in left]:
        raise ContractError(f"{program} has left no variable {', '.join(missing)} to keep")
    return {name: left[name] for name in names}


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
        from ips_components.wire.contact import ENVIRONMENT

        self.timeout = timeout
        self.contact: Path | None = None
        self._arrays: DeisaArrays | None = None
        run = _run_of_ips.get()
        self._own = run is None
        if run is None:
            scheduler_file = Path(scheduler_info or scheduler_file_name or "scheduler.json")
            n_workers = _workers(config_file, nb_workers)
            run = _open_run(_address(scheduler_file), n_workers, timeout)
            beside = scheduler_file.with_name(CONTACT)
            self.contact = Path(contact or os.environ.get(ENVIRONMENT) or beside)
            _publish(run, self.contact, timeout)
            atexit.register(self.close)
        self.run = run
        self._client = DeisaClient(self, run.client)

    def get_client(self) -> DeisaClient:
        """Return the Dask client; its ``persist`` takes DEISA's ``release=True``."""
        return self._client

    def get_deisa_arrays(self) -> DeisaArrays:
        """Return what the simulation offers, as arrays that record what is selected of them."""
        if self._arrays is None:
            offered = self.run.arrays or _offered(self.run, self.timeout)
            self._arrays = DeisaArrays(self, offered)
        return self._arrays

    def get_dask_arrays(self, as_list: bool = False) -> dict[str, Any]:
        """Return whole dask arrays (or lists of steps); the contract is over everything."""
        arrays = self.get_deisa_arrays()
        whole = {name: arrays[name][...] for name in arrays}
        arrays.validate_contract()
        return {name: list(array) if as_list else array for name, array in whole.items()}

    def wait_for_last_bridge_and_shutdown(self) -> None:
        """Wait until every rank has closed its bridge, then shut the cluster down."""
        self._client.shutdown()

    def close(self) -> None:
        """Withdraw the contact file."""
        atexit.unregister(self.close)
        if self.contact is not None:
            self.contact.unlink(missing_ok=True)


class DeisaClient:
    """A Dask client with DEISA's additions; everything else is the client's own.

    A program may submit its graph before it validates the contract, as the examples of DEISA do:
    then the contract over what was selected so far is signed here.

    Parameters
    ----------
    deisa : Deisa
    client : distributed.Client
    """

    def __init__(self, deisa: Deisa, client: Any) -> None:
        self._deisa = deisa
        self._client = client
        self._released: set[Any] = set()  # keys of chunks that no later graph may need

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def persist(self, collections: Any, *args: Any, release: bool = False, **options: Any) -> Any:
        """Start computing, and keep the results on the cluster.

        Parameters
        ----------
        collections
            One dask collection, or a list of them.
        release : bool
            This is the last graph that needs these chunks of the simulation's data: each is freed
            as soon as its last consumer is done. Other chunks stay in memory, for graphs to come.
        *args, **options
            For ``Client.persist``.

        Raises
        ------
        ContractError
            If the graph needs a chunk that an earlier graph has released.
        """
        self._sign()
        chunks = self._chunks_of(collections) if release or self._released else set()
        persisted = self._client.persist(collections, *args, **options)
        if release:
            from distributed import futures_of

            self._committed([future.key for future in futures_of(persisted)], hold=True)
            self._call("release", keys=sorted(chunks))
            self._released |= chunks
        return persisted

    def compute(self, collections: Any, *args: Any, **options: Any) -> Any:
        """Start computing; a future of each result."""
        self._sign()
        if self._released:
            self._chunks_of(collections)
        return self._client.compute(collections, *args, **options)

    def shutdown(self) -> None:
        """Wait until every rank has closed its bridge, then shut the cluster down.

        Under ``ips.py`` this does nothing: the run ends when both sides have.
        """
        if not self._deisa._own:
            return
        from ips_components.analysis import wait_for_end

        if self._deisa.run.contract is not None:
            self._committed([])
            wait_for_end(self._client, self._deisa.run.settings.run, self._deisa.timeout)
        self._deisa.close()
        self._client.shutdown()

    def close(self, *args: Any, **options: Any) -> None:
        """Leave the cluster; under ``ips.py`` the client is the run's and stays open."""
        if self._deisa._own:
            self._client.close(*args, **options)

    def _sign(self) -> None:
        arrays = self._deisa._arrays
        if arrays is not None and any(array.views for array in arrays.arrays.values()):
            arrays.validate_contract()

    def _chunks_of(self, collections: Any) -> set[Any]:
        """Return the keys of the external chunks that a graph needs."""
        from ips_components.analysis.needed_chunks import needed_chunks
        from ips_components.model.keys import chunk_key

        arrays = self._deisa._arrays
        if arrays is None:
            return set()
        sources = [array.source for array in arrays._external.values()]
        found = set()
        for collection in collections if isinstance(collections, list | tuple) else [collections]:
            with contextlib.suppress(ContractError):  # it needs no data of the simulation
                for view, indices in needed_chunks(collection, sources).items():
                    name = view.source.name
                    found |= {chunk_key(name, view.base_index(index)) for index in indices}
        if gone := found & self._released:
            raise ContractError(
                f"{len(gone)} chunks of this graph, {sorted(gone)[0]} first, were released by an "
                "earlier persist(..., release=True): release with the last graph that needs them"
            )
        return found

    def _committed(self, keys: list[Any], hold: bool = False) -> None:
        """Wait until the scheduler knows the graph; the ranks may begin."""
        self._call("committed", keys=keys, timeout=self._deisa.timeout, hold=hold)

    def _call(self, method: str, **arguments: Any) -> None:
        from ips_components.analysis.coordinator_client import call

        call(self._client, method, self._deisa.run.settings.run, **arguments)


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

        Once it is signed, by this or by submitting a graph, further calls change nothing.

        Raises
        ------
        ContractError
            If nothing is selected.
        """
        from ips_components.analysis.contract import contract_from_graph

        self.check_contract()
        if self._deisa.run.contract is not None:
            return
        selected = {
            f"{name}[{i}]": view
            for name, array in self.arrays.items()
            for i, view in enumerate(array.views)
        }
        if not selected:
            raise ContractError(
                "nothing is selected; write gt = arrays['global_t'][...] before the contract"
            )
        run = self._deisa.run
        contract = contract_from_graph(selected, self._external, run=run.settings.run)
        for array in self._external.values():
            # The selections are promised as a whole: slices of them that the program has made
            # already, and that no graph has named yet, may have all of their chunks.
            array.source.needed.clear()
        run.sign(contract)

    handle_contract = share_contract = validate_contract


def _address(scheduler_file: Path) -> str:
    """Read the address of the scheduler."""
    try:
        return str(json.loads(scheduler_file.read_text())["address"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{scheduler_file} is not the scheduler file of a running Dask cluster ({error!r}); "
            "start one with dask scheduler --scheduler-file, or let IPS do it"
        ) from error


def _open_run(address: str, n_workers: int, timeout: float) -> Run:
    """Connect, and make a run of its own on the cluster."""
    from distributed import Client

    from ips_components.analysis import Run
    from ips_components.coordination import RunSettings
    from ips_components.wire.contact import new_token

    client = Client(address, timeout=timeout)
    settings = RunSettings(
        run=f"deisa-{uuid.uuid4().hex[:8]}",
        token=new_token(),
        analysis=f"{__name__}:{run_program.__name__}",
        n_receivers=n_workers,
        deadlines={"contract": timeout},
        security="tls" if client.security.require_encryption else "none",
    )
    return Run(client, settings)


def _publish(run: Run, path: Path, timeout: float) -> None:
    """Open a receiver on each worker, and write the contact file."""
    from ips_components.analysis import wait_for_receivers
    from ips_components.analysis.coordinator_client import call
    from ips_components.coordination import run_plugin
    from ips_components.wire.contact import Certificates, Contact, Endpoint, write

    settings = run.settings
    run.client.register_plugin(run_plugin(settings))
    found = wait_for_receivers(run.client, settings.run, settings.n_receivers, timeout)
    call(run.client, "open", settings.run, settings=settings.to_dict())
    known = Endpoint.__dataclass_fields__
    endpoints = tuple(Endpoint(**{k: v for k, v in e.items() if k in known}) for e in found)
    tls = Certificates.of_security(run.client.security)
    write(
        path,
        Contact(
            settings.run,
            settings.token,
            endpoints,
            tls=tls,
            scheduler=str(run.client.scheduler.address),
            scheduler_tls=tls,
        ),
    )


def _offered(run: Run, timeout: float) -> Mapping[str, Any]:
    """Wait for rank 0 to describe its arrays."""
    from ips_components.analysis.arrays import external_arrays
    from ips_components.analysis.coordinator_client import call

    described = call(run.client, "described", run.settings.run, timeout=timeout)
    return external_arrays(
        run.settings.specs_from(described),
        run=run.settings.run,
        n_receivers=run.settings.n_receivers,
    )


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
