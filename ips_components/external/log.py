"""The scheduling log: every state change of an external task, as structured records.

One record covers all keys that changed alike at once (a batch of arrivals, a declared range), so
that keeping the log costs little beside Dask's own work.  Records are bounded in memory; a file
gets all of them as JSON lines::

    {"t": 1717.25, "group": "run-7", "state": "memory", "worker": "tcp://...", "stimulus": "...",
     "keys": [["external-t-0a1b2c3d", 0, 1]], "bytes": [8388608]}

A declaration names its range instead of its keys: ``"name"``, ``"numblocks"``, ``"ranges"``.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any, TextIO

from ips_components.external.names import Ranges, key_name, linear_index

logger = logging.getLogger(__name__)

#: Records kept in memory.
MAX_RECORDS = 5_000
#: Keys that all records in memory may name together; older records go first.
MAX_KEYS = 100_000


@dataclass(frozen=True, slots=True)
class Record:
    """One change of state of one or more external tasks.

    Attributes
    ----------
    t : float
        Seconds since the epoch.
    group, state, worker, stimulus : str
        Owner of the keys, state reached, worker concerned (or empty) and what caused it.
    keys : tuple
        The keys, unless the record covers a declared range.
    nbytes : tuple of int
        Bytes of each key, where known.
    name, numblocks, ranges
        The declared range, for declarations.
    note : str
        What a person needs to know, for example the error.
    """

    t: float
    group: str
    state: str
    keys: tuple[Any, ...] = ()
    worker: str = ""
    stimulus: str = ""
    nbytes: tuple[int, ...] = ()
    name: str = ""
    numblocks: tuple[int, ...] = ()
    ranges: Ranges | None = None
    note: str = ""

    def concerns(self, key: Any) -> bool:
        """Whether `key` is among the keys of this record."""
        if not self.name:
            return key in self.keys
        if key_name(key) != self.name or not isinstance(key, tuple):
            return False
        index = linear_index(key[1:], self.numblocks)
        if index is None:
            return False
        return self.ranges is None or any(start <= index < stop for start, stop in self.ranges)

    def to_json(self) -> str:
        """Return the record as one line of JSON; empty fields are left out."""
        out: dict[str, Any] = {"t": round(self.t, 6), "group": self.group, "state": self.state}
        for field in ("worker", "stimulus", "note", "name"):
            if value := getattr(self, field):
                out[field] = value
        if self.name:
            out["numblocks"] = self.numblocks
            out["ranges"] = self.ranges
        if self.keys:
            out["keys"] = self.keys
        if self.nbytes:
            out["bytes"] = self.nbytes
        return json.dumps(out, default=str)


class SchedulingLog:
    """Bounded memory of records, and files that get every record.

    Parameters
    ----------
    max_records, max_keys : int
        Bounds of what is kept in memory.
    """

    def __init__(self, max_records: int = MAX_RECORDS, max_keys: int = MAX_KEYS) -> None:
        self._max_records = max_records
        self._max_keys = max_keys
        self._records: deque[Record] = deque()
        self._n_keys = 0
        self._files: dict[Path, tuple[TextIO, str | None]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def add(self, record: Record) -> None:
        """Keep a record and write it to every file that wants it."""
        self._records.append(record)
        self._n_keys += len(record.keys)
        while len(self._records) > self._max_records or (
            self._n_keys > self._max_keys and len(self._records) > 1
        ):
            self._n_keys -= len(self._records.popleft().keys)
        for path, (file, group) in list(self._files.items()):
            if group is None or group == record.group:
                try:
                    file.write(record.to_json() + "\n")
                except (OSError, ValueError):
                    # The log must never take the scheduler down: say it once, then stop.
                    logger.exception("Cannot write the scheduling log %s; it ends here", path)
                    del self._files[path]

    def note(
        self,
        group: str,
        state: str,
        keys: Sequence[Any],
        *,
        worker: str = "",
        stimulus: str = "",
        nbytes: Sequence[int] = (),
        note: str = "",
    ) -> None:
        """Add a record of `keys` that reached `state` now."""
        self.add(
            Record(time(), group, state, tuple(keys), worker, stimulus, tuple(nbytes), note=note)
        )

    def story(self, key: Any) -> list[Record]:
        """Return the records in memory that concern `key`, oldest first."""
        return [record for record in self._records if record.concerns(key)]

    def write_to(self, path: str | Path, *, group: str | None = None) -> None:
        """Append every further record (of `group` only, if given) to the file at `path`."""
        path = Path(path)
        if path not in self._files:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Block-buffered: a line per arriving chunk must not cost a system call.
            self._files[path] = (path.open("a", encoding="utf-8", buffering=1 << 16), group)

    def flush(self) -> None:
        """Push what is buffered to the files."""
        for file, _ in self._files.values():
            file.flush()

    def close(self, path: str | Path | None = None) -> None:
        """Close one file, or all."""
        for each in [Path(path)] if path is not None else list(self._files):
            if (entry := self._files.pop(each, None)) is not None:
                entry[0].close()
