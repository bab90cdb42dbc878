"""Windows of consecutive steps, submitted ahead of the simulation, with carried state.

When the number of steps is not known, the graph over all of them cannot be built before step 0.
But the graphs of the next windows are always on the scheduler already, so that a step that arrives
releases what waits for it without a further message.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import dask
import numpy as np
from distributed import Client, futures_of

from ips_components.analysis.arrays import ExternalArray, OpenEndedArray
from ips_components.coordination.settings import RunSettings
from ips_components.errors import ContractError, ExternalTaskError, SimulationLost
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.selection import Selection

logger = logging.getLogger(__name__)


class WindowRun(Protocol):
    """What windows need of a run."""

    client: Client
    settings: RunSettings

    def sign(self, contract: Contract, *, ahead: bool = False) -> None:
        """Sign a contract whose tasks are declared piecemeal."""

    def declare_ahead(self, array: int, first: int, stop: int) -> None:
        """Declare the external tasks of some time indices."""

    def release_steps(self, array: int, first: int, stop: int) -> None:
        """Leave the chunks of some time indices to the graphs that need them."""

    def raise_if_failed(self) -> None:
        """Raise the run's first fault, if it has failed."""

    def awaits(self, futures: Sequence[Any]) -> None:
        """Report the results of which the analysis waits for the first."""


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


class Rolling:
    """Windows of `size` consecutive published steps of one array, `stride` apart.

    Parameters
    ----------
    run : WindowRun
    array : OpenEndedArray or ExternalArray
    size, stride : int
        In published steps (entries of the array's time dimension).
    region : tuple of slice or int
        What is needed of space; nothing else leaves the ranks.
    ahead : int
        Windows that are on the scheduler before their data are.

    Raises
    ------
    ContractError
        Sizes below 1, more steps per window than the array has, or a signed contract.
    """

    def __init__(
        self,
        run: WindowRun,
        array: OpenEndedArray | ExternalArray,
        size: int,
        stride: int = 1,
        region: tuple[Any, ...] = (),
        ahead: int = 8,
    ) -> None:
        if min(size, stride, ahead) < 1:
            raise ContractError(
                f"rolling windows need size, stride and ahead >= 1, got {size}, {stride}, {ahead}"
            )
        self.run, self.array, self.size, self.stride = run, array, size, stride
        self.region, self.ahead = tuple(region), ahead
        self.count = array.source.spec.steps.count
        if self.count is not None and size > self.count:
            raise ContractError(
                f"windows of {size} steps do not fit into the {self.count} steps of "
                f"array {array.source.spec.name!r}"
            )
        self.state: Any = None
        self._over = False
        self._declared = 0
        self._released = 0

    def map(self, function: Callable[[Any], Any]) -> Iterator[Window]:
        """Apply a function from a lazy window to a lazy value; windows come in order.

        Parameters
        ----------
        function : callable
            From a dask array of shape (size, \\*region) to a lazy value.
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
        self._sign()
        self.state = initial
        pending: deque[_Submitted] = deque()
        index = 0
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
                (value,) = self.run.client.gather([window.output])
                _raise_if_erred(window.state)
            except SimulationLost:
                self.run.raise_if_failed()
                break
            self.state = window.state
            # Known to be computed, hence known to be registered: no graph can miss its leaves.
            # A few windows at once, as the others are declared.
            if not pending or (window.index + 1) % max(1, self.ahead // 2) == 0:
                self._release((window.index + 1) * self.stride)
            yield Window(window.index, self._steps(window.index), value)
        self.run.awaits([])

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
        if dask.is_dask_collection(state):
            # What both share is computed once.
            state, output = dask.persist(state, output)
        return _Submitted(index, state, self.run.client.compute(output))

    # -- internals ---------------------------------------------------------------------

    def _exists(self, index: int) -> bool:
        return self.count is None or index * self.stride + self.size <= self.count

    def _steps(self, index: int) -> range:
        """Return the simulation steps of a window."""
        axis = self.array.source.spec.steps
        first = axis.step(index * self.stride)
        return range(first, first + self.size * axis.every, axis.every)

    def _sign(self) -> None:
        source = self.array.source
        whole = Selection.full(source.layout.shape)
        view = self.array[0:1][(slice(None), *self.region)].external_view
        space = view.selection
        contract = ArrayContract.agree(
            source.spec,
            [Selection.of([whole.dims[0], *space.dims[1:]])],
            run=self.run.settings.run,
            receivers=range(source.n_receivers),
            layout=source.layout,
            policy=self.run.settings.policies.get(source.spec.name, "block"),
        )
        # A view that exists when the contract is made keeps the chunks that are named here.
        source.bind(contract, {view.name: set(np.ndindex(view.numblocks))})
        self.run.sign(Contract(self.run.settings.run, (contract,)), ahead=True)

    def _window(self, index: int) -> Any:
        first = index * self.stride
        stop = first + self.size
        if stop > self._declared:
            # A few windows at once, to save the scheduler a message per window.
            target = stop + self.stride * self.ahead
            if self.count is not None:
                target = min(target, self.count)
            self.run.declare_ahead(0, self._declared, target)
            self._declared = target
        return self.array[first:stop][(slice(None), *self.region)]

    def _release(self, first_needed: int) -> None:
        """Leave the steps before the next window to the graphs that need them."""
        if first_needed > self._released:
            self.run.release_steps(0, self._released, min(first_needed, self._declared))
            self._released = first_needed


def _raise_if_erred(collection: Any) -> None:
    for future in futures_of(collection):
        if future.status == "error":
            raise future.exception()
