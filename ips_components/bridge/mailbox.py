"""What receivers have sent to this rank beside answers to its data, and the lock of a bridge.

Threads
-------
`Mailbox.lock` guards the state of the whole bridge: the mailbox, all connections but their
sockets' writing side, the slots, and the placement of the arrays. The caller's thread, the I/O
thread and the background threads of connections take it; no thread sends, connects or waits for
anything else while holding it. ``fault``, ``lost`` and ``stop`` go from None to a value once, and
may be read without it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ips_components.deadlines import Deadline
from ips_components.errors import AnalyticsLost, DeadlineExceeded, RunStopped
from ips_components.wire import messages as m
from ips_components.wire import values

LOOK_AGAIN = 0.25  # seconds at most between two looks, although every change is notified
_VALUES = 1024  # kept of each name
_LARGE = 1 << 16  # bytes from which a value is kept with one earlier one of its name only


class Mailbox:
    """Contract, feedback, stop, fault and goodbyes, as they arrive.

    Parameters
    ----------
    abort_on_loss
        Whether the simulation ends when the analytics are lost.

    Attributes
    ----------
    lock, changed
        The bridge's lock, and the condition on it that is notified at every change.
    fault : Fault or None
        The analysis has failed.
    lost : str or None
        Why no receiver is left to send to.
    alone : bool
        There is no analysis, by the program's own will.
    stop : str or None
        Why the analysis wants no more.
    """

    def __init__(self, *, abort_on_loss: bool) -> None:
        self.lock = threading.RLock()  # held by itself it costs a put less than the condition
        self.changed = threading.Condition(self.lock)
        self.contract: m.ContractIs | None = None
        self.fault: m.Fault | None = None
        self.lost: str | None = None
        self.alone = False
        self.stop: str | None = None
        self.goodbyes_answered: set[int] = set()
        self.attached: dict[bytes, m.Attach] = {}  # requests to put into further runs
        self.on_attach: Callable[[m.Attach], None] | None = None  # called with the lock held
        self._values: dict[str, dict[int, m.Feedback]] = {}
        self._abort_on_loss = abort_on_loss

    def add(self, message: m.Message) -> None:
        """Keep a message (the lock is held)."""
        match message:
            case m.ContractIs():
                self.contract = message
            case m.Feedback():
                sent = self._values.setdefault(message.name, {})
                sent[message.step] = message
                while len(sent) > (2 if len(message.data) >= _LARGE else _VALUES):
                    del sent[min(sent)]
            case m.Fault():
                self.fault = self.fault or message
            case m.Stop():
                self.stop = message.text
            case m.Attach() if message.contact not in self.attached:  # each receiver sends it
                self.attached[message.contact] = message
                if self.on_attach is not None:
                    self.on_attach(message)

    def lose(self, why: str) -> None:
        """Note that no receiver is left to send to; the first reason stays."""
        with self.changed:
            self.lost = self.lost or why
            self.changed.notify_all()

    def go_alone(self, why: str) -> None:
        """Note that there is no analysis, by the program's own will."""
        self.alone = True
        self.lose(why)

    @property
    def disconnected(self) -> bool:
        """Whether there is no receiver to send to, and the simulation goes on alone."""
        return self.fault is not None or self.lost is not None

    def check(self) -> None:
        """Raise what ends the simulation.

        Raises
        ------
        AnalyticsLost
            When the analysis has failed or is gone, and the policy is to end with it.
        """
        if self.fault is not None and self.fault.policy == m.Fault.ABORT:
            raise AnalyticsLost(f"the run failed: {self.fault.text}")
        if self.lost is not None and self._abort_on_loss:
            raise AnalyticsLost(self.lost)

    def latest(self, name: str, step: int | None) -> m.Feedback | None:
        """Return the newest value of a name that was sent for a step up to this one; None: any."""
        with self.lock:
            sent = self._values.get(name, {})
            held = [at for at in sent if step is None or at <= step]
            return sent[max(held)] if held else None

    def latest_model(self, name: str, newer_than: int) -> tuple[int, dict[str, Any]] | None:
        """Return the newest version of a model above this one, with its arrays by name.

        None, too, where one of its arrays has not come yet.
        """
        with self.lock:  # no later version takes the place of these arrays meanwhile
            found = self.latest(name, None)
            if found is None or found.step <= newer_than:
                return None
            names = values.decode(found)["arrays"]
            arrays = {key: self.latest(f"{name}/{key}", found.step) for key in names}
        whole = {k: values.decode(a) for k, a in arrays.items() if a and a.step == found.step}
        return (found.step, whole) if len(whole) == len(names) else None

    def wait_for_value(self, name: str, step: int | None, timeout: float) -> m.Feedback:
        """Return the value of a name for exactly this step, or the newest; None: of any step.

        Raises
        ------
        RunStopped
            At once when the analysis has stopped the run, or has returned, without the value.
        AnalyticsLost
            At once when no receiver is left that could send it.
        DeadlineExceeded
            When it does not come in time.
        """

        def find() -> m.Feedback | None:
            if step is None:
                return self.latest(name, None)
            return self._values.get(name, {}).get(step)

        def no_more() -> bool:
            return values.NO_MORE.name in self._values

        self.wait_for(
            lambda: find() is not None or self.stop is not None or no_more() or self.disconnected,
            timeout,
        )
        with self.lock:
            found = find()
        if found is not None:
            return found
        missing = f"no value {name!r} " + ("" if step is None else f"for step {step} ")
        if self.stop is not None and self.fault is None:
            raise RunStopped(
                f"{missing}will come: the analysis has stopped the run ({self.stop}); "
                "leave the time loop and close the bridge"
            )
        self.check()
        if self.alone:
            raise RunStopped(f"{missing}will come: {self.lost}; give a default")
        if self.disconnected:
            why = self.lost if self.fault is None else self.fault.text
            raise AnalyticsLost(f"{missing}will come, the analysis is gone: {why}")
        if no_more():
            raise RunStopped(
                f"{missing}will come: the analysis has all its results and has returned; "
                "leave the time loop, or give a default"
            )
        raise DeadlineExceeded(
            f"{missing}came from the analysis within {timeout:g} s; give a default, or see "
            "whether the analysis sends it"
        )

    def wait(self, deadline: Deadline) -> bool:
        """Wait for some change (the lock is held); False when the deadline has passed."""
        if deadline.expired:
            return False
        self.changed.wait(min(deadline.left, LOOK_AGAIN))
        return True

    def wait_for(self, done: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition holds; return whether it does."""
        deadline = Deadline(timeout)
        with self.changed:
            while not done():
                if not self.wait(deadline):
                    return done()
        return True
