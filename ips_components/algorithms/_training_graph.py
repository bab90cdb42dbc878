"""The tasks of a training: one chain over time, for each part of space."""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np

from ips_components.algorithms import _learner
from ips_components.algorithms._fold import keep
from ips_components.algorithms._graph import List, Task, TaskRef, refs
from ips_components.algorithms._learner import Settings
from ips_components.errors import AnalysisError


@dataclass(frozen=True)
class Samples:
    """Features or targets, the axes that number samples, and the parts of space."""

    array: da.Array
    axes: tuple[int, ...]
    places: list[dict[int, int]]

    @property
    def at_most(self) -> bool:
        """Whether the last chunks of time may never come."""
        return bool(np.isnan(self.array.shape[self.axes[0]]))

    def block(self, step: int, part: int) -> Any:
        """Return references to the blocks of a chunk of time in one part of space."""
        return _nested(self.array, self.axes, step, self.places[part])


class Steps:
    """The tasks of a training, added chunk of time by chunk of time.

    Each part of space has a state of its own; those of several parts are averaged.
    """

    def __init__(
        self,
        key: str,
        estimator: Any,
        x: Samples,
        y: Samples | None,
        settings: Settings,
        start: Any,
    ) -> None:
        self.tasks: dict[Hashable, Task] = {}
        self._key, self._estimator, self._settings = key, estimator, settings
        self._x, self._y = x, y
        lazy = hasattr(start, "__dask_graph__")
        first = None if lazy or start is None else bytes(np.asarray(start, np.uint8))
        self._first = first  # state that is at hand before the first task
        self._states: list[Hashable] = [start.key if lazy else None] * len(x.places)
        self._shared: Hashable = None

    @property
    def last(self) -> Hashable:
        """The state after all steps that were added."""
        return self._shared or self._states[0]

    def add(self, step: int) -> Hashable:
        """Add the tasks of a chunk of time; return the state after it."""
        parts = range(len(self._states))
        states: list[Hashable] = [self._advance(step, i) for i in parts]
        shared: Hashable = None
        if len(states) > 1:
            shared = (f"learn-average-{self._key}", step)
            arguments = (refs(states), _ref(self._shared), self._settings)
            self.tasks[shared] = Task(shared, _learner.average, *arguments)
        after = shared or states[0]
        if self._x.at_most and step:  # a chunk that never comes leaves the state as it was
            states = [self._kept(step, i, self._states[i], states[i]) for i in parts]
            if shared is not None:
                shared = self._kept(step, len(states), self._shared, shared)
        self._states, self._shared = states, shared
        return after

    def _advance(self, step: int, part: int) -> Hashable:
        """Add the task that trains with one part of space of a chunk of time."""
        name = (f"learn-update-{self._key}", step, part)
        before = self._states[part]
        self.tasks[name] = Task(
            name,
            _learner.advance,
            self._first if before is None else TaskRef(before),
            _ref(self._shared),
            self._estimator,
            self._x.block(step, part),
            None if self._y is None else self._y.block(step, part),
            (self._x.axes, self._x.axes if self._y is None else self._y.axes),
            self._settings,
            len(self._states) == 1,
        )
        return name

    def _kept(self, step: int, part: int, before: Hashable, new: Hashable) -> Hashable:
        """Add a task that stays at the state before a chunk of time that never comes."""
        key = (f"learn-kept-{self._key}", step, part)
        self.tasks[key] = Task(key, keep, TaskRef(before), TaskRef(new))
        return key


def check(x: da.Array, axes: tuple[int, ...], y: da.Array | None, y_axes: tuple[int, ...]) -> None:
    """Refuse sizes that are not known, and samples that do not belong together."""
    arrays = [("features", x, axes), *([] if y is None else [("targets", y, y_axes)])]
    for what, array, samples in arrays:
        unknown = [axis for axis, size in enumerate(array.shape) if np.isnan(size)]
        if {*unknown} - {samples[0]} or 0 in array.shape:
            raise AnalysisError(
                f"{what} need known sizes > 0 but for the time of an array of at most n steps, "
                f"got shape {array.shape}"
            )
    if y is None:
        return
    shapes = [", ".join(str(a.shape[i]) for i in at) for a, at in ((x, axes), (y, y_axes))]
    if shapes[0] != shapes[1]:
        raise AnalysisError(
            f"features have samples of shape [{shapes[0]}], targets of [{shapes[1]}]; "
            "they must agree"
        )


def places_of(array: da.Array, axes: tuple[int, ...], *, parallel: bool) -> list[dict[int, int]]:
    """Return the parts of space: for each, the number of its chunk by sample axis."""
    if not parallel:
        return [{}]
    grid = [range(array.numblocks[axis]) for axis in axes[1:]]
    return [dict(zip(axes[1:], index, strict=True)) for index in itertools.product(*grid)]


def _nested(array: da.Array, axes: tuple[int, ...], step: int, place: dict[int, int]) -> Any:
    """Return references to the blocks of one chunk of time, nested as `numpy.block` wants them."""

    def level(index: tuple[int, ...]) -> Any:
        axis = len(index)
        if axis == array.ndim:
            return TaskRef((array.name, *index))
        if axis == axes[0]:
            choice: Any = (step,)
        else:
            choice = (place[axis],) if axis in place else range(array.numblocks[axis])
        return List(*(level((*index, i)) for i in choice))

    return level(())


def _ref(key: Hashable) -> Any:
    return None if key is None else TaskRef(key)
