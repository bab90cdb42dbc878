"""What a connection consists of: the state of its link, what it queues, what its rank lends it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Generic, NamedTuple, TypeVar

from ips_components.bridge.dialing import Dialed, Socket
from ips_components.bridge.slots import BorrowedMemory, Slot, Stored
from ips_components.wire import messages as m
from ips_components.wire.contact import Endpoint

C = TypeVar("C")  # the connection itself, which is above this module


class LinkState(Enum):
    """What a connection can be used for."""

    NEW = auto()
    OPEN = auto()
    RECONNECTING = auto()
    CLOSED = auto()


class Item(NamedTuple):
    """Something to send; with a number if the receiver must get it exactly once."""

    message: bytes = b""
    seq: int = 0
    slot: Slot | BorrowedMemory | None = None
    stored: Stored | None = None


class ConnectionContext(NamedTuple, Generic[C]):
    """What a connection needs of its rank, given from above.

    Attributes
    ----------
    lock, changed
        The bridge's.
    dial
        Connects to an endpoint within seconds, by `Dialer.dial` and this rank's hello.
    opened
        Called with the lock held when the connection is open, with it, its socket, and what came
        with the welcome.
    closed
        Called with the lock held with a socket that ends.
    is_final
        Called with the lock held with a connection that ends; whether it is needed no more.
    give_up_after
        Seconds for which reconnecting is tried.
    """

    lock: threading.RLock
    changed: threading.Condition
    dial: Callable[[Endpoint, float], Dialed]
    opened: Callable[[C, Socket, Sequence[m.Message]], None]
    closed: Callable[[Socket], None]
    is_final: Callable[[C], bool]
    give_up_after: float
