"""What may happen to an external task, as a table without I/O and without Dask.

An external task is a Dask task whose value comes from outside.  Two sides change its state: data
arrive or are known never to arrive, and Dask reports what it does (a consumer wants the value, a
worker that held it died, the last consumer is done).  Both are an :class:`Event`; the table gives
the new :class:`State` and the :class:`Instruction` that the caller carries out.

::

             WANT              ARRIVE
  DECLARED ---------> WANTED ----------> MEMORY
                        ^                 |  |
                        |      LOST <-----+  | RELEASE (last consumer
                        |      LOSE          |          is done)
                        | WANT               v
                        +---------------- RELEASED
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from ips_components.errors import ExternalTaskError


class State(StrEnum):
    """State of an external task.

    UNKNOWN, ARRIVED and FORGOTTEN are answers about keys for which Dask has no task; no task of
    the table is in them, but FORGOTTEN is where each one ends.
    """

    UNKNOWN = "unknown"  #: not declared
    DECLARED = "declared"  #: Dask knows the task; no graph needs it yet
    WANTED = "wanted"  #: a graph needs it and waits
    ARRIVED = "arrived"  #: not declared, but a worker holds the data already
    MEMORY = "memory"  #: Dask has the data
    RELEASED = "released"  #: the last consumer is done, or no graph wants it any more
    LOST = "lost"  #: the only copy is gone although a consumer still needs it
    ERRED = "erred"  #: it will never get its data, and its consumers know
    FORGOTTEN = "forgotten"  #: Dask has dropped the task


class Event(StrEnum):
    """What happens to an external task."""

    ARRIVE = "arrive"  #: a worker says that it holds the data
    FAIL = "fail"  #: a caller says that the data will never come
    WANT = "want"  #: a graph that needs the task is registered, or needs it again
    LOSE = "lose"  #: Dask released the data although a consumer needs them
    RELEASE = "release"  #: Dask released the task; no consumer needs it
    ERR = "err"  #: Dask moved the task to erred
    FORGET = "forget"  #: Dask dropped the task


class Instruction(StrEnum):
    """What the caller has to do after a transition."""

    NOTHING = "nothing"
    TO_MEMORY = "to-memory"  #: move the waiting task to memory
    ADD_REPLICA = "add-replica"  #: a second copy of data that Dask already has
    DROP_REPLICA = "drop-replica"  #: have the worker drop the data: no task wants them
    TO_ERRED = "to-erred"  #: move the waiting task to erred


class ImpossibleTransition(ExternalTaskError):
    """An event reached an external task in a state in which it cannot happen."""


#: States of a task whose data are not there and may come.
WAITING: Final = (State.DECLARED, State.WANTED, State.LOST)


#: States that a task of the table may be in.
LIVE: Final = (*WAITING, State.MEMORY, State.RELEASED, State.ERRED)


def _table() -> dict[tuple[State, Event], tuple[State, Instruction]]:
    s, e, i = State, Event, Instruction
    table = {
        # Data from outside.
        (s.MEMORY, e.ARRIVE): (s.MEMORY, i.ADD_REPLICA),
        (s.RELEASED, e.ARRIVE): (s.RELEASED, i.DROP_REPLICA),
        (s.ERRED, e.ARRIVE): (s.ERRED, i.DROP_REPLICA),
        # A consumer.
        (s.DECLARED, e.WANT): (s.WANTED, i.NOTHING),
        (s.MEMORY, e.WANT): (s.MEMORY, i.NOTHING),
        (s.RELEASED, e.WANT): (s.WANTED, i.NOTHING),
        (s.LOST, e.WANT): (s.LOST, i.NOTHING),
        (s.WANTED, e.WANT): (s.WANTED, i.NOTHING),
        (s.ERRED, e.WANT): (s.ERRED, i.NOTHING),
        # Dask takes data away.
        (s.MEMORY, e.LOSE): (s.LOST, i.NOTHING),
        (s.MEMORY, e.RELEASE): (s.RELEASED, i.NOTHING),
        (s.RELEASED, e.RELEASE): (s.RELEASED, i.NOTHING),
        # Dask releases an erred task in order to try again.
        (s.ERRED, e.RELEASE): (s.RELEASED, i.NOTHING),
        # What never comes.
        (s.MEMORY, e.FAIL): (s.MEMORY, i.NOTHING),
        (s.RELEASED, e.FAIL): (s.RELEASED, i.NOTHING),
        (s.ERRED, e.FAIL): (s.ERRED, i.NOTHING),
        # Dask errs a task on its way through released.
        (s.RELEASED, e.ERR): (s.ERRED, i.NOTHING),
        (s.ERRED, e.ERR): (s.ERRED, i.NOTHING),
    }
    for waiting in WAITING:
        table[waiting, e.ARRIVE] = (s.MEMORY, i.TO_MEMORY)
        table[waiting, e.FAIL] = (waiting, i.TO_ERRED)
        table[waiting, e.RELEASE] = (s.RELEASED, i.NOTHING)
        table[waiting, e.ERR] = (s.ERRED, i.NOTHING)
    for state in LIVE:
        table[state, e.FORGET] = (s.FORGOTTEN, i.NOTHING)
    return table


TRANSITIONS: Final[Mapping[tuple[State, Event], tuple[State, Instruction]]] = MappingProxyType(
    _table()
)


def transition(key: object, state: State, event: Event) -> tuple[State, Instruction]:
    """Return the state after `event` and what is to be done about it.

    Raises
    ------
    ImpossibleTransition
        The event cannot happen in that state.  The caller adds the task's story.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ImpossibleTransition(
            f"external task {key!r} is {state.value!r}; {event.value!r} cannot happen to it"
        ) from None
