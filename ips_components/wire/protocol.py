"""Which messages are allowed when: the connection's states of both sides as tables, without I/O.

A side calls `Connection.received` for every message that arrives, before it acts on it. What is
not in the table is a `ProtocolError` with the history of the connection.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import TypeAlias

from ips_components.errors import ProtocolError
from ips_components.wire import messages as m

Message: TypeAlias = type[m.Message]


class State(Enum):
    """Where a connection stands."""

    GREETING = auto()  # the receiver waits for a greeting
    CHALLENGE = auto()  # the rank waits for the answer to its greeting
    HELLO = auto()  # the receiver waits for a hello
    WELCOME = auto()  # the rank waits for the answer to its hello
    OPEN = auto()
    LEAVING = auto()  # the bye was said
    CLOSED = auto()


Table: TypeAlias = dict[tuple[State, Message], State]

RECEIVER: Table = {
    (State.GREETING, m.Greeting): State.HELLO,
    (State.HELLO, m.Hello): State.OPEN,
    **{
        (State.OPEN, kind): State.OPEN
        for kind in (
            m.Piece,
            m.Rows,
            m.StepEnd,
            m.StepTime,
            m.Want,
            m.Dropped,
            m.Gone,
            m.Slot,
            m.SlotDrop,
            m.Blocks,
            m.Ping,
        )
    },
    (State.OPEN, m.Bye): State.LEAVING,
    # Until its goodbye is answered, a rank may be asked to send something again.
    **{
        (State.LEAVING, kind): State.LEAVING
        for kind in (m.Piece, m.Rows, m.Gone, m.Slot, m.SlotDrop, m.Ping)
    },
}
"""What a receiver accepts from a rank."""

_TO_RANK: tuple[Message, ...] = (
    m.ContractIs,
    m.Credit,
    m.Resend,
    m.Ack,
    m.Release,
    m.PlacementIs,
    m.Feedback,
    m.Fault,
    m.Stop,
    m.Attach,
    m.Ping,
)

RANK: Table = {
    (State.CHALLENGE, m.Challenge): State.WELCOME,
    (State.CHALLENGE, m.Refused): State.CLOSED,
    (State.WELCOME, m.Welcome): State.OPEN,
    (State.WELCOME, m.Refused): State.CLOSED,
    **{(state, kind): state for state in (State.OPEN, State.LEAVING) for kind in _TO_RANK},
    (State.OPEN, m.Refused): State.CLOSED,
    (State.LEAVING, m.ByeAck): State.CLOSED,
}
"""What a rank accepts from a receiver."""


class Connection:
    """One connection's state, moved by what is received.

    Examples
    --------
    >>> connection = Connection.of_rank()
    >>> connection.received(m.Challenge(bytes(32), bytes(32)))
    >>> connection.received(m.Welcome())
    >>> connection.state
    <State.OPEN: 5>
    """

    __slots__ = ("_moves", "_story", "_table", "state")

    def __init__(self, table: Table, state: State) -> None:
        self._table = table
        self._story: deque[str] = deque(maxlen=8)
        self._enter(state)

    def _enter(self, state: State) -> None:
        self.state = state
        self._moves = {kind: to for (at, kind), to in self._table.items() if at is state}

    @classmethod
    def of_receiver(cls) -> Connection:
        """Return the receiver's side, waiting for a greeting."""
        return cls(RECEIVER, State.GREETING)

    @classmethod
    def of_rank(cls) -> Connection:
        """Return the rank's side, its greeting being sent."""
        return cls(RANK, State.CHALLENGE)

    def received(self, message: m.Message) -> None:
        """Move by a received message, or refuse it."""
        kind = type(message)
        state = self._moves.get(kind)
        if state is None:
            story = ", ".join(self._story) or "nothing"
            raise ProtocolError(
                f"{kind.__name__} is not allowed in state {self.state.name}; before it: {story}"
            )
        if state is not self.state or kind not in (m.Piece, m.Ping):
            self._story.append(kind.__name__)
        if state is not self.state:
            self._enter(state)

    def leave(self) -> None:
        """Note that this side has said bye."""
        self._enter(State.LEAVING)


def check_hello(hello: m.Hello, run: str) -> None:
    """Refuse a rank that means another run.

    Raises
    ------
    ProtocolError
    """
    if hello.run != run:
        raise ProtocolError(
            f"rank {hello.rank} belongs to run {hello.run!r}, this receiver to {run!r}"
        )
