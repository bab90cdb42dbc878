"""Which versions of distributed are supported, and whether the one here has what is needed.

When a new version renames something, :func:`check` says so before any task is declared, and the
files ``_compat*.py`` are where it is mended.

Supported: distributed 2025.5.1 to 2026.8.0.  Older versions are refused; newer ones are used
with a warning as long as they pass the self-check.
"""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import distributed
from distributed.batched import BatchedSend
from distributed.scheduler import ClientState, Computation, SchedulerState, TaskGroup, TaskState
from distributed.worker import Worker

from ips_components.errors import UnsupportedVersion

#: Oldest and newest version of distributed that the tests run against.
OLDEST = (2025, 5, 1)
NEWEST = (2026, 8, 0)

#: What the self-check looks for: attributes of a class ...
_ATTRIBUTES: Mapping[type, tuple[str, ...]] = {
    SchedulerState: (
        "_TRANSITIONS_TABLE",
        "_transition",
        "_transitions",
        "_add_to_memory",
        "add_replica",
        "new_task",
        "story",
    ),
    distributed.Scheduler: (
        "_check_no_workers",
        "client_desires_keys",
        "client_releases_keys",
        "send_all",
        "transitions",
        "worker_send",
        "check_idle",
        "update_graph",
    ),
    TaskState: (
        "dependencies",
        "dependents",
        "exception",
        "exception_blame",
        "exception_text",
        "group",
        "priority",
        "resource_restrictions",
        "run_spec",
        "state",
        "waiters",
        "waiting_on",
        "who_has",
        "who_wants",
    ),
    TaskGroup: ("dependencies",),
    Computation: ("groups",),
    ClientState: ("client_key", "wants_what"),
    Worker: ("batched_send", "handle_stimulus", "update_data"),
    distributed.Client: ("_send_to_scheduler", "_update_scheduler_info"),
}
#: ... and parameters of the private calls.
_PARAMETERS: Mapping[Callable[..., Any], tuple[str, ...]] = {
    SchedulerState._transition: ("key", "finish", "stimulus_id", "kwargs"),
    SchedulerState._transitions: (
        "recommendations",
        "client_msgs",
        "worker_msgs",
        "stimulus_id",
    ),
    SchedulerState._add_to_memory: (
        "ts",
        "ws",
        "recommendations",
        "client_msgs",
        "type",
        "typename",
    ),
    SchedulerState.new_task: ("key", "spec", "state"),
    TaskState.__init__: ("key", "run_spec", "state", "group", "validate"),
    Worker.update_data: ("data", "stimulus_id"),
}
_TRANSITIONS = (
    ("waiting", "memory"),
    ("waiting", "released"),
    ("released", "waiting"),
    ("released", "erred"),
    ("released", "forgotten"),
    ("memory", "released"),
    ("waiting", "no-worker"),
    ("no-worker", "released"),
)


def parse_version(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version string.

    Examples
    --------
    >>> parse_version("2026.8.0+3.gabc")
    (2026, 8, 0)
    """
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def missing_names() -> list[str]:
    """Return what this version of distributed lacks of what is needed here."""
    missing = [
        f"{owner.__name__}.{name}"
        for owner, names in _ATTRIBUTES.items()
        for name in names
        if not hasattr(owner, name)
    ]
    for call, names in _PARAMETERS.items():
        parameters = inspect.signature(call).parameters
        missing += [f"{call.__qualname__}({name})" for name in names if name not in parameters]
    table = getattr(SchedulerState, "_TRANSITIONS_TABLE", {})
    stream = BatchedSend(interval=0, loop=object())  # it is never started
    names = ("buffer", "next_deadline", "waker")
    missing += [f"BatchedSend().{name}" for name in names if not hasattr(stream, name)]
    missing += [f"transition {a} -> {b}" for a, b in _TRANSITIONS if (a, b) not in table]
    return missing


@functools.cache
def check(version: str | None = None) -> None:
    """Refuse an unsupported distributed; warn about an untested one.

    Raises
    ------
    UnsupportedVersion
        The version is older than the span, or lacks names that are needed.

    Warns
    -----
    UserWarning
        The version is newer than the span but passes the self-check.
    """
    version = distributed.__version__ if version is None else version
    found = parse_version(version)
    span = f"{'.'.join(map(str, OLDEST))} to {'.'.join(map(str, NEWEST))}"
    if found and found < OLDEST:
        raise UnsupportedVersion(
            f"external tasks need distributed {span}; found {version}. "
            "Upgrade with: pip install -U dask distributed"
        )
    if missing := missing_names():
        raise UnsupportedVersion(
            f"external tasks need distributed {span}; found {version}, which lacks "
            f"{', '.join(missing)}. Install a version of that span"
        )
    if found > NEWEST:
        warnings.warn(
            f"external tasks were tested with distributed {span}; {version} passes the "
            "self-check and is used all the same",
            stacklevel=2,
        )


def required(table: Mapping[str, Any], name: str) -> Any:
    """Return what a scheduler or worker has under `name`, which only an instance has."""
    if name not in table:
        raise UnsupportedVersion(
            f"a server of distributed {distributed.__version__} has no {name!r}; "
            "install a supported version"
        )
    return table[name]
