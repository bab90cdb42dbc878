"""Calls of analysis functions, the first one and those that ask what they return for more steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ips_components.analysis.checkpoint import load, take_out
from ips_components.analysis.result_values import merge_returned, name_results
from ips_components.analysis.results import lazy_parts
from ips_components.coordination.loading import Offered
from ips_components.coordination.settings import RunSettings

__all__ = ["call_again", "call_analysis", "takes_run"]


def takes_run(function: Callable[..., Any]) -> bool:
    """Whether an analysis function asks for its run."""
    return "run" in inspect.signature(function).parameters


def call_analysis(
    function: Callable[..., Any],
    arrays: Mapping[str, Any],
    run: Any,
    settings: RunSettings,
    offered_by: str,
) -> Any:
    """Call an analysis function with what it asks for, and return what it returns."""
    offered = {"run": run, "checkpoint": load(settings.checkpoint)}
    wanted = inspect.signature(function).parameters
    extras = {name: value for name, value in offered.items() if name in wanted}
    return function(Offered(arrays, offered_by), **{**settings.parameters, **extras})


class _Committed(BaseException):
    """Ends a function that is called again at its `commit`; none of its handlers is meant."""

    def __init__(self, returned: Any) -> None:
        super().__init__()
        self.returned = returned


class _Again:
    """The run of a function that is called again: all that it does beside its results is done."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def commit(self, returned: Any) -> None:
        raise _Committed(returned)

    def _done(self, *args: Any, **options: Any) -> None:
        """Do nothing: it was done when the function was called first."""

    send = send_model = stop = publish = _done


def call_again(
    functions: Iterable[Callable[..., Any]],
    arrays: Mapping[str, Any],
    run: Any,
    settings: RunSettings,
    offered_by: str,
) -> dict[str, Any]:
    """Return what analysis functions return, or commit, for other arrays: lazy values by name."""
    found = {}
    try:
        for each in functions:
            found[each] = call_analysis(each, arrays, _Again(run), settings, offered_by)
        returned = merge_returned(found)
    except _Committed as committed:
        returned = committed.returned
    results, state = take_out(returned)
    return lazy_parts({**name_results(results), **state})
