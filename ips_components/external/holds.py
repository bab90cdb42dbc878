"""Holds external tasks until the graphs that need them are registered.

A task that no client wants and no other task waits for is forgotten by Dask at once.  External
tasks are therefore wanted by a pseudo-client from their declaration on, and released when the
graphs are there; then each chunk is freed after its last consumer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ips_components.external import _compat
from ips_components.external.groups import Group, Registry
from ips_components.external.names import Key, key_name

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import ClientState


def holder_name(group: str, client: str | None) -> str:
    """Return the name of the pseudo-client that holds keys of `group` for `client`."""
    return f"external-{group}" if client is None else f"external-{group}-{client}"


class Holds:
    """Pseudo-clients of one scheduler.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    registry : Registry
    stimulus : callable
        Makes stimulus ids.
    """

    def __init__(
        self, scheduler: Scheduler, registry: Registry, stimulus: Callable[[str], str]
    ) -> None:
        self._scheduler = scheduler
        self._registry = registry
        self._stimulus = stimulus
        #: Result keys whose registration a (group, client) waits for before it is released.
        self._awaited: dict[tuple[str, str | None], set[Key]] = {}

    def holder(self, group: Group, client: str | None) -> ClientState:
        """Return the pseudo-client that holds keys of `group`, made if needed."""
        name = holder_name(group.name, client)
        group.holders.add(name)
        return _compat.pseudo_client(self._scheduler, name)

    def hold(self, group: Group, client: str | None, keys: Iterable[Key]) -> None:
        """Hold keys that exist already."""
        name = self.holder(group, client).client_key
        self._scheduler.client_desires_keys(keys=list(keys), client=name)

    def release_group(self, group: str, client: str | None, when_known: Iterable[Key]) -> None:
        """Drop a hold, once the scheduler knows all of `when_known`."""
        record = self._registry.get(group)
        awaited = self._awaited.get((group, client), set())
        awaited |= {key for key in when_known if key not in self._scheduler.tasks}
        if awaited:
            self._awaited[group, client] = awaited
        else:
            self._drop(record, holder_name(group, client), None)

    def release_keys(self, keys: Iterable[Key], client: str | None) -> None:
        """Drop the hold on single keys."""
        by_group: defaultdict[str, list[Key]] = defaultdict(list)
        for key in keys:
            if (group := self._registry.by_name.get(key_name(key))) is not None:
                by_group[group.name].append(key)
        for name, mine in by_group.items():
            self._drop(self._registry.groups[name], holder_name(name, client), mine)

    def _drop(self, group: Group, name: str, keys: list[Key] | None) -> None:
        cs = self._scheduler.clients.get(name)
        if cs is not None:
            if keys is None:
                keys = [ts.key for ts in cs.wants_what]
            self._scheduler.client_releases_keys(
                keys=keys, client=name, stimulus_id=self._stimulus("release")
            )
        self.tidy(group)

    def tidy(self, group: Group) -> None:
        """Drop the group's pseudo-clients that hold nothing, and the group if it is done."""
        for name in list(group.holders):
            if _compat.forget_pseudo_client(self._scheduler, name):
                group.holders.discard(name)
        self._registry.retire_if_done(group)

    def graph_registered(self) -> None:
        """Release what waited for a graph that the scheduler knows now."""
        known = self._scheduler.tasks
        for (group, client), awaited in list(self._awaited.items()):
            if all(key in known for key in awaited):
                del self._awaited[group, client]
                # Not now: the scheduler is in the middle of registering the graph.
                self._scheduler.loop.add_callback(self._release_later, group, client)

    def _release_later(self, group: str, client: str | None) -> None:
        if group in self._registry.groups:
            self.release_group(group, client, ())

    def client_left(self, client: str) -> None:
        """Release what was held for a client that is gone."""
        for group in list(self._registry.groups.values()):
            if holder_name(group.name, client) in group.holders:
                self._awaited.pop((group.name, client), None)
                self.release_group(group.name, client, ())

    def restarted(self) -> None:
        """Dask has forgotten all tasks."""
        self._awaited.clear()
        for group in list(self._registry.groups.values()):
            self.tidy(group)
