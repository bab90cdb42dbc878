"""A running simulation, as a client that attaches to it sees it."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask import is_dask_collection

from ips_components.analysis.arrays import ExternalArray, external_arrays
from ips_components.analysis.coordinator_client import call
from ips_components.coordination.settings import RunSettings
from ips_components.deadlines import Deadline, poll_until
from ips_components.errors import (
    AnalyticsLost,
    ContactError,
    ContractError,
    DeadlineExceeded,
    SimulationLost,
    StepPassed,
)
from ips_components.live.attached_contract import AttachedContract, new_id
from ips_components.live.find import find_contact, security_of
from ips_components.live.steps import Wanted, first_to_come, specs_of
from ips_components.wire.contact import Contact

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client, Future

#: Seconds between two signs of life.
RENEW = 1.0
#: Seconds that the scheduler has to answer.
ANSWER = 10.0
#: Times that a request for the next steps is made again, further ahead each time.
ATTEMPTS = 7
#: Seconds that ranks are expected to need for a contract to reach them.
REACTION = 0.2


def attach(where: str | os.PathLike[str], *, timeout: float = 30.0) -> LiveRun:
    """Attach to a run that is under way.

    Parameters
    ----------
    where
        Directory of the run, its contact file, or SIM_ROOT: then the newest run that is under way.
    timeout
        Seconds to connect.

    Returns
    -------
    LiveRun
        A context manager; `LiveRun.detach` ends it as well.

    Raises
    ------
    ContactError
        When there is no such run, it belongs to another user, its scheduler cannot be reached, or
        nobody may attach.
    ContractError
        When the token is not that of the run.
    SimulationLost
        When its simulation has ended.

    Examples
    --------
    >>> import ips_components
    >>> with ips_components.attach("SIM_ROOT") as run:           # doctest: +SKIP
    ...     run.latest("temperature").plot()
    ...     mean = run.compute(lambda arrays: arrays["temperature"].mean(), steps=10)
    """
    from distributed import Client

    path, contact = find_contact(where)
    try:
        client = Client(
            contact.scheduler,
            security=security_of(contact),
            timeout=timeout,
            set_as_default=False,
            name="attached",
        )
    except (OSError, TimeoutError) as error:
        raise ContactError(
            f"the scheduler of run {contact.run} at {contact.scheduler} cannot be reached "
            f"({error}): has the run ended? From another machine, see the guide about the ssh "
            "tunnel"
        ) from error
    try:
        return LiveRun(client, contact, path.parent, owns_client=True)
    except BaseException:
        client.close()
        raise


class LiveRun:
    """A running simulation: what it offers, how far it is, and analyses of steps to come.

    Made by `attach`. Steps that have passed cannot be had any more; each method says which steps
    it is about. Nothing here can hold up the simulation: what this client does not take in time is
    dropped for it.

    Parameters
    ----------
    client
        Client of the run's scheduler.
    contact
        Of the run.
    directory
        Of the run.
    owns_client
        Whether the client is closed with this object.

    Attributes
    ----------
    id : str
        Run id.
    name : str
        Of this client, as the report of the run has it.
    client : distributed.Client
        For what this class does not do.
    """

    def __init__(
        self, client: Client, contact: Contact, directory: Path, *, owns_client: bool = False
    ) -> None:
        self.client, self.id, self.directory = client, contact.run, directory
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._contact, self._owns_client = contact, owns_client
        self._detached = ""
        self._contracts: dict[str, AttachedContract] = {}
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._seen = -1
        self._offer: tuple[str, dict[str, Any]] | None = None
        try:
            self._facts: dict[str, Any] = call(
                client,
                "attach",
                self.id,
                token=contact.token,
                name=self.name,
                client_id=client.id,
                within=2 * ANSWER,
            )
        except TimeoutError as error:
            raise ContactError(f"run {self.id} does not answer: {error}") from error
        settings = RunSettings(
            run=self.id,
            token=contact.token,
            analysis="",
            **{
                name: self._facts[name]
                for name in ("arrays", "decompositions", "halos", "at_most", "simulation")
                if name in self._facts
            },
        )
        self._specs = settings.bounded(settings.array_specs())
        # What only ranks need to find their blocks travels with the arrays.
        self._state: dict[str, Any] = self._renew()
        self._thread = threading.Thread(target=self._stay, name="attached", daemon=True)
        self._thread.start()

    # -- what there is -------------------------------------------------------------------

    @property
    def arrays(self) -> Mapping[str, ExternalArray]:
        """What the simulation offers, lazy, over all its steps; as in an analysis.

        What is computed of them may need steps to come only; see `compute`. Arrays are used up by
        the first `compute` or `submit` of results of them: take new ones from here.
        """
        with self._lock:
            if self._offer is None:
                attached = new_id(self.id)
                self._offer = attached, self._arrays(attached, self._specs)
            return self._offer[1]

    @property
    def step(self) -> int:
        """Newest step that some rank has put, as far as is known; -1 before any.

        A simulation that nobody analyses says rarely where it is.
        """
        newest = self.progress().get("newest")
        self._seen = max(self._seen, -1 if newest is None else int(newest))
        return self._seen

    @property
    def status(self) -> str:
        """``"open"``, ``"contracted"``, ``"running"``, ``"ended"``, ``"failed"``, ``"lost"``."""
        try:
            return str(self.progress()["phase"])
        except (AnalyticsLost, OSError, TimeoutError):
            return "lost"

    def progress(self) -> dict[str, Any]:
        """Return how far the run is, as its live page has it."""
        self._check_attached()
        self._state = self._renew()
        return self._state

    def wait(self, step: int, timeout: float | None = None) -> int:
        """Wait until a step of the simulation is complete; return the newest.

        Parameters
        ----------
        step
            Simulation step.
        timeout
            Seconds; None: as long as it takes.

        Raises
        ------
        SimulationLost
            When the simulation has ended before.
        DeadlineExceeded
            When it was not reached in time.
        """
        deadline = Deadline(1e9 if timeout is None else timeout)

        def reached() -> bool:
            if self.step >= step:
                return True
            phase = self._state["phase"]
            if phase in ("ended", "failed"):
                raise SimulationLost(f"run {self.id} has {phase} at step {self.step}, not {step}")
            return False

        if not poll_until(reached, deadline, pause=0.05, growth=1.5, max_pause=0.5):
            raise DeadlineExceeded(
                f"run {self.id} did not reach step {step} within {timeout:g} s: it is at "
                f"{self.step}"
            )
        return self.step

    # -- analyses ------------------------------------------------------------------------

    def compute(self, results: Any, steps: Wanted = None) -> Any:
        """Compute results of steps to come, and wait for them.

        Parameters
        ----------
        results
            A function from arrays to lazy results: one, a mapping, or a sequence. Its arrays have
            the wanted steps only. Or lazy results of `arrays`, with the steps of the simulation.
        steps
            With a function: a number, for the next so many steps; a slice of simulation steps; or
            None for all that are left.

        Returns
        -------
        object
            Computed, in the form that was given.

        Raises
        ------
        SelectionError
            When steps were asked for that have passed; it names the first that can be had.
        ExternalTaskError, SimulationLost
            When a step was dropped, since this client's share of memory was full, or the
            simulation has ended before.
        """
        attempt, margin = 0, self._margin()
        again = callable(results) and not isinstance(steps, slice | range)
        while True:
            contract, futures, form = self._submit(results, steps, margin)
            try:
                return form(self.client.gather(futures))
            except StepPassed as error:
                attempt += 1
                if not again or attempt >= ATTEMPTS:
                    passed_error = error
                    break
                margin = max(4, 4 * margin)
            finally:
                self._end(contract)
        raise self._passed(passed_error)

    def submit(self, results: Any, steps: Wanted = None) -> Any:
        """Submit results of steps to come, and return futures of them at once.

        Parameters
        ----------
        results, steps
            See `compute`.

        Returns
        -------
        object
            `distributed.Future` in the place of each lazy result.
        """
        contract, futures, form = self._submit(results, steps, self._margin())
        left = {future.key for future in futures.values()}

        def done(future: Future) -> None:
            left.discard(future.key)
            if not left:
                threading.Thread(
                    target=self._end, args=(contract,), name="attached", daemon=True
                ).start()

        for future in futures.values():
            future.add_done_callback(done)
        return form(futures)

    def latest(self, name: str, *region: Any) -> xr.DataArray:
        """Return the newest complete step of an array: the next one that all ranks put.

        Parameters
        ----------
        name
            Array.
        *region
            Slices or integers for each dimension of space; cut in the ranks, so that only these
            cells are sent. None: the whole array.

        Returns
        -------
        xarray.DataArray
            Of the dimensions of space, with the step as a scalar coordinate.
        """

        def next_step(arrays: Mapping[str, Any]) -> Any:
            return arrays[name][(slice(0, 1), *region)].to_xarray()

        newest: xr.DataArray = self.compute(next_step, steps=1)[0]
        return newest

    def detach(self) -> None:
        """Leave: what was sent to this client is sent no more. May be called twice."""
        with self._lock:
            if self._detached:
                return
            self._detached = "detached"
        self._left.set()
        self._thread.join(ANSWER)
        with contextlib.suppress(Exception):  # a run that is over has no coordinator any more
            call(self.client, "detach", self.id, name=self.name, within=ANSWER)
        if self._owns_client:
            self.client.close()

    def __enter__(self) -> LiveRun:
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()

    def __repr__(self) -> str:
        state = self._detached or self._state.get("phase")
        return f"<LiveRun {self.id}: {state}, step {self._state.get('newest')}>"

    # -- internals -----------------------------------------------------------------------

    def _arrays(self, attached: str, specs: Iterable[Any]) -> dict[str, Any]:
        return external_arrays(
            list(specs), run=attached, n_receivers=int(self._facts["n_receivers"])
        )

    def _margin(self) -> int:
        """Return the steps that ranks may go on until a contract reaches them."""
        state = self._state
        elapsed = float(state.get("t", 0.0)) - float(state.get("started", 0.0))
        rate = float(state.get("steps", 0)) / elapsed if elapsed > 0 else 0.0
        return int(REACTION * rate)

    def _submit(
        self, results: Any, steps: Wanted, margin: int
    ) -> tuple[AttachedContract, dict[str, Future], Callable[[Mapping[str, Any]], Any]]:
        """Open a contract for these results; return it, futures, and how to return their values."""
        self._check_attached()
        if callable(results) and not is_dask_collection(results):
            offered = None
            attached = new_id(self.id)
        else:
            if steps is not None:
                raise ContractError(
                    "steps belong to a function of arrays; lazy results of run.arrays have their "
                    "own steps, by slicing"
                )
            with self._lock:
                offered, self._offer = self._offer, None
            if offered is None:
                raise ContractError(
                    "these results are not of the present run.arrays: arrays are used up by the "
                    "first compute or submit; take them from run.arrays again"
                )
            attached = offered[0]
        contract = AttachedContract(
            self.client, self.id, self.name, attached, self._facts, self._contact.tls
        )
        self._contracts[attached] = contract
        try:
            contract.open()
            first = first_to_come(contract.begun, 0)
            self._seen = max(self._seen, first - 1)
            if offered is None:
                ahead = 0 if isinstance(steps, slice | range) else margin
                arrays = self._arrays(attached, specs_of(self._specs, steps, first + ahead))
                results = results(arrays)
            else:
                arrays = offered[1]
            named, form = _named(results)
            return contract, contract.submit(named, arrays, first, "drop"), form
        except BaseException:
            self._end(contract)
            raise

    def _end(self, contract: AttachedContract) -> None:
        contract.end()
        self._contracts.pop(contract.attached, None)

    def _passed(self, error: StepPassed) -> Exception:
        """Return an error that says what can be had."""
        try:
            passed_step = str(error)
            first = self.step + 1 + self._margin()
        except (AnalyticsLost, OSError, TimeoutError):
            return error
        return type(error)(f"{passed_step}; the first step that can be had now is about {first}")

    def _renew(self) -> dict[str, Any]:
        state: dict[str, Any] = call(self.client, "renew", self.id, name=self.name, within=ANSWER)
        return state

    def _check_attached(self) -> None:
        if self._detached:
            raise ContractError(f"run {self.id}: not attached any more ({self._detached})")

    def _stay(self) -> None:
        """Give signs of life."""
        while not self._left.wait(RENEW):
            with contextlib.suppress(Exception):  # who asks next gets the error
                self._state = self._renew()


def _named(results: Any) -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], Any]]:
    """Return lazy results by name, and a function that puts values in their places."""
    if isinstance(results, Mapping):
        lazy = {str(k): v for k, v in results.items() if is_dask_collection(v)}
        plain = {k: v for k, v in results.items() if not is_dask_collection(v)}
        return _some(lazy), lambda found: {
            k: found[str(k)] if str(k) in lazy else plain[k] for k in results
        }
    if isinstance(results, list | tuple):
        kind = type(results)
        lazy = {str(i): v for i, v in enumerate(results) if is_dask_collection(v)}
        return _some(lazy), lambda found: kind(found.get(str(i), v) for i, v in enumerate(results))
    lazy = {"result": results} if is_dask_collection(results) else {}
    return _some(lazy), lambda found: found["result"]


def _some(lazy: dict[str, Any]) -> dict[str, Any]:
    if not lazy:
        raise ContractError(
            "there is no lazy result: give a function such as "
            "lambda arrays: arrays['temperature'].mean(), or lazy results of run.arrays"
        )
    return lazy
