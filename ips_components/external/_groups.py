"""Live state of the external tasks of one owner, and the memory of owners that are gone."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ips_components.external._names import ExternalName, Key
from ips_components.external._state import State

#: ``on_event(kind, keys, info)``: kinds are wanted, in_memory, released, lost, wanted_again,
#: erred and forgotten.
Observer: TypeAlias = Callable[[str, list[Key], Mapping[str, Any]], None]

#: Names and groups remembered after their end, to tell late data from early data.
MAX_TOMBSTONES = 10_000


@dataclass(slots=True)
class Group:
    """The external tasks of one owner: a coupled run, or one array of a script.

    Attributes
    ----------
    name : str
    names : dict
        Declared names of the group; the value is None for single keys.
    states : dict
        State of each key that Dask knows.
    observers : list of callables
    clients : set of str
        Dask clients whose departure ends the hold on the keys; empty for a run.
    forgotten : Counter
        Last states of the tasks that Dask has dropped.
    ended : tuple of (exception or callable) or None
        Why no more data will come, once that is known.
    """

    name: str
    names: dict[str, ExternalName | None] = field(default_factory=dict)
    states: dict[Key, State] = field(default_factory=dict)
    observers: list[Observer] = field(default_factory=list)
    clients: set[str] = field(default_factory=set)
    forgotten: Counter[str] = field(default_factory=Counter)
    ended: Any = None

    @property
    def owner(self) -> str:
        """Name of the pseudo-client that holds the group's keys."""
        return f"external-{self.name}"

    def counts(self) -> dict[str, int]:
        """Return the number of tasks per state; forgotten ones count as forgotten."""
        counts = Counter(map(str, self.states.values()))
        if forgotten := self.forgotten.total():
            counts[State.FORGOTTEN] = forgotten
        return {str(state): n for state, n in sorted(counts.items())}


class Bounded(OrderedDict[Any, Any]):
    """A dict that forgets its oldest entries."""

    def __init__(self, limit: int = MAX_TOMBSTONES) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > self._limit:
            self.popitem(last=False)


class EarlyData:
    """Which workers hold data that nobody has declared yet, bounded in bytes.

    Parameters
    ----------
    limit : int
        Most bytes of early data in the whole cluster.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._held: dict[Key, dict[str, tuple[Any, ...]]] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._held

    def __len__(self) -> int:
        return len(self._held)

    def keep(self, worker: str, item: tuple[Any, ...]) -> bool:
        """Remember an arrival ``(key, nbytes, ...)``; False if there is no room for it."""
        key, nbytes = item[:2]
        holders = self._held.get(key, {})
        if worker in holders:
            return True
        if self.nbytes + nbytes > self.limit:
            return False
        self._held.setdefault(key, {})[worker] = item
        self.nbytes += nbytes
        return True

    def pop(self, key: Key) -> dict[str, tuple[Any, ...]]:
        """Return and drop what is held for `key`, by worker."""
        holders = self._held.pop(key, {})
        self.nbytes -= sum(item[1] for item in holders.values())
        return holders

    def drop_worker(self, worker: str) -> list[Key]:
        """Forget what `worker` held; return the keys that nobody holds any more."""
        gone = []
        for key, holders in list(self._held.items()):
            if (item := holders.pop(worker, None)) is not None:
                self.nbytes -= item[1]
                if not holders:
                    del self._held[key]
                    gone.append(key)
        return gone

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
        self.nbytes = 0
