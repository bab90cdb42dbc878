"""The states of the external tasks of one scheduler, changed through the state table only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ips_components.external.changes import KINDS, Change, Changes
from ips_components.external.groups import Group, Registry
from ips_components.external.log import SchedulingLog
from ips_components.external.names import Key
from ips_components.external.state import (
    Event,
    ImpossibleTransition,
    Instruction,
    State,
    transition,
)

if TYPE_CHECKING:
    from distributed import Scheduler


class TaskTable:
    """Applies events to external tasks and notes the changes.

    Arrivals, failures and Dask's own transitions all go through this table; nothing else
    assigns a state.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    registry : Registry
    log : SchedulingLog
    changes : Changes

    Attributes
    ----------
    worker : str
        Worker whose announcement is being carried out; empty between announcements.
    """

    def __init__(
        self, scheduler: Scheduler, registry: Registry, log: SchedulingLog, changes: Changes
    ) -> None:
        self.scheduler = scheduler
        self.registry = registry
        self.log = log
        self.changes = changes
        self.worker = ""

    def look_up(
        self, group: Group, key: Key, state: State, event: Event
    ) -> tuple[State, Instruction]:
        """Return the state after `event` and what is to be done.

        Raises
        ------
        ImpossibleTransition
            With everything that is known about the task.
        """
        try:
            return transition(key, state, event)
        except ImpossibleTransition as error:
            text = "\n".join([f"{error}. Its story, in group {group.name}:", *self.history(key)])
            raise ImpossibleTransition(text) from None

    def advance(self, group: Group, key: Key, event: Event, stimulus: str) -> None:
        """Apply something that Dask did to a task, and note the change."""
        state = group.states[key]
        new, _ = self.look_up(group, key, state, event)
        if new is state:
            return
        if new is State.FORGOTTEN:
            if state is State.MEMORY:  # Dask frees and forgets in one step what nothing waits for
                self._note(group, key, State.RELEASED, stimulus)
            del group.states[key]
            group.forgotten[state] += 1
        else:
            group.states[key] = new
        again = new is State.WANTED and state is not State.DECLARED
        self._note(group, key, new, stimulus, "wanted_again" if again else "")

    def history(self, key: Key) -> list[str]:
        """Return our records of a key and Dask's transitions, one line each."""
        records = [str(record.to_json()) for record in self.log.story(key)]
        return records + [str(item) for item in self.scheduler.story(key)]

    def _note(self, group: Group, key: Key, new: State, stimulus: str, kind: str = "") -> None:
        self.changes.add(Change(group, kind or KINDS[new], str(new), [key], self.worker, stimulus))
