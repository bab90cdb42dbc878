"""What Dask did to the external tasks, gathered per tick, then logged and reported to observers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import time
from typing import Any, NamedTuple

from ips_components.external.groups import BoundedDict, Group
from ips_components.external.log import Record, SchedulingLog
from ips_components.external.names import Key
from ips_components.external.state import State

logger = logging.getLogger(__name__)

#: What observers hear of a new state.
KINDS = {state: state.value for state in State} | {State.MEMORY: "in_memory"}


class Change(NamedTuple):
    """A change of some keys that the log and the observers have not heard of."""

    group: Group
    kind: str
    state: str
    keys: Sequence[Key]
    worker: str
    stimulus: str
    nbytes: Sequence[int] = ()


class Changes:
    """Changes of the current tick of the event loop.

    Observers must not be called from within Dask's transitions: what they do there would run
    in the middle of Dask's own changes.  They are called in a callback of the loop instead,
    once for all keys that changed alike.

    Parameters
    ----------
    call_soon : callable
        ``call_soon(function)`` of the event loop.
    log : SchedulingLog
    after : callable
        ``after(group, kind, keys, stimulus)``, called after the observers.
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], Any],
        log: SchedulingLog,
        after: Callable[[Group, str, list[Key], str], None],
    ) -> None:
        self._call_soon = call_soon
        self._log = log
        self._after = after
        self._changes: list[Change] = []
        #: Worker that left, by the stimulus of its departure.
        self.departed = BoundedDict(1000)

    def add(self, change: Change) -> None:
        """Note a change."""
        self._changes.append(change)
        if len(self._changes) == 1:
            self._call_soon(self.flush)

    def flush(self) -> None:
        """Log the changes noted so far and inform the observers."""
        changes, self._changes = self._changes, []
        batches: dict[tuple[str, ...], tuple[Change, list[Key], list[int]]] = {}
        for change in changes:
            alike = (change.group.name, change.kind, change.worker, change.stimulus)
            batch = batches.get(alike)
            if batch is None:
                batch = batches[alike] = (change, [], [])
            batch[1].extend(change.keys)
            batch[2].extend(change.nbytes)
        now = time()
        for change, keys, nbytes in batches.values():
            self._tell(now, change, keys, tuple(nbytes))

    def _tell(self, now: float, one: Change, keys: list[Key], nbytes: tuple[int, ...]) -> None:
        group, stimulus = one.group, one.stimulus
        worker = one.worker or self.departed.get(stimulus, "")
        self._log.add(Record(now, group.name, one.state, tuple(keys), worker, stimulus, nbytes))
        info = {"group": group.name, "worker": worker, "stimulus": stimulus, "time": now}
        for observer in list(group.observers):
            try:
                observer(one.kind, keys, info)
            except Exception:
                logger.exception(
                    "An observer of external tasks failed on %s of %d keys, %r first",
                    one.kind,
                    len(keys),
                    keys[0],
                )
        self._after(group, one.kind, keys, stimulus)
