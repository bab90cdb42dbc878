"""Reductions over time in one pass: one state per chunk in space, updated in place.

A tree of reductions makes several temporaries as large as the chunk for each step. Here the
accumulators of all statistics that are asked for are updated tile by tile, so that a tile of data
is read from memory once, and no array of the size of a chunk is made after the first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ips_components.errors import AnalysisError

__all__ = ["RunningState", "Statistic", "finish", "update"]

TILE = 1 << 14
"""Cells per tile: the data and the accumulators of a tile stay in a core's cache."""

KINDS = ("sum", "prod", "min", "max", "any", "all", "mean", "var")


@dataclass(frozen=True, slots=True)
class Statistic:
    """A reduction over time.

    Parameters
    ----------
    kind
        One of ``sum prod min max any all mean var``.
    skipna
        Leave NaN out.
    dtype
        Type of the result. Floats are accumulated in double precision and rounded once.
    ddof
        For ``var``: the divisor is the number of values less this.
    """

    kind: str
    skipna: bool
    dtype: str
    ddof: float = 0

    @property
    def needs(self) -> tuple[tuple[str, bool, str], ...]:
        """Accumulators: kind, whether NaN is left out, type."""
        if self.kind in ("mean", "var"):
            of_sum = ("sum", self.skipna, "<f8")
            return (of_sum, ("m2", self.skipna, "<f8")) if self.kind == "var" else (of_sum,)
        inexact = self.kind in ("sum", "prod") and np.dtype(self.dtype).kind == "f"
        return ((self.kind, self.skipna, "<f8" if inexact else self.dtype),)


def _sum_first(need: tuple[str, bool, str]) -> tuple[bool, tuple[str, bool, str]]:
    """Order of the accumulators: squares are updated after the sum that they use."""
    return need[0] == "m2", need


def _valid(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Return which values are not NaN, None where all are."""
    valid: np.ndarray[Any, Any] = values == values
    return None if valid.all() else valid


class RunningState:
    """The accumulators of one chunk in space; `position` chunks of time are in them."""

    __slots__ = ("accumulators", "missing", "position", "shape", "steps")

    def __init__(self, shape: tuple[int, ...], needs: set[tuple[str, bool, str]]) -> None:
        self.shape = shape
        self.position = 0
        self.steps = 0
        size = int(np.prod(shape))
        self.accumulators = {
            need: np.empty(size, need[2]) for need in sorted(needs, key=_sum_first)
        }
        self.missing: np.ndarray[Any, Any] | None = None

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + sum(a.nbytes for a in self.accumulators.values())

    def add(self, chunk: np.ndarray[Any, Any]) -> None:
        """Add the steps of a chunk, whose first dimension is time."""
        data = chunk.reshape(len(chunk), -1)
        for need, array in self.accumulators.items():
            if not array.flags.writeable:  # it came from another worker
                self.accumulators[need] = array.copy()
        skips = data.dtype.kind == "f" and any(need[1] for need in self.accumulators)
        with np.errstate(all="ignore"):
            for start in range(0, data.shape[1], TILE):
                tile = slice(start, start + TILE)
                for number, values in enumerate(data[:, tile], 1):
                    valid = _valid(values) if skips else None
                    self._add_tile(tile, values, self.steps + number, valid)
        self.steps += len(data)

    def _add_tile(
        self,
        tile: slice,
        values: np.ndarray[Any, Any],
        step: int,
        valid: np.ndarray[Any, Any] | None,
    ) -> None:
        if valid is not None:
            if self.missing is None:
                self.missing = np.zeros(int(np.prod(self.shape)), np.int64)
            elif not self.missing.flags.writeable:
                self.missing = self.missing.copy()
            self.missing[tile] += ~valid
        for (kind, skipna, _), whole in self.accumulators.items():
            into = whole[tile]
            left_out = valid if skipna else None
            if kind == "m2":
                self._add_square(tile, into, values, step, skipna, left_out)
            elif step == 1:
                fill = {"sum": 0, "prod": 1}.get(kind)
                if left_out is None or fill is None:
                    into[...] = values.astype(bool) if kind in ("any", "all") else values
                else:
                    into[...] = np.where(left_out, values, fill)
            elif kind in ("sum", "prod"):
                operation = np.add if kind == "sum" else np.multiply
                where: Any = True if left_out is None else left_out
                # Values are cast one by one, and never by way of a third type.
                operation(into, values, out=into, where=where, dtype=into.dtype, casting="unsafe")
            elif kind in ("min", "max"):
                strict = {"min": np.minimum, "max": np.maximum}
                lenient = {"min": np.fmin, "max": np.fmax}
                (lenient if skipna else strict)[kind](into, values, out=into)
            else:
                operation = np.logical_or if kind == "any" else np.logical_and
                operation(into, values, out=into)

    def _add_square(
        self,
        tile: slice,
        into: np.ndarray[Any, Any],
        values: np.ndarray[Any, Any],
        step: int,
        skipna: bool,
        valid: np.ndarray[Any, Any] | None,
    ) -> None:
        """Add to the sum of squared deviations (Youngs and Cramer 1971); the sum comes first.

        With the sum ``T`` of ``n`` values, ``x`` included, the sum of squares grows by
        ``(n x - T)^2 / (n (n - 1))``.
        """
        total = self.accumulators["sum", skipna, "<f8"][tile]
        if skipna and self.missing is not None:
            count = step - self.missing[tile]
            deviation = count * values.astype(np.float64) - total
            deviation *= deviation
            # The first value adds 0, or NaN if it is infinite.
            deviation /= np.maximum(count * (count - 1.0), 1.0)
            if step == 1:
                into[...] = 0
            np.add(into, deviation, out=into, where=True if valid is None else valid)
            return
        if step == 1:
            into[...] = values * 0.0  # NaN and infinity stay
            return
        deviation = np.multiply(values, float(step), dtype=np.float64)
        deviation -= total
        deviation *= deviation
        deviation *= 1.0 / (step * (step - 1.0))
        into += deviation

    def value(self, statistic: Statistic) -> np.ndarray[Any, Any]:
        """Return the value of a statistic over the steps so far."""
        last = self.accumulators[statistic.needs[-1]].reshape(self.shape)
        if statistic.kind not in ("mean", "var"):
            return last.astype(statistic.dtype)
        count: Any = self.steps
        if statistic.skipna and self.missing is not None:
            count = self.steps - self.missing.reshape(self.shape)
        divisor = np.asarray(count - (statistic.ddof if statistic.kind == "var" else 0), float)
        with np.errstate(all="ignore"):
            if statistic.kind == "var":
                divisor = np.where(divisor < 0, np.nan, divisor)
            return (last / divisor).astype(statistic.dtype)


def update(
    state: RunningState | None,
    chunk: np.ndarray[Any, Any],
    position: int,
    needs: tuple[tuple[str, bool, str], ...],
    what: str,
) -> RunningState:
    """Add a chunk to a state in place, and return it: a task of a chain over time.

    Parameters
    ----------
    state
        Result of the task before; None for the first.
    chunk
        Steps of an array; the first dimension is time.
    position
        Number of this chunk in the chain.
    needs
        Accumulators of all statistics of the chain, see `Statistic.needs`.
    what
        Name of the data for messages.

    Raises
    ------
    AnalysisError
        The state has other chunks in it than the ones before this: the task ran before, its
        result was lost, and the state that it started from is changed.
    """
    if state is None:
        state = RunningState(chunk.shape[1:], set(needs))
    if state.position != position:
        raise AnalysisError(
            f"{what}: the running state of a reduction over time has {state.position} chunks in "
            f"it, expected {position}: its later value was lost with a worker and cannot be had "
            "again; STREAMING_REDUCTIONS = False keeps partial results instead"
        )
    state.position = -1  # a task that ends half way leaves no state to go on from
    state.add(np.asarray(chunk))
    state.position = position + 1
    return state


def finish(state: RunningState, statistic: Statistic, keepdims: bool) -> np.ndarray[Any, Any]:
    """Return the value of a statistic, with a dimension of size 1 for time if asked for."""
    value = state.value(statistic)
    return value[np.newaxis] if keepdims else value
