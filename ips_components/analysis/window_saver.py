"""What one iteration of windows gives to a checkpoint, and gets back from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import dask.array as da

from ips_components.analysis.views import Source
from ips_components.analysis.window_checkpoints import WindowState, pack, unpack
from ips_components.analysis.window_group import WindowArray, WindowRun
from ips_components.errors import ContractError


class SavedWindows(Protocol):
    """What a saver needs of the windows that it saves."""

    run: WindowRun
    sources: Sequence[Source]
    size: int
    stride: int
    ahead: int
    region: tuple[Any, ...]
    state: Any

    def views(self) -> Any:
        """Return a view of each array."""


class WindowSaver:
    """Keeps the values of windows where checkpoints are taken, and their data across a restart.

    Parameters
    ----------
    windows
        Those that are saved.
    arrays
        What they are of.
    """

    def __init__(self, windows: SavedWindows, arrays: Mapping[Any, WindowArray]) -> None:
        self.values: list[Any] = []
        """Of all windows until now, where checkpoints are taken."""
        self._windows = windows
        self._arrays = arrays
        self._earlier: WindowState | None = None
        self._kept: Any = None  # data of steps that have come before a restart

    def go_on(self) -> Iterator[Any]:
        """Yield the values that an earlier run had; then go on from its state."""
        windows, spec = self._windows, self._windows.sources[0].spec
        checkpoints = windows.run.checkpoints
        saved = checkpoints.load(self._kind())
        if saved is None:
            return
        came = spec.steps.index_from(windows.run.settings.launches["first_step"])
        if max(saved.stop, saved.first) < came:
            raise ContractError(
                f"the checkpoint was taken after the last window of array {spec.name!r}, which "
                "has more steps now; the steps between are lost, start anew"
            )
        if saved.values:
            windows.state = unpack(saved.state)
        if saved.steps is not None:
            self._kept = unpack(saved.steps)
        self._earlier = saved
        windows.run.windows.go_on(came)
        checkpoints.replaying = True
        yield from saved.values
        checkpoints.replaying = False
        self.values = list(saved.values)

    def data(self, first: int, stop: int) -> dict[Any, Any]:
        """Return time indices ``first .. stop - 1`` of each array, by its name in the windows."""
        earlier = self._earlier
        if earlier is None or first >= earlier.stop:
            return self._between(first, stop)
        begun, end = first - earlier.first, stop - earlier.first
        kept = {name: array[begun:end] for name, array in self._kept.items()}
        if stop <= earlier.stop:
            return kept
        new = self._between(earlier.stop, stop)
        return {name: da.concatenate([kept[name], new[name]]) for name in new}

    def at(self, step: int) -> WindowState:
        """Return what is to be kept when all steps before `step` have come.

        Raises
        ------
        ContractError
            When a chunk has steps of both sides.
        """
        source = self._windows.sources[0]
        count = source.spec.steps.count
        first, stop = len(self.values) * self._windows.stride, source.spec.steps.index_from(step)
        for each in self._windows.sources if stop > 0 and (count is None or stop < count) else ():
            if each.layout.chunk_of(0, stop - 1) == each.layout.chunk_of(0, stop):
                raise ContractError(
                    f"steps before and after {step} of array {each.spec.name!r} are in one chunk; "
                    "choose chunks of time (CHUNKS) that end where launches end"
                )
        return self._saved(first, stop, self.data(first, stop) if first < stop else None)

    def last(self) -> WindowState:
        """Return what is to be kept after the last window."""
        first = len(self.values) * self._windows.stride
        return self._saved(first, first, None)

    def _between(self, first: int, stop: int) -> dict[Any, Any]:
        self._windows.run.windows.declare(self._windows, stop)
        space = self._windows.region
        return {
            name: each[first:stop][(slice(None), *space)] for name, each in self._arrays.items()
        }

    def _saved(self, first: int, stop: int, steps: Any) -> WindowState:
        # The first window begins with the state that the analysis gives.
        state = self._windows.state if self.values else None
        packed_state, packed_steps = pack((state, steps), self._windows.run.client)
        return WindowState(self._kind(), self.values, packed_state, packed_steps, first, stop)

    def _kind(self) -> dict[str, Any]:
        windows, specs = self._windows, [source.spec for source in self._windows.sources]
        return {
            "arrays": [(each.name, tuple(each.shape), str(each.dtype)) for each in specs],
            "size": windows.size,
            "stride": windows.stride,
            "region": repr(windows.region),
        }
