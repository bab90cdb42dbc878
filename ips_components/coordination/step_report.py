"""What ranks say at the ends of their steps, gathered on a worker and sent in one message.

A rank says which step it has put, how long it has waited and, now and then, its account.  What
the scheduler has to do must not grow with the number of ranks: the message has columns instead
of one record per rank, and what is done with it is done by NumPy for all ranks at once.  Nothing is
added up on the way, because the ends of one rank's steps may come through several receivers: only
figures that still belong to a rank can be distinguished from those that were overtaken.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ips_components.coordination.ledger import ENTRIES, UNITS
from ips_components.receiver.sink import StepInfo
from ips_components.wire.messages import Counters, StepEnd

_ORDER = [Counters.NAMES.index(entry) for entry in ENTRIES]


@dataclass(frozen=True, slots=True)
class StepReport:
    """Ends of steps of some ranks.

    Attributes
    ----------
    ranks, steps, waited : arrays of int64, int64 and float64, shape (n,)
        Which rank has put which step, and the seconds that it has waited in the whole run so far.
    accounted : array of int64, shape (m,)
        Ranks that have sent an account; each once. One that is not among `ranks` goes on, but puts
        what is not wanted.
    counts : array of int64, shape (m, arrays, 2, 5)
        Their cumulative counters by array, unit (blocks, bytes) and entry of the ledger.
    names : tuple of str
        Names of the arrays.
    position : int
        Steps that are behind a rank whose puts are not wanted; 0: unknown.
    timed, times : arrays of int64 and float64, shape (k,)
        Steps of which ranks have said the physical time, and that time.

    Raises
    ------
    ValueError
        The columns are not of the same length.
    """

    ranks: NDArray[np.int64]
    steps: NDArray[np.int64]
    waited: NDArray[np.float64]
    accounted: NDArray[np.int64]
    counts: NDArray[np.int64]
    names: tuple[str, ...]
    position: int = 0
    timed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    times: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not len(self.ranks) == len(self.steps) == len(self.waited):
            raise ValueError(
                f"a report of steps must have columns of the same length, got {len(self.ranks)} "
                f"ranks, {len(self.steps)} steps and {len(self.waited)} times"
            )

    def to_message(self) -> dict[str, Any]:
        """Return the fields as Dask's streams carry them."""
        return {
            "ranks": self.ranks.tobytes(),
            "steps": self.steps.tobytes(),
            "waited": self.waited.tobytes(),
            "accounted": self.accounted.tobytes(),
            "counts": self.counts.tobytes(),
            "names": list(self.names),
            "position": self.position,
            "timed": self.timed.tobytes(),
            "times": self.times.tobytes(),
        }

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        """Return the report that `to_message` has packed; ValueError if it cannot be one."""
        names = tuple(message["names"])
        accounted = np.frombuffer(message["accounted"], np.int64)
        shape = (len(accounted), len(names), len(UNITS), len(ENTRIES))
        return cls(
            np.frombuffer(message["ranks"], np.int64),
            np.frombuffer(message["steps"], np.int64),
            np.frombuffer(message["waited"], np.float64),
            accounted,
            np.frombuffer(message["counts"], np.int64).reshape(shape),
            names,
            int(message.get("position", 0)),
            np.frombuffer(message.get("timed", b""), np.int64),
            np.frombuffer(message.get("times", b""), np.float64),
        )


class StepTally:
    """Gathers the ends of steps from the threads of a receiver."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: list[tuple[int, int, float]] = []
        self._accounts: dict[int, tuple[Counters, ...]] = {}
        self._times: dict[int, float] = {}
        self._position = 0

    def add_time(self, step: int, time: float) -> bool:
        """Note the physical time of a step; True if it is the first one since `take`."""
        with self._lock:
            first = self._is_empty()
            self._times.setdefault(step, time)
            return first

    def _is_empty(self) -> bool:
        return not (self._ends or self._accounts or self._times)

    def add(self, rank: int, info: StepInfo) -> bool:
        """Note the end of a rank's step, or its account; True if it is the first since `take`."""
        with self._lock:
            first = self._is_empty()
            if info.step >= 0:
                self._ends.append((rank, info.step, info.waited))
            else:
                self._position = max(self._position, info.step - StepEnd.NO_STEP)
            if info.counters or info.step < 0:
                self._accounts[rank] = info.counters  # cumulative: the newest says it all
            return first

    def take(self, names: Sequence[str]) -> StepReport | None:
        """Return what was noted since the last time; None if nothing was.

        Parameters
        ----------
        names
            Names of the contract's arrays, by ordinal.
        """
        with self._lock:
            ends, self._ends = self._ends, []
            accounts, self._accounts = self._accounts, {}
            times, self._times = self._times, {}
            position = self._position
        if not ends and not accounts and not times:
            return None
        ranks, steps, waited = zip(*ends, strict=True) if ends else ((), (), ())
        counts = np.zeros((len(accounts), len(names), len(UNITS), len(ENTRIES)), np.int64)
        for row, account in enumerate(accounts.values()):
            for each in account:
                counts[row, each.array, 0] = [each.blocks[i] for i in _ORDER]
                counts[row, each.array, 1] = [each.bytes[i] for i in _ORDER]
        return StepReport(
            np.array(ranks, np.int64),
            np.array(steps, np.int64),
            np.array(waited, np.float64),
            np.fromiter(accounts, np.int64, len(accounts)),
            counts,
            tuple(names),
            position,
            np.fromiter(times, np.int64, len(times)),
            np.fromiter(times.values(), np.float64, len(times)),
        )
