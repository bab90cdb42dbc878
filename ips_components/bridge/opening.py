"""What a program that starts other people's code has to do before that code opens a bridge.

A task of a pool may open a bridge or not, as one of many ranks or alone; the task's runner
reads that here. The calls hold in the thread in which they are set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_before: ContextVar[Callable[[int, int], None] | None] = ContextVar("before_opening", default=None)


@contextmanager
def before_opening(call: Callable[[int, int], None]) -> Iterator[None]:
    """Have ``call(rank, size)`` called before each bridge that is opened within the block."""
    token = _before.set(call)
    try:
        yield
    finally:
        _before.reset(token)


def announce(rank: int, size: int) -> None:
    """Make the call that was set, if any."""
    call = _before.get()
    if call is not None:
        call(rank, size)
