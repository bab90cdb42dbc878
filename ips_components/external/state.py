"""What may happen to an external task, as a table without I/O and without Dask.

An external task is a Dask task whose value comes from outside.  Two parties move it: the
world (data arrive, a caller says that they never will) and Dask itself (a consumer wants the
value, a worker that held it died, the last consumer is done).  Both speak to this table in
:class:`Event`\\ s and get back the new :class:`State` and an :class:`Instruction` for whoever
called; carrying it out is their business.

::

             WANT               ARRIVE             IN_MEMORY
  DECLARED ---------> WANTED -----------> ARRIVED -----------> MEMORY
                        ^                                       |  |
                        | WANT         (still needed) LOSE      |  | RELEASE (last consumer
                        |              LOST <-------------------+  |          is done)
                        +------------------------------- RELEASED <+
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from ips_components.errors import ExternalTaskError


class State(StrEnum):
    """Where an external task stands."""

    UNKNOWN = "unknown"  #: nobody has declared it
    DECLARED = "declared"  #: Dask knows the task; no graph needs it yet
    WANTED = "wanted"  #: a graph needs it and waits
    ARRIVED = "arrived"  #: a worker holds the data; Dask's scheduler has not taken them in
    MEMORY = "memory"  #: Dask has the data
    RELEASED = "released"  #: the last consumer is done, or nobody wants it any more
    LOST = "lost"  #: the only copy is gone although somebody still needs it
    ERRED = "erred"  #: it will never get its data, and its consumers know
    FORGOTTEN = "forgotten"  #: Dask has dropped the task


class Event(StrEnum):
    """What happens to an external task."""

    DECLARE = "declare"
    ARRIVE = "arrive"  #: a worker says that it holds the data
    DISCARD = "discard"  #: data that came too early are gone again
    FAIL = "fail"  #: a caller says that the data will never come
    WANT = "want"  #: a graph that needs the task is registered, or needs it again
    IN_MEMORY = "in-memory"  #: Dask moved the task to memory
    LOSE = "lose"  #: Dask released the data although somebody needs them
    RELEASE = "release"  #: Dask released the task; nobody needs it
    ERR = "err"  #: Dask moved the task to erred
    FORGET = "forget"  #: Dask dropped the task


class Instruction(StrEnum):
    """What the caller has to do after a transition."""

    NOTHING = "nothing"
    CREATE = "create"  #: create the waiting task
    TO_MEMORY = "to-memory"  #: move the waiting task to memory
    ADD_REPLICA = "add-replica"  #: a second copy of data that Dask already has
    DROP_REPLICA = "drop-replica"  #: tell the worker to drop the data: nobody wants them
    KEEP = "keep"  #: data before declaration: remember which worker holds them
    TO_ERRED = "to-erred"  #: move the waiting task to erred


class ImpossibleTransition(ExternalTaskError):
    """An event reached an external task in a state in which it cannot happen."""


#: States of a task whose data are not there and may come.
WAITING: Final = (State.DECLARED, State.WANTED, State.LOST)


def _table() -> dict[tuple[State, Event], tuple[State, Instruction]]:
    s, e, i = State, Event, Instruction
    table = {
        # Declaration.
        (s.UNKNOWN, e.DECLARE): (s.DECLARED, i.CREATE),
        (s.ARRIVED, e.DECLARE): (s.ARRIVED, i.CREATE),
        # Data from outside.
        (s.UNKNOWN, e.ARRIVE): (s.ARRIVED, i.KEEP),
        (s.ARRIVED, e.ARRIVE): (s.ARRIVED, i.KEEP),
        (s.ARRIVED, e.DISCARD): (s.UNKNOWN, i.NOTHING),
        (s.MEMORY, e.ARRIVE): (s.MEMORY, i.ADD_REPLICA),
        (s.RELEASED, e.ARRIVE): (s.RELEASED, i.DROP_REPLICA),
        (s.ERRED, e.ARRIVE): (s.ERRED, i.DROP_REPLICA),
        (s.FORGOTTEN, e.ARRIVE): (s.FORGOTTEN, i.DROP_REPLICA),
        (s.ARRIVED, e.IN_MEMORY): (s.MEMORY, i.NOTHING),
        # A consumer.
        (s.DECLARED, e.WANT): (s.WANTED, i.NOTHING),
        (s.ARRIVED, e.WANT): (s.ARRIVED, i.NOTHING),
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
        (s.ARRIVED, e.FAIL): (s.ARRIVED, i.NOTHING),
        (s.RELEASED, e.FAIL): (s.RELEASED, i.NOTHING),
        (s.ERRED, e.FAIL): (s.ERRED, i.NOTHING),
        (s.FORGOTTEN, e.FAIL): (s.FORGOTTEN, i.NOTHING),
        # Dask errs a task on its way through released.
        (s.RELEASED, e.ERR): (s.ERRED, i.NOTHING),
        (s.ERRED, e.ERR): (s.ERRED, i.NOTHING),
    }
    for waiting in WAITING:
        table[waiting, e.ARRIVE] = (s.ARRIVED, i.TO_MEMORY)
        table[waiting, e.FAIL] = (waiting, i.TO_ERRED)
        table[waiting, e.RELEASE] = (s.RELEASED, i.NOTHING)
        table[waiting, e.ERR] = (s.ERRED, i.NOTHING)
    for state in State:
        if state is not s.UNKNOWN:
            table[state, e.FORGET] = (s.FORGOTTEN, i.NOTHING)
        if state not in (s.UNKNOWN, s.ARRIVED, s.FORGOTTEN):
            table[state, e.DECLARE] = (state, i.NOTHING)
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
