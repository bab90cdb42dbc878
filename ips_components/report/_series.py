"""What the figures of the report show, taken from a run record: intervals, rates, series."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from ips_components.model.totals import total_at

Interval = tuple[float, float]


def covered(intervals: Iterable[Interval], low: float, high: float, bins: int) -> list[float]:
    """The share of each of `bins` equal parts of ``low .. high`` that the intervals cover.

    Overlapping intervals count once.

    Examples
    --------
    >>> covered([(0.0, 1.0), (0.5, 1.5)], 0.0, 4.0, 4)
    [1.0, 0.5, 0.0, 0.0]
    """
    width = (high - low) / bins
    shares = [0.0] * bins
    for start, stop in _union(intervals):
        start, stop = max(start, low), min(stop, high)
        if stop <= start:
            continue
        first = min(int((start - low) / width), bins - 1)
        last = min(int((stop - low) / width), bins - 1)
        for i in range(first, last + 1):
            overlap = min(stop, low + (i + 1) * width) - max(start, low + i * width)
            shares[i] += max(overlap, 0.0) / width
    return [min(share, 1.0) for share in shares]


def rates(points: Sequence[tuple[float, float]], edges: Sequence[float]) -> list[float]:
    """Growth per second between `edges` of a total known at `points`, linear in between.

    Examples
    --------
    >>> rates([(0.0, 0.0), (2.0, 8.0)], [0.0, 1.0, 2.0, 3.0])
    [4.0, 4.0, 0.0]
    """
    totals = [total_at(points, edge) for edge in edges]
    return [
        (after - before) / (end - start)
        for before, after, start, end in zip(totals, totals[1:], edges, edges[1:], strict=False)
    ]


def usual_gap(points: Sequence[tuple[float, float]]) -> float:
    """The time between neighbours that only one in ten exceeds; of times that differ.

    Examples
    --------
    >>> usual_gap([(0.0, 0.0), (0.5, 1.0), (0.5, 2.0), (1.0, 3.0), (2.0, 4.0), (2.5, 5.0)])
    1.0
    """
    gaps = sorted(b - a for (a, _), (b, _) in pairwise(points) if b > a)
    return gaps[9 * len(gaps) // 10]


def end_of(step: Mapping[str, Any]) -> float:
    """When all ranks had put a step: their reports may be late, its use cannot be early."""
    analysed = step["analysed"]
    complete: float = step["complete"]
    return complete if analysed is None else min(complete, analysed)


def everything_up_to(when: Mapping[int, float]) -> list[tuple[float, int]]:
    """From when on nothing is missing up to and including each step; both rise."""
    steps = sorted(when)
    return list(zip(accumulate((when[step] for step in steps), max), steps, strict=True))


def by_worker(record: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    series: dict[str, list[Mapping[str, Any]]] = {}
    for sample in record["samples"]:
        if sample["t"] is not None and sample["rss"] is not None:
            series.setdefault(sample["worker"] or "worker", []).append(sample)
    order = {w["address"]: i for i, w in enumerate(record["workers"])}
    return dict(sorted(series.items(), key=lambda item: order.get(item[0], len(order))))


def _union(intervals: Iterable[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for start, stop in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged
