"""The steps of a rank: which one it is at, and the account that goes with the end of each."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from operator import index
from typing import Any

import numpy as np

from ips_components.bridge.delivery import Delivery
from ips_components.bridge.outgoing import OutgoingArray
from ips_components.errors import BridgeError
from ips_components.wire import framing
from ips_components.wire import messages as m

_ACCOUNT_EVERY = 0.05  # seconds between two accounts that travel with the end of a step
_SIGN_EVERY = 1.0  # seconds between two signs of a rank of which nothing is sent
_REMEMBERED = 4096  # steps that waited


def whole_step(step: Any) -> int:
    """Return a step as an integer; numbers of NumPy and floats without a fraction are taken.

    Raises
    ------
    BridgeError
        When it is no whole number: such a step is in no array, and would be lost without a word.
    """
    try:
        return index(step)
    except TypeError:
        if isinstance(step, float | np.floating) and step.is_integer():
            return int(step)
    raise BridgeError(f"a step must be a whole number, got {step!r}")


class Steps:
    """Where a rank is, and what it says at the end of a step.

    Parameters
    ----------
    delivery
        Sends the ends of steps.
    arrays
        Those of the contract.
    first, launch
        The step at which this launch goes on, and its number.
    renumbered
        The program counts from 0 at every launch.

    Attributes
    ----------
    first, shift : int
        First step of this launch, and what is added to the program's steps.
    newest : int
        The last step that was begun or ended, -1 before any.
    ended : int
        The last step that was ended, -1 before any.
    current : int or None
        The step that has begun and not ended.
    """

    def __init__(
        self,
        delivery: Delivery,
        arrays: Iterable[OutgoingArray],
        first: int,
        launch: int,
        *,
        renumbered: bool,
    ) -> None:
        self.first, self.shift = first, first if renumbered else 0
        self.newest = self.ended = -1
        self.current: int | None = None
        self._delivery, self._arrays, self._launch = delivery, list(arrays), launch
        self._waited: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)
        self._waited_before = 0
        self._accounted = 0.0
        self._timed: int | None = None  # the last step whose physical time was said
        self._shown = time.monotonic()  # when this rank last sent anything about its steps

    def begin(self, step: int) -> None:
        """End the step before, and begin another; the end travels with its first piece."""
        if step < self.first:
            raise BridgeError(
                f"step {step} was put, but launch {self._launch} goes on at step {self.first} "
                "(bridge.first_step); count from there, or say RENUMBER = True in the "
                "simulation's section of the config if the program counts from 0 at every launch"
            )
        before, self.current = self.current, step
        if before is not None:
            now = time.monotonic()  # accounts are cumulative: some may be left out
            frame = self._frame(before, with_account=now - self._accounted > _ACCOUNT_EVERY)
            if frame is not None:
                self._delivery.piggybacked.append(frame)

    def note_time(self, step: int, time: float) -> None:
        """Say the physical time of a step; it travels with its first piece."""
        if not math.isfinite(time):
            raise BridgeError(f"step {step} has the physical time {time}; it must be finite")
        if step == self._timed:
            return
        self._timed = step
        self._delivery.piggybacked.append(framing.pack(m.StepTime(step, float(time))))

    def end(self) -> None:
        """End the step that has begun, if any."""
        step, self.current = self.current, None
        if step is not None:
            self.ended = step
            frame = self._frame(step, with_account=True)
            if frame is not None:
                self._delivery.report(frame)

    def skipped(self, step: int) -> None:
        """Note a put of which nothing is sent: the run has to see that this rank goes on.

        Now and then the step before is ended, or the account is sent, also when the analysis has
        failed; nothing without a connection, since such a put does not wait.
        """
        if time.monotonic() - self._shown <= _SIGN_EVERY:
            return
        self._shown = time.monotonic()
        delivery = self._delivery
        mailbox = delivery.mailbox
        if mailbox.lost is not None or not delivery.connections.open():
            return
        if self.current is not None and step > self.current and mailbox.fault is None:
            self.end()
        else:
            behind = m.StepEnd.NO_STEP + max(0, step)
            delivery.report(framing.pack_step_end(behind, *self._account()))

    def _account(self) -> tuple[int, Sequence[int]]:
        """Return what was waited, and the numbers of all arrays."""
        return self._delivery.waited_ns, [n for out in self._arrays for n in out.account.numbers()]

    def _frame(self, step: int, *, with_account: bool) -> bytes | None:
        waited = self._delivery.waited_ns
        if waited != self._waited_before:
            self._waited.append((step, (waited - self._waited_before) / 1e9))
            self._waited_before = waited
        if self._delivery.mailbox.disconnected:
            return None
        self._shown = time.monotonic()
        if not with_account:
            return framing.pack_step_end(step, waited, ())
        self._accounted = self._shown
        return framing.pack_step_end(step, *self._account())

    @property
    def waited(self) -> dict[int, float]:
        """Seconds waited in the latest steps that waited at all."""
        return dict(self._waited)
