"""A running simulation, as a client that attaches to it sees it."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
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
    SelectionError,
    SimulationLost,
    StepPassed,
)
from ips_components.live.attached_contract import AttachedContract, new_id
from ips_components.live.figure import LiveFigure, middle
from ips_components.live.find import find_contact, security_of
from ips_components.live.pace import REACTION, Pace
from ips_components.live.page import run_html
from ips_components.live.steps import Wanted, first_to_come, specs_of
from ips_components.live.watch import Batch, Watch
from ips_components.model.spec import StepAxis
from ips_components.wire.contact import Contact

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client, Future

    from ips_components.analysis.windows import Window

#: Seconds between two signs of life.
RENEW = 1.0
#: Seconds that the scheduler has to answer.
ANSWER = 10.0
#: Times that a request for the next steps is made again, further ahead each time.
ATTEMPTS = 7


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
    except (OSError, TimeoutError, TypeError) as error:  # TypeError: certificates are missing
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
    specs : list of ArraySpec
        Descriptions of the arrays.
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
        self._pace = Pace()
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
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
        self.specs = settings.bounded(settings.array_specs())
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
                self._offer = attached, self._arrays(attached, self.specs)
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
        contract, futures, form = self._submit_in_time(results, steps)
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

    def _submit_in_time(
        self, results: Any, steps: Wanted
    ) -> tuple[AttachedContract, dict[str, Future], Callable[[Mapping[str, Any]], Any]]:
        """Submit, further ahead as long as the first step has passed when the ranks know of it."""
        margin = max(1, self._margin())
        for _ in range(ATTEMPTS):
            contract, futures, form = self._submit(results, steps, margin)
            again = callable(results) and not isinstance(steps, slice | range)
            if not again or not self._has_passed(contract, futures):
                break
            self._end(contract)
            margin *= 4
        return contract, futures, form

    def _has_passed(self, contract: AttachedContract, futures: Mapping[str, Future]) -> bool:
        """Wait until the ranks have the contract and a moment longer; tell whether it is late."""
        reaction = contract.wait_for_ranks()
        self._pace.reaction(reaction)

        def passed() -> bool:
            erred = [each for each in futures.values() if each.status == "error"]
            return any(isinstance(each.exception(), StepPassed) for each in erred)

        return bool(poll_until(passed, Deadline(max(REACTION, 2 * reaction)), pause=0.02))

    def watch(
        self,
        function: Callable[..., Any],
        *,
        every: int = 1,
        window: int = 1,
        call: Callable[[Window], Any] | None = None,
    ) -> Watch:
        """Compute something of windows of steps, again and again as they come.

        Parameters
        ----------
        function
            From arrays, each with the steps of one window, to lazy results, as for `compute`.
            The arrays are those with the same steps as the first one.
        every, window
            Published steps from one window to the next, and in one window.
        call
            Called with each `Window` (``index``, ``steps``, ``value``) in a thread of its own.
            None: iterate what is returned.

        Returns
        -------
        Watch
            An iterator of windows in order; `Watch.stop` ends it.
        """
        self._check_attached()
        watch = Watch(self, function, every, window, call)
        self._watches.add(watch)
        return watch

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

    def plot(self, name: str, *region: Any, every: int = 1) -> LiveFigure:
        """Draw an array, and draw it anew as the simulation goes on; returns at once.

        Parameters
        ----------
        name
            Array.
        *region
            As in `latest`. Of more than two dimensions the middle of the first ones is drawn.
        every
            Published steps from one picture to the next.

        Returns
        -------
        LiveFigure
            Shown in its place in a notebook; `LiveFigure.stop` ends it.
        """
        spec = next((each for each in self.specs if each.name == name), None)
        if spec is None or spec.ragged:
            names = [each.name for each in self.specs if not each.ragged]
            raise ContractError(f"array {name!r} cannot be drawn; those that can are {names}")
        cut = middle(spec.shape, region)
        dims = [d for d, each in zip(spec.dims[1:], cut, strict=True) if isinstance(each, slice)]
        figure = LiveFigure(name, str(spec.attrs.get("units", "")), tuple(dims))
        figure.show()
        figure.watch = self.watch(
            lambda arrays: arrays[name][(-1, *cut)], every=every, call=figure.draw
        )
        return figure

    def detach(self) -> None:
        """Leave: what was sent to this client is sent no more. May be called twice."""
        with self._lock:
            if self._detached:
                return
            self._detached = "detached"
        for watch in list(self._watches):
            watch.stop()
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

    def _repr_html_(self) -> str:
        page = "" if self._detached else self._contact.live_page
        return run_html(self.id, self._state, self.specs, self._seen, page, self._detached)

    def __dir__(self) -> list[str]:
        return [each for each in super().__dir__() if not each.startswith("_")]

    def time_of(self, name: str) -> str:
        """Name of the dimension of time of an array."""
        return next(spec.dims[0] for spec in self.specs if spec.name == name)

    # -- internals -----------------------------------------------------------------------

    def _arrays(self, attached: str, specs: Iterable[Any]) -> dict[str, Any]:
        return external_arrays(
            list(specs), run=attached, n_receivers=int(self._facts["n_receivers"])
        )

    def _margin(self) -> int:
        """Return the steps that ranks may go on until a contract reaches them."""
        return self._pace.margin(self._state)

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
        contract = self._open(attached)
        try:
            first = self._first_of(contract)
            if offered is None:
                ahead = 0 if isinstance(steps, slice | range) else margin
                arrays = self._arrays(attached, specs_of(self.specs, steps, first + ahead))
                results = results(arrays)
            else:
                arrays = offered[1]
            named, form = _named(results)
            return contract, contract.submit(named, arrays, first, "drop"), form
        except BaseException:
            self._end(contract)
            raise

    def open_windows(
        self,
        function: Callable[..., Any],
        every: int,
        window: int,
        n: int,
        start: int,
        margin: int,
    ) -> Batch:
        """Open a contract over windows; for `Watch`."""
        self._check_attached()
        contract = self._open(new_id(self.id))
        try:
            margin = max(margin, self._margin())
            ahead = margin if start < 0 else margin // 2  # it was opened early
            first = max(start, self._first_of(contract) + ahead)
            axis = self.specs[0].steps
            begin = axis.index_from(first)
            if start >= 0:  # windows stay a multiple apart
                begin += -(begin - axis.index_from(start)) % every
            if axis.count is not None:
                n = min(n, (axis.count - begin - window) // every + 1)
            if n < 1:
                raise SelectionError(f"run {self.id} has no further windows")
            mine = [each for each in self.specs if each.steps == axis]
            steps = StepAxis(axis.step(begin), axis.every, (n - 1) * every + window)
            arrays = self._arrays(contract.attached, [replace(each, steps=steps) for each in mine])
            lazy: dict[str, Any] = {}
            parts = []
            for i in range(n):
                at = slice(i * every, i * every + window)
                named, form = _named(function({name: each[at] for name, each in arrays.items()}))
                lazy |= {f"{i}/{name}": each for name, each in named.items()}
                parts.append((list(named), form))
            futures = contract.submit(lazy, arrays, 0, "drop")
            self._pace.reaction(contract.wait_for_ranks())
        except BaseException:
            self._end(contract)
            raise
        distance = every * axis.every
        windows = []
        for i, (names, form) in enumerate(parts):
            low = steps.start + i * distance
            own = {name: futures[f"{i}/{name}"] for name in names}
            windows.append((range(low, low + window * axis.every, axis.every), own, form))
        return Batch(contract, windows, n, steps.start + n * distance)

    def close_windows(self, batch: Batch) -> None:
        """End a contract over windows; for `Watch`."""
        batch.windows.clear()
        self._end(batch.contract)

    def _open(self, attached: str) -> AttachedContract:
        contract = AttachedContract(
            self.client, self.id, self.name, attached, self._facts, self._contact.tls
        )
        self._contracts[attached] = contract
        try:
            contract.open()
        except BaseException:
            self._end(contract)
            raise
        return contract

    def _first_of(self, contract: AttachedContract) -> int:
        """Return the first step that the ranks of a contract have not begun."""
        first = first_to_come(contract.begun, 0)
        self._seen = max(self._seen, first - 1)
        self._pace.begun(contract.joined_at, first)
        return first

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
