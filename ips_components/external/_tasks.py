"""External tasks on the stock scheduler: declare, arrive, fail, lose, release.

:class:`ExternalTasks` lives in the scheduler process, is found as
``scheduler.extensions["external-tasks"]`` and knows nothing of simulations.  It creates the
tasks, carries out the instructions of the table in :mod:`~._state`, and tells observers what
Dask did to the tasks.  All of its methods must be called in the scheduler's event loop.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple

from ips_components.errors import ExternalTaskError
from ips_components.external import _compat
from ips_components.external._groups import Bounded, EarlyData, Group, Observer
from ips_components.external._log import Record, SchedulingLog
from ips_components.external._names import ExternalName, Key, check_key, check_name, key_name
from ips_components.external._state import (
    Event,
    ImpossibleTransition,
    Instruction,
    State,
    transition,
)

if TYPE_CHECKING:
    from distributed import Scheduler

logger = logging.getLogger(__name__)

#: Name in ``scheduler.extensions`` and ``worker.extensions``.
EXTENSION = "external-tasks"
#: Bytes of undeclared data that the cluster keeps.
EARLY_LIMIT = 1 << 30

#: An exception, or a function from a key to one.
Failure = BaseException | Callable[[Key], BaseException]

#: What observers hear of a new state.
_KINDS = {state: state.value for state in State} | {State.MEMORY: "in_memory"}


class _Change(NamedTuple):
    """A change of one key that the log and the observers have not heard of."""

    group: Group
    kind: str
    state: str
    key: Key
    worker: str
    stimulus: str
    nbytes: int


class ExternalTasks:
    """The external tasks of one scheduler.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    early_limit : int
        Bytes of undeclared data that the whole cluster may keep until they are declared.

    Raises
    ------
    UnsupportedVersion
        The installed distributed lacks what is needed.
    """

    def __init__(self, scheduler: Scheduler, early_limit: int = EARLY_LIMIT) -> None:
        _compat.check()
        self.scheduler = scheduler
        self.log = SchedulingLog()
        self.early = EarlyData(early_limit)
        self.companions: dict[str, Any] = {}
        self.groups: dict[str, Group] = {}
        self._by_name: dict[str, Group] = {}
        self._tombstones = Bounded()
        self._gate = _compat.Gate(scheduler)
        self._changes: list[_Change] = []
        self._arriving = ""  # worker whose announcement is being carried out
        self._departed = Bounded(1000)  # stimulus -> worker that left
        self._pending_let_go: dict[str, set[Key]] = {}
        self._stimuli = count()
        self._undo = [
            _compat.add_arrival(scheduler),
            _compat.shield_from_no_workers_timeout(scheduler, self._gate),
        ]

    def close(self) -> None:
        """Take back what was changed on the scheduler and close the log's files."""
        while self._undo:
            self._undo.pop()()
        self.flush()
        self.log.close()

    # -- declaring -----------------------------------------------------------------------

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

        They wait for data, are held by the group's pseudo-client until :meth:`let_go`, and
        data that have arrived already are matched at once.  Declaring the same again changes
        nothing.

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
            Dask client whose departure ends the hold on the keys.

        Raises
        ------
        ExternalTaskError
            The description is wrong, contradicts an earlier one, or the group has ended.
        """
        spec = ExternalName(
            name, numblocks, None if needed is None else tuple(needed), chunks, dtype
        )
        record = self._open_group(group, on_event, client)
        declared = self._by_name.get(name)
        if declared is not None and (declared is not record or record.names[name] != spec):
            raise ExternalTaskError(
                f"external array {name!r} is already declared by group {declared.name!r} as "
                f"{declared.names[name]}; got {spec}. Give every array its own name"
            )
        new = self._create(record, name, spec, spec.keys())
        stimulus = self._stimulus("declare")
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
        keys = [check_key(key) for key in keys]
        record = self._open_group(group, on_event, client)
        for key in keys:
            other = self._by_name.get(key_name(key), record)
            if other is not record and key not in other.states:
                raise ExternalTaskError(
                    f"key {key!r} belongs to the name {key_name(key)!r}, which group "
                    f"{other.name!r} has declared without this key"
                )
        new: list[Key] = []
        for key in keys:
            if key_name(key) not in self._by_name or self._by_name[key_name(key)] is record:
                new += self._create(record, key_name(key), None, [key])
        stimulus = self._stimulus("declare")
        if new:
            self.log.note(group, State.DECLARED, new, stimulus=stimulus)
        self._settle(new, stimulus)
        self.flush()
        return len(new)

    def _open_group(self, name: str, on_event: Observer | None, client: str | None) -> Group:
        check_name("a group of external tasks", name)
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group(name)
        if group.ended is not None:
            raise ExternalTaskError(f"group {name!r} has ended; no data will come for it")
        if on_event is not None and on_event not in group.observers:
            group.observers.append(on_event)
        if client is not None:
            group.clients.add(client)
        return group

    def _create(
        self, group: Group, name: str, spec: ExternalName | None, keys: Iterable[Key]
    ) -> list[Key]:
        tasks, states = self.scheduler.tasks, group.states
        new = [key for key in keys if key not in states]
        for key in new:
            if key in tasks:
                raise ExternalTaskError(
                    f"key {key!r} is an ordinary task of this cluster; an external task needs "
                    "a key of its own"
                )
        _compat.create_waiting(
            self.scheduler, new, self._gate, _compat.owner(self.scheduler, group.owner)
        )
        states.update(dict.fromkeys(new, State.DECLARED))
        group.names.setdefault(name, spec)
        self._by_name[name] = group
        self._tombstones.pop(name, None)
        return new

    def _settle(self, new: list[Key], stimulus: str) -> None:
        """Close the gate, then match what has arrived before it was declared."""
        if not new:
            return
        self._gate.close(stimulus)
        if not self.early:
            return
        by_worker: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for key in new:
            for worker, item in self.early.pop(key).items():
                by_worker[worker].append(item)
        for worker, items in by_worker.items():
            self.arrived(worker, items, stimulus)

    # -- letting go ----------------------------------------------------------------------

    def let_go(self, group: str, *, when_known: Iterable[Key] = ()) -> None:
        """Drop the hold on a group's keys, so that each is freed after its last consumer.

        Tasks that no registered graph needs are forgotten at once.  ``update_graph`` is
        asynchronous: a graph that is on its way when the hold is dropped finds its leaves
        gone.  Give the keys of its results as `when_known`; the hold is then dropped as soon
        as the scheduler knows them all.
        """
        record = self._group(group)
        missing = {key for key in when_known if key not in self.scheduler.tasks}
        if missing:
            self._pending_let_go[group] = self._pending_let_go.get(group, set()) | missing
            return
        if group in self._pending_let_go:
            return
        cs = _compat.owner(self.scheduler, record.owner)
        stimulus = self._stimulus("let-go")
        self.scheduler.client_releases_keys(
            keys=[ts.key for ts in cs.wants_what], client=record.owner, stimulus_id=stimulus
        )
        _compat.forget_owner(self.scheduler, record.owner)
        self._close_if_done(record)

    def let_go_keys(self, keys: Iterable[Key]) -> None:
        """Drop the hold on single keys."""
        stimulus = self._stimulus("let-go")
        by_group: defaultdict[str, list[Key]] = defaultdict(list)
        for key in keys:
            if (group := self._by_name.get(key_name(key))) is not None:
                by_group[group.name].append(key)
        for name, mine in by_group.items():
            group = self.groups[name]
            if group.owner in self.scheduler.clients:
                self.scheduler.client_releases_keys(
                    keys=mine, client=group.owner, stimulus_id=stimulus
                )
                _compat.forget_owner(self.scheduler, group.owner)
            self._close_if_done(group)

    # -- arriving ------------------------------------------------------------------------

    def arrived(self, worker: str, items: Sequence[tuple[Any, ...]], stimulus_id: str) -> list[str]:
        """A worker holds values: ``(key, nbytes)`` or ``(key, nbytes, dtype, shape)`` each.

        Returns
        -------
        list of str
            What became of each: ``memory`` (a new value), ``replica`` (a second copy),
            ``early`` (not declared yet, kept), ``late`` (nobody wants it any more, dropped),
            ``refused: <reason>`` (wrong shape or type, or no room to keep it; dropped),
            ``worker gone``.
        """
        if _compat.worker_state(self.scheduler, worker) is None:
            logger.info("Ignoring %d values announced by %s, which has left", len(items), worker)
            return ["worker gone"] * len(items)
        outcomes = []
        ready: list[tuple[Any, int, str]] = []
        replicas: list[Key] = []
        drop: list[Key] = []
        for item in items:
            key, nbytes = item[0], item[1]
            name = key_name(key)
            group = self._by_name.get(name)
            state = None if group is None else group.states.get(key)
            if group is None or state is None:
                outcomes.append(self._arrived_unknown(worker, item, name, drop, stimulus_id))
                continue
            state, instruction = self._move(group, key, state, Event.ARRIVE)
            if instruction is Instruction.TO_MEMORY:
                if len(item) > 2 and (why := self._mismatch(group, name, item)):
                    outcomes.append(f"refused: {why}")
                    drop.append(key)
                    self._err(group, [key], ExternalTaskError(why), stimulus_id)
                    continue
                if not _compat.is_waiting(self.scheduler, key):
                    logger.error("External task out of step with Dask: %s", self.story(key))
                    outcomes.append("late")
                    drop.append(key)
                    continue
                group.states[key] = state
                ready.append((key, nbytes, "numpy.ndarray" if len(item) > 2 else "object"))
                outcomes.append("memory")
            elif instruction is Instruction.ADD_REPLICA:
                replicas.append(key)
                outcomes.append("replica")
            elif instruction is Instruction.KEEP:
                # Announced twice within one batch.
                outcomes.append("replica")
            else:
                drop.append(key)
                outcomes.append("late")
                self.log.note(
                    group.name, "late", [key], worker=worker, stimulus=stimulus_id, nbytes=[nbytes]
                )
        if ready:
            self._arriving = worker
            try:
                _compat.to_memory(self.scheduler, worker, ready, stimulus_id)
            finally:
                self._arriving = ""
        if replicas:
            _compat.add_replica(self.scheduler, worker, replicas)
        if drop:
            _compat.drop_replica(self.scheduler, worker, drop, stimulus_id)
        return outcomes

    def _arrived_unknown(
        self, worker: str, item: tuple[Any, ...], name: Any, drop: list[Key], stimulus: str
    ) -> str:
        key, nbytes = item[0], item[1]
        if (group := self._by_name.get(name)) is not None:
            spec = group.names[name]
            if spec is not None and key not in spec:
                drop.append(key)
                return f"refused: external array {name!r} has no task for this chunk"
        if group is not None or name in self._tombstones:
            drop.append(key)
            self.log.note("", "late", [key], worker=worker, stimulus=stimulus, nbytes=[nbytes])
            return "late"
        if key in self.scheduler.tasks:
            drop.append(key)
            return "refused: the key is an ordinary task of this cluster"
        if not self.early.keep(worker, item):
            drop.append(key)
            return (
                f"refused: the data are not declared, and the {self.early.limit} bytes kept for "
                "early data are used up; declare the array before its data are sent"
            )
        self.log.note("", State.ARRIVED, [key], worker=worker, stimulus=stimulus, nbytes=[nbytes])
        return "early"

    def _mismatch(self, group: Group, name: str, item: tuple[Any, ...]) -> str:
        spec = group.names.get(name)
        key, _, dtype, shape = item
        if spec is None:
            return ""
        if spec.dtype and dtype != spec.dtype:
            return f"value of {key!r} has dtype {dtype!r}, declared was {spec.dtype!r}"
        expected = spec.shape(key)
        if expected is not None and tuple(shape) != expected:
            return f"value of {key!r} has shape {tuple(shape)}, declared was {expected}"
        return ""

    def undeliverable(self, worker: str, keys: Iterable[Key], why: str, stimulus_id: str) -> None:
        """A worker could not take values in: tell the observers that they are lost."""
        for key in keys:
            if (group := self._by_name.get(key_name(key))) is not None:
                self._changes.append(
                    _Change(group, "lost", "undeliverable", key, worker, stimulus_id, 0)
                )
        logger.warning("Worker %s could not take in external data: %s", worker, why)
        self._schedule_flush()

    # -- failing -------------------------------------------------------------------------

    def fail(
        self,
        keys: Iterable[Key] | tuple[str, Iterable[tuple[int, int]]],
        failure: Failure,
    ) -> int:
        """Err external tasks that still wait; return how many.  What is complete stays.

        Parameters
        ----------
        keys : iterable of keys, or (name, ranges)
            Keys, or the declared name and ranges of chunk ids of an array.
        failure : exception or callable
            The exception of all, or a function from a key to its exception.
        """
        by_group: defaultdict[str, list[Key]] = defaultdict(list)
        for key in self._expand(keys):
            group = self._by_name.get(key_name(key))
            if group is None:
                raise ExternalTaskError(f"cannot fail {key!r}: it is not an external task")
            by_group[group.name].append(key)
        stimulus = self._stimulus("fail")
        return sum(
            self._err(self.groups[name], mine, failure, stimulus) for name, mine in by_group.items()
        )

    def fail_remaining(self, group: str, failure: Failure) -> int:
        """End a group: err all of its tasks that still wait; return how many.

        Whatever of the group is lost or wanted again afterwards errs as well, since nobody
        can deliver it any more.
        """
        record = self._group(group)
        record.ended = failure
        return self._err(record, list(record.states), failure, self._stimulus("end"))

    def _expand(self, keys: Any) -> Iterable[Key]:
        if (
            isinstance(keys, tuple)
            and len(keys) == 2
            and isinstance(keys[0], str)
            and not isinstance(keys[1], str | int)
        ):
            name, ranges = keys
            group = self._by_name.get(name)
            spec = None if group is None else group.names[name]
            if spec is None:
                raise ExternalTaskError(f"no external array {name!r} is declared")
            return spec.keys(ranges)
        return list(keys)

    def _err(self, group: Group, keys: Iterable[Key], failure: Failure, stimulus: str) -> int:
        failures = []
        one = None
        if isinstance(failure, BaseException):
            one = _compat.pickled(failure), str(failure)
        for key in keys:
            state = group.states.get(key)
            if state is None:
                continue
            _, instruction = self._move(group, key, state, Event.FAIL)
            if instruction is Instruction.TO_ERRED:
                if one is None:
                    exception = failure(key)  # type: ignore[operator]
                    failures.append((key, _compat.pickled(exception), str(exception)))
                else:
                    failures.append((key, *one))
        if failures:
            _compat.to_erred(self.scheduler, failures, stimulus)
        return len(failures)

    # -- asking --------------------------------------------------------------------------

    def known(self, key: Key) -> bool:
        """Whether `key` is an external task that Dask knows."""
        group = self._by_name.get(key_name(key))
        return group is not None and key in group.states

    def state(self, key: Key) -> State:
        """Return the state of an external task; UNKNOWN for what nobody has declared."""
        group = self._by_name.get(key_name(key))
        state = None if group is None else group.states.get(key)
        if state is not None:
            return state
        if key in self.early:
            return State.ARRIVED
        if group is not None or key_name(key) in self._tombstones:
            return State.FORGOTTEN
        return State.UNKNOWN

    def counts(self, group: str) -> dict[str, int]:
        """Return the number of a group's tasks per state."""
        return self._group(group).counts()

    def story(self, key: Key) -> dict[str, Any]:
        """Return what happened to a key: its state, our records and Dask's own transitions."""
        self.flush()
        return {
            "key": key,
            "state": str(self.state(key)),
            "records": [record.to_json() for record in self.log.story(key)],
            "transitions": [tuple(map(str, t)) for t in self.scheduler.story(key)],
        }

    def _group(self, name: str) -> Group:
        group = self.groups.get(name)
        if group is None:
            group = self._tombstones.get(("group", name))
        if group is None:
            raise ExternalTaskError(f"no group of external tasks is called {name!r}")
        return group

    # -- what Dask does ------------------------------------------------------------------

    def on_transition(self, key: Key, start: str, finish: str, stimulus_id: str) -> None:
        """Hook for every transition of the scheduler; returns at once for ordinary tasks."""
        group = self._by_name.get(key[0] if type(key) is tuple else key)
        if group is None or (state := group.states.get(key)) is None:
            return
        ts = self.scheduler.tasks[key]
        if finish == "memory":
            event = Event.IN_MEMORY
        elif finish == "waiting":
            event = Event.WANT
        elif finish == "released":
            if _compat.is_failing(ts):
                return  # Dask's way from waiting to erred
            event = Event.LOSE if start == "memory" and _compat.still_needed(ts) else Event.RELEASE
        elif finish == "erred":
            event = Event.ERR
        elif finish == "forgotten":
            event = Event.FORGET
        else:
            logger.error("External task %r went from %s to %s", key, start, finish)
            return
        self._apply(group, key, state, event, stimulus_id, ts.nbytes)

    def on_update_graph(self, tasks: Iterable[Key], stimulus_id: str) -> None:
        """Hook for a new graph: note who is wanted, and let go what waited for the graph."""
        by_name = self._by_name
        if by_name:
            for key in tasks:
                group = by_name.get(key[0] if type(key) is tuple else key)
                if group is not None and (state := group.states.get(key)) is State.DECLARED:
                    self._apply(group, key, state, Event.WANT, stimulus_id, 0)
        if self._pending_let_go:
            known = self.scheduler.tasks
            for name, missing in list(self._pending_let_go.items()):
                if all(key in known for key in missing):
                    del self._pending_let_go[name]
                    # Not now: the scheduler is in the middle of registering the graph.
                    self.scheduler.loop.add_callback(self._let_go_later, name)

    def _let_go_later(self, name: str) -> None:
        if name in self.groups:
            self.let_go(name)

    def on_remove_worker(self, worker: str, stimulus_id: str) -> None:
        """Hook for a worker that left."""
        self._departed[stimulus_id] = worker
        for key in self.early.drop_worker(worker):
            self.log.note("", "discarded", [key], worker=worker, stimulus=stimulus_id)

    def on_remove_client(self, client: str) -> None:
        """Hook for a client that left: what it declared is held no longer."""
        for group in list(self.groups.values()):
            if client in group.clients:
                group.clients.discard(client)
                if not group.clients:
                    self._pending_let_go.pop(group.name, None)
                    self.let_go(group.name)

    def on_restart(self) -> None:
        """Hook for ``Client.restart``: Dask has forgotten all tasks already."""
        self.early.clear()
        self._pending_let_go.clear()
        for group in list(self.groups.values()):
            _compat.forget_owner(self.scheduler, group.owner)
            self._close_if_done(group)
        self.flush()

    def _apply(
        self, group: Group, key: Key, state: State, event: Event, stimulus: str, nbytes: int
    ) -> None:
        new, _ = self._move(group, key, state, event)
        if new is state:
            return
        if new is State.FORGOTTEN:
            del group.states[key]
            group.forgotten[state] += 1
        else:
            group.states[key] = new
        kind = _KINDS[new]
        if new is State.WANTED and state is not State.DECLARED:
            kind = "wanted_again"
        self._changes.append(_Change(group, kind, str(new), key, self._arriving, stimulus, nbytes))
        if len(self._changes) == 1:
            self._schedule_flush()

    def _move(
        self, group: Group, key: Key, state: State, event: Event
    ) -> tuple[State, Instruction]:
        try:
            return transition(key, state, event)
        except ImpossibleTransition as error:
            story = "\n".join(
                [record.to_json() for record in self.log.story(key)]
                + [str(t) for t in self.scheduler.story(key)]
            )
            raise ImpossibleTransition(
                f"{error}. Its story (group {group.name}):\n{story}"
            ) from None

    # -- telling -------------------------------------------------------------------------

    def _schedule_flush(self) -> None:
        self.scheduler.loop.add_callback(self.flush)

    def flush(self) -> None:
        """Write the changes since the last flush to the log and tell the observers."""
        changes, self._changes = self._changes, []
        batches: dict[tuple[str, ...], tuple[_Change, list[Key], list[int]]] = {}
        for change in changes:
            alike = (change.group.name, change.kind, change.worker, change.stimulus)
            batch = batches.get(alike)
            if batch is None:
                batch = batches[alike] = (change, [], [])
            batch[1].append(change.key)
            batch[2].append(change.nbytes)
        now = time()
        for change, keys, nbytes in batches.values():
            group, kind, stimulus = change.group, change.kind, change.stimulus
            worker = change.worker or self._departed.get(stimulus, "")
            sizes = tuple(nbytes) if kind == "in_memory" else ()
            self.log.add(
                Record(now, group.name, change.state, tuple(keys), worker, stimulus, sizes)
            )
            info = {"group": group.name, "worker": worker, "stimulus": stimulus, "time": now}
            self._tell(group, kind, keys, info)
            if kind in ("lost", "wanted_again") and group.ended is not None:
                self._err(group, keys, group.ended, stimulus)
        for group in {change.group.name: change.group for change in changes}.values():
            self._close_if_done(group)

    def _tell(self, group: Group, kind: str, keys: list[Key], info: Mapping[str, Any]) -> None:
        for observer in list(group.observers):
            try:
                observer(kind, keys, info)
            except Exception:
                logger.exception("An observer of external tasks failed on %s of %r", kind, keys[:5])

    def _close_if_done(self, group: Group) -> None:
        """Bury a group that has no task left and is held by nobody."""
        if group.states or group.owner in self.scheduler.clients:
            return
        if self.groups.pop(group.name, None) is not None:
            for name in group.names:
                if self._by_name.get(name) is group:
                    del self._by_name[name]
                self._tombstones[name] = group.name
            self._tombstones["group", group.name] = group

    def _stimulus(self, what: str) -> str:
        return f"external-{what}-{next(self._stimuli)}-{time()}"
