"""The graph over the steps of a live run, extended as they come.

The steps of the graph are declared, and the ranks may put these. One task per array says that half
of the steps which are new in the graph have come: then it is extended, while the ranks go on. When
the simulation ends, the chunks that never came are resolved as absent, these tasks among what
depends on them, and the rest of the graph is submitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from itertools import groupby
from typing import Any, Protocol

from dask._task_spec import Task, TaskRef
from distributed import Client, Future, as_completed

from ips_components.analysis.coordinator_client import Coordinator
from ips_components.analysis.growing import Growth, markers
from ips_components.external._compat import gc_paused
from ips_components.external.packed_tasks import pack
from ips_components.model.absent import ABSENT
from ips_components.model.array_contract import ArrayContract

__all__ = ["GrowingRun"]


class _Waiting(Protocol):
    """What `as_completed` offers here."""

    def add(self, future: Future) -> None: ...


def _has_come(chunk: Any) -> bool:
    return chunk is not ABSENT


class GrowingRun:
    """Submits a graph as it grows.

    Parameters
    ----------
    client
        Of the cluster.
    coordinator
        Of the run, whose contract is signed.
    growth
        The graph.
    contracts
        By name of the array, in the order of the contract.
    futures
        Results by name, to which those of the graph are added.
    timeout
        Seconds for the scheduler to register a graph.
    changed
        Called when the analysis waits for other tasks than before.
    """

    def __init__(
        self,
        client: Client,
        coordinator: Coordinator,
        growth: Growth,
        contracts: Mapping[str, ArrayContract],
        futures: MutableMapping[str, Future],
        timeout: float,
        changed: Callable[[], None],
    ) -> None:
        self._client = client
        self._coordinator = coordinator
        self._growth = growth
        self._contracts = dict(contracts)
        self._futures = futures
        self._timeout = timeout
        self._changed = changed
        self._ended = False
        self._kept: dict[Any, Future] = {}
        self._markers: dict[Any, Future] = {}
        self._bounds: dict[Any, int] = {}  # by key of a marker: how many steps its graph spans
        self._released: dict[str, set[int]] = {name: set() for name in contracts}

    @property
    def awaited(self) -> list[Any]:
        """Keys of the tasks that say that steps have come."""
        return list(self._markers)

    def begin(self) -> None:
        """Submit what can be of the first graph, and let the ranks begin."""
        self._declare(0)
        self._submit(first=0)

    def completed(self) -> Iterator[tuple[list[str], Future]]:
        """Yield the results as they end, with all names of each; the graph goes on meanwhile."""
        given: set[Any] = set()
        waiting = as_completed(
            [*_by_key(self._futures.values()), *self._markers.values(), *self._kept.values()],
            raise_errors=False,
        )
        for future in waiting:
            names = [name for name, each in self._futures.items() if each.key == future.key]
            if names and future.key not in given:
                given.add(future.key)
                yield names, future
            elif future.key in self._markers:
                self._marked(future, waiting)
            elif future.status != "finished" and future.key in self._kept:
                self._end(waiting)  # what depends on it fails now, and not at the end

    # -- internals ---------------------------------------------------------------------

    def _marked(self, future: Future, waiting: _Waiting) -> None:
        """Half of the new steps of an array have come, or the simulation is over."""
        del self._markers[future.key]
        if future.status != "finished" or not future.result():
            self._end(waiting)
        elif self._bounds.pop(future.key) == self._growth.bound and not self._ended:
            first = self._growth.bound
            if self._declare(first):
                self._growth.grow()
                for each in self._submit(first=first):
                    waiting.add(each)
            else:  # it has ended in the meantime
                self._end(waiting)
        self._changed()

    def _declare(self, first: int) -> bool:
        """Allow the steps from the time index `first` on to come; return whether any may.

        Arrays with a number of steps are declared as a whole, at the first call.
        """
        stop = 2 * first or self._growth.bound
        for ordinal, array in enumerate(self._contracts.values()):
            if not array.layout.open_ended and first:
                continue
            until = stop if array.layout.open_ended else array.layout.shape[0]
            if not self._coordinator.declare_ahead(ordinal, first, until):
                return False
        return True

    def _submit(self, first: int) -> list[Future]:
        """Submit what does not depend on the end; return the futures that are new."""
        growth = self._growth
        with gc_paused():
            tasks = growth.part()
            for _, _, key in () if growth.over else self._half_way(first):
                marker = (f"came-{key[0]}", growth.bound)
                tasks[marker] = Task(marker, _has_come, TaskRef(key))
            markers = [key for key in tasks if str(key[0]).startswith("came-")]
            results = {name: growth.keys[name] for name in growth.complete - self._futures.keys()}
            kept = [key for key in growth.kept if key in tasks]
            wanted = [*markers, *dict.fromkeys(results.values()), *kept]
            made = self._client.get(pack(tasks), wanted, sync=False) if wanted else []
        futures = dict(zip(wanted, made, strict=True))
        self._markers |= {key: futures[key] for key in markers}
        self._bounds |= dict.fromkeys(markers, growth.bound)
        self._futures.update({name: futures[key] for name, key in results.items()})
        self._kept |= {key: futures[key] for key in kept}
        if growth.over:
            self._finish()
            self._coordinator.end_windows()
        else:
            # Until its graph is there, everything stays that it may need.
            self._coordinator.commit([*markers], [], self._timeout, hold=True)
            self._release()
        self._kept = {key: each for key, each in self._kept.items() if key in growth.kept}
        return made

    def _half_way(self, first: int) -> Iterable[tuple[str, int, Any]]:
        return markers(self._contracts, first, self._growth.bound)

    def _release(self) -> None:
        """Leave the chunks on which only submitted tasks depend to these."""
        bound = self._growth.bound
        for ordinal, (name, array) in enumerate(self._contracts.items()):
            held = self._growth.rows_held(array.name)
            layout = array.layout
            if layout.open_ended:
                rows = sorted(set(range(bound)) - held - self._released[name])
                self._released[name].update(rows)
                for start, stop in _runs(rows):
                    self._coordinator.release_steps(ordinal, start, stop)
            elif not held and not self._released[name]:
                self._released[name].add(0)
                self._coordinator.release_steps(ordinal, 0, layout.shape[0])

    def _end(self, waiting: _Waiting) -> None:
        """Submit what is left of the graph: no further step comes."""
        if self._ended:
            return
        with gc_paused():
            left = self._growth.keys.keys() - self._futures.keys()
            keys = {name: self._growth.keys[name] for name in left}
            wanted = list(dict.fromkeys(keys.values()))
            made = self._client.get(pack(self._growth.rest()), wanted, sync=False)
        futures = dict(zip(wanted, made, strict=True))
        self._futures.update({name: futures[key] for name, key in keys.items()})
        for future in made:
            waiting.add(future)
        self._finish()
        self._kept = {}
        self._changed()

    def _finish(self) -> None:
        """All of the graph is submitted: hold its results, and nothing else."""
        self._ended = True
        names = [name for name in self._growth.keys if name in self._futures]
        keys = [self._futures[name].key for name in names]
        self._coordinator.commit(keys, names, self._timeout)


def _by_key(futures: Iterable[Future]) -> list[Future]:
    return list({future.key: future for future in futures}.values())


def _runs(rows: list[int]) -> Iterator[tuple[int, int]]:
    """Yield runs of consecutive numbers, half-open."""
    for _, run in groupby(enumerate(rows), lambda each: each[1] - each[0]):
        numbers = [row for _, row in run]
        yield numbers[0], numbers[-1] + 1
