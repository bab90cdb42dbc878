"""What Dask's scheduler remembers of groups of tasks that are gone.

Touches private names of distributed, as :mod:`._compat` does.

Dask forgets a group of tasks with the last of its tasks, but not in its history: the computation
and the span that it was part of, and the groups that depended on it, still name it, for as long as
they live. An analysis of windows is one computation however long it runs, and each of its windows
consists of new groups: some kilobytes for every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import TaskGroup

#: Groups that a history may name before those that are gone are taken out.
MAX_GROUPS = 200


def forget_groups(scheduler: Scheduler, limit: int = MAX_GROUPS) -> int:
    """Take groups that are gone out of histories of more than `limit`; return how many."""
    current = scheduler.task_groups
    forgotten = 0
    for groups in _histories(scheduler):
        if len(groups) > limit:
            gone = {group for group in groups if current.get(group.name) is not group}
            groups -= gone
            forgotten += len(gone)
    return forgotten


def _histories(scheduler: Scheduler) -> Iterator[set[TaskGroup]]:
    for computation in scheduler.computations:
        yield computation.groups
    spans = scheduler.extensions.get("spans")
    for span in getattr(spans, "spans", {}).values():
        yield span.groups
    for group in scheduler.task_groups.values():
        yield group.dependencies
