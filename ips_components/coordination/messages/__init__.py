"""The messages of a coupled run inside the Dask cluster, a module for each direction.

::

    worker      --Event-->  coordinator   on the worker's stream to the scheduler: `events`
    coordinator --Action--> worker        on the scheduler's stream to the worker: `actions`
    analysis, IPS components --Call--> coordinator   as an RPC of the scheduler: `calls`
    attached clients --Call--> coordinator           the same: `attaching`

Dask's comms carry plain dicts. `to_plain` and the ``parse_*`` functions convert at the edge of a
process; everything inside handles these classes. A message belongs to one run, whose id travels
beside it. New fields are appended, with defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

# The modules have messages only, all of which are public: a list would say each name twice.
from ips_components.coordination.messages.actions import *  # noqa: F403
from ips_components.coordination.messages.actions import Action
from ips_components.coordination.messages.attaching import *  # noqa: F403
from ips_components.coordination.messages.calls import *  # noqa: F403
from ips_components.coordination.messages.calls import Call
from ips_components.coordination.messages.events import *  # noqa: F403
from ips_components.coordination.messages.events import Event
from ips_components.coordination.messages.message import Message as Message
from ips_components.errors import ProtocolError

#: Op of the worker streams in both directions.
STREAM_OP = "external-run"
#: Name of the RPC handler on the scheduler.
RPC = "external_run"
#: Topic, with the run id behind it, of the checkpoints that windows are asked for.
CHECKPOINT_TOPIC = "external-checkpoint-"
#: Topic, with the run id behind it, of the pictures that the live page asks for.
PICTURE_TOPIC = "external-picture-"

M = TypeVar("M", bound=Message)


def _by_name(base: type[M]) -> dict[str, type[M]]:
    return {each.NAME: each for each in base.__subclasses__()}


EVENTS = _by_name(Event)
ACTIONS = _by_name(Action)
CALLS = _by_name(Call)


def _parse(kinds: Mapping[str, type[M]], what: str, name: Any, values: Mapping[str, Any]) -> M:
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"external_run has no {what} {name!r}; it has {', '.join(sorted(kinds))}")
    try:
        return kind(**values)
    except TypeError as error:
        expected = ", ".join(each.name for each in fields(kind)) or "nothing"
        raise ProtocolError(
            f"{what} {name!r} has the fields {expected}; got {', '.join(values) or 'nothing'}: are "
            "all processes of the run of one release of ips_components?"
        ) from error


def parse_event(name: Any, values: Mapping[str, Any]) -> Event:
    """Return the event that a worker has sent."""
    return _parse(EVENTS, "event", name, values)


def parse_action(name: Any, values: Mapping[str, Any]) -> Action:
    """Return the action that the coordinator has sent."""
    return _parse(ACTIONS, "action", name, values)


def parse_call(name: Any, values: Mapping[str, Any]) -> Call:
    """Return the call of an analysis or of an IPS component."""
    return _parse(CALLS, "method", name, values)
