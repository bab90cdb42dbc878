"""The analysis of a run: from a function over lazy arrays to results on disk.

:func:`run_analysis` is what the IPS task pool executes; everything else happens through
:class:`Run`, which an analysis function may ask for by naming a parameter ``run``.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import secrets
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from distributed import Client, as_completed, get_client, worker_client

from ips_components.analysis.arrays import ExternalArray, external_arrays
from ips_components.analysis.checkpoint import load, save, take_out
from ips_components.analysis.contract import contracts_from_graph, submit
from ips_components.analysis.results import ResultStore, lazy_parts, name_results
from ips_components.analysis.windows import Rolling
from ips_components.coordination.coordinator import RPC
from ips_components.coordination.loading import Offered, load_analysis, together
from ips_components.coordination.settings import RunSettings
from ips_components.errors import ContractError, DeadlineExceeded, ExternalTaskError, SimulationLost
from ips_components.external._compat import make_future
from ips_components.model.contract import Contract
from ips_components.wire.messages import Feedback
from ips_components.wire.values import NO_MORE, encode

logger = logging.getLogger(__name__)


async def _futures(client: Client, keys: Mapping[str, Any]) -> dict[str, Any]:
    return {name: make_future(client, key) for name, key in keys.items()}


def run_analysis(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run one analysis from its first word with the scheduler to its results on disk.

    Parameters
    ----------
    settings : mapping
        A :class:`~._settings.RunSettings` as a dict.

    Returns
    -------
    dict
        ``{"results": path, "variables": {...}, "contract": [rows]}``.

    Raises
    ------
    Exception
        Whatever the analysis raises; the run is failed before, so that the simulation
        learns of it.
    """
    parsed = RunSettings.from_dict(settings)
    with current_client() as client:
        return Run(client, parsed).execute()


def call(
    client: Client, method: str, run: str, *, within: float | None = None, **arguments: Any
) -> Any:
    """Call the run coordinator on the scheduler of `client`.

    Parameters
    ----------
    client, method, run, **arguments
        Whom, what, of which run.
    within : float, optional
        Seconds; TimeoutError if the scheduler has not answered by then.
    """
    return client.sync(_call, client, method, run, arguments, callback_timeout=within)


async def _call(client: Client, method: str, run: str, arguments: dict[str, Any]) -> Any:
    return await getattr(client.scheduler, RPC)(method=method, run=run, **arguments)


def wait_for_receivers(client: Client, run: str, n: int, timeout: float) -> list[dict[str, Any]]:
    """Wait until `n` workers have opened their receivers; their endpoints.

    The first worker brings the coordinator to the scheduler, some time after it has registered.
    """
    deadline = time.monotonic() + timeout
    while not client.run_on_scheduler(_has_coordinator):
        if time.monotonic() > deadline:
            raise DeadlineExceeded(
                f"run {run}: no worker has opened a receiver within {timeout:g} s; see the "
                "workers' logs for the reason"
            )
        time.sleep(0.2)
    remaining = max(0.0, deadline - time.monotonic())
    return call(client, "receivers", run, n=n, timeout=remaining)


def _has_coordinator(dask_scheduler: Any) -> bool:
    return RPC in dask_scheduler.handlers


def abort_run(
    client: Client, run: str, cause: str, *, who: str = "workflow", within: float | None = None
) -> None:
    """Fail a run from outside: waiting tasks err, the ranks are told."""
    call(client, "abort", run, who=who, cause=cause, within=within)


def run_record(client: Client, run: str, *, within: float | None = None) -> dict[str, Any]:
    """The coordinator's part of the run record."""
    return call(client, "record", run, within=within)


def wait_for_end(client: Client, run: str, timeout: float) -> dict[str, Any]:
    """Wait until every rank has closed its bridge, or the run has failed; the record."""
    return call(client, "ended", run, timeout=timeout)


def open_live_page(client: Client, run: str, host: str = "127.0.0.1", port: int = 0) -> str:
    """Open the live page of a run in the scheduler's process.

    Parameters
    ----------
    client
        Of the scheduler.
    run
        The run id.
    host, port
        Where to listen; 0: any free port.

    Returns
    -------
    str
        Its address, with a token in it: who has it may look.
    """
    token = secrets.token_urlsafe(24)
    return str(call(client, "live_page", run, token=token, host=host, port=port))


class Run:
    """One coupled run as the analysis sees it.

    Where several simulations feed one analysis, each has a run of its own with the coordinator,
    with its own ranks and receivers; their arrays meet in the graph of this one.

    Attributes
    ----------
    arrays : mapping of str to ExternalArray
        What the simulation offers.
    settings : RunSettings
    contract : Contract or None
        None until :meth:`commit`; all arrays, of all simulations.
    offered_by : str
        Who offers the arrays, for messages.
    """

    offered_by = "the simulation"

    def __init__(self, client: Client, settings: RunSettings) -> None:
        self.client = client
        self.settings = settings
        self.arrays: Mapping[str, ExternalArray] = {}
        self.contract: Contract | None = None
        self._partners = [RunSettings.from_dict(each) for each in settings.partners]
        self._futures: dict[str, Any] = {}
        self._resumed: dict[str, Any] = {}  # keys of results that an earlier attempt submitted
        self._constants: dict[str, Any] = {}
        self._stored: set[str] = set()
        self._store = ResultStore(settings.results, settings.results_format, {"run": settings.run})

    # -- for analysis functions --------------------------------------------------------

    def send(self, name: str, value: Any, step: int = 0) -> None:
        """Send a value back to the simulation, all of them (see ``Bridge.receive``)."""
        if name == NO_MORE.name:
            raise ContractError("a value for the simulation must have a name")
        self._send(encode(name, step, value))

    def stop(self, reason: str = "converged") -> None:
        """End the simulation early and cleanly: exit status 0."""
        self._call_all("stop", reason=reason)

    def commit(self, returned: Any) -> None:
        """Derive the contract from these lazy results, sign it and submit the whole graph."""
        results, state = take_out(returned)
        if self.contract is not None:
            raise ContractError("the contract of a run is signed once; commit was called before")
        gathered, stored = self._store.plan(name_results(results))
        gathered |= state
        lazy = {**lazy_parts(gathered), **stored}
        self._constants = {n: v for n, v in gathered.items() if n not in lazy}
        self._stored = set(stored)
        contracts = contracts_from_graph(
            lazy, self.arrays, runs=self._runs, policies=self.settings.policies
        )
        self._sign(contracts)
        if self._resumed.keys() == lazy.keys() and lazy:
            # An earlier attempt has submitted the graph before its worker died.
            self._futures = self.client.sync(_futures, self.client, self._resumed)
            return
        self._futures = self._submit(lazy)
        self._call_all(
            "committed",
            keys=[future.key for future in self._futures.values()],
            names=list(self._futures),
            timeout=self.settings.deadlines["contract"],
        )

    def completed(self) -> Iterator[tuple[str, Any]]:
        """Results as they become known, ``(name, value)``; for feedback while the run is on.

        Raises
        ------
        ExternalTaskError, SimulationLost, Exception
            What made a result fail.
        """
        names = {future.key: name for name, future in self._futures.items()}
        for future in as_completed(list(self._futures.values()), raise_errors=False):
            yield names[future.key], future.result()

    def rolling(self, array: Any, size: int, **options: Any) -> Rolling:
        """Return windows of `size` consecutive steps; see :class:`~._rolling.Rolling`."""
        return Rolling(self, array, size, **options)

    # -- for rolling windows -----------------------------------------------------------

    def sign(self, contract: Contract, *, ahead: bool = False) -> None:
        """Sign a contract that does not come from a graph, and let the ranks begin."""
        if self._partners:
            raise ContractError(
                "windows are for the arrays of one simulation; where several feed an analysis, "
                "return results over all their steps"
            )
        self._sign({contract.run: contract}, ahead=ahead)
        self._call("committed", keys=[], timeout=self.settings.deadlines["contract"], hold=True)

    def declare_ahead(self, array: int, first: int, stop: int) -> None:
        """Make external tasks of the time indices ``first .. stop - 1`` and allow their data."""
        self._call("declare_ahead", array=array, first=first, stop=stop)

    def let_go_steps(self, array: int, first: int, stop: int) -> None:
        """Leave the chunks of these time indices to the graphs that need them."""
        self._call("let_go_steps", array=array, first=first, stop=stop)

    def raise_if_failed(self) -> None:
        """Raise the run's first fault, if it has failed."""
        self._call("check")

    def _sign(self, contracts: Mapping[str, Contract], *, ahead: bool = False) -> None:
        if self.contract is not None:
            raise ContractError("the contract of a run is signed once; it was signed before")
        together = tuple(array for each in contracts.values() for array in each.arrays)
        self.contract = Contract(self.settings.run, together)
        for row in self.contract.table():
            logger.info("Contract: %s", row)
        blobs = {run: contract.to_bytes() for run, contract in contracts.items()}
        self._call("contract", blob=blobs[self.settings.run], ahead=ahead)
        for each in self._partners:
            call(self.client, "contract", each.run, blob=blobs[each.run])

    # -- for run_analysis --------------------------------------------------------------

    def execute(self) -> dict[str, Any]:
        """Run the configured analysis; see :func:`run_analysis`."""
        try:
            return self._execute()
        except BaseException as error:
            cause = "".join(traceback.format_exception(error))
            logger.error("Run %s: the analysis failed: %s", self.settings.run, error)
            with contextlib.suppress(Exception):  # the first error must not be hidden
                self._call_all("abort", who="analysis", cause=cause)
            raise

    def _execute(self) -> dict[str, Any]:
        settings = self.settings
        opened = self._open()
        if opened is not None:  # a replay has no coordinator
            if opened["outcome"] is not None:
                return dict(opened["outcome"])
            self._resumed = opened["results"]
        analyses = [load_analysis(name) for name in settings.analysis.replace(",", " ").split()]
        connect = settings.deadlines["connect"]
        self._call_all("receivers", n=settings.n_receivers, timeout=connect)
        self.arrays = self._offers(connect)
        returned = together({each: self._analyse(each) for each in analyses})
        if self.contract is None:
            self.commit(returned)
        elif returned is not None:
            self._add(*take_out(returned))
        return self._finish()

    def _analyse(self, function: Callable[..., Any]) -> Any:
        """Call one analysis function with what it asks for."""
        offered = {"run": self, "checkpoint": load(self.settings.checkpoint)}
        wanted = inspect.signature(function).parameters
        extras = {name: value for name, value in offered.items() if name in wanted}
        return function(
            Offered(self.arrays, self.offered_by), **{**self.settings.parameters, **extras}
        )

    def _add(self, results: Any, state: Mapping[str, Any]) -> None:
        """Take results beyond those of the contract: constants, and graphs over what is there."""
        named = {**name_results(results), **state}
        lazy = lazy_parts(named)
        self._constants.update({n: v for n, v in named.items() if n not in lazy})
        self._futures.update(self._submit(lazy))

    def _submit(self, lazy: Mapping[str, Any]) -> dict[str, Any]:
        """Hand graphs to the scheduler; a future for each result, by name."""
        return submit(self.client, lazy)

    def _finish(self) -> dict[str, Any]:
        """Collect what the analysis promised, keep what is complete, then say what failed."""
        values: dict[str, Any] = dict(self._constants)
        errors: dict[str, BaseException] = {}
        names = {future.key: name for name, future in self._futures.items()}
        for future in as_completed(list(self._futures.values()), raise_errors=False):
            name = names[future.key]
            error = future.exception()
            if error is not None:
                errors[name] = error
                if not isinstance(error, (ExternalTaskError, SimulationLost)):
                    self._call_all("abort", who="analysis", cause=f"result {name!r}: {error!r}")
            elif name not in self._stored:
                values[name] = future.result()
        checkpoint = save(values, self.settings.run_dir) if not errors else ""
        if values:
            self._store.write(values)
        outcome = {
            "results": str(self._store.path),
            "checkpoint": checkpoint,
            "variables": self._store.summary() if not errors else {},
            "contract": self.contract.table() if self.contract else [],
        }
        self._call_all("results_done", outcome=None if errors else outcome)
        if not errors:
            self._send(NO_MORE)
        if errors:
            name, error = next(iter(errors.items()))
            kept = ", ".join(sorted(set(values) - set(self._constants))) or "none"
            error.add_note(
                f"{len(errors)} of {len(self._futures)} results are missing, {name!r} first; "
                f"results kept in {self._store.path}: {kept}"
            )
            raise error
        return outcome

    # -- one or several simulations ----------------------------------------------------

    @property
    def _runs(self) -> list[str]:
        return [self.settings.run, *(each.run for each in self._partners)]

    def _send(self, message: Feedback) -> None:
        fields = {
            each: getattr(message, each) for each in ("name", "step", "kind", "shape", "data")
        }
        self._call_all("feedback", message=fields)

    def _open(self) -> dict[str, Any] | None:
        """Tell the coordinator that the analysis starts; what an earlier attempt has left."""
        for each in self._partners:
            call(self.client, "open", each.run, settings=each.to_dict())
        plain = {**self.settings.to_dict(), "partners": ()}
        opened: dict[str, Any] | None = self._call("open", settings=plain)
        return opened

    def _offers(self, timeout: float) -> dict[str, ExternalArray]:
        """Make the arrays that the simulations offer."""
        arrays: dict[str, Any] = {}
        offered_by: dict[str, str] = {}
        for each in (self.settings, *self._partners):
            specs = each.array_specs() or RunSettings.specs_from(self._described(each, timeout))
            chunks = each.chunks
            if self._partners:
                chunks = {s.name: chunks[s.name] for s in specs if s.name in chunks}
            mine = external_arrays(specs, run=each.run, n_receivers=each.n_receivers, chunks=chunks)
            if twice := sorted(arrays.keys() & mine.keys()):
                raise ContractError(
                    f"{offered_by[twice[0]]} and {each.simulation} both offer an array "
                    f"{twice[0]!r}: rename one of them"
                )
            arrays.update(mine)
            offered_by.update(dict.fromkeys(mine, each.simulation))
        return arrays

    def _described(self, settings: RunSettings, timeout: float) -> Any:
        if settings is self.settings:
            return self._call("described", timeout=timeout)
        return call(self.client, "described", settings.run, timeout=timeout)

    def _call_all(self, method: str, **arguments: Any) -> None:
        """Tell the coordinator the same about the run of every simulation."""
        self._call(method, **arguments)
        for each in self._partners:
            call(self.client, method, each.run, **arguments)

    def _call(self, method: str, **arguments: Any) -> Any:
        return call(self.client, method, self.settings.run, **arguments)


@contextlib.contextmanager
def current_client() -> Iterator[Client]:
    """The client of the surrounding task (its thread is given back to the pool), or the current."""
    try:
        from distributed import get_worker

        get_worker()
    except ValueError:
        yield get_client()
    else:
        with worker_client() as client:
            yield client
