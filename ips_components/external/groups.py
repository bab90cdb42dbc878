"""Owners and states of external tasks, and the memory of owners that are gone."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ips_components.errors import ExternalTaskError
from ips_components.external.names import ExternalName, Key, check_name, key_name
from ips_components.external.state import State

#: ``on_event(kind, keys, info)``: kinds are wanted, in_memory, released, lost, wanted_again,
#: erred and forgotten.
Observer: TypeAlias = Callable[[str, list[Key], Mapping[str, Any]], None]

#: Names and groups remembered after their end, to distinguish late data from early data.
MAX_RETIRED = 10_000


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
    holders : set of str
        Names of the pseudo-clients that hold keys of the group now.
    forgotten : Counter
        Last states of the tasks that Dask has dropped.
    ended : tuple of (exception or callable) or None
        Why no more data will come, once that is known.
    """

    name: str
    names: dict[str, ExternalName | None] = field(default_factory=dict)
    states: dict[Key, State] = field(default_factory=dict)
    observers: list[Observer] = field(default_factory=list)
    holders: set[str] = field(default_factory=set)
    forgotten: Counter[str] = field(default_factory=Counter)
    ended: Any = None

    def counts(self) -> dict[str, int]:
        """Return the number of tasks per state; forgotten ones count as forgotten."""
        counts = Counter(map(str, self.states.values()))
        if forgotten := self.forgotten.total():
            counts[State.FORGOTTEN] = forgotten
        return {str(state): n for state, n in sorted(counts.items())}


class BoundedDict(OrderedDict[Any, Any]):
    """A dict that forgets its oldest entries."""

    def __init__(self, limit: int = MAX_RETIRED) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > self._limit:
            self.popitem(last=False)


class EarlyData:
    """Which workers hold data that is not declared yet, bounded in bytes.

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
        """Forget what `worker` held; return the keys that no worker holds any more."""
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


class Registry:
    """All groups of a scheduler, found by their own name or by the keys that they own.

    Attributes
    ----------
    groups : dict
        Living groups by name.
    by_name : dict
        Living groups by the names of their arrays and keys.
    """

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.by_name: dict[str, Group] = {}
        self._retired_names = BoundedDict()
        self._retired_groups = BoundedDict()

    def open(self, name: str, on_event: Observer | None = None) -> Group:
        """Return the group called `name`, made if needed.

        Raises
        ------
        ExternalTaskError
            The group has ended.
        """
        check_name("a group of external tasks", name)
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group(name)
        if group.ended is not None:
            raise ExternalTaskError(f"group {name!r} has ended; no data will come for it")
        if on_event is not None and on_event not in group.observers:
            group.observers.append(on_event)
        return group

    def get(self, name: str) -> Group:
        """Return the group called `name`, present or retired.

        Raises
        ------
        ExternalTaskError
            There has never been one.
        """
        group = self.groups.get(name) or self._retired_groups.get(name)
        if group is None:
            raise ExternalTaskError(f"no group of external tasks is called {name!r}")
        return group

    def add(self, group: Group, name: str, spec: ExternalName | None) -> None:
        """Note that `group` owns `name`."""
        group.names.setdefault(name, spec)
        self.by_name[name] = group
        self._retired_names.pop(name, None)

    def find(self, key: Key) -> tuple[Group | None, State | None]:
        """Return the group that owns the name of `key`, and the state of the key itself."""
        group = self.by_name.get(key[0] if type(key) is tuple else key)
        return group, None if group is None else group.states.get(key)

    def was_declared(self, key: Key) -> bool:
        """Whether the name of `key` is, or once was, that of an external task."""
        name = key_name(key)
        return name in self.by_name or name in self._retired_names

    def retire_if_done(self, group: Group) -> None:
        """Remember a group that has no task left and is not held, and drop it."""
        if group.states or group.holders or self.groups.get(group.name) is not group:
            return
        del self.groups[group.name]
        self._retired_groups[group.name] = group
        for name in group.names:
            if self.by_name.get(name) is group:
                del self.by_name[name]
            self._retired_names[name] = None
