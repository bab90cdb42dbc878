"""Warnings that a stranger can cause, bounded in number."""

from __future__ import annotations

import logging
import threading
import time

BURST = 20
INTERVAL = 60.0


class LimitedWarnings:
    """Logs at most ``burst`` warnings per interval, then how many were left out.

    Parameters
    ----------
    logger
        Where to.
    burst
        Warnings per interval.
    interval
        Seconds.
    """

    def __init__(
        self, logger: logging.Logger, burst: int = BURST, interval: float = INTERVAL
    ) -> None:
        self._logger = logger
        self._burst, self._interval = burst, interval
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._count = 0

    def warning(self, text: str, *arguments: object) -> None:
        """Log a warning, unless there were too many."""
        self.flush()
        with self._lock:
            self._count += 1
            count = self._count
        if count <= self._burst:
            self._logger.warning(text, *arguments)
        if count == self._burst:
            self._logger.warning(
                "More of these within %g s are counted, not logged", self._interval
            )

    def flush(self) -> None:
        """Log how many warnings were left out in an interval that is over."""
        now = time.monotonic()
        with self._lock:
            if now - self._since < self._interval:
                return
            left_out = self._count - self._burst
            self._since, self._count = now, 0
        if left_out > 0:
            self._logger.warning("%s more connections were refused or closed", left_out)
