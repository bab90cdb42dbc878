"""One graph over *at most* n steps, whose results are those of the steps that came.

The arrays have n chunks in time of unknown length (nan): whatever Dask can do with chunks of
unknown size it does, and what it cannot do it says before step 0. When the simulation ends
earlier, the chunks of the steps that never came are resolved with `ABSENT`, and each task does with
it what its rule says, see `absence`. That no number can be wrong is checked before the graph is
submitted: for each task it is known which step must come for it to have a value.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask._task_spec import (
    Alias,
    GraphNode,
    List,
    Task,
    TaskRef,
    convert_legacy_graph,
    fuse_linear_task_spec,
)
from dask._task_spec import cull as cull_tasks
from dask.base import tokenize
from dask.blockwise import fuse_roots, optimize_blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.utils import ensure_dict, funcname

from ips_components.analysis.absence import (
    TREE,
    Rule,
    assemble,
    guarded,
    name_of,
    rule_of,
    state_of,
)
from ips_components.analysis.inlining import inline_cuts
from ips_components.analysis.streaming import stream_reductions
from ips_components.analysis.views import Source, View, ViewLayer
from ips_components.errors import ContractError
from ips_components.external._compat import gc_paused

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger(__name__)

_REMEDY = (
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


def submit_at_most(
    client: Client, results: Mapping[str, Any], sources: Iterable[Source], *, streaming: bool = True
) -> dict[str, Future]:
    """Submit lazy results over arrays of at most n steps, after the contract was made.

    Parameters
    ----------
    client
        Client of the cluster.
    results
        Dask collections by name.
    sources
        All arrays on offer.
    streaming
        Make chains with a running state of the reductions over time.

    Returns
    -------
    dict
        A future for each result, by name.

    Raises
    ------
    ContractError
        A result cannot be had when the number of steps is known at the end only.
    """
    with gc_paused():
        tasks, keys = graph_at_most(results, sources, streaming=streaming)
        futures = client.get(tasks, list(keys.values()), sync=False)
    return dict(zip(keys, futures, strict=True))


def graph_at_most(
    results: Mapping[str, Any], sources: Iterable[Source], *, streaming: bool = True
) -> tuple[dict[Any, GraphNode], dict[str, Any]]:
    """Return all tasks of some results, and the key of each result by its name.

    Raises
    ------
    ContractError
        See `submit_at_most`.
    """
    sources = [source for source in sources if source.at_most]
    tasks: dict[Any, GraphNode] = {}
    last: dict[str, Task] = {}
    for name, result in results.items():
        plain, chunks, nested = _blocks_of(name, result)
        graph, outputs = plain.__dask_graph__(), set(flatten([nested]))
        if isinstance(graph, HighLevelGraph):
            if streaming and chunks is not None:
                graph = stream_reductions(graph)
            graph = fuse_roots(optimize_blockwise(graph, keys=outputs), keys=outputs).cull(outputs)
        made = cull_tasks(convert_legacy_graph(ensure_dict(graph)), list(outputs))
        tasks |= {
            key: task
            for key, task in made.items()
            if not (isinstance(task, Alias) and task.target == key)
        }
        key = f"result-{tokenize(name, nested)}"
        last[name] = Task(key, _result, name, chunks, _refs(nested), _around(result))
    guards = _Guards(tasks, sources)
    for name, task in last.items():
        guards.check_result(name, task)
    views = {name for source in sources for name in source.views}
    finals = {task.key: task for task in last.values()}
    blocks = {key for task in finals.values() for key in task.dependencies}
    # A result keeps the parts that it consists of, and not the chunks that they are cut out of.
    inlined = inline_cuts({**guards.tasks(), **finals}, views, blocks)
    keys = {name: task.key for name, task in last.items()}
    return fuse_linear_task_spec(inlined, keys={*finals, *blocks}), keys


def _blocks_of(name: str, result: Any) -> tuple[Any, tuple[Any, ...] | None, Any]:
    """Return the collection whose graph is taken, sizes of its blocks, and their keys."""
    if isinstance(result, xr.DataArray):
        lazy = [
            str(c) for c in result.coords if isinstance(result.coords[c].variable._data, da.Array)
        ]
        if lazy:
            raise ContractError(
                f"result {name!r} has the lazy coordinates {', '.join(lazy)}; where the number of "
                "steps is not known, return them as results of their own"
            )
        result = result.data
    if isinstance(result, da.Array):
        keys = result.__dask_keys__()
        return result, result.chunks, keys if result.ndim else keys[0]
    keys = result.__dask_keys__()
    if len(keys) != 1:
        raise ContractError(
            f"result {name!r} is a {type(result).__name__} of {len(keys)} parts; where the number "
            f"of steps is not known, results are arrays or single values: {_REMEDY}"
        )
    return result, None, keys[0]


def _around(result: Any) -> Any:
    """Return what a DataArray has besides its data, as a DataArray without any."""
    if not isinstance(result, xr.DataArray):
        return None
    return result.dims, dict(result.coords), result.attrs, result.name


def _result(name: str, chunks: Any, blocks: Any, around: Any) -> Any:
    value = assemble(name, chunks, blocks)
    if around is None:
        return value
    dims, coords, attrs, own = around
    return xr.DataArray(value, dims=dims, coords=coords, attrs=attrs, name=own)


def _refs(keys: Any) -> Any:
    return List(*map(_refs, keys)) if isinstance(keys, list) else TaskRef(keys)


class _Guards:
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
                f"steps {low} to {high} together, of which nobody knows how many come; {_REMEDY}"
            )
        if step > low:
            logger.warning(
                "Result %r needs step %d of a simulation that may end before it", name, step
            )

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
                f"{_label(task)} relates arrays of two simulations, and nobody knows how many "
                "steps either has; give the arrays of one of them a known number of steps"
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
            state = state_of(task)  # type: ignore[arg-type]
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
                raise ContractError(f"{_label(task)} joins steps in an unknown way; {_REMEDY}")
            self._joined[name_of(key)].add(key)

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
            raise ContractError(f"{name!r} joins parts that end at different steps; {_REMEDY}")
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


def is_at_most(result: Any, sources: Iterable[Source]) -> bool:
    """Return whether a lazy result may depend on an array of at most n steps."""
    names = {source.name for source in sources if source.at_most}
    if not names:
        return False
    graph = result.__dask_graph__()
    if not isinstance(graph, HighLevelGraph):
        return True
    views = [layer for layer in graph.layers.values() if isinstance(layer, ViewLayer)]
    return not views or any(isinstance(v.view, View) and v.view.source.name in names for v in views)


def refuse_large(results: Mapping[str, Any], limit: int) -> None:
    """Refuse results as long as the run that would not fit into the memory of one process.

    Raises
    ------
    ContractError
        A result of unknown length that has more than `limit` bytes if every step comes.
    """
    for name, result in results.items():
        data = result.data if isinstance(result, xr.DataArray) else result
        if not isinstance(data, da.Array) or not np.isnan(data.nbytes):
            continue
        sizes = [sum(1 if np.isnan(size) else size for size in parts) for parts in data.chunks]
        nbytes = float(np.prod(sizes)) * data.dtype.itemsize
        if nbytes > limit:
            raise ContractError(
                f"result {name!r} has {nbytes / 2**20:.0f} MiB if all of its steps come, and is "
                f"written at the end by one process, which takes {limit / 2**20:.0f} MiB at most; "
                "return a part of it (a region, every tenth step), or reduce it"
            )


@contextmanager
def noted(sources: Sequence[Source]) -> Iterator[None]:
    """Add to what Dask says of unknown lengths where they come from, and what can be done."""
    try:
        yield
    except (AssertionError, TypeError, ValueError) as error:
        bounded = [s.spec for s in sources if s.at_most]
        if bounded:
            error.add_note(
                f"array {bounded[0].name!r} has at most {bounded[0].steps.count} steps: the length "
                f"of its time is not known before the end (nan); {_REMEDY}"
            )
        raise
