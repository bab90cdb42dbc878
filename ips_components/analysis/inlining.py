"""Cuts out of external chunks go into the tasks that use them, which saves a task per chunk."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from dask._task_spec import Alias, GraphNode, Task


def inline_cuts(
    tasks: Mapping[Any, GraphNode], views: Set[str], outputs: Set[Any]
) -> dict[Any, GraphNode]:
    """Put the tasks of views into the tasks that use them, which keep their keys."""
    leaves = {
        key: task
        for key, task in tasks.items()
        if type(key) is tuple and key[0] in views and key not in outputs
    }
    inlined = {}
    for key, task in tasks.items():
        if key in leaves:
            continue
        used = [leaves[leaf] for leaf in task.dependencies if leaf in leaves]
        if aliases := {leaf.key: leaf.target for leaf in used if isinstance(leaf, Alias)}:
            task = task.substitute(aliases)
        if cuts := [leaf for leaf in used if not isinstance(leaf, Alias)]:
            task = Task.fuse(*cuts, task, key=key)
        inlined[key] = task
    return inlined
