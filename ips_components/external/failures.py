"""Data that will never come: external tasks err, and their consumers learn why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from ips_components.errors import ExternalTaskError
from ips_components.external import _compat
from ips_components.external.groups import Group
from ips_components.external.names import Key
from ips_components.external.state import Event, Instruction
from ips_components.external.table import TaskTable

#: An exception, or a function from a key to one.
Failure: TypeAlias = BaseException | Callable[[Key], BaseException]


class Failures:
    """Errs external tasks that still wait; what is complete stays.

    Parameters
    ----------
    table : TaskTable
    """

    def __init__(self, table: TaskTable) -> None:
        self._table = table

    def fail(self, keys: Any, failure: Failure, stimulus: str) -> int:
        """See :meth:`ExternalTasks.fail`."""
        by_group: defaultdict[str, list[Key]] = defaultdict(list)
        for key in self._expand(keys):
            group, _ = self._table.registry.find(key)
            if group is not None:
                by_group[group.name].append(key)
            elif not self._table.registry.was_declared(key):
                raise ExternalTaskError(f"cannot fail {key!r}: it is not an external task")
        groups = self._table.registry.groups
        return sum(
            self.err(groups[name], mine, failure, stimulus) for name, mine in by_group.items()
        )

    def _expand(self, keys: Any) -> Iterable[Key]:
        """Return the keys meant by keys or by (name, ranges)."""
        if not (isinstance(keys, tuple) and len(keys) == 2 and isinstance(keys[0], str)):
            return keys
        name, ranges = keys
        if isinstance(ranges, str):
            return keys
        group = self._table.registry.by_name.get(name)
        spec = None if group is None else group.names[name]
        if spec is None:
            raise ExternalTaskError(f"no external array {name!r} is declared")
        return spec.keys(ranges)

    def err(self, group: Group, keys: Iterable[Key], failure: Failure, stimulus: str) -> int:
        """Err those of `keys` that still wait; return how many."""
        failures = []
        one = None
        if isinstance(failure, BaseException):
            one = _compat.pickled(failure), str(failure)
        for key in keys:
            state = group.states.get(key)
            if state is None:
                continue
            _, instruction = self._table.look_up(group, key, state, Event.FAIL)
            if instruction is Instruction.TO_ERRED:
                if one is None:
                    exception = failure(key)  # type: ignore[operator]
                    failures.append((key, _compat.pickled(exception), str(exception)))
                else:
                    failures.append((key, *one))
        if failures:
            _compat.to_erred(self._table.scheduler, failures, stimulus)
        return len(failures)
