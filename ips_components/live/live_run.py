"""A running simulation, as a client that attaches to it sees it."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ips_components.analysis.arrays import ExternalArray
from ips_components.analysis.coordinator_client import call
from ips_components.coordination.settings import RunSettings
from ips_components.deadlines import Deadline, poll_until
from ips_components.errors import (
    AnalyticsLost,
    ContactError,
    ContractError,
    DeadlineExceeded,
    SimulationLost,
)
from ips_components.live.figure import LiveFigure, middle
from ips_components.live.find import find_contact, security_of
from ips_components.live.pace import Pace
from ips_components.live.page import run_html
from ips_components.live.requests import Request, Requests
from ips_components.live.steps import Wanted
from ips_components.live.watch import Watch
from ips_components.wire.contact import Contact

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

    from ips_components.analysis.windows import Window

#: Seconds between two signs of life.
RENEW = 1.0
#: Seconds that the scheduler has to answer.
ANSWER = 10.0


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
        it does not allow clients to attach.
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
    label
        Begins its name; by default host and process.

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
        self,
        client: Client,
        contact: Contact,
        directory: Path,
        *,
        owns_client: bool = False,
        label: str = "",
    ) -> None:
        self.client, self.id, self.directory = client, contact.run, directory
        label = label or f"{socket.gethostname()}-{os.getpid()}"
        self.name = f"{label}-{secrets.token_hex(2)}"
        self._contact, self._owns_client = contact, owns_client
        self._detached = ""
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._pace = Pace()
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        try:
            facts: dict[str, Any] = call(
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
                name: facts[name]
                for name in ("arrays", "decompositions", "halos", "at_most", "simulation")
                if name in facts
            },
        )
        self.specs = settings.bounded(settings.array_specs())
        self._requests = Requests(
            client,
            self.id,
            self.name,
            facts,
            self.specs,
            contact.tls,
            self._pace,
            self.progress,
        )
        self._renew()
        self._thread = threading.Thread(target=self._stay, name="attached", daemon=True)
        self._thread.start()

    # -- what there is -------------------------------------------------------------------

    @property
    def arrays(self) -> Mapping[str, ExternalArray]:
        """What the simulation offers, lazy, over all its steps; as in an analysis.

        What is computed of them may need steps to come only; see `compute`. Arrays are used up by
        the first `compute` or `submit` of results of them: take new ones from here.
        """
        return self._requests.offer()

    @property
    def step(self) -> int:
        """Newest step that some rank has put, as far as is known; -1 before any.

        A simulation of which nothing is wanted says once a second where it is.
        """
        self.progress()
        return self._pace.newest

    @property
    def status(self) -> str:
        """``"open"``, ``"contracted"``, ``"running"``, ``"ended"``, ``"failed"``, ``"lost"``.

        ``"alone"``: the analysis has failed, and the simulation goes on.
        """
        try:
            return str(self.progress()["phase"])
        except (AnalyticsLost, OSError, TimeoutError):
            return "lost"

    def progress(self) -> dict[str, Any]:
        """Return how far the run is, as its live page has it."""
        self._check_attached()
        return self._renew()

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
            phase = self._pace.state["phase"]
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
        return self._requests.compute(Request(results, steps))

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
        return self._requests.submit(Request(results, steps))

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
        watch = Watch(self._requests, function, every, window, call)
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
        state = self._detached or self._pace.state.get("phase")
        return f"<LiveRun {self.id}: {state}, step {self._pace.state.get('newest')}>"

    def _repr_html_(self) -> str:
        page = "" if self._detached else self._contact.live_page
        return run_html(
            self.id, self._pace.state, self.specs, self._pace.newest, page, self._detached
        )

    def __dir__(self) -> list[str]:
        return [each for each in super().__dir__() if not each.startswith("_")]

    def time_of(self, name: str) -> str:
        """Name of the dimension of time of an array."""
        return next(spec.dims[0] for spec in self.specs if spec.name == name)

    # -- internals -----------------------------------------------------------------------

    def _renew(self) -> dict[str, Any]:
        state: dict[str, Any] = call(self.client, "renew", self.id, name=self.name, within=ANSWER)
        self._pace.seen(state)
        return state

    def _check_attached(self) -> None:
        if self._detached:
            raise ContractError(f"run {self.id}: not attached any more ({self._detached})")

    def _stay(self) -> None:
        """Give signs of life."""
        while not self._left.wait(RENEW):
            with contextlib.suppress(Exception):  # the next call gets the error
                self._renew()
