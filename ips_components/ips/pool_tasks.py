"""Tasks of a pool on Dask that put data: what is done around them, on the workers of that pool.

A task of a pool starts when a worker has a thread for it, which the component does not see. So the
task itself begins its launch, when it opens a bridge, and ends it when it returns. The tasks of a
pool are launched one after another, in the order in which they open their bridges; those that say
that they are ranks of one program (``Bridge(rank=1, size=4)``) are one launch. An executable, whose
bridge is in another process, says so in its environment.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ips_components.errors import IPSComponentsError
from ips_components.wire.contact import ENVIRONMENT, Certificates

RANKS = "IPS_COMPONENTS_RANKS"
"""In the ``task_env`` of an executable of a pool: of how many ranks of one program it is one."""


@dataclass(frozen=True, slots=True)
class Coupling:
    """Where the tasks of a pool find the run.

    Parameters
    ----------
    scheduler, certificates
        Address of the scheduler of the analytics' pool, and the certificates for it.
    run
        Id of the component's run with the coordinator.
    contact
        Path of the contact file.
    group
        Of the tasks of this pool.
    connect, turn
        Seconds: for an answer of the scheduler, and for the end of the launch before.
    retry
        Whether a task that fails is launched again by its component.
    time
        Of the driver's call.
    """

    scheduler: str
    certificates: Mapping[str, str] | None
    run: str
    contact: str
    group: str
    connect: float
    turn: float
    retry: bool = False
    time: float | None = None


class CoupledCall:
    """A function of IPS that runs a task, with the run in the environment of the task.

    Parameters
    ----------
    function
        ``function(binary, name, directory, *arguments)`` returns the name and the result; for a
        binary that is an executable, the exit status.
    coupling
        The run.
    """

    def __init__(self, function: Callable[..., Any], coupling: Coupling) -> None:
        self.function = function
        self.coupling = coupling

    def __call__(self, binary: Any, *arguments: Any, **keywords: Any) -> Any:
        # Where the task runs: the framework imports this module before it forks all components.
        from ips_components.bridge.opening import before_opening

        os.environ[ENVIRONMENT] = self.coupling.contact  # the same for all tasks of the pool
        with _Launched(self.coupling) as launched:
            if isinstance(binary, str):
                launched.begin(0, _ranks_of(binary, keywords))
                result = self.function(binary, *arguments, **keywords)
                launched.ok = result[1] == 0
                return result
            with before_opening(launched.begin):
                return self.function(binary, *arguments, **keywords)


def _ranks_of(program: str, keywords: Mapping[str, Any]) -> int:
    """Return of how many ranks an executable is one; it does not open its bridge in this process.

    Raises
    ------
    IPSComponentsError
        The component has given no number.
    """
    said = (keywords.get("task_env") or {}).get(RANKS, "1")
    try:
        ranks = int(said)
    except ValueError:
        ranks = 0
    if ranks < 1:
        raise IPSComponentsError(
            f"task {program!r} of a pool: {RANKS} = {said!r} in its task_env must be the number of "
            "tasks that are ranks of one program"
        )
    return ranks


class _Launched:
    """The launches that one task begins: one for each time that it opens a bridge."""

    def __init__(self, coupling: Coupling) -> None:
        self.ok = True
        self._coupling = coupling
        self._open: list[int] = []
        self._size = 0

    def __enter__(self) -> "_Launched":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: Any) -> None:
        ok = self.ok and error is None
        if error is None:
            self._end(ok)
            return
        with suppress(Exception):  # the first error is the one to see
            self._end(ok)

    def begin(self, rank: int, size: int) -> None:
        """Begin a launch, or become one of the ranks of the one that is under way."""
        if self._open and (size == 1 or len(self._open) == self._size):
            self._end(True)
        with _calling(self._coupling) as call:
            try:
                launch, _ = call(
                    "begin_launch",
                    size=size,
                    group=self._coupling.group,
                    timeout=self._coupling.turn,
                    time=self._coupling.time,
                )
            except TimeoutError as error:
                raise IPSComponentsError(f"rank {rank} of a task of a pool: {error}") from None
        self._open.append(launch)
        self._size = size

    def _end(self, ok: bool) -> None:
        launches, self._open = self._open, []
        if not launches:
            return
        with _calling(self._coupling) as call:
            for launch in launches:
                call(
                    "end_launch",
                    launch=launch,
                    ok=ok,
                    again=self._coupling.retry,
                    group=self._coupling.group,
                    silent=True,
                )


@contextmanager
def _calling(coupling: Coupling) -> Iterator[Callable[..., Any]]:
    """Connect to the scheduler of the analytics, which is not the one of this worker."""
    from ips_components.analysis.coordinator_client import call

    with connected(coupling.scheduler, coupling.certificates, coupling.connect) as client:
        yield lambda method, **arguments: call(client, method, coupling.run, **arguments)


@contextmanager
def connected(
    address: str, certificates: Mapping[str, str] | None, timeout: float
) -> Iterator[Any]:
    """Connect to a scheduler, and close the connection at the end."""
    client = connect(address, certificates, timeout)
    try:
        yield client
    finally:
        with suppress(Exception):
            client.close(timeout=2)


def connect(address: str, certificates: Mapping[str, str] | None, timeout: float) -> Any:
    """Return a client of a scheduler, which is not the default one of this process.

    It may outlive its scheduler: a driver may call finalize of the analytics first.
    """
    from distributed import Client, Security

    logging.getLogger("distributed.client").addFilter(_is_no_cancellation)
    security = None
    if certificates:
        known = Certificates(**certificates)
        security = Security(
            tls_ca_file=known.authority,
            tls_client_cert=known.certificate,
            tls_client_key=known.key,
            require_encryption=True,
        )
    return Client(
        address,
        timeout=timeout,
        set_as_default=False,
        **({"security": security} if security else {}),
    )


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Leave out that a client was closed while it looked for a scheduler that has ended."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
