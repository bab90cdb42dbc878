"""State of windows in the middle of a run, so that a later run goes on as if there was one.

When the workflow asks for a checkpoint, the analysis waits for its next window. What is kept then
is the value of every window until now, the state after the last of them, and the data of the
steps that have come for later windows. A run that goes on calls the analysis function again, and
its windows give the kept values first: what the function has in variables of its own becomes what
it was, and nothing is computed or sent twice.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.base import unpack_collections
from dask.delayed import Delayed
from distributed import Client, Future

from ips_components.analysis.coordinator_client import Coordinator
from ips_components.analysis.failures import message
from ips_components.coordination.messages import CHECKPOINT_TOPIC
from ips_components.coordination.settings import RunSettings
from ips_components.errors import ContractError

#: File of the state, in the run's directory and in IPS's checkpoints.
FILE = "analysis_windows.pickle"
_LOOK = 5.0


@dataclass(frozen=True, slots=True)
class WindowState:
    """What windows need to go on.

    Parameters
    ----------
    kind
        What the windows are of; those that go on must be the same.
    values
        Of all windows until now.
    state
        After the last of them, packed.
    steps
        Data of time indices ``first .. stop - 1``, packed; None when no window needs them.
    first, stop
        Time index of the next window, and the one that has not come yet.
    """

    kind: Mapping[str, Any]
    values: list[Any]
    state: Any
    steps: Any
    first: int
    stop: int


class WindowCheckpoints:
    """Saves the state of windows while they wait, and gives back what an earlier run has saved.

    Parameters
    ----------
    client
        Of the cluster.
    coordinator
        Of the run.
    settings
        Of the run.

    Notes
    -----
    ``_asked`` is written by the client's event loop and read by the thread of the analysis, which
    is woken after it was written; assignments of one reference need no lock.
    """

    def __init__(self, client: Client, coordinator: Coordinator, settings: RunSettings) -> None:
        self.enabled = bool(settings.launches.get("checkpoint"))
        self.replaying = False
        """Whether the windows come from a checkpoint."""
        self._client = client
        self._coordinator = coordinator
        self._settings = settings
        self._asked: Mapping[str, Any] | None = None
        self._answered = 0
        self._woken = threading.Event()
        self._topic = CHECKPOINT_TOPIC + settings.run

    def load(self, kind: Mapping[str, Any]) -> WindowState | None:
        """Return what an earlier run has saved; None when this one is new.

        Raises
        ------
        ContractError
            When it was saved by windows of another kind.
        """
        if not self._settings.windows:
            return None
        saved: WindowState = pickle.loads(Path(self._settings.windows).read_bytes())
        for name, value in kind.items():
            if saved.kind[name] != value:
                raise ContractError(
                    f"the checkpoint was made with windows whose {name} was "
                    f"{saved.kind[name]!r}, now it is {value!r}; a run that goes on needs the "
                    "same windows, or start anew (SIMULATION_MODE = NORMAL)"
                )
        return saved

    def open(self) -> None:
        """Hear when the workflow asks for a checkpoint."""
        if self.enabled:
            self._client.subscribe_topic(self._topic, self._hear)

    def wait(self, output: Any, save: Callable[[int], WindowState]) -> None:
        """Wait for the output of a window; meanwhile save what the workflow asks for.

        Parameters
        ----------
        output
            A future.
        save
            From the simulation step at which the next launch goes on to the state.
        """
        if not self.enabled or not isinstance(output, Future):
            return
        output.add_done_callback(lambda _: self._woken.set())
        while not output.done():
            self._woken.wait(_LOOK)
            self._woken.clear()
            asked, self._asked = self._asked, None
            if asked is not None and asked["number"] > self._answered:
                self._answered = asked["number"]
                self._save(asked["number"], lambda step=asked["first_step"]: save(step))

    def close(self, save: Callable[[], WindowState]) -> None:
        """Save the state after the last window, which is what later checkpoints keep."""
        if self.enabled:
            with suppress(KeyError):
                self._client.unsubscribe_topic(self._topic)
            self._save(0, save)

    def _hear(self, event: Any) -> None:
        self._asked = event[1]
        self._woken.set()

    def _save(self, number: int, save: Callable[[], WindowState]) -> None:
        path, wrong = Path(self._settings.run_dir, FILE), ""
        try:
            draft = path.with_name(f".{FILE}")
            draft.write_bytes(pickle.dumps(save()))
            draft.replace(path)
        except Exception as error:  # the run goes on without a checkpoint
            wrong = f"the windows cannot be kept: {message(error)}"
        self._coordinator.windows_saved(number, wrong)


# -- what may be lazy ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Lazy:
    """A computed value that was a lazy one."""

    kind: str
    value: Any
    chunks: Any = None


def is_lazy(value: Any) -> bool:
    """Whether a value is lazy, or a container with something lazy in it."""
    return bool(unpack_collections(value)[0])


def pack(value: Any, client: Client) -> Any:
    """Compute what is lazy in a value, such that `unpack` makes it lazy again.

    Raises
    ------
    ContractError
        For lazy values of a kind that cannot be made again.
    """
    lazy: list[Any] = []
    shape = _note(value, lazy)
    return _fill(shape, iter(client.gather(client.compute(lazy))))


@dataclass(frozen=True, slots=True)
class _Place:
    kind: str
    chunks: Any


def _note(value: Any, lazy: list[Any]) -> Any:
    """Replace what is lazy by a `_Place`, and put it into a list."""
    if isinstance(value, dict):
        return {name: _note(each, lazy) for name, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_note(each, lazy) for each in value)
    if not is_lazy(value):
        return value
    lazy.append(value)
    if isinstance(value, da.Array):
        return _Place("array", value.chunks)
    if isinstance(value, Delayed):
        return _Place("delayed", None)
    if hasattr(value, "chunksizes"):  # of xarray
        return _Place("xarray", dict(value.chunksizes))
    raise ContractError(
        f"a state of windows that is a {type(value).__name__} cannot be kept; use arrays, xarray, "
        "delayed values, or tuples, lists and dicts of them"
    )


def _fill(shape: Any, values: Any) -> Any:
    if isinstance(shape, dict):
        return {name: _fill(each, values) for name, each in shape.items()}
    if type(shape) in (list, tuple):
        return type(shape)(_fill(each, values) for each in shape)
    if isinstance(shape, _Place):
        return _Lazy(shape.kind, next(values), shape.chunks)
    return shape


def unpack(packed: Any) -> Any:
    """Return what `pack` was given, lazy where that was lazy, in the same chunks."""
    if isinstance(packed, dict):
        return {name: unpack(each) for name, each in packed.items()}
    if type(packed) in (list, tuple):
        return type(packed)(unpack(each) for each in packed)
    if not isinstance(packed, _Lazy):
        return packed
    if packed.kind == "array":
        return _array(packed.value, packed.chunks)
    if packed.kind == "delayed":
        return dask.delayed(packed.value, pure=False)
    return packed.value.chunk(packed.chunks)


def _array(value: Any, chunks: Any) -> da.Array:
    known = not any(np.isnan(size) for sizes in chunks for size in sizes)
    # One chunk of an unknown size is what there was, or is as good.
    return da.from_array(value, chunks=chunks if known else -1, name=False)
