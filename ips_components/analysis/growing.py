"""One graph over the steps of a simulation that does not say how many it puts.

The analysis function sees arrays of at most n steps, see `at_most`, and n grows: before the steps
of the graph are used up, the function is called again with arrays of twice as many. Tasks have the
same keys whatever n is, wherever they compute the same from the same. Those that the graphs over n
and over 2 n steps have in common do not depend on where the simulation ends: they are submitted.
What is left of the graph, such as the last task of a mean, is submitted at the end. So the
scheduler has tasks for twice as many steps as came at most, and chains go on from their state.

Nothing here depends on what functions do to steps. A function that makes another graph each time
that it is called keeps its data until the end, or is refused, but its numbers are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from graphlib import TopologicalSorter
from typing import Any

from dask._task_spec import GraphNode

from ips_components.analysis.absence import name_of
from ips_components.analysis.at_most import AtMostGraph
from ips_components.analysis.open_analysis import BEYOND, MAX_BOUND, SAME_GRAPH
from ips_components.errors import ContractError
from ips_components.model.array_contract import ArrayContract

__all__ = ["Growth", "markers"]


class Growth:
    """The graph over n steps and the next one, and which of their tasks can be submitted.

    Parameters
    ----------
    build
        Returns the graph over a number of steps.
    bound
        Number of steps of the first graph.
    names
        Dask names of the external arrays, and whether they have any number of steps.
    """

    def __init__(
        self, build: Callable[[int], AtMostGraph], bound: int, names: Mapping[str, bool]
    ) -> None:
        self.bound = bound
        self._build = build
        self._names = names
        self._graph, self._next = build(bound), build(2 * bound)
        self._done: set[Any] = set()
        self.kept: set[Any] = set()
        """Tasks that were submitted, on which others will depend."""
        self._held: set[Any] | None = None  # None before the first part

    @property
    def held(self) -> set[Any]:
        """External chunks on which tasks will depend that are not submitted yet."""
        return self._held or set()

    @property
    def keys(self) -> dict[str, Any]:
        """Key of each result in the graph."""
        return self._graph.keys

    @property
    def complete(self) -> set[str]:
        """Names of the results that do not depend on the end, and are submitted."""
        return {name for name, key in self.keys.items() if key in self._done}

    @property
    def over(self) -> bool:
        """Whether no further step is needed: all tasks are submitted."""
        return not (self._next.tasks.keys() - self._done)

    def part(self) -> dict[Any, GraphNode]:
        """Return the tasks that do not depend on the end and are not submitted, and keep the rest.

        Raises
        ------
        ContractError
            The tasks that are left need something that was not kept for them.
        """
        fresh = {k: task for k, task in self._graph.tasks.items() if k not in self._done}
        graph = {k: task.dependencies & fresh.keys() for k, task in fresh.items()}
        steady: set[Any] = set()
        for key in TopologicalSorter(graph).static_order():
            other = self._next.tasks.get(key)
            if other is None or not graph[key] <= steady:
                continue
            if other.dependencies == fresh[key].dependencies:
                steady.add(key)
        self._done |= steady
        before = self.kept | steady
        self.kept, held = self._needed()
        lost = self.kept - before
        if self._held is not None:
            lost |= {key for key in held - self._held if not self._is_new(key)}
        if lost:
            raise ContractError(
                f"the analysis needs {sorted(map(str, lost))[0]} again, which nothing needed in "
                f"its graph over {self.bound // 2} steps; {SAME_GRAPH}"
            )
        self._held = held
        tasks = {key: task for key, task in fresh.items() if key in steady}
        return self._graph.fused(tasks, self.kept)

    def _needed(self) -> tuple[set[Any], set[Any]]:
        """Return the tasks that are submitted and the chunks that all other tasks depend on."""
        kept: set[Any] = set()
        held: set[Any] = set()
        for key, task in self._next.tasks.items():
            if key in self._done:
                continue
            for each in task.dependencies:
                if each in self._done:
                    kept.add(each)
                elif each not in self._next.tasks and self._is_declared(each):
                    held.add(each)
        return kept, held

    def _is_declared(self, key: Any) -> bool:
        """Whether this is an external chunk that the graph until now spans."""
        name = name_of(key)
        return name in self._names and (not self._names[name] or key[1] < self.bound)

    def _is_new(self, key: Any) -> bool:
        """Whether a chunk is of the steps that the graph before did not span."""
        return self._names[name_of(key)] and key[1] >= self.bound // 2

    def grow(self) -> None:
        """Let the graph span twice as many steps."""
        if 2 * self.bound > MAX_BOUND:
            raise ContractError(
                f"more than {self.bound} steps came, and {MAX_BOUND} are the most that one graph "
                f"of an array without a number of steps spans: {BEYOND}"
            )
        self.bound *= 2
        self._graph = self._next
        self._next = self._build(2 * self.bound)

    def rest(self) -> dict[Any, GraphNode]:
        """Return all tasks that are left of the graph: the simulation has ended."""
        left = {k: task for k, task in self._graph.tasks.items() if k not in self._done}
        self._done |= left.keys()
        return self._graph.fused(left)

    def rows_held(self, name: str) -> set[int]:
        """Return the time chunks of an external array on which tasks will depend."""
        return {key[1] for key in self.held if name_of(key) == name}


def markers(
    arrays: Mapping[str, ArrayContract], first: int, stop: int
) -> Iterator[tuple[str, int, Any]]:
    """Yield, for each open array of which steps in ``first .. stop - 1`` are needed, one half way.

    Yields
    ------
    tuple
        Name of the array, time index, and key of an external chunk.
    """
    for name, array in arrays.items():
        if not array.layout.open_ended:
            continue
        ids = array.needed_ids((first + stop) // 2, stop)
        if not len(ids):
            ids = array.needed_ids(first, stop)[-1:]
        if len(ids):
            yield name, array.layout.unravel(int(ids[0]))[0], array.key(int(ids[0]))
