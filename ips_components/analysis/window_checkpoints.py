"""State of the windows of a run in its middle, so that a later run goes on as if there was one.

When the workflow asks for a checkpoint, the analysis waits for its next window. What is kept then
of all windows of the run is the value of every one until now, the state after the last of them,
and the data of the steps that have come for later ones. A run that goes on calls the analysis
function again, and its windows give the kept values first: what the function has in variables of
its own becomes what it was, and nothing is computed or sent twice.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from distributed import Client, Future

from ips_components.analysis.coordinator_client import Coordinator
from ips_components.analysis.failures import message
from ips_components.coordination.messages import CHECKPOINT_TOPIC
from ips_components.coordination.settings import RunSettings
from ips_components.errors import ContractError

#: File of the state, in the run's directory and in IPS's checkpoints.
FILE = "analysis_windows.pickle"
_LOOK = 5.0


class Kept(Protocol):
    """A part of what a checkpoint keeps: the windows of one ``run.rolling``, what is beside them.

    ``over`` says that no more windows of it will come.
    """

    over: bool

    def kind(self) -> Mapping[str, Any]:
        """Return what must be the same in a run that goes on."""

    def at(self, step: int | None) -> Any:
        """Return the state when all steps before `step` have come; None: after the last window."""

    def restore(self, saved: Any) -> None:
        """Go on from a state of an earlier run."""


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
        self._client = client
        self._coordinator = coordinator
        self._settings = settings
        self._parts: list[Kept] = []
        self._replaying: list[Kept] = []
        self._asked: Mapping[str, Any] | None = None
        self._answered = 0
        self._open = False
        self._woken = threading.Event()
        self._topic = CHECKPOINT_TOPIC + settings.run

    @property
    def replaying(self) -> bool:
        """Whether the windows come from a checkpoint."""
        return bool(self._replaying)

    def add(self, part: Kept) -> None:
        """Keep another part of the run, always in the same order."""
        self._parts.append(part)

    def restore(self) -> int | None:
        """Give all parts what an earlier run has saved.

        Returns
        -------
        int or None
            The simulation step at which this run goes on; None when it is new.

        Raises
        ------
        ContractError
            When it was saved by windows of another kind.
        """
        if not self._settings.windows:
            return None
        saved = pickle.loads(Path(self._settings.windows).read_bytes())
        if len(saved) != len(self._parts):
            raise ContractError(
                f"the checkpoint was made by an analysis with {len(saved) - 1} run.rolling, now "
                f"there are {len(self._parts) - 1}; {_SAME}"
            )
        for part, (kind, state) in zip(self._parts, saved, strict=True):
            for name, value in part.kind().items():
                if kind[name] != value:
                    raise ContractError(
                        f"the checkpoint was made with windows whose {name} was {kind[name]!r}, "
                        f"now it is {value!r}; {_SAME}"
                    )
            part.restore(state)
        self._replaying = self._parts[1:]
        return int(self._settings.launches["first_step"])

    def replayed(self, part: Kept) -> None:
        """Note that a part has given all that an earlier run had."""
        if part in self._replaying:
            self._replaying.remove(part)

    def open(self) -> None:
        """Hear when the workflow asks for a checkpoint."""
        if self.enabled and not self._open:
            self._open = True
            self._client.subscribe_topic(self._topic, self._hear)

    def wait(self, output: Any) -> None:
        """Wait for the output of a window; meanwhile save what the workflow asks for.

        Parameters
        ----------
        output
            A future.
        """
        # The earlier run was saved while it waited, and has asked for nothing after that.
        self._replaying = []
        if not self.enabled or not isinstance(output, Future):
            return
        output.add_done_callback(lambda _: self._woken.set())
        while not output.done():
            self._woken.wait(_LOOK)
            self._woken.clear()
            asked, self._asked = self._asked, None
            if asked is not None and asked["number"] > self._answered:
                self._answered = asked["number"]
                self._save(asked["number"], asked["first_step"])

    def end(self) -> None:
        """Note that the analysis asks for no more windows at all."""
        for part in self._parts:
            part.over = True
        self.close()

    def close(self) -> None:
        """Save the state after the last window of all, which is what later checkpoints keep."""
        if self._open and all(part.over for part in self._parts):
            self._open = False
            with suppress(KeyError):
                self._client.unsubscribe_topic(self._topic)
            self._save(0, None)

    def _hear(self, event: Any) -> None:
        self._asked = event[1]
        self._woken.set()

    def _save(self, number: int, step: int | None) -> None:
        path, wrong = Path(self._settings.run_dir, FILE), ""
        try:
            draft = path.with_name(f".{FILE}")
            draft.write_bytes(pickle.dumps([(dict(p.kind()), p.at(step)) for p in self._parts]))
            draft.replace(path)
        except Exception as error:  # the run goes on without a checkpoint
            wrong = f"the windows cannot be kept: {message(error)}"
        self._coordinator.windows_saved(number, wrong)


_SAME = (
    "a run that goes on needs the same windows in the same order, or start anew "
    "(SIMULATION_MODE = NORMAL)"
)
