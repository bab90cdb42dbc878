"""External tasks on the stock scheduler: declare, arrive, fail, lose, release.

:class:`ExternalTasks` lives in the scheduler process, is found as
``scheduler.extensions["external-tasks"]`` and knows nothing of simulations.  It creates the
tasks and gives Dask's events to the :class:`~.table.TaskTable`, which arrivals and failures use,
too; observers are called with every change.
All of its methods must be called in the scheduler's event loop.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import count
from time import time
from typing import TYPE_CHECKING, Any

from ips_components.errors import ExternalTaskError
from ips_components.external import _compat
from ips_components.external._compat_gate import (
    Gate,
    create_waiting,
    shield_from_no_workers_timeout,
)
from ips_components.external._compat_versions import check
from ips_components.external.arrivals import Arrivals
from ips_components.external.changes import Changes
from ips_components.external.failures import Failure, Failures
from ips_components.external.groups import Group, Observer, Registry
from ips_components.external.holds import Holds
from ips_components.external.log import Record, SchedulingLog
from ips_components.external.names import ExternalName, Key, check_key, key_name
from ips_components.external.state import WAITING, Event, State
from ips_components.external.table import TaskTable

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

#: Name in ``scheduler.extensions`` and ``worker.extensions``.
EXTENSION = "external-tasks"
#: Bytes of undeclared data that the cluster keeps.
EARLY_LIMIT = 1 << 30


class ExternalTasks:
    """The external tasks of one scheduler.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    early_limit : int
        Bytes of undeclared data that the whole cluster may keep until they are declared.

    Attributes
    ----------
    log : SchedulingLog
        Every change of state.
    failures : Failures
        Errs tasks whose data will never come.
    companions : dict
        What lives beside the external tasks, by dotted name.

    Raises
    ------
    UnsupportedVersion
        The installed distributed lacks what is needed.
    """

    def __init__(self, scheduler: Scheduler, early_limit: int = EARLY_LIMIT) -> None:
        check()
        self.scheduler = scheduler
        self.log = SchedulingLog()
        self.companions: dict[str, Any] = {}
        self.registry = Registry()
        self.changes = Changes(scheduler.loop.add_callback, self.log, self._after_change)
        self._stimuli = count()
        self._holds = Holds(scheduler, self.registry, self._stimulus)
        self._table = TaskTable(scheduler, self.registry, self.log, self.changes)
        self.failures = Failures(self._table)
        self._arrivals = Arrivals(self._table, self.failures, early_limit)
        self._gate = Gate(scheduler)
        self._undo = [
            _compat.add_arrival(scheduler),
            shield_from_no_workers_timeout(scheduler, self._gate),
            _compat.intercept_add_keys(scheduler, self._arrivals.copied),
            _compat.rest_gc_in_update_graph(scheduler),
        ]

    def close(self) -> None:
        """Take back what was changed on the scheduler and close the log's files."""
        while self._undo:
            self._undo.pop()()
        self.changes.flush()
        self.log.close()

    # -- declaring and letting go --------------------------------------------------------

    def declare(
        self,
        name: str,
        numblocks: tuple[int, ...],
        needed: Sequence[tuple[int, int]] | None = None,
        *,
        group: str,
        on_event: Observer | None = None,
        chunks: tuple[tuple[int, ...], ...] | None = None,
        dtype: str = "",
        client: str | None = None,
    ) -> int:
        """Create the external tasks ``(name, i, j, ...)`` of an array; return how many are new.

        They wait for data, are held by a pseudo-client until :meth:`release_group`, and data that
        have arrived already are matched at once.  Declaring the same again changes nothing.

        Parameters
        ----------
        name : str
            First element of all keys.
        numblocks : tuple of int
            Number of chunks per dimension.
        needed : sequence of (int, int), optional
            Half-open ranges of C-order chunk ids; default: all chunks.
        group : str
            Owner of the tasks.
        on_event : callable, optional
            ``on_event(kind, keys, info)``, called from the event loop, never from within a
            transition.  Kinds: wanted, in_memory, released, lost, wanted_again, erred,
            forgotten.  ``info`` has group, worker, stimulus, time.
        chunks, dtype : optional
            Expected lengths of the chunks and type of the values; what arrives otherwise is
            refused, and the task errs.
        client : str, optional
            Dask client for which the tasks are held; its departure ends the hold.

        Raises
        ------
        ExternalTaskError
            The description is wrong, contradicts an earlier one, or the group has ended.
        """
        spec = ExternalName(
            name, numblocks, None if needed is None else tuple(needed), chunks, dtype
        )
        record = self.registry.open(group, on_event)
        declared = self.registry.by_name.get(name)
        if declared is not None and (declared is not record or record.names[name] != spec):
            raise ExternalTaskError(
                f"external array {name!r} is already declared by group {declared.name!r} as "
                f"{declared.names[name]}; got {spec}. Give every array its own name"
            )
        new = self._create(record, name, spec, list(spec.keys()), client)
        stimulus = self._stimulus("declare")
        if new:
            self.log.add(
                Record(
                    time(),
                    group,
                    State.DECLARED,
                    stimulus=stimulus,
                    name=name,
                    numblocks=numblocks,
                    ranges=spec.ranges,
                )
            )
        self._settle(new, stimulus)
        return len(new)

    def declare_keys(
        self,
        keys: Iterable[Key],
        *,
        group: str,
        on_event: Observer | None = None,
        client: str | None = None,
    ) -> int:
        """Create external tasks of single keys; return how many are new.

        Like :meth:`declare` for keys that are no chunks of an array.
        """
        by_name: defaultdict[str, list[Key]] = defaultdict(list)
        for key in keys:
            by_name[key_name(check_key(key))].append(key)
        record = self.registry.open(group, on_event)
        for name in by_name:
            other = self.registry.by_name.get(name, record)
            if other is not record or record.names.get(name) is not None:
                raise ExternalTaskError(
                    f"the name {name!r} of key {by_name[name][0]!r} is that of an external "
                    f"array or key of group {other.name!r}; use another name"
                )
        new: list[Key] = []
        for name, mine in by_name.items():
            new += self._create(record, name, None, mine, client)
        stimulus = self._stimulus("declare")
        if new:
            self.log.note(group, State.DECLARED, new, stimulus=stimulus)
        self._settle(new, stimulus)
        return len(new)

    def _create(
        self,
        group: Group,
        name: str,
        spec: ExternalName | None,
        keys: list[Key],
        client: str | None,
    ) -> list[Key]:
        tasks, states = self.scheduler.tasks, group.states
        new = [key for key in keys if key not in states]
        for key in new:
            if key in tasks:
                raise ExternalTaskError(
                    f"key {key!r} is an ordinary task of this cluster; an external task needs "
                    "a key of its own"
                )
        holder = self._holds.holder(group, client)
        if len(new) < len(keys):
            self._holds.hold(group, client, [key for key in keys if key in states])
        create_waiting(self.scheduler, new, self._gate, holder)
        states.update(dict.fromkeys(new, State.DECLARED))
        self.registry.add(group, name, spec)
        return new

    def _settle(self, new: list[Key], stimulus: str) -> None:
        if new:
            self._gate.close(stimulus)
            self._arrivals.match(new, stimulus)

    def release_group(
        self, group: str, *, when_known: Iterable[Key] = (), client: str | None = None
    ) -> None:
        """Drop the hold on a group's keys, so that each is freed after its last consumer.

        Tasks that no registered graph needs are forgotten at once.  ``update_graph`` is
        asynchronous: a graph that is on its way when the hold is dropped finds its leaves
        gone.  Give the keys of its results as `when_known`; the hold is then dropped as soon
        as the scheduler knows them all.
        """
        self._holds.release_group(group, client, when_known)

    def release_keys(self, keys: Iterable[Key], *, client: str | None = None) -> None:
        """Drop the hold on single keys."""
        self._holds.release_keys(keys, client)

    # -- arriving ------------------------------------------------------------------------

    def arrived(self, worker: str, items: Sequence[tuple[Any, ...]], stimulus_id: str) -> list[str]:
        """A worker holds values: ``(key, nbytes)`` or ``(key, nbytes, dtype, shape)`` each.

        Returns
        -------
        list of str
            What became of each: ``memory`` (a new value), ``replica`` (a second copy),
            ``early`` (not declared yet, kept), ``late`` (not wanted any more, dropped),
            ``refused: <reason>`` (wrong shape or type, or no room to keep it; dropped),
            ``worker gone``.
        """
        return self._arrivals.arrived(worker, items, stimulus_id)

    def undeliverable(self, worker: str, keys: Iterable[Key], why: str, stimulus_id: str) -> None:
        """A worker could not take values in: inform the observers that they are lost."""
        self._arrivals.undeliverable(worker, keys, why, stimulus_id)

    # -- failing -------------------------------------------------------------------------

    def fail(
        self, keys: Iterable[Key] | tuple[str, Iterable[tuple[int, int]]], failure: Failure
    ) -> int:
        """Err external tasks that still wait; return how many.  What is complete stays.

        Parameters
        ----------
        keys : iterable of keys, or (name, ranges)
            Keys, or the declared name and ranges of chunk ids of an array.
        failure : exception or callable
            The exception of all, or a function from a key to its exception.
        """
        return self.failures.fail(keys, failure, self._stimulus("fail"))

    def fail_remaining(self, group: str, failure: Failure) -> int:
        """End a group: err all of its tasks that still wait; return how many.

        Whatever of the group is lost or wanted again afterwards errs as well, since no process
        can deliver it any more.
        """
        record = self.registry.get(group)
        record.ended = failure
        return self.failures.err(record, list(record.states), failure, self._stimulus("end"))

    # -- asking --------------------------------------------------------------------------

    def known(self, key: Key) -> bool:
        """Whether `key` is an external task that Dask knows."""
        return self.registry.find(key)[1] is not None

    def state(self, key: Key) -> State:
        """Return the state of an external task; UNKNOWN for what is not declared."""
        group, state = self.registry.find(key)
        if state is not None:
            return state
        if key in self._arrivals.early:
            return State.ARRIVED
        if group is not None or self.registry.was_declared(key):
            return State.FORGOTTEN
        return State.UNKNOWN

    def waiting(self, group: str) -> list[Key]:
        """Return the keys of a group whose data are not there and may come."""
        record = self.registry.groups.get(group)
        return [] if record is None else [k for k, s in record.states.items() if s in WAITING]

    def counts(self, group: str) -> dict[str, int]:
        """Return the number of a group's tasks per state."""
        return self.registry.get(group).counts()

    def story(self, key: Key) -> dict[str, Any]:
        """Return what happened to a key: its state, our records and Dask's own transitions."""
        self.changes.flush()
        return {
            "key": key,
            "state": str(self.state(key)),
            "records": [record.to_json() for record in self.log.story(key)],
            "transitions": [tuple(map(str, t)) for t in self.scheduler.story(key)],
        }

    # -- what Dask does ------------------------------------------------------------------

    def on_transition(self, key: Key, start: str, finish: str, stimulus_id: str) -> None:
        """Hook for every transition of the scheduler; returns at once for ordinary tasks."""
        if finish == "memory" and self._table.worker:
            return  # an arrival, which has been noted
        group, state = self.registry.find(key)
        if group is None or state is None:
            return
        ts = self.scheduler.tasks[key]
        if finish == "waiting":
            event = Event.WANT
        elif finish == "released":
            if _compat.is_failing(ts):
                return  # Dask's way from waiting to erred
            lost = start == "memory" and _compat.still_needed(ts)
            event = Event.LOSE if lost else Event.RELEASE
        elif finish == "erred":
            event = Event.ERR
        elif finish == "forgotten":
            event = Event.FORGET
        else:
            logger.error("External task %r went from %s to %s", key, start, finish)
            return
        self._table.advance(group, key, event, stimulus_id)

    def on_update_graph(self, tasks: Iterable[Key], stimulus_id: str) -> None:
        """Hook for a new graph: note which are wanted, and release what waited for the graph."""
        if self.registry.by_name:
            for key in tasks:
                group, state = self.registry.find(key)
                if group is not None and state is State.DECLARED:
                    self._table.advance(group, key, Event.WANT, stimulus_id)
        self._holds.graph_registered()

    def on_remove_worker(self, worker: str, stimulus_id: str) -> None:
        """Hook for a worker that left."""
        self.changes.departed[stimulus_id] = worker
        self._arrivals.worker_left(worker, stimulus_id)

    def on_remove_client(self, client: str) -> None:
        """Hook for a client that left: what was held for it is held no longer."""
        self._holds.client_left(client)

    def on_restart(self) -> None:
        """Hook for ``Client.restart``: Dask has forgotten all tasks already."""
        self._arrivals.early.clear()
        self.changes.flush()
        self._holds.restarted()

    def _after_change(self, group: Group, kind: str, keys: list[Key], stimulus: str) -> None:
        if kind in ("lost", "wanted_again") and group.ended is not None:
            self.failures.err(group, keys, group.ended, stimulus)
        self._holds.tidy(group)

    def _stimulus(self, what: str) -> str:
        return f"external-{what}-{next(self._stimuli)}-{time()}"
