"""Data from outside: what a worker announces, and what becomes of it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from ips_components.errors import ExternalTaskError
from ips_components.external import _compat
from ips_components.external._compat_gate import is_waiting
from ips_components.external.changes import Change
from ips_components.external.failures import Failures
from ips_components.external.groups import EarlyData, Group
from ips_components.external.names import Key, check_key, key_name
from ips_components.external.state import WAITING, Event, Instruction, State
from ips_components.external.table import TaskTable

logger = logging.getLogger(__name__)


class Arrivals:
    """Carries out what the state table says about announced values.

    Parameters
    ----------
    table : TaskTable
    failures : Failures
        Errs the tasks of values that are refused.
    early_limit : int
        Bytes of undeclared data that the cluster keeps.
    """

    def __init__(self, table: TaskTable, failures: Failures, early_limit: int) -> None:
        self._table = table
        self._failures = failures
        self._scheduler = table.scheduler
        self.early = EarlyData(early_limit)

    def arrived(self, worker: str, items: Sequence[tuple[Any, ...]], stimulus: str) -> list[str]:
        """See :meth:`ExternalTasks.arrived`."""
        if not _compat.has_worker(self._scheduler, worker):
            logger.info("Ignoring %d values announced by %s, which has left", len(items), worker)
            return ["worker gone"] * len(items)
        batch = _Batch()
        for item in items:
            if len(item) not in (2, 4) or type(item[1]) is not int or item[1] < 0:
                raise ExternalTaskError(
                    f"announced is (key, bytes) or (key, bytes, dtype, shape), got {item!r}"
                )
            key = item[0]
            group, state = self._table.registry.find(key)
            if group is None or state is None:
                self._unknown(batch, worker, item, group, stimulus)
                continue
            _, instruction = self._table.look_up(group, key, state, Event.ARRIVE)
            if instruction is Instruction.TO_MEMORY:
                self._to_memory(batch, item, group, stimulus)
            elif instruction is Instruction.DROP_REPLICA:
                batch.drop(key, "late")
                self._log(group.name, "late", worker, item, stimulus)
            else:
                batch.replicas.append(key)
                batch.outcomes.append("replica")
        self._carry_out(batch, worker, stimulus)
        return batch.outcomes

    def _to_memory(self, batch: _Batch, item: tuple[Any, ...], group: Group, stimulus: str) -> None:
        key = item[0]
        if why := _mismatch(group, item):
            batch.drop(key, f"refused: {why}")
            self._failures.err(group, [key], ExternalTaskError(why), stimulus)
        elif not is_waiting(self._scheduler, key):
            logger.error(
                "External task out of step with Dask: %s", "\n".join(self._table.history(key))
            )
            batch.drop(key, "late")
        else:
            # At once: nothing can come between the announcement and Dask's own transition.
            group.states[key] = State.MEMORY
            batch.ready.append((key, item[1], "numpy.ndarray" if len(item) > 2 else "object"))
            batch.noted.setdefault(group.name, (group, [], []))
            _, keys, nbytes = batch.noted[group.name]
            keys.append(key)
            nbytes.append(item[1])
            batch.outcomes.append("memory")

    def _unknown(
        self,
        batch: _Batch,
        worker: str,
        item: tuple[Any, ...],
        group: Group | None,
        stimulus: str,
    ) -> None:
        key = item[0]
        spec = None if group is None else group.names[key_name(key)]
        if spec is not None and key not in spec:
            batch.drop(key, f"refused: external array {spec.name!r} has no task for this chunk")
        elif spec is not None or (group is None and self._table.registry.was_declared(key)):
            # Dask has dropped the task: no task wants it any more.
            batch.drop(key, "late")
            self._log("", "late", worker, item, stimulus)
        elif key in self._scheduler.tasks:
            batch.drop(key, "refused: the key is an ordinary task of this cluster")
        elif not self.early.keep(worker, (check_key(key), *item[1:])):
            batch.drop(
                key,
                f"refused: the data are not declared, and the {self.early.limit} bytes kept for "
                "early data are used up; declare the array before its data are sent",
            )
        else:
            batch.outcomes.append("early")
            self._log("", State.ARRIVED, worker, item, stimulus)

    def _log(
        self, group: str, state: str, worker: str, item: tuple[Any, ...], stimulus: str
    ) -> None:
        self._table.log.note(
            group, state, [item[0]], worker=worker, stimulus=stimulus, nbytes=[item[1]]
        )

    def _carry_out(self, batch: _Batch, worker: str, stimulus: str) -> None:
        if batch.ready:
            # Before Dask acts: it may release at once what no task wants.
            for group, keys, nbytes in batch.noted.values():
                self._table.changes.add(
                    Change(group, "in_memory", State.MEMORY, keys, worker, stimulus, nbytes)
                )
            self._table.worker = worker
            try:
                _compat.to_memory(self._scheduler, worker, batch.ready, stimulus)
            finally:
                self._table.worker = ""
        if batch.replicas:
            _compat.add_replica(self._scheduler, worker, batch.replicas)
        if batch.unwanted:
            _compat.drop_replica(self._scheduler, worker, batch.unwanted, stimulus)

    def copied(self, worker: str, key: Key, nbytes: int, stimulus: str) -> bool:
        """Take in a copy that outlived its origin; False if `key` does not wait for data."""
        _, state = self._table.registry.find(key)
        if state not in WAITING:
            return False
        return self.arrived(worker, [(key, nbytes)], stimulus) == ["memory"]

    def match(self, new: Iterable[Key], stimulus: str) -> None:
        """Take in what arrived before it was declared."""
        if not self.early:
            return
        by_worker: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for key in new:
            for worker, item in self.early.pop(key).items():
                by_worker[worker].append(item)
        for worker, items in by_worker.items():
            self.arrived(worker, items, stimulus)

    def undeliverable(self, worker: str, keys: Iterable[Key], why: str, stimulus: str) -> None:
        """See :meth:`ExternalTasks.undeliverable`."""
        logger.warning("Worker %s could not take in external data: %s", worker, why)
        for key in keys:
            group, state = self._table.registry.find(key)
            if group is not None and state is not None:
                self._table.changes.add(
                    Change(group, "lost", "undeliverable", [key], worker, stimulus)
                )

    def worker_left(self, worker: str, stimulus: str) -> None:
        """Forget the early data of a worker that is gone."""
        for key in self.early.drop_worker(worker):
            self._table.log.note("", "discarded", [key], worker=worker, stimulus=stimulus)


class _Batch:
    """What is to be done about one announcement."""

    __slots__ = ("noted", "outcomes", "ready", "replicas", "unwanted")

    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.ready: list[tuple[Any, int, str]] = []
        #: Keys and bytes of what is ready, by group.
        self.noted: dict[str, tuple[Group, list[Key], list[int]]] = {}
        self.replicas: list[Key] = []
        self.unwanted: list[Key] = []

    def drop(self, key: Key, outcome: str) -> None:
        self.unwanted.append(key)
        self.outcomes.append(outcome)


def _mismatch(group: Group, item: tuple[Any, ...]) -> str:
    """Return what is wrong with a value's dtype or shape; empty if nothing is."""
    key = item[0]
    spec = group.names[key_name(key)]
    if spec is None or len(item) == 2:
        return ""
    _, _, dtype, shape = item
    if spec.dtype and dtype != spec.dtype:
        return f"value of {key!r} has dtype {dtype!r}, declared was {spec.dtype!r}"
    expected = spec.shape(key)
    if expected is not None and tuple(shape) != expected:
        return f"value of {key!r} has shape {tuple(shape)}, declared was {expected}"
    return ""
