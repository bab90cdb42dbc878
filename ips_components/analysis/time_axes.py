"""Coordinates of results along time: steps of the simulation, and the physical times of these.

While a graph is built only the steps are known. A coordinate of steps carries, as an attribute, the
run that they are of, so that it is recognised in whatever an analysis returns; when the run is over
it becomes the physical time, and the steps are kept beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

MARK, RANGE = "simulation_run", "simulation_steps"
"""Attributes of a coordinate of steps: the run that they are of, and the first, stride and last."""
STEP = "step"
_STEPS = "simulation step"
_TIMES = "time"

TimesOf: TypeAlias = Callable[[str, Iterable[int]], NDArray[np.float64]]
"""Physical times of steps of a run, nan where they are not known."""


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """A dimension of a result that runs over steps.

    Parameters
    ----------
    dim
        Name of the dimension.
    run
        Run that the steps are of.
    steps
        The steps.
    """

    dim: str
    run: str
    steps: range


def step_coordinate(dim: str, run: str, steps: Any) -> xr.Variable:
    """Return steps as a coordinate that is recognised as such."""
    values = np.asarray(steps)
    known: dict[str, Any] = {MARK: run}
    if values.size:
        stride = int(values[1] - values[0]) if values.size > 1 else 1
        known[RANGE] = [int(values[0]), stride, int(values[-1])]
    return xr.Variable((dim,), values, {"long_name": _STEPS, **known})


def with_steps(array: xr.DataArray, axis: TimeAxis | None) -> xr.DataArray:
    """Return a result with its steps as coordinate, where it has none along the axis.

    Of an array of at most n steps fewer may have come.
    """
    if axis is None or axis.dim not in array.dims or axis.dim in array.coords:
        return array
    count = array.sizes[axis.dim]
    if count > len(axis.steps):
        return array
    return array.assign_coords({axis.dim: step_coordinate(axis.dim, axis.run, axis.steps[:count])})


def with_times(array: xr.DataArray, times: TimesOf) -> xr.DataArray:
    """Return a result whose steps are physical times, where these are known for all of them."""
    for name in [dim for dim in array.dims if _is_steps(array, dim)]:
        steps = array.coords[name].variable
        new = timed(steps, times)
        if name == STEP:  # an axis that is called after steps has them
            array = array.assign_coords({STEP: new.get(STEP, new[_TIMES])})
            continue
        array = array.assign_coords({name: new.pop(_TIMES)})
        if STEP in new and STEP not in array.coords and STEP not in array.dims:
            array = array.assign_coords({STEP: new[STEP]})
    return array


def timed(steps: xr.Variable, times: TimesOf) -> dict[str, xr.Variable]:
    """Return what a coordinate of steps becomes: ``time``, and ``step`` if that is another one."""
    attrs = {name: value for name, value in steps.attrs.items() if name not in (MARK, RANGE)}
    plain = xr.Variable(steps.dims, steps.values, attrs)
    found = times(str(steps.attrs[MARK]), steps.values.tolist())
    if not np.isfinite(found).all():
        return {_TIMES: plain}
    return {_TIMES: xr.Variable(steps.dims, found, {"long_name": _TIMES}), STEP: plain}


def is_marked(variable: Any) -> bool:
    """Whether a coordinate is one of steps of a run that is not over.

    What an analysis has computed of steps has their attributes, but is none of the steps.
    """
    if {MARK, RANGE} - variable.attrs.keys() or variable.ndim != 1:
        return False
    if variable.dtype.kind not in "iu":
        return False
    first, stride, last = map(int, variable.attrs[RANGE])
    values = np.asarray(variable.values)
    return bool(np.isin(values, np.arange(first, last + 1, stride)).all())


def _is_steps(array: xr.DataArray, dim: Hashable) -> bool:
    return dim in array.coords and is_marked(array.coords[dim])
