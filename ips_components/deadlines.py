"""Time limits of waits: one moment at which a wait ends, and a loop that polls until then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ips_components.errors import DeadlineExceeded

__all__ = ["Deadline", "poll_until"]

T = TypeVar("T")


class Deadline:
    """A moment on the monotonic clock.

    One deadline may be shared by several waits, which then take no longer together.

    Parameters
    ----------
    seconds : float
        Time from now; ``inf`` never expires, zero or less has expired already.

    Attributes
    ----------
    seconds : float
        The limit, as given: for messages.
    """

    __slots__ = ("_moment", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._moment = time.monotonic() + seconds

    def __repr__(self) -> str:
        return f"<Deadline of {self.seconds:g} s, {self.left:g} s left>"

    @property
    def left(self) -> float:
        """Seconds left; 0 when the deadline has expired."""
        return max(0.0, self._moment - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() >= self._moment

    def raise_if_expired(self, message: str) -> None:
        """Raise DeadlineExceeded with `message` when no time is left.

        Raises
        ------
        DeadlineExceeded
            The deadline has expired.
        """
        if self.expired:
            raise DeadlineExceeded(message)


def poll_until(
    condition: Callable[[], T],
    deadline: Deadline,
    *,
    pause: float,
    growth: float = 1.0,
    max_pause: float = 1.0,
) -> T:
    """Call `condition` until what it returns is true or the deadline has expired.

    As with `threading.Condition.wait_for`, the caller looks at what is returned. The condition is
    called at least once, and once more at the deadline.

    Parameters
    ----------
    condition : callable
        Called without arguments; what it raises ends the wait.
    deadline : Deadline
        End of the wait.
    pause : float
        Seconds between two calls.
    growth : float
        Factor by which each pause is longer than the one before.
    max_pause : float
        Longest pause that `growth` leads to, in seconds.

    Returns
    -------
    object
        What the last call returned: false when the deadline has expired.
    """
    while True:
        expired = deadline.expired
        value = condition()
        if value or expired:
            return value
        time.sleep(min(pause, deadline.left))
        pause = max(pause, min(max_pause, pause * growth))
