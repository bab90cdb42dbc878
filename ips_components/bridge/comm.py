"""The few things that the bridge asks of a communicator."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from ips_components.errors import BridgeError, IPSComponentsError

T = TypeVar("T")
FIRST_PAUSE, LAST_PAUSE = 20e-6, 5e-3  # seconds between looks at an outstanding MPI request


class Communicator(Protocol):
    """What the bridge uses of a communicator: mpi4py's has it."""

    rank: int
    size: int

    def bcast(self, obj: Any, root: int = 0) -> Any:
        """Give the root's object to all ranks."""


class Serial:
    """The communicator of a program that has none."""

    rank = 0
    size = 1

    def bcast(self, obj: Any, root: int = 0) -> Any:
        """Return the object."""
        return obj


class Apart:
    """One of several ranks whose caller does the broadcasting itself (no collective calls)."""

    def __init__(self, rank: int, size: int) -> None:
        if not 0 <= rank < size:
            raise BridgeError(f"rank must be in 0 .. {size - 1}, got {rank}")
        self.rank = rank
        self.size = size

    def bcast(self, obj: Any, root: int = 0) -> Any:
        """Return the object: each rank asks for itself."""
        return obj


def to_rank_0(comm: Communicator, mine: T) -> list[T] | None:
    """Return what all ranks hold on rank 0, None elsewhere. Collective.

    A communicator without ``gather`` gives what rank 0 itself holds.
    """
    gather = getattr(comm, "gather", None)
    if gather is None:
        return [mine] if comm.rank == 0 else None
    gathered: list[T] | None = gather(mine, root=0)
    return gathered


def from_rank_0(comm: Communicator, work: Callable[[], T]) -> T:
    """Do something on rank 0 and return its result, or raise its error, on every rank.

    Collective. No rank waits for ever: whatever happens on rank 0 is broadcast.
    """
    if isinstance(comm, (Serial, Apart)):
        return work()
    outcome: tuple[bool, Any] = (False, None)
    failure: BaseException | None = None
    if comm.rank == 0:
        try:
            outcome = (True, work())
        except BaseException as error:
            failure = error
            portable = error if isinstance(error, (IPSComponentsError, OSError)) else None
            outcome = (False, portable or BridgeError(f"rank 0 failed: {error!r}"))
    wait_without_spinning(comm)
    succeeded, result = comm.bcast(outcome, 0)
    if failure is not None:
        raise failure
    if not succeeded:
        raise result
    return result  # type: ignore[no-any-return]


def wait_without_spinning(comm: Communicator) -> None:
    """Return when rank 0 has come here, with the core left to others. Collective.

    MPI libraries wait by polling, at full speed. While rank 0 waits for the contract its peers
    would take the cores on which Dask's workers start. Rank 0 itself does not wait. A
    communicator without ``Ibcast`` is left as it is.
    """
    begin = getattr(comm, "Ibcast", None)
    if begin is None:
        return
    request, pause = begin(bytearray(1), 0), FIRST_PAUSE
    while not request.Test():
        time.sleep(pause)
        pause = min(LAST_PAUSE, 2 * pause)
