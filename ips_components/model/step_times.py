"""Physical times of the steps of a run: as the simulation says, or as a time loop has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Span:
    """Steps ``first .. last`` that advance a simulation evenly from a time to another.

    Each step is known by the time that it reaches, so that the last one has the time ``end``.
    """

    first: int
    last: int
    begin: float
    end: float

    def at(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the times of steps of the span."""
        done = steps - self.first + 1
        count = self.last - self.first + 1
        between = self.begin + (self.end - self.begin) / count * done
        return np.where(done == count, self.end, between)


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What is known of the physical times of the steps of one simulation.

    Parameters
    ----------
    put
        Time by step, as the simulation has said with its data; these count most.
    spans
        Of the time loop.

    Examples
    --------
    >>> times = StepTimes({2: 0.5}, [Span(0, 3, 0.0, 1.0)])
    >>> times.of([0, 1, 2, 3, 9]).tolist()
    [0.25, 0.5, 0.5, 1.0, nan]
    """

    put: Mapping[int, float] = field(default_factory=dict)
    spans: Sequence[Span] = ()

    def of(self, steps: Iterable[int]) -> NDArray[np.float64]:
        """Return the time of each step, nan where it is not known."""
        wanted = np.asarray([*steps], np.int64)
        found = np.full(wanted.shape, np.nan)
        for span in self.spans:
            mine = (wanted >= span.first) & (wanted <= span.last)
            found[mine] = span.at(wanted[mine])
        for index, step in enumerate(wanted.tolist()):
            found[index] = self.put.get(step, found[index])
        return found

    def to_plain(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "put": [[step, time] for step, time in self.put.items()],
            "spans": [[span.first, span.last, span.begin, span.end] for span in self.spans],
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Make them from the result of `to_plain`."""
        return cls(
            {int(step): float(time) for step, time in plain.get("put", ())},
            [Span(*each) for each in plain.get("spans", ())],
        )


def of_time_loop(
    times: Sequence[float], start: float, finish: float | None, n_steps: int | None
) -> StepTimes:
    """Return the times of a simulation that puts one step for each of the time loop.

    Parameters
    ----------
    times
        Those that are listed; empty where the others are given.
    start, finish, n_steps
        Equal steps from one time to another.
    """
    if times:
        return StepTimes(dict(enumerate(times)))
    if finish is None or n_steps is None:
        return StepTimes()
    return StepTimes(spans=[Span(0, n_steps - 1, start, finish)])


def of_launches(
    launches: Iterable[tuple[int, int, float]], begin: float | None, put: Mapping[int, float]
) -> StepTimes:
    """Return the times of a simulation whose launches belong to times of a driver's loop.

    Parameters
    ----------
    launches
        First and last step, and the time of the driver's call, in the order of the launches.
        Several at the same time share its interval.
    begin
        Time before the first of them, None where it is not known.
    put
        As in `StepTimes`.
    """
    spans: list[Span] = []
    for first, last, time in launches:
        before = spans[-1] if spans else None
        if before is not None and before.end == time:
            spans[-1] = Span(before.first, max(last, before.last), before.begin, time)
        else:
            since = before.end if before is not None else begin
            spans.append(Span(first, last, time if since is None else since, time))
    return StepTimes(put, spans)
