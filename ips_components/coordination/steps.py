"""The steps of a run, as many as are worth remembering.

A run may have millions of steps, and their number need not be known beforehand. Counts are
exact; the times of single steps, of which the report draws its curves, are kept of the newest
ones and of every second, fourth, eighth, ... of those before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Steps whose times are kept; a quarter of them are the newest.
MAX_STEPS = 4096
NEVER = -(1 << 63)  # before any step


@dataclass(slots=True)
class Step:
    """Times of one published step, in seconds since the epoch."""

    first_put: float
    ordinal: int = 0  # the how-many-th step of the run it is
    complete: float | None = None
    analysed: float | None = None
    delivered: int | None = None  # bytes of the whole run when this step was complete
    ranks: NDArray[np.bool_] | None = None  # those that have put it; None when complete
    waited_max: float = 0.0
    waited_sum: float = 0.0
    waiting: int = 0  # ranks that these seconds are of

    def put_by(self, ranks: NDArray[np.int64], waited: NDArray[np.float64]) -> int:
        """Note ranks that have put the step, and the seconds they waited; how many have by now."""
        self.ranks = grown(np.zeros(0, bool) if self.ranks is None else self.ranks, ranks)
        self.ranks[ranks] = True
        self.waited_max = max(self.waited_max, float(waited.max()))
        self.waited_sum += float(waited.sum())
        self.waiting += len(ranks)
        return int(np.count_nonzero(self.ranks))

    def to_json(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "first_put": self.first_put,
            "complete": self.complete,
            "analysed": self.analysed,
            "delivered": self.delivered,
            "waited": {
                "max": self.waited_max,
                "mean": self.waited_sum / self.waiting if self.waiting else 0.0,
            },
        }


class Steps(Mapping[int, Step]):
    """Exact counts of steps, and a bounded choice of them, by number, in the order they began.

    Parameters
    ----------
    limit : int
        Steps to keep. The first one, and the newest quarter of the limit, always are. There may be
        half as many more, if the ranks are so far apart that most of them are not complete.

    Attributes
    ----------
    begun, complete, analysed : int
        Steps that some rank, that all ranks have put, and whose consumers are done. What becomes
        of a step when `limit` younger ones have been left out is not counted any more.
    """

    def __init__(self, limit: int = MAX_STEPS) -> None:
        self._limit = limit
        self._kept: dict[int, Step] = {}
        self._every = 1  # of the older steps, which are kept
        self._next = 0  # not before so many have begun they are thinned out again
        self._newest_gone = NEVER  # newest number of a step that was left out
        #: Steps that were left out before their consumers were done, the oldest first.
        self._unanalysed: dict[int, None] = {}
        #: Steps whose consumers were done before a rank reported them, as ranks do a little later.
        self._early: dict[int, None] = {}
        self.begun = self.complete = self.analysed = 0

    def __getitem__(self, step: int) -> Step:
        return self._kept[step]

    def __iter__(self) -> Iterator[int]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def put(
        self,
        step: int,
        ranks: NDArray[np.int64],
        waited: NDArray[np.float64],
        n_ranks: int | None,
        now: float,
    ) -> Step | None:
        """Note that ranks have put a step; return it if it is complete by that.

        Parameters
        ----------
        waited : array of float64
            Seconds that each rank waited in it.
        n_ranks : int or None
            How many ranks there are, if that is known.
        """
        entry = self._kept.get(step)
        if entry is None:
            if step <= self._newest_gone:
                return None  # of a step that was left out
            entry = self._kept[step] = Step(now, self.begun)
            self.begun += 1
            if step in self._early:
                del self._early[step]
                self.note_analysed(step, now)
            if len(self._kept) > self._limit and self.begun >= self._next:
                self._thin_out()
        if entry.complete is not None or entry.put_by(ranks, waited) != n_ranks:
            return None
        entry.complete, entry.ranks = now, None
        self.complete += 1
        return entry

    def ranks_of(self, step: int, n_ranks: int) -> NDArray[np.bool_] | None:
        """Return which ranks have put a step; None if that is not remembered."""
        entry = self._kept.get(step)
        if entry is None:
            return None if step <= self._newest_gone else np.zeros(n_ranks, bool)
        if entry.complete is not None:
            return np.ones(n_ranks, bool)
        return None if entry.ranks is None else _padded(entry.ranks, n_ranks)

    def newest_of(self, n_ranks: int) -> NDArray[np.int64]:
        """Return the newest step that each rank has put, as far as is remembered; -1 before any."""
        newest = np.full(n_ranks, -1)
        for step in self._kept:
            if (put := self.ranks_of(step, n_ranks)) is not None:
                newest[put & (newest < step)] = step
        return newest

    def begin_launch(self) -> None:
        """Forget which ranks have put a step that is not complete: others will put it."""
        for entry in self._kept.values():
            if entry.complete is None:
                entry.ranks = None

    def note_analysed(self, step: int, now: float) -> None:
        """All consumers of some chunk of the step are done."""
        entry = self._kept.get(step)
        if entry is not None:
            self.analysed += entry.analysed is None
            entry.analysed = now
        elif step in self._unanalysed:
            del self._unanalysed[step]
            self.analysed += 1
        elif step > self._newest_gone:
            _remember(self._early, step, self._limit)

    def _thin_out(self) -> None:
        """Keep every second of the older steps, or every fourth, ..., until they are few enough.

        A step that is not complete stays for as long as it may become so.
        """
        self._next = self.begun + self._limit // 8
        settled = [
            (number, step)
            for number, step in list(self._kept.items())[: -self._limit // 4]
            if step.complete is not None or step.ordinal < self.begun - self._limit
        ]
        while sum(step.ordinal % self._every == 0 for _, step in settled) > self._limit // 2:
            self._every *= 2
        for number, step in settled:
            if step.ordinal % self._every:
                del self._kept[number]
                self._newest_gone = max(self._newest_gone, number)
                if step.analysed is None:
                    _remember(self._unanalysed, number, self._limit)

    def counts(self) -> dict[str, int]:
        """Return the exact counts."""
        return {"begun": self.begun, "complete": self.complete, "analysed": self.analysed}

    def to_json(self) -> list[dict[str, Any]]:
        """Return the steps that are kept, by number."""
        return [self._kept[step].to_json(step) for step in sorted(self._kept)]


def _padded(ranks: NDArray[np.bool_], n_ranks: int) -> NDArray[np.bool_]:
    return np.pad(ranks[:n_ranks], (0, max(n_ranks - len(ranks), 0)))


def _remember(steps: dict[int, None], step: int, limit: int) -> None:
    steps[step] = None
    if len(steps) > limit:
        del steps[next(iter(steps))]


def grown(array: NDArray[Any], ranks: NDArray[np.int64]) -> NDArray[Any]:
    """Return `array`, with zeros behind it if it has no place for one of the ranks."""
    size = int(ranks.max()) + 1
    if len(array) >= size:
        return array
    bigger = np.zeros(size, array.dtype)
    bigger[: len(array)] = array
    return bigger
