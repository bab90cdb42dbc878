"""The windows of one run: what they need of which array, and how far their data may come.

The contract of a run is signed once, so that all windows are known when the first of them is
iterated. The ranks put all arrays of a step one after the other: where one of them may not be sent
yet, the others cannot come either. So the arrays are declared together, up to the same step, and
what an iteration has not used yet stays on the workers; one that falls far behind the others is an
error and not a run that stands still.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from ips_components.analysis.arrays import ExternalArray, OpenEndedArray
from ips_components.analysis.put_once import PutOnce
from ips_components.analysis.views import Source, View
from ips_components.analysis.window_checkpoints import Kept, WindowCheckpoints
from ips_components.coordination.settings import RunSettings
from ips_components.errors import ContractError
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.selection import Selection

__all__ = ["WindowGroup", "WindowRun", "Windows"]

WindowArray = OpenEndedArray | ExternalArray


class WindowRun(Protocol):
    """What windows need of a run."""

    client: Any
    settings: RunSettings
    windows: WindowGroup
    checkpoints: WindowCheckpoints

    def sign(self, contract: Contract, *, ahead: bool = False) -> None:
        """Sign a contract whose tasks are declared piecemeal."""

    def declare_ahead(self, array: int, first: int, stop: int) -> None:
        """Declare the external tasks of some time indices."""

    def end_windows(self) -> None:
        """Let the simulation go on: nothing that is not declared is needed."""

    def release_steps(self, array: int, first: int, stop: int) -> None:
        """Leave the chunks of some time indices to the graphs that need them."""

    def raise_if_failed(self) -> None:
        """Raise the run's first fault, if it has failed."""

    def awaits(self, futures: Sequence[Any]) -> None:
        """Report the results of which the analysis waits for the first."""


class Saver(Kept, Protocol):
    """What a group needs of what keeps windows."""

    values: Sequence[Any]


class Windows(Protocol):
    """What a group needs of the windows in it."""

    sources: Sequence[Source]
    size: int
    stride: int
    ahead: int
    saver: Saver

    def views(self) -> Iterable[View]:
        """Return a view of each array, with what is needed of space."""


class WindowGroup:
    """All windows of a run.

    Parameters
    ----------
    run : WindowRun
    """

    def __init__(self, run: WindowRun) -> None:
        self._run = run
        self._windows: list[Windows] = []
        self._used: dict[int, int] = {}  # by id of the windows: steps that they do not need again
        self._once = PutOnce(run.client)
        self._sources: list[Source] = []  # in the order of the contract
        self._declared: dict[str, int] = defaultdict(int)
        self._released: dict[str, int] = defaultdict(int)
        run.checkpoints.add(self._once)

    @property
    def signed(self) -> bool:
        """Whether the contract is made."""
        return bool(self._sources)

    def add(self, windows: Windows, beside: Iterable[Any] = ()) -> None:
        """Add windows, and arrays that their functions use as they are.

        Raises
        ------
        ContractError
            The contract is signed, or an array beside windows has no known number of steps.
        """
        if self.signed:
            raise ContractError(
                "run.rolling after other windows of this run were iterated: the contract of a run "
                "is signed once; make all windows first, then iterate them together, for example "
                "zip(run.rolling(u, 4).map(f), run.rolling(p, 4).map(g))"
            )
        for array in beside:
            self._once.add(array)
        for source in windows.sources:
            source.windowed = True
        self._windows.append(windows)
        self._used[id(windows)] = 0
        self._run.checkpoints.add(windows.saver)

    def sign(self) -> None:
        """Make the contract of all windows, and let what is put once come."""
        if self.signed:
            return
        if self._run.checkpoints.enabled:
            self._once.refuse_unkept()
        views: dict[str, list[View]] = defaultdict(list)
        for windows in self._windows:
            for view in windows.views():
                views[view.source.name].append(view)
        for mine in views.values():
            if (source := mine[0].source) in self._once:
                raise ContractError(
                    f"array {source.spec.name!r} is in windows and beside them; give it once"
                )
        settings = self._run.settings
        contracts = []
        for mine in (*views.values(), *([view] for view in self._once.views)):
            source = mine[0].source
            whole = Selection.full(source.layout.shape)
            once = source in self._once
            wanted = [
                each.selection if once else Selection.of([whole.dims[0], *each.selection.dims[1:]])
                for each in mine
            ]
            contract = ArrayContract.agree(
                source.spec,
                wanted,
                run=settings.run,
                receivers=range(source.n_receivers),
                layout=source.layout,
                policy=settings.policies.get(source.spec.name, "block"),
                blocks=source.chosen.choice,
            )
            # A view that exists when the contract is made keeps the chunks that are named here.
            source.bind(contract, {each.name: set(np.ndindex(each.numblocks)) for each in mine})
            self._sources.append(source)
            contracts.append(contract)
        step = self._run.checkpoints.restore()
        self._run.sign(Contract(settings.run, tuple(contracts)), ahead=True)
        if step is not None:
            self._go_on(step)
        for ordinal, source in enumerate(self._sources):
            if source in self._once:
                self._declare(ordinal, source, source.layout.shape[0])

    def _go_on(self, step: int) -> None:
        """Neither declare nor free what came before a step: the checkpoint has what is needed."""
        for source in self._sources:
            came = source.spec.steps.index_from(step)
            self._declared[source.name] = self._released[source.name] = came
            if source in self._once:
                self._once.provide(source, came)
        for windows in self._windows:
            self._used[id(windows)] = len(windows.saver.values) * windows.stride

    def declare(self, windows: Windows, stop: int) -> None:
        """Let the steps of windows come, up to the time index `stop`, and a few more.

        Raises
        ------
        ContractError
            Other windows of the run are too far behind.
        """
        axis = windows.sources[0].spec.steps
        if stop <= self._declared[windows.sources[0].name]:
            return
        # A few windows at once, to save the scheduler a message per window.
        beyond = axis.start + axis.every * (stop + windows.stride * windows.ahead)
        for other in self._windows:
            at = self._at(other, self._used[id(other)])
            if other is not windows and beyond > at + 4 * (_extent(windows) + _extent(other)):
                raise ContractError(
                    f"windows over array {windows.sources[0].spec.name!r} are at step "
                    f"{self._at(windows, stop)}, those over {other.sources[0].spec.name!r} at step "
                    f"{at}; the data between would fill the workers: iterate the windows of a run "
                    "together, for example with zip"
                )
        for ordinal, source in enumerate(self._sources):
            if source in self._once:
                continue
            steps = source.spec.steps
            target = max(0, -(-(beyond - steps.start) // steps.every))
            if steps.count is not None:
                target = min(target, steps.count)
            self._declare(ordinal, source, target)
        self._release()

    @staticmethod
    def _at(windows: Windows, index: int) -> int:
        """Return the simulation step of a time index."""
        axis = windows.sources[0].spec.steps
        return axis.start + axis.every * index

    def _declare(self, ordinal: int, source: Source, target: int) -> None:
        if target > self._declared[source.name]:
            self._run.declare_ahead(ordinal, self._declared[source.name], target)
            self._declared[source.name] = target

    def used(self, windows: Windows, first_needed: int) -> None:
        """Leave the steps before a time index to the graphs that need them, if no others do."""
        self._used[id(windows)] = first_needed
        self._release()

    def done(self, windows: Windows) -> None:
        """Windows are iterated no more; with the last ones, what is put once is freed."""
        if windows not in self._windows:
            return
        self._windows.remove(windows)
        self._release()
        if not self._windows:
            self._once.release()
            self._run.end_windows()

    def _release(self) -> None:
        for ordinal, source in enumerate(self._sources):
            users = [each for each in self._windows if source in each.sources]
            needed = self._declared[source.name]
            if source in self._once:
                needed = 0 if self._windows else needed
            else:
                needed = min((needed, *(self._used[id(each)] for each in users)))
            if needed > self._released[source.name]:
                self._run.release_steps(ordinal, self._released[source.name], needed)
                self._released[source.name] = needed


def _extent(windows: Windows) -> int:
    """Return the simulation steps that windows have under way."""
    every = windows.sources[0].spec.steps.every
    return every * (windows.size + windows.stride * windows.ahead)
