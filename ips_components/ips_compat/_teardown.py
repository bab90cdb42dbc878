"""How long the workers of a pool may take to close: as long as their plugins' teardown goes on.

A worker plugin may copy gigabytes when its worker closes. Each worker reports that it is closing,
and whether it gets on, in a small file in the directory of the pool's launchers, which all nodes of
the job and its containers can see.
"""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PREFIX = "closing-"
_DONE = "closed"
START_LIMIT = 20.0
"""Seconds within which a worker must have begun to close."""
STALL_LIMIT = 120.0
"""Seconds without progress after which a teardown is taken to hang."""
_LAST_MOMENT = 1.0
"""Seconds for a worker that has removed its directory to end."""


def reporter(directory: Path) -> Any:
    """Return the worker plugin that reports into a directory."""
    from ips_components.ips_compat._close_reporter import CloseReporter

    return CloseReporter(str(directory), _PREFIX, _DONE)


def prepare_closing(client: Any, timeout: float = 5.0) -> None:
    """Have workers close their own clients, and their processes end as soon as they are closed.

    A worker that does not answer is left as it is.
    """
    from ips_components.ips_compat import _close_reporter as remote

    for function, nanny in ((remote.prepare_prompt_end, True), (remote.close_client, False)):
        with contextlib.suppress(Exception):
            client.sync(
                client._run, function, nanny=nanny, on_error="ignore", callback_timeout=timeout
            )


class ClosingWorkers:
    """What the workers of a pool report while they close.

    Parameters
    ----------
    directory
        Where they report.
    known
        Number of workers that were there when they were asked to close; others are still starting.
    scratch
        Directories that the workers remove last; empty where they cannot be seen from here.
    time_out
        Longest time for all of it, in seconds.
    """

    def __init__(
        self, directory: Path, known: int, scratch: Sequence[Path], time_out: float
    ) -> None:
        self._directory = directory
        self._known = known
        self._scratch = [path for path in scratch if path.exists()]
        self._time_out = time_out
        self._began = time.monotonic()
        self._progress: dict[str, tuple[str, float]] = {}
        self._done_since: float | None = None

    def verdict(self) -> str | None:
        """Return None while it is worth waiting.

        Else why not: "" when all that can be waited for is done, or what is cut, as text.
        """
        now = time.monotonic()
        open_workers = self._look(now)
        elapsed = now - self._began
        gone = bool(self._scratch) and not any(path.exists() for path in self._scratch)
        if gone or (not open_workers and len(self._progress) >= self._known):
            self._done_since = self._done_since or now
            moment = _LAST_MOMENT if gone else 5 * _LAST_MOMENT
            return "" if now - self._done_since > moment else None
        if elapsed > self._time_out:
            return self._cut(
                max(len(open_workers), self._known - len(self._progress)),
                f"after {self._time_out:g} s (TEARDOWN_TIME_OUT)",
            )
        if not open_workers:
            if elapsed < START_LIMIT:
                return None
            missing = self._known - len(self._progress)
            return self._cut(missing, f"since it did not begin within {START_LIMIT:g} s")
        if all(now - since > STALL_LIMIT for _, since in open_workers.values()):
            return self._cut(len(open_workers), f"since it made no progress for {STALL_LIMIT:g} s")
        return None

    def _look(self, now: float) -> dict[str, tuple[str, float]]:
        """Read the reports; return those of workers that are not closed yet."""
        for path in self._directory.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                text = path.read_text()
                if text and text != self._progress.get(path.name, ("", 0.0))[0]:
                    self._progress[path.name] = (text, now)
        return {name: each for name, each in self._progress.items() if each[0] != _DONE}

    def _cut(self, workers: int, why: str) -> str:
        return (
            f"the teardown of the worker plugins of {workers} Dask worker(s) was cut {why}; what "
            "they were to copy or archive may be incomplete. Give it more time by "
            "TEARDOWN_TIME_OUT, in seconds, in the section of the component"
        )


def remove_reports(directory: Path) -> None:
    """Remove what workers of an earlier pool of the same name have reported."""
    for path in directory.glob(f"{_PREFIX}*"):
        path.unlink(missing_ok=True)
