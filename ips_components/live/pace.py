"""Where a simulation is, how fast it is, and how far it gets until its ranks have a contract."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: Seconds that ranks are expected to need for a contract to reach them.
REACTION = 0.2


class Pace:
    """Newest step, steps per second and seconds until ranks react, as far as they have been seen.

    Attributes
    ----------
    state : mapping
        Progress of the run, as it was last seen.
    newest : int
        Newest step that some rank has put, as far as is known; -1 before any.

    Examples
    --------
    >>> pace = Pace()
    >>> pace.margin()
    0
    >>> pace.begun(10.0, 100); pace.begun(12.0, 140); pace.reaction(0.5)
    >>> pace.margin()  # 20 steps per second, half a second and half of it again
    15
    >>> pace.newest
    139
    """

    def __init__(self) -> None:
        self.state: Mapping[str, Any] = {}
        self.newest = -1
        self._rate = 0.0
        self._last: tuple[float, int] | None = None
        self._reaction = REACTION

    def seen(self, state: Mapping[str, Any]) -> None:
        """Note the progress of the run."""
        self.state = state
        self.newest = max(self.newest, int(state.get("newest", -1)))

    def begun(self, at: float, step: int) -> None:
        """Note that a step was the first to come, at seconds of some clock."""
        if self._last is not None and at > self._last[0]:
            self._rate = max(0.0, (step - self._last[1]) / (at - self._last[0]))
        self._last = at, step
        self.newest = max(self.newest, step - 1)

    def reaction(self, seconds: float) -> None:
        """Note the seconds from the ranks' word where they are to the contract in their hands."""
        self._reaction = max(REACTION, seconds)

    def margin(self) -> int:
        """Return the steps that ranks may go on until a contract reaches them."""
        state = self.state
        elapsed = float(state.get("t", 0.0)) - float(state.get("started", 0.0))
        rate = float(state.get("steps", 0)) / elapsed if elapsed > 0 else 0.0
        return math.ceil(1.5 * self._reaction * max(rate, self._rate))
