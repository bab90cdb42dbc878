"""How far a run is, as events of IPS, for other components of the workflow and for the portal.

A component hears of it by ``services.subscribe(TOPIC, callback)`` and, every now and then,
``services.process_events()``. IPS puts the simulation's name before the topic, so that the events
of one workflow stay in it.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

logger = logging.getLogger(__name__)

TOPIC = "ips_components_progress"
EVENT = "PROGRESS"
PORTAL = "COUPLED_RUN"
"""Kind of the portal's events: one for each phase of a run."""
INTERVAL = 1.0
"""Seconds between two events."""


class ProgressEvents:
    """Publishes the progress of a run: what has changed, once a second at most, and the end.

    Parameters
    ----------
    services
        Of the component that publishes.
    interval
        Seconds between two events.
    clock
        Seconds from some origin, never going back.
    """

    def __init__(
        self,
        services: Any,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._services = services
        self._interval = interval
        self._clock = clock
        self._last: dict[str, Any] = {}
        self._published = float("-inf")
        self._phase: Any = None
        self._broken = False

    def update(self, state: Mapping[str, Any]) -> None:
        """Publish a state (``RunCoordinator.progress()``) if it is new and the time has come."""
        now = self._clock()
        if not state or now - self._published < self._interval:
            return
        facts = _facts(state)
        if facts != self._last:
            self._publish(facts, state, now)

    def end(self, state: Mapping[str, Any], failed: bool = False) -> None:
        """Publish the last state, whenever the one before was; not twice the same."""
        facts = _facts({**state, **({"phase": "failed"} if failed else {})})
        if facts != self._last:
            self._publish(facts, {**state, "phase": facts["phase"]}, self._clock())

    def _publish(self, facts: dict[str, Any], state: Mapping[str, Any], now: float) -> None:
        from ips_components.report.progress import describe

        if self._broken:
            return
        rate, text = state.get("rate"), describe(state)
        body = {**facts, "t": time.time(), "rate": rate, "text": text}
        self._last, self._published = facts, now
        try:
            self._services.publish(TOPIC, EVENT, body)
            if facts["phase"] != self._phase:
                self._phase = facts["phase"]
                self._services.send_portal_event(PORTAL, f"{self._phase}: {body['text']}")
        except Exception as error:
            # Events are a courtesy, and no reason why a run fails.
            self._broken = True
            logger.warning("No more events about the progress: %r", error)


def _facts(state: Mapping[str, Any]) -> dict[str, Any]:
    """What an event says, as plain values; nothing in it changes while nothing happens."""
    tasks = state.get("tasks") or {}
    return {
        "run": state.get("run"),
        "phase": state.get("phase"),
        "step": state.get("steps") or 0,
        "n_steps": state.get("n_steps"),
        "analysed": state.get("analysed") or 0,
        "tasks_done": tasks.get("done") or 0,
        "tasks": tasks.get("total") or 0,
        "delivered": state.get("delivered") or 0,
        "waited": state.get("waited") or 0.0,
        "faults": state.get("faults") or 0,
    }
