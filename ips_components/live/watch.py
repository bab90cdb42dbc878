"""Windows of a running simulation, one after the other, for as long as it runs."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ips_components.analysis.windows import Window
from ips_components.errors import (
    ContractError,
    ExternalTaskError,
    SelectionError,
    SimulationLost,
    StepPassed,
)

if TYPE_CHECKING:
    from distributed import Future

    from ips_components.live.attached_contract import AttachedContract

logger = logging.getLogger(__name__)

#: Windows of a contract at least and at most; seconds that one should last.
FEWEST, MOST, LASTING = 4, 1024, 2.0
#: Contracts that may fail one after another, though the simulation goes on.
FAILURES = 3
_LOOK = 0.25  # seconds between two looks whether the watch was ended


@dataclass(slots=True)
class Batch:
    """The windows of one contract, submitted together."""

    contract: AttachedContract
    windows: list[tuple[range, dict[str, Future], Callable[[Mapping[str, Any]], Any]]]
    left: int
    next_step: int


class Opens(Protocol):
    """What a watch needs of `Requests`."""

    def open_windows(
        self,
        function: Callable[..., Any],
        every: int,
        window: int,
        n: int,
        start: int,
        margin: int,
    ) -> Batch:
        """Open a contract over `n` windows, from a step on or from the next one that can be had."""

    def close_windows(self, batch: Batch) -> None:
        """End the contract of a batch."""

    def is_over(self) -> bool:
        """Whether the simulation has ended."""


class Watch(Iterator[Window]):
    """Windows as they come, in order; iterate it, or give a function that is called with each.

    Made by `LiveRun.watch`. Windows whose steps were dropped, since this client was too slow, or
    have passed are left out. The iteration ends with the simulation. A context manager.

    Attributes
    ----------
    left_out : int
        Windows that were left out.
    error : Exception or None
        What ended a watch that calls a function.
    """

    def __init__(
        self,
        live: Opens,
        function: Callable[..., Any],
        every: int,
        window: int,
        call: Callable[[Window], Any] | None,
    ) -> None:
        if min(every, window) < 1:
            raise ContractError(f"a watch needs every and window >= 1, got {every}, {window}")
        self._live, self._function = live, function
        self._every, self._window = every, window
        self._batches: deque[Batch] = deque()
        self._index = 0
        self._begun = time.monotonic()
        self._rate = 0.0  # windows per second
        self._margin = 1  # steps that ranks go on until a contract reaches them, as it seems
        self._late: Batch | None = None  # the last one that came too late
        self._start, self._ended = -1, False
        self._failures = 0  # contracts that failed since the last window, the simulation not
        self._stopped = threading.Event()
        self.left_out = 0
        self.error: BaseException | None = None
        self._thread: threading.Thread | None = None
        if call is not None:
            self._thread = threading.Thread(
                target=self._follow, args=(call,), name="attached watch", daemon=True
            )
            self._thread.start()

    def __next__(self) -> Window:
        while not self._stopped.is_set():
            self._open_more()
            if not self._batches:
                if self._ended:
                    break
                continue
            batch = self._batches[0]
            if not batch.windows:
                self._live.close_windows(self._batches.popleft())
                continue
            steps, futures, form = batch.windows.pop(0)
            try:
                values = {name: self._result(future) for name, future in futures.items()}
            except SimulationLost as error:
                self._fail(error)
                self.left_out += 0 if self._ended else 1 + len(batch.windows)
                batch.windows.clear()
                continue
            except ExternalTaskError as error:  # dropped, or passed
                self.left_out += 1
                if isinstance(error, StepPassed) and batch is not self._late:
                    self._late, self._margin = batch, min(MOST, max(4, 2 * self._margin))
                continue
            self._failures = 0
            self._index += 1
            self._rate = self._index / max(1e-3, time.monotonic() - self._begun)
            return Window(self._index - 1, steps, form(values))
        self.stop()
        raise StopIteration

    def _result(self, future: Future) -> Any:
        """Return a result, unless the watch is ended meanwhile."""
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        while not self._stopped.is_set():
            if done.wait(_LOOK):
                return future.result()
        raise SimulationLost("the watch was ended")

    def _open_more(self) -> None:
        """Open the next contract when half of the last one's windows have come."""
        waiting = sum(len(batch.windows) for batch in self._batches)
        n = max(FEWEST, int(LASTING * self._rate), 2 * self._margin // self._every)
        n = min(MOST, n)
        if self._ended or waiting > n // 2:
            return
        try:
            batch = self._live.open_windows(
                self._function, self._every, self._window, n, self._start, self._margin
            )
        except SelectionError:  # no further steps
            self._ended = True
            return
        except SimulationLost as error:
            self._fail(error)
            return
        if self._start >= 0:
            axis_step = batch.windows[0][0].step if batch.windows else 1
            skipped = (batch.windows[0][0].start - self._start) // (self._every * axis_step)
            self.left_out += max(0, skipped)
        self._start = batch.next_step
        self._batches.append(batch)

    def _fail(self, error: SimulationLost) -> None:
        """A contract has failed: with the simulation, or alone, so that another one may do."""
        self._ended = self._stopped.is_set() or self._live.is_over()
        self._failures += 1
        if not self._ended and self._failures >= FAILURES:
            raise error

    def _follow(self, call: Callable[[Window], Any]) -> None:
        try:
            for window in self:
                call(window)
        except BaseException as error:
            self.error = error
            logger.exception("A watch has ended")
            self.stop()

    def stop(self) -> None:
        """End the watch: nothing is sent for it any more. May be called twice."""
        self._stopped.set()
        while self._batches:
            self._live.close_windows(self._batches.popleft())

    def join(self, timeout: float | None = None) -> bool:
        """Wait until a watch that calls a function has ended; return whether it has."""
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
