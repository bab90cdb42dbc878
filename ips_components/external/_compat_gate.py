"""The gate: what external tasks wait for inside Dask's scheduler.

Touches private names of distributed, as :mod:`._compat` does.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

from dask._task_spec import Task
from distributed.scheduler import ClientState, TaskState

from ips_components.errors import ExternalTaskError
from ips_components.external._compat import gc_paused
from ips_components.external._compat_versions import required

if TYPE_CHECKING:
    from distributed import Scheduler


def _never() -> None:
    raise ExternalTaskError(
        "an external task was run by a worker; its value can only come from outside Dask"
    )


class Gate:
    """The one task that no worker can run, and on which all external tasks depend.

    Only the gate stays in Dask's state ``no-worker``, so that what Dask does for each
    unrunnable task (on a join, for adaptive scaling, against a timeout) it does once.
    Dask itself releases and forgets the gate when no external task waits or exists; it is
    made again when needed.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        token = secrets.token_hex(16)
        self.key = f"external-gate-{token[:8]}"
        # No worker can guess the resource, hence none can offer it.
        self._resource = f"external-gate-{token}"
        self._spec = Task(self.key, _never)

    def get(self) -> TaskState:
        """Return the gate's task; it may have to be opened with :meth:`close` afterwards."""
        ts = self._scheduler.tasks.get(self.key)
        if ts is None:
            ts = self._scheduler.new_task(self.key, self._spec, "released")
            ts.priority = (0, 0, 0)
            ts.resource_restrictions = {self._resource: 1}
        return ts

    def close(self, stimulus_id: str) -> None:
        """Let the gate wait, after tasks behind it were created."""
        if self.get().state == "released":
            self._scheduler.transitions({self.key: "waiting"}, stimulus_id)

    def refresh(self) -> None:
        """Make the gate young again for ``no-workers-timeout``."""
        unrunnable = self._scheduler.unrunnable
        ts = self._scheduler.tasks.get(self.key)
        if ts is not None and ts in unrunnable:
            # The dict is ordered by age: out, and in again at its end.
            del unrunnable[ts]
            unrunnable[ts] = monotonic()


def shield_from_no_workers_timeout(scheduler: Scheduler, gate: Gate) -> Callable[[], None]:
    """Refresh the gate immediately before each check of ``no-workers-timeout``.

    A timer of our own could come too late after a long block of the event loop.  Returns the
    call that undoes it.
    """
    callback = required(scheduler.periodic_callbacks, "no-workers-timeout")
    stock = callback.callback

    def check_no_workers() -> Any:
        gate.refresh()
        return stock()

    callback.callback = check_no_workers

    def undo() -> None:
        if callback.callback is check_no_workers:
            callback.callback = stock

    return undo


_SPEC = Task("external", _never)
_PRIORITY = (0, 0, 0)


def create_waiting(scheduler: Scheduler, keys: Iterable[Any], gate: Gate, cs: ClientState) -> None:
    """Create tasks in state ``waiting`` behind the gate, held by the pseudo-client `cs`.

    All `keys` must share one name (their first element).  The caller calls :meth:`Gate.close`
    in the same tick of the event loop.
    """
    tasks, validate = scheduler.tasks, scheduler.validate
    gate_ts = gate.get()
    if gate_ts.waiters is None:
        gate_ts.waiters = set()
    group = None
    new = []
    with gc_paused():
        for key in keys:
            if group is None:
                # One split of the name, as dask would do for each key.
                ts = scheduler.new_task(key, _SPEC, "waiting")
                group = ts.group
                group.dependencies.add(gate_ts.group)
            else:
                ts = tasks[key] = TaskState(key, _SPEC, "waiting", group, validate)
            ts.priority = _PRIORITY
            ts.dependencies.add(gate_ts)
            ts.waiting_on = {gate_ts}
            ts.who_wants = {cs}
            new.append(ts)
        gate_ts.dependents.update(new)
        cs.wants_what.update(new)
        if gate_ts.state == "no-worker":
            gate_ts.waiters.update(new)


def is_waiting(scheduler: Scheduler, key: Any) -> bool:
    """Whether the scheduler has `key` as a waiting task made by :func:`create_waiting`."""
    ts = scheduler.tasks.get(key)
    return ts is not None and ts.run_spec is _SPEC and ts.state == "waiting"
