"""How fast a run goes: totals that only grow, and what they have grown by per second.

Reports of ranks come in bursts: the ends of many steps at once, when an event loop was busy or
when a chunk has many steps. A rate within one burst, or between two, says nothing; it is taken
over several.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

from ips_components.model.totals import total_at

#: Seconds over which rates are averaged that people see.
RATE_WINDOW = 5.0
#: Seconds over which rates are averaged from which the time that is left is estimated.
ESTIMATE_WINDOW = 60.0
#: Seconds of progress before it is.
ESTIMATE_AFTER = 3.0

#: Reports closer than this, in seconds, are one burst, up to its longest time.
_BURST = 0.25
_LONGEST = 1.0
#: Bursts that are remembered, and the newest ones, which say how far apart bursts are.
_POINTS = 256
_NEWEST = 8
#: Gaps between two bursts after which the next one is overdue.
_OVERDUE = 1.5
#: Bursts that a rate is taken over, at least.
_BURSTS = 4

Point = tuple[float, float]


class Growth:
    """A total that only grows, as reports have it, and its rate."""

    def __init__(self, limit: int | None = _POINTS) -> None:
        self._points: deque[Point] = deque(maxlen=limit)  # the ends of bursts
        self._began = 0.0  # the newest burst

    def note(self, now: float, total: float) -> None:
        """Take in a total; one that has not grown changes nothing."""
        points = self._points
        if points and total <= points[-1][1]:
            return
        now = max(now, points[-1][0]) if points else now  # clocks are set back now and then
        if self._goes_on(now):
            points[-1] = (now, total)
            return
        self._began = now
        points.append((now, total))

    def _goes_on(self, now: float) -> bool:
        """Whether a report would be one of the newest burst."""
        points = self._points
        return bool(points) and now - points[-1][0] < _BURST and now - self._began < _LONGEST

    def rate(self, now: float, window: float = RATE_WINDOW, least: float = _BURST) -> float | None:
        """Return the growth per second in the last `window` seconds.

        The window is longer where bursts are far apart. While the next burst is not overdue, the
        window ends with the last one.

        Parameters
        ----------
        now
            In the seconds of `note`.
        least
            Seconds that must be known.

        Returns
        -------
        float or None
            None as long as too little is known.
        """
        points = self._settled(now)
        if len(points) < 2:
            return None
        gap = longest_gap(points)
        end = max(points[-1][0], now - _OVERDUE * gap)
        begin = max(points[0][0], end - max(window, _BURSTS * gap))
        if end - begin < least:
            return None
        return (points[-1][1] - total_at(points, begin)) / (end - begin)

    def left(self, now: float, total: float | None) -> float | None:
        """Return the seconds until `total` is reached; None if unknown, 0 if it has been."""
        if not total or (self._points and self._points[-1][1] >= total):
            return 0.0
        rate = self.rate(now, ESTIMATE_WINDOW, ESTIMATE_AFTER)
        if not rate:
            return None
        points = self._settled(now)
        since = min(now - points[-1][0], _OVERDUE * longest_gap(points))
        return max((total - points[-1][1]) / rate - since, 0.0)

    @property
    def points(self) -> list[Point]:
        """When bursts ended, and the total at that time."""
        return list(self._points)

    def _settled(self, now: float) -> list[Point]:
        """Return the points, without the newest burst as long as it may still go on."""
        points = self.points
        return points[:-1] if self._goes_on(now) else points


def longest_gap(points: Sequence[Point]) -> float:
    """Return the longest time between two of the newest points that are neighbours.

    Examples
    --------
    >>> longest_gap([(0.0, 1), (2.0, 2), (4.5, 3)])
    2.5
    """
    return max(after[0] - before[0] for before, after in pairwise(points[-_NEWEST:]))


def curve(points: Sequence[Point], n: int) -> list[Point]:
    """Return the rate of a total over the whole of its time, at `n` or fewer times.

    Parameters
    ----------
    points
        Reports, in the order of time.

    Returns
    -------
    list of (time, growth per second)
        Each over a 30th of the time, or over several bursts where these are further apart. Empty as
        long as too little is known.

    Examples
    --------
    >>> curve([(0.0, 0), (0.0, 2), (5.0, 12), (5.0, 22), (10.0, 42)], 3)
    [(0.0, 4.0), (5.0, 4.0), (10.0, 4.0)]
    """
    growth = Growth(limit=None)
    for t, total in points:
        growth.note(t, total)
    known = growth.points
    if len(known) < 2:
        return []
    first, last = known[0][0], known[-1][0]
    half = max((last - first) / 30, _BURSTS * longest_gap(known)) / 2
    n = max(2, n)
    found = []
    for i in range(n):
        t = first + (last - first) * i / (n - 1)
        low, high = max(first, t - half), min(last, t + half)
        found.append((t, (total_at(known, high) - total_at(known, low)) / (high - low)))
    return found
