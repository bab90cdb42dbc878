"""Windows of consecutive steps, submitted ahead of the simulation, with carried state.

When the number of steps is not known, the graph over all of them cannot be built before step 0.
But the graphs of the next windows are always on the scheduler already, so that a step that arrives
releases what waits for it without a further message.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dask
from dask import delayed
from distributed import futures_of

from ips_components.analysis.arrays import ExternalArray, OpenEndedArray
from ips_components.analysis.contract import persist_together
from ips_components.analysis.packing import is_lazy
from ips_components.analysis.views import View
from ips_components.analysis.window_group import WindowArray, WindowRun
from ips_components.analysis.window_saver import WindowSaver
from ips_components.errors import ContractError, ExternalTaskError, SimulationLost

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Window:
    """One window that is complete.

    Parameters
    ----------
    index : int
        0, 1, 2, ...
    steps : range
        The simulation steps in it.
    value : object
        What the update function returned as output for it, computed.
    """

    index: int
    steps: range
    value: Any


@dataclass(frozen=True, slots=True)
class _Submitted:
    """A window whose graph is on the scheduler: the state after it, and its output to come."""

    index: int
    state: Any
    output: Any
    held: Any


class Rolling:
    """Windows of `size` consecutive published steps of one or several arrays, `stride` apart.

    Parameters
    ----------
    run : WindowRun
    array : OpenEndedArray or ExternalArray, or a mapping or sequence of such
        Functions get a window of each, in the same form: of ``{"u": u, "p": p}`` a dict, of
        ``(u, p)`` a tuple. The arrays are put at the same steps.
    size, stride : int
        In published steps (entries of the array's time dimension).
    region : tuple of slice or int
        What is needed of space, of each array; nothing else leaves the ranks.
    ahead : int
        Windows that are on the scheduler before their data are.
    beside : sequence of ExternalArray
        Arrays, or views of them, that functions use besides their windows, such as cell volumes
        that are put once. They stay until the last iteration has ended.

    Raises
    ------
    ContractError
        Sizes below 1, more steps per window than the array has, arrays with other steps, or a
        signed contract.
    """

    def __init__(
        self,
        run: WindowRun,
        array: Any,
        size: int,
        stride: int = 1,
        region: tuple[Any, ...] = (),
        ahead: int = 8,
        beside: Iterable[Any] = (),
    ) -> None:
        if min(size, stride, ahead) < 1:
            raise ContractError(
                f"rolling windows need size, stride and ahead >= 1, got {size}, {stride}, {ahead}"
            )
        self.run, self.array, self.size, self.stride = run, array, size, stride
        self.region, self.ahead = tuple(region), ahead
        self._arrays = _arrays_of(array)
        self.sources = [each.source for each in self._arrays.values()]
        spec = self.sources[0].spec
        self.count = spec.steps.count
        for other in (source.spec for source in self.sources[1:]):
            if other.steps != spec.steps:
                raise ContractError(
                    f"arrays {spec.name!r} and {other.name!r} are put at different steps "
                    f"({_axis(spec.steps)}; {_axis(other.steps)}), so that they have no windows "
                    "together; make windows of each, and iterate both"
                )
        if len({source.name for source in self.sources}) < len(self.sources):
            raise ContractError("rolling windows over several arrays: one of them is given twice")
        if self.count is not None and size > self.count:
            raise ContractError(
                f"windows of {size} steps do not fit into the {self.count} steps of "
                f"array {spec.name!r}"
            )
        self.state: Any = None
        self._over = False
        self.saver = WindowSaver(self, self._arrays)
        run.windows.add(self, beside if isinstance(beside, list | tuple) else [beside])

    def map(self, function: Callable[[Any], Any]) -> Iterator[Window]:
        """Apply a function from a lazy window to a lazy value; windows come in order.

        Parameters
        ----------
        function : callable
            From a dask array of shape (size, \\*region), or several, to a lazy value.
        """
        yield from self.scan(lambda _, window: (None, function(window)), None)

    def scan(self, update: Callable[[Any, Any], tuple[Any, Any]], initial: Any) -> Iterator[Window]:
        """Fold over the windows in order, each exactly once, from the first to the last.

        Parameters
        ----------
        update : callable
            ``update(state, window) -> (state, output)``, all lazy or plain.
        initial : object
            State before the first window.

        Yields
        ------
        Window
            As soon as its output is known.  When the iteration ends, :attr:`state` is the
            lazy state after the last complete window.

        Raises
        ------
        SimulationLost
            The simulation died; a simulation that closes in order just ends the iteration.
        """
        self.run.windows.sign()
        self.state = initial
        self.run.checkpoints.open()
        try:
            for index, value in enumerate(self.saver.go_on()):
                yield Window(index, self._steps(index), value)
            yield from self._fold(update)
        except GeneratorExit:  # the analysis has seen enough
            self._close()
            self.run.awaits([])
            raise
        self._close()
        self.run.awaits([])

    def _close(self) -> None:
        self.saver.over = True
        self.run.checkpoints.replayed(self.saver)
        self.run.checkpoints.close()
        self.run.windows.done(self)

    def _fold(self, update: Callable[[Any, Any], tuple[Any, Any]]) -> Iterator[Window]:
        pending: deque[_Submitted] = deque()
        index = len(self.saver.values)
        while True:
            while not self._over and len(pending) < self.ahead and self._exists(index):
                before = pending[-1].state if pending else self.state
                submitted = self._submit(update, before, index)
                if submitted is None:
                    self._over = True  # the simulation has closed during the look ahead
                    break
                pending.append(submitted)
                index += 1
            if not pending:
                break
            window = pending.popleft()
            try:
                self.run.awaits([window.output])
                self.run.checkpoints.wait(window.output)
                (value,) = self.run.client.gather([window.output])
                _raise_if_erred(window.state)
            except SimulationLost:
                self.run.raise_if_failed()
                break
            self.state = window.state
            if self.run.checkpoints.enabled:
                self.saver.values.append(value)
            # Known to be computed, hence known to be registered: no graph can miss its leaves.
            # A few windows at once, as the others are declared.
            if not pending or (window.index + 1) % max(1, self.ahead // 2) == 0:
                self.run.windows.used(self, (window.index + 1) * self.stride)
            yield Window(window.index, self._steps(window.index), value)

    def _submit(
        self, update: Callable[[Any, Any], tuple[Any, Any]], state: Any, index: int
    ) -> _Submitted | None:
        """Submit the graph of a window; return None if the simulation closed before its last step.

        An update function that computes inside waits here for the steps of its window.
        """
        try:
            window = self._window(index)
        except ExternalTaskError:
            return None
        try:
            state, output = update(state, window)
        except SimulationLost:
            self.run.raise_if_failed()
            return None
        if is_lazy(state):
            # What both share is computed once.
            state, output = persist_together(state, output)
        # One result to wait for. Its parts are held, since the scheduler may learn of their release
        # before it has read the graph that needs them.
        one = output if dask.is_dask_collection(output) or not is_lazy(output) else delayed(output)
        return _Submitted(index, state, self.run.client.compute(one), output)

    # -- internals ---------------------------------------------------------------------

    def _exists(self, index: int) -> bool:
        return self.count is None or index * self.stride + self.size <= self.count

    def _steps(self, index: int) -> range:
        """Return the simulation steps of a window."""
        axis = self.sources[0].spec.steps
        first = axis.step(index * self.stride)
        return range(first, first + self.size * axis.every, axis.every)

    def views(self) -> Iterator[View]:
        """Return a view of each array, with what is needed of space."""
        for array in self._arrays.values():
            yield array[0:1][(slice(None), *self.region)].external_view

    def _window(self, index: int) -> Any:
        first = index * self.stride
        windows = self.saver.data(first, first + self.size)
        if isinstance(self.array, Mapping):
            return windows
        if isinstance(self.array, list | tuple):
            return tuple(windows.values())
        return windows[0]


def _arrays_of(array: Any) -> dict[Any, WindowArray]:
    if isinstance(array, Mapping):
        arrays = dict(array)
    else:
        arrays = dict(enumerate(array if isinstance(array, list | tuple) else [array]))
    for name, each in arrays.items():
        if isinstance(each, ExternalArray) and (source := each.source.unbounded) is not None:
            if not each.external_view.is_whole:
                raise ContractError(
                    f"array {each.spec.name!r} has no number of steps: give all of it to "
                    "run.rolling, and what is needed of space as region=(slice(0, 4), ...)"
                )
            arrays[name] = OpenEndedArray(source)
        elif not isinstance(each, OpenEndedArray | ExternalArray):
            raise ContractError(
                f"rolling windows are of external arrays, got a {type(each).__name__} ({name!r})"
            )
    if not arrays:
        raise ContractError("rolling windows need an array, got none")
    return arrays


def _axis(axis: Any) -> str:
    count = "any number" if axis.count is None else axis.count
    return f"{count} of them from {axis.start} on, every {axis.every}"


def _raise_if_erred(collection: Any) -> None:
    for future in futures_of(collection):
        if future.status == "error":
            raise future.exception()
