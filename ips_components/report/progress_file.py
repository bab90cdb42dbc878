"""How far a run is, in a file: for the process that has started it.

The file is replaced as a whole, so that a reader sees the old state or the new one.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

ENVIRONMENT = "IPS_COMPONENTS_PROGRESS_FILE"
"""Environment variable with the path; without it nothing is written."""

#: Seconds between two states that differ in numbers only.
INTERVAL = 0.4


class ProgressFile:
    """Writes what is known of a run, over what was known before.

    Parameters
    ----------
    path : path-like, optional
        None writes nothing.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._path = None if not path else Path(path)
        self._known: dict[str, Any] = {}
        self._written = float("-inf")

    @classmethod
    def wanted(cls) -> Self:
        """The file that the environment asks for."""
        return cls(os.environ.get(ENVIRONMENT))

    def note(self, **known: Any) -> None:
        """Write new facts at once: ``run``, ``run_dir``, ``doing``, ``live_page``, ..."""
        self._write(known)

    def update(self, state: Mapping[str, Any]) -> None:
        """Write a state of progress, not more often than it can be looked at."""
        if self._path is not None and time.monotonic() - self._written >= INTERVAL:
            self._write({"state": dict(state)})

    def _write(self, known: Mapping[str, Any]) -> None:
        """Write; the progress is a courtesy, and a full disk no reason why a run fails."""
        if self._path is None:
            return
        with suppress(OSError, ValueError):
            self._known = {**read_progress(self._path), **known, "t": time.time()}
            descriptor, temporary = tempfile.mkstemp(dir=self._path.parent)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(self._known, file, default=str)
            Path(temporary).replace(self._path)
            self._written = time.monotonic()


def read_progress(path: str | Path) -> dict[str, Any]:
    """Return what is known of a run; empty before anything was written."""
    try:
        known = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
