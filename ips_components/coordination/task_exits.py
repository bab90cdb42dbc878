"""A task that calls ``sys.exit`` fails, and does not end its worker.

Dask lets SystemExit through, so that the worker ends, the task is tried on the next one, and after
minutes the run fails with lost workers.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from ips_components.errors import AnalysisFailed


def refuse_exits(worker: Any) -> None:
    """Make tasks of a worker fail that would end it; once for each executor."""
    for executor in worker.executors.values():
        submit = executor.submit
        if not isinstance(submit, _Guarded):
            executor.submit = _Guarded(submit)


class _Guarded:
    """The ``submit`` of an executor."""

    def __init__(self, submit: Callable[..., Future[Any]]) -> None:
        self._submit = submit

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        return self._submit(partial(_run, function), *args, **kwargs)


def _run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except SystemExit as error:
        raise AnalysisFailed(
            f"a task called sys.exit({error.code!r}), which would end its Dask worker; raise an "
            "exception"
        ).with_traceback(error.__traceback__) from None
