"""What one iteration of windows gives to a checkpoint, and gets back from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import dask.array as da

from ips_components.analysis.packing import pack, unpack
from ips_components.analysis.put_once import refuse_cut
from ips_components.analysis.views import Source
from ips_components.analysis.window_group import WindowArray, WindowRun
from ips_components.errors import ContractError


@dataclass(frozen=True, slots=True)
class WindowState:
    """What windows need to go on.

    Parameters
    ----------
    values
        Of all windows until now.
    state
        After the last of them, packed.
    steps
        Data of time indices ``first .. stop - 1``, packed; None when no window needs them.
    first, stop
        Time index of the next window, and the one that has not come yet.
    """

    values: list[Any]
    state: Any
    steps: Any
    first: int
    stop: int


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
        self.over = False
        """Whether no more windows will be asked for."""
        self._windows = windows
        self._arrays = arrays
        self._earlier: WindowState | None = None
        self._kept: Any = None  # data of steps that have come before a restart

    def restore(self, saved: WindowState) -> None:
        """Go on from a state of an earlier run."""
        self._earlier, self.values = saved, list(saved.values)
        if saved.steps is not None:
            self._kept = unpack(saved.steps)

    def go_on(self) -> Iterator[Any]:
        """Yield the values that an earlier run had; then go on from its state."""
        windows, saved = self._windows, self._earlier
        if saved is None:
            return
        if saved.values:
            windows.state = unpack(saved.state)
        yield from saved.values
        windows.run.checkpoints.replayed(self)
        spec = windows.sources[0].spec
        came = spec.steps.index_from(windows.run.settings.launches["first_step"])
        last = spec.steps.count is not None and saved.first + windows.size > spec.steps.count
        if not last and max(saved.stop, saved.first) < came:
            raise ContractError(
                f"the checkpoint was taken after the last window of array {spec.name!r}, which "
                "has more steps now; the steps between are lost, start anew"
            )

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

    def at(self, step: int | None) -> WindowState:
        """Return what is to be kept when all steps before `step` have come; None: nothing more.

        Raises
        ------
        ContractError
            When a chunk has steps of both sides.
        """
        first = len(self.values) * self._windows.stride
        if self.over or step is None:
            return self._saved(first, first, None)
        stop = self._windows.sources[0].spec.steps.index_from(step)
        for source in self._windows.sources:
            refuse_cut(source, stop, step)
        return self._saved(first, stop, self.data(first, stop) if first < stop else None)

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
        return WindowState(self.values, packed_state, packed_steps, first, stop)

    def kind(self) -> dict[str, Any]:
        """Return what must be the same in a run that goes on."""
        windows, specs = self._windows, [source.spec for source in self._windows.sources]
        return {
            "arrays": [(each.name, tuple(each.shape), str(each.dtype)) for each in specs],
            "size": windows.size,
            "stride": windows.stride,
            "region": repr(windows.region),
        }
