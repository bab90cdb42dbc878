"""Which step must come before a task over at most n steps has a value, and what follows from it.

For each task of a graph it is known which step it cannot do without. So it is known before step 0
that what is left out of a sum is left out because its step never came, and for no other reason;
that a result does not need all steps at once; and which step a part of a result is of.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

from dask._task_spec import Alias, GraphNode, Task
from dask.utils import funcname

from ips_components.analysis.absence import TREE, Rule, guarded, name_of, rule_of, state_of
from ips_components.analysis.views import Source, View
from ips_components.errors import ContractError

__all__ = ["REMEDY", "Guards"]

logger = logging.getLogger(__name__)

REMEDY = (
    "reduce over time with dask.array's or xarray's reductions or the algorithms of this package, "
    "which take the steps that come; ask for single steps by their number; or take windows of "
    "steps, run.rolling(array, size)"
)


@dataclass(frozen=True, slots=True)
class _Need:
    """What must come before a task has a value."""

    step: int
    """The newest step that it cannot do without; -1: none."""
    low: int
    high: int
    """First and last step that it depends on at all."""
    run: str
    reduced: bool = False
    """Whether it is a reduction over steps that asks for `step`."""


class Guards:
    """The tasks of a graph, each with its rule and with what must come for it.

    Parameters
    ----------
    tasks
        All tasks but the last one of each result.
    sources
        Arrays of at most n steps.
    """

    def __init__(self, tasks: Mapping[Any, GraphNode], sources: Sequence[Source]) -> None:
        self._tasks = tasks
        self._sources = {source.name: source for source in sources}
        self._single: dict[str, View] = {
            name: view
            for source in sources
            for name, view in source.views.items()
            if 0 not in view.kept
        }
        self._needs: dict[Any, _Need] = {}
        self._rules: dict[Any, Rule] = {}
        self._blame: dict[Any, str] = {}
        #: Keys that lists of steps are made of, by their name.
        self._joined: dict[Any, set[Any]] = defaultdict(set)
        graph = {key: task.dependencies for key, task in tasks.items()}
        for key in TopologicalSorter(graph).static_order():
            self._look_at(key)
        for name, keys in self._joined.items():
            self._check_axis(name, keys)
        self._check_order()

    def tasks(self) -> dict[Any, GraphNode]:
        """Return all tasks, those that may meet absent steps guarded."""
        made: dict[Any, GraphNode] = {}
        for key, task in self._tasks.items():
            rule = self._rules.get(key)
            made[key] = task if rule is None else guarded(task, rule, self._single)
        return made

    def check_result(self, name: str, task: Task) -> None:
        """Refuse a result that would be there only if every step came."""
        needs = [self._needs[key] for key in task.dependencies if key in self._needs]
        if not needs:
            return
        step = min(need.step for need in needs)
        low, high = min(need.low for need in needs), max(need.high for need in needs)
        if low < step == high:
            key = min(
                (key for key in task.dependencies if key in self._needs),
                key=lambda key: self._needs[key].step,
            )
            raise ContractError(
                f"result {name!r}: {self._blame.get(key) or 'its last task'} needs all of the "
                f"steps {low} to {high} together, whose number is not known; {REMEDY}"
            )
        if step > low:
            logger.warning(
                "Result %r needs step %d of a simulation that may end before it", name, step
            )

    def steps_along(self, keys: Iterable[Any], axis: int) -> tuple[list[int], str] | None:
        """Return which step of which run each block along an axis is of; None if not clear."""
        found: dict[int, set[int]] = defaultdict(set)
        runs = set()
        for key in keys:
            need = self._needs.get(key)
            if need is None or need.reduced or need.step < 0 or type(key) is not tuple:
                return None
            found[key[1 + axis]].add(need.step)
            runs.add(need.run)
        if len(runs) != 1 or any(len(steps) > 1 for steps in found.values()):
            return None
        return [found[index].pop() for index in sorted(found)], runs.pop()

    # -- internals ---------------------------------------------------------------------

    def _look_at(self, key: Any) -> None:
        task = self._tasks.get(key)
        if task is None:
            source = self._sources.get(name_of(key))
            if source is not None:
                step = source.spec.steps.step(source.layout.bounds(0, key[1])[0])
                self._needs[key] = _Need(step, step, step, source.run)
            return
        below = {each: self._needs[each] for each in task.dependencies if each in self._needs}
        if not below:
            return
        if isinstance(task, Alias):
            self._needs[key] = below[task.target]
            return
        rule = self._rules[key] = rule_of(task, self._single)
        runs = {need.run for need in below.values()}
        if len(runs) > 1:
            raise ContractError(
                f"{_label(task)} relates arrays of two simulations, and the number of steps "
                "of neither is known; give the arrays of one of them a known number of steps"
            )
        low, high = min(n.low for n in below.values()), max(n.high for n in below.values())
        run = runs.pop()
        if rule is Rule.NEED:
            self._needs[key] = _Need(-1, low, high, run)
            return
        most = max(below.values(), key=lambda need: (need.step, not need.reduced))
        if rule is Rule.ANY:
            mixes = most.step > min(need.step for need in below.values())
            blamed = next((self._blame[k] for k in below if k in self._blame), "")
            self._blame[key] = blamed or (_label(task) if mixes else "")
            self._needs[key] = _Need(most.step, low, high, run, most.reduced)
            return
        if rule is Rule.CARRY:
            state = state_of(task)
            new = [need for k, need in below.items() if k != state]
            step = max((need.step for need in new), default=-1)
            self._note_joined(task, [k for k in below if k != state])
            if state in below:
                step = min(step, below[state].step)
            self._needs[key] = _Need(step, low, high, run, True)
            return
        steps = {need.step for need in below.values()}
        if len(steps) > 1:
            self._note_joined(task, below)
        self._needs[key] = _Need(min(steps), low, high, run, len(steps) > 1 or most.reduced)

    def _note_joined(self, task: GraphNode, keys: Iterable[Any]) -> None:
        for key in keys:
            if type(key) is not tuple or len(key) < 2:
                raise ContractError(f"{_label(task)} joins steps in an unknown way; {REMEDY}")
            self._joined[name_of(key)].add(key)

    def _check_order(self) -> None:
        """Refuse steps that do not follow each other: an absent one may have others behind it."""
        for key, need in self._needs.items():
            if type(key) is not tuple or need.reduced or not all(type(i) is int for i in key[1:]):
                continue
            for position in range(1, len(key)):
                after = self._needs.get((*key[:position], key[position] + 1, *key[position + 1 :]))
                if after is not None and not after.reduced and after.step < need.step:
                    raise ContractError(
                        f"{key[0]!r} has step {after.step} behind step {need.step}, which may not "
                        f"come; {REMEDY}"
                    )

    def _check_axis(self, name: Any, keys: set[Any]) -> None:
        """Refuse to leave parts out that differ by anything else than their step.

        What a list is made of may be absent along one axis only, and as a step, not as a
        reduction over steps of its own.
        """
        needs = {key: self._needs[key] for key in keys}
        first = min(need.step for need in needs.values())
        partial = type(name) is str and TREE.fullmatch(name) and "-partial-" in name
        for position in range(1, len(next(iter(keys)))):
            steps: dict[Any, set[int]] = defaultdict(set)
            for key, need in needs.items():
                steps[key[position]].add(need.step)
            if all(len(each) == 1 for each in steps.values()):
                break
        else:
            raise ContractError(f"{name!r} joins parts that end at different steps; {REMEDY}")
        if not partial and any(n.reduced and n.step > first for n in needs.values()):
            raise ContractError(
                f"{name!r} joins reductions over steps that may not come with others; return them "
                "as results of their own"
            )


def _label(task: GraphNode) -> str:
    function = getattr(task, "func", None)
    name = str(name_of(task.key)).rpartition("-")[0] or str(name_of(task.key))
    label = funcname(function) if function is not None else name
    return name if label in ("_execute_subgraph", "", "apply") else label
