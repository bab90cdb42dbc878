"""Calls of the analysis and of the IPS components to the run coordinator on the scheduler.

An analysis talks to a `Coordinator`: that of a live run, or the one of a replay, which answers
from a stored field (see `replay_run`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from distributed import Client, get_client, worker_client

from ips_components.coordination.messages import RPC
from ips_components.coordination.settings import RunSettings
from ips_components.deadlines import Deadline, poll_until
from ips_components.errors import AnalyticsLost, DeadlineExceeded
from ips_components.model.step_times import StepTimes

_LOOK = 0.5  # seconds between two looks at the connection of a client that waits
_RECONNECT = 3.0  # seconds that it has to find its scheduler again


class Coordinator(Protocol):
    """What the analysis asks of the coordinator of one run."""

    def open(self, settings: RunSettings) -> dict[str, Any]:
        """Open the run; return ``results`` and ``outcome`` of an earlier attempt, or empty ones."""

    def wait_for_receivers(self, n: int, timeout: float) -> None:
        """Wait until `n` receivers are open."""

    def describe_arrays(self, timeout: float) -> list[dict[str, Any]]:
        """Wait for the simulation to describe its arrays, and return the descriptions."""

    def sign(
        self, blob: bytes, *, ahead: bool, remarks: dict[str, dict[str, Any]] | None = None
    ) -> None:
        """Declare the external tasks of a contract; with `ahead`, none of them yet."""

    def commit(
        self, keys: list[Any], names: list[str], timeout: float, *, hold: bool = False
    ) -> None:
        """Wait until the scheduler knows the keys of all results, then let the ranks begin."""

    def declare_ahead(self, array: int, first: int, stop: int) -> bool:
        """Declare the external tasks of the time indices ``first .. stop - 1``.

        Returns whether data may come for them; for windows, a run that is over raises
        `ExternalTaskError`.
        """

    def end_windows(self) -> None:
        """Need nothing of the steps beyond those that are declared."""

    def release_steps(self, array: int, first: int, stop: int) -> None:
        """Leave the chunks of these time indices to the graphs that need them."""

    def raise_if_failed(self) -> None:
        """Raise the run's first fault, if it has failed."""

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a value to the simulation."""

    def publish(self, step: int, values: bytes) -> None:
        """Give values to the workflow while the run goes on."""

    def times(self) -> StepTimes:
        """Return what is known of the physical times of the steps that have come."""

    def awaits(self, keys: list[Any]) -> None:
        """Report the results of which the analysis waits for the first."""

    def windows_saved(self, number: int, wrong: str) -> None:
        """Answer a request for a checkpoint; number 0: the windows are over."""

    def stop(self, reason: str) -> None:
        """End the simulation early and cleanly."""

    def abort(self, cause: str) -> None:
        """Fail the run because of the analysis."""

    def finish(self, outcome: Mapping[str, Any] | None) -> None:
        """Release everything that is held for the analysis; None: it has failed."""

    def with_sources(self, result: Any) -> Any:
        """Return a lazy result whose graph finds its external chunks."""


class RemoteCoordinator:
    """The coordinator of a live run.

    Parameters
    ----------
    client
        Client of the cluster.
    run
        Run id.
    """

    def __init__(self, client: Client, run: str) -> None:
        self.client = client
        self.run = run

    def open(self, settings: RunSettings) -> dict[str, Any]:
        """See `Coordinator`."""
        opened: dict[str, Any] = self._call("open", settings=settings.to_dict())
        return opened

    def wait_for_receivers(self, n: int, timeout: float) -> None:
        """See `Coordinator`."""
        self._call("receivers", n=n, timeout=timeout)

    def describe_arrays(self, timeout: float) -> list[dict[str, Any]]:
        """See `Coordinator`."""
        described: list[dict[str, Any]] = self._call("described", timeout=timeout)
        return described

    def sign(
        self, blob: bytes, *, ahead: bool, remarks: dict[str, dict[str, Any]] | None = None
    ) -> None:
        """See `Coordinator`."""
        self._call("contract", blob=blob, ahead=ahead, remarks=remarks)

    def commit(
        self, keys: list[Any], names: list[str], timeout: float, *, hold: bool = False
    ) -> None:
        """See `Coordinator`."""
        self._call("committed", keys=keys, names=names, timeout=timeout, hold=hold)

    def declare_ahead(self, array: int, first: int, stop: int) -> bool:
        """See `Coordinator`."""
        declared: bool = self._call("declare_ahead", array=array, first=first, stop=stop)
        return declared

    def end_windows(self) -> None:
        """See `Coordinator`."""
        self._call("end_windows")

    def release_steps(self, array: int, first: int, stop: int) -> None:
        """See `Coordinator`."""
        self._call("release_steps", array=array, first=first, stop=stop)

    def raise_if_failed(self) -> None:
        """See `Coordinator`."""
        self._call("check")

    def send(self, message: Mapping[str, Any]) -> None:
        """See `Coordinator`."""
        self._call("feedback", message=message)

    def publish(self, step: int, values: bytes) -> None:
        """See `Coordinator`."""
        self._call("publish", step=step, values=values)

    def times(self) -> StepTimes:
        """See `Coordinator`."""
        return StepTimes.from_plain(self._call("times"))

    def awaits(self, keys: list[Any]) -> None:
        """See `Coordinator`."""
        self._call("awaits", keys=keys)

    def windows_saved(self, number: int, wrong: str) -> None:
        """See `Coordinator`."""
        self._call("windows_saved", number=number, wrong=wrong)

    def stop(self, reason: str) -> None:
        """See `Coordinator`."""
        self._call("stop", reason=reason)

    def abort(self, cause: str) -> None:
        """See `Coordinator`."""
        self._call("abort", who="analysis", cause=cause)

    def finish(self, outcome: Mapping[str, Any] | None) -> None:
        """See `Coordinator`."""
        self._call("results_done", outcome=outcome)

    def with_sources(self, result: Any) -> Any:
        """See `Coordinator`: the scheduler has the external tasks already."""
        return result

    def _call(self, method: str, **arguments: Any) -> Any:
        return call(self.client, method, self.run, **arguments)


def call(
    client: Client, method: str, run: str, *, within: float | None = None, **arguments: Any
) -> Any:
    """Call the run coordinator on the scheduler of `client`.

    Parameters
    ----------
    client, method, run, **arguments
        Client, name of the call, run id, and arguments of the call.
    within : float, optional
        Seconds; TimeoutError if the scheduler has not answered by then.

    Raises
    ------
    AnalyticsLost
        When the client has lost its scheduler: Dask would try to reconnect for much longer.
    """
    return client.sync(_call, client, method, run, arguments, callback_timeout=within)


async def _call(client: Client, method: str, run: str, arguments: dict[str, Any]) -> Any:
    call = getattr(client.scheduler, RPC)(method=method, run=run, **arguments)
    answer = asyncio.ensure_future(call)
    lost: Deadline | None = None
    try:
        while not (await asyncio.wait({answer}, timeout=_LOOK))[0]:
            if client.status == "running":
                lost = None
            elif lost is None:
                lost = Deadline(_RECONNECT)
            elif lost.expired:
                raise AnalyticsLost("the connection to the Dask scheduler was lost; see its log")
        return answer.result()
    finally:
        answer.cancel()


# -- for the IPS components ----------------------------------------------------------------


def wait_for_receivers(client: Client, run: str, n: int, timeout: float) -> list[dict[str, Any]]:
    """Wait until `n` workers have opened their receivers; return their endpoints.

    The first worker brings the coordinator to the scheduler, some time after it has registered.
    """
    deadline = Deadline(timeout)
    if not poll_until(lambda: client.run_on_scheduler(_has_coordinator), deadline, pause=0.2):
        raise DeadlineExceeded(
            f"run {run}: no worker has opened a receiver within {timeout:g} s; see the "
            "workers' logs for the reason"
        )
    return call(client, "receivers", run, n=n, timeout=deadline.left)


def _has_coordinator(dask_scheduler: Any) -> bool:
    return RPC in dask_scheduler.handlers


def abort_run(
    client: Client, run: str, cause: str, *, who: str = "workflow", within: float | None = None
) -> None:
    """Fail a run from outside: waiting tasks err, and the ranks get the cause."""
    call(client, "abort", run, who=who, cause=cause, within=within)


def run_record(client: Client, run: str, *, within: float | None = None) -> dict[str, Any]:
    """Return the coordinator's part of the run record."""
    return call(client, "record", run, within=within)


def wait_for_end(client: Client, run: str, timeout: float) -> dict[str, Any]:
    """Wait until every rank has closed its bridge, or the run has failed; return the record."""
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
        Its address, with a token in it that gives access.
    """
    token = secrets.token_urlsafe(24)
    return str(call(client, "live_page", run, token=token, host=host, port=port))


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
