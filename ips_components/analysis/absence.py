"""Tasks over chunks that may never come: what each does with `ABSENT`.

Nothing of a step that never came is ever passed to a function of the user. A task of which an
argument is absent is absent itself, unless it is one of those that take the steps together and
for which fewer of them mean the right thing: Dask's tree reductions and the running states of this
package. They take the steps that came.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np
from dask._task_spec import DataNode, GraphNode, Task, TaskRef
from dask.array.core import concatenate3
from dask.utils import funcname

from ips_components.algorithms._fold import UPDATES
from ips_components.algorithms.running_state import update
from ips_components.analysis.views import View
from ips_components.errors import ExternalTaskError
from ips_components.model.absent import ABSENT

__all__ = ["TREE", "Rule", "assemble", "guarded", "latest", "name_of", "rule_of", "state_of"]

TREE = re.compile(r".*-(aggregate|partial)-[0-9a-f]{32}")
"""Names of the layers of ``dask.array.reduction`` that join chunks."""


class Rule(Enum):
    """What a task makes of absent arguments."""

    ANY = "one absent argument makes it absent"
    JOIN = "absent items of lists are left out"
    CARRY = "called as f(state, chunks, ...): without the chunks it returns the state"
    NEED = "it is an error: the analysis has asked for this very step"


def latest(before: Any, chunk: Any, axis: int) -> Any:
    """Return the last index of a chunk along an axis: a task of the chain that makes ``u[-1]``."""
    return np.take(chunk, -1, axis=axis)


def rule_of(task: GraphNode, single_steps: Mapping[str, View]) -> Rule:
    """Return the rule of a task; `single_steps` are views of one step, asked for by its number."""
    name = name_of(task.key)
    if name in single_steps:
        return Rule.NEED
    function = getattr(task, "func", None)
    if function in (update, latest) or function in UPDATES:
        return Rule.CARRY
    if type(name) is str and TREE.fullmatch(name):
        return Rule.JOIN
    return Rule.ANY


def name_of(key: Any) -> Any:
    """Return the name in a key."""
    return key[0] if type(key) is tuple and key else key


def state_of(task: Task) -> Any:
    """Return the key of the state that a task with the rule CARRY goes on from, or None."""
    return task.args[0].key if isinstance(task.args[0], TaskRef) else None


def guarded(task: GraphNode, rule: Rule, single_steps: Mapping[str, View]) -> Task:
    """Return a task of the same key that keeps to its rule."""
    if rule in (Rule.JOIN, Rule.CARRY) and isinstance(task, Task):
        call = _join if rule is Rule.JOIN else _carry
        return Task(task.key, call, task.func, *task.args, **task.kwargs)
    what = ""
    if rule is Rule.NEED:
        view = single_steps[name_of(task.key)]
        axis = view.source.spec.steps
        what = f"array {view.source.spec.name!r} has no step {axis.step(view.grid[0][0])}"
    keys = tuple(task.dependencies)
    # The task is an argument, so that what is nested in it is not computed before.
    return Task(task.key, _all_or_none, what, DataNode(None, task), keys, *map(TaskRef, keys))


def _all_or_none(what: str, task: GraphNode, keys: tuple[Any, ...], *values: Any) -> Any:
    if not any(value is ABSENT for value in values):
        return task(dict(zip(keys, values, strict=True)))
    if what:
        raise ExternalTaskError(f"{what}: the simulation ended before it")
    return ABSENT


def _join(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    args = tuple(_without_absent(arg) for arg in args)
    return ABSENT if any(arg is ABSENT for arg in args) else function(*args, **options)


def _carry(
    function: Callable[..., Any], state: Any, chunks: Any, *args: Any, **options: Any
) -> Any:
    if _has_absent(chunks):
        return ABSENT if state is None else state
    if state is ABSENT:
        raise ExternalTaskError(
            f"{funcname(function)}: a step came after one that did not; nothing can be computed "
            "from steps with a gap"
        )
    return function(state, chunks, *args, **options)


def _has_absent(value: Any) -> bool:
    return any(map(_has_absent, value)) if isinstance(value, list) else value is ABSENT


def _without_absent(value: Any) -> Any:
    """Leave absent items out of nested lists; ABSENT when nothing is left of them."""
    if not isinstance(value, list):
        return value
    left = [item for item in map(_without_absent, value) if item is not ABSENT]
    return left if left or not value else ABSENT


def trimmed(
    blocks: Any, chunks: Sequence[Sequence[float]], is_absent: Callable[[Any], bool], name: str
) -> Any:
    """Leave absent blocks out of nested lists, along the dimensions of unknown length only.

    Parameters
    ----------
    blocks
        Nested lists, one level for each dimension.
    chunks
        Sizes of the blocks in each dimension, nan where they are unknown.
    is_absent
        Whether a block is absent.
    name
        Of the result, for messages.

    Returns
    -------
    nested lists, or ABSENT when nothing is left

    Raises
    ------
    ExternalTaskError
        Where a part of the result is absent that has a place in it whatever the number of steps.
    """
    if not chunks:
        return ABSENT if is_absent(blocks) else blocks
    below = [trimmed(each, chunks[1:], is_absent, name) for each in blocks]
    left = [each for each in below if each is not ABSENT]
    if left and len(left) < len(below) and not any(np.isnan(size) for size in chunks[0]):
        raise ExternalTaskError(
            f"result {name!r}: {len(below) - len(left)} of its {len(below)} parts need steps that "
            "never came"
        )
    return left if left else ABSENT


def assemble(name: str, chunks: Sequence[Sequence[float]] | None, blocks: Any) -> Any:
    """Return a result from its blocks, with as many steps as came: the last task of a result.

    Parameters
    ----------
    name
        Of the result.
    chunks
        Of an array; None for a single value.
    blocks
        Nested lists of blocks, or the value.

    Raises
    ------
    ExternalTaskError
        None of its steps came, or only a part of those that it cannot do without.
    """
    blocks = trimmed(blocks, chunks or (), lambda block: block is ABSENT, name)
    if blocks is ABSENT:
        raise ExternalTaskError(
            f"result {name!r}: none of the steps that it needs came before the simulation ended"
        )
    if chunks is None:
        return blocks
    array = concatenate3(blocks) if chunks else np.asarray(blocks)
    for size, parts in zip(np.shape(array), chunks, strict=True):
        whole = sum(parts)
        if not np.isnan(whole) and size != whole:
            raise ExternalTaskError(
                f"result {name!r} has shape {np.shape(array)}, expected {whole:g} along a "
                "dimension that does not depend on the number of steps: too few steps came for it"
            )
    return array
