"""What the analysis publishes while the run goes on, until the workflow takes it."""

from __future__ import annotations

from typing import Any

from ips_components.errors import ContractError

MAX_BYTES = 1 << 28
"""Published values that wait for the workflow; it takes them at each step of its loop."""


class Published:
    """Values by step, in the order in which they were published, as opaque bytes."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, bytes]] = []
        self._nbytes = 0
        self.taken = 0
        """Times that something was published and has been taken."""

    def add(self, step: int, values: bytes) -> None:
        """Keep the values of a step.

        Raises
        ------
        ContractError
            When too much waits.
        """
        if self._nbytes + len(values) > MAX_BYTES:
            raise ContractError(
                f"run.publish: {self._nbytes >> 20} MiB of published values wait for the workflow, "
                f"no more than {MAX_BYTES >> 20} MiB may; publish less, or let the driver call "
                "step of the analytics more often"
            )
        self._waiting.append((step, values))
        self._nbytes += len(values)

    def take(self) -> list[tuple[int, bytes]]:
        """Return what was published since the last call."""
        waiting, self._waiting = self._waiting, []
        self._nbytes = 0
        self.taken += len(waiting)
        return waiting


def is_quiet(scheduler: Any, awaited: list[Any]) -> bool:
    """Whether all that depends only on data which have come is computed.

    Parameters
    ----------
    scheduler
        Of Dask.
    awaited
        Keys of the results that the analysis waits for next; once one is there, or was released
        again, the analysis has something to do.
    """
    if scheduler.queued or any(
        not key.startswith("external-gate") for key in _unrunnable(scheduler)
    ):
        return False
    # A task that has left its thread, as the analysis itself, only waits for others.
    if any(len(w.processing) > len(w.long_running) for w in scheduler.workers.values()):
        return False
    tasks = (scheduler.tasks.get(key) for key in awaited)
    return all(task is not None and task.state not in ("memory", "erred") for task in tasks)


def _unrunnable(scheduler: Any) -> list[str]:
    return [str(task.key) for task in scheduler.unrunnable]
