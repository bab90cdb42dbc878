"""A task that calls ``sys.exit`` fails, and does not end its worker.

Dask lets SystemExit through, so that the worker ends, the task is tried on the next one, and after
minutes the run fails with lost workers. It passes the line by which Dask notes that the thread
computes no more: once such a thread has ended, each look of the worker's profiler fails, a hundred
times a second, and what failed keeps the frames of all threads, with the chunks in them, until the
next collection of garbage. The note is made here.
"""

from __future__ import annotations

import threading
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
            executor.submit = _Guarded(submit, worker)


class _Guarded:
    """The ``submit`` of an executor of a worker."""

    def __init__(self, submit: Callable[..., Future[Any]], worker: Any) -> None:
        self._submit = submit
        self._worker = worker

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        return self._submit(partial(_run, self._worker, function), *args, **kwargs)


def _run(worker: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except SystemExit as error:
        with worker.active_threads_lock:
            worker.active_threads.pop(threading.get_ident(), None)
        raise AnalysisFailed(
            f"a task called sys.exit({error.code!r}), which would end its Dask worker; raise an "
            "exception"
        ).with_traceback(error.__traceback__) from None
