"""Messages of the coordinator to the workers of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.messages import STREAM_OP, Action


class Outbox:
    """Sends actions on Dask's own streams to workers.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    """

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def send(
        self, run: CoordinatedRun, action: Action, workers: Iterable[str] | None = None
    ) -> None:
        """Send an action to some workers of a run, or to all of them."""
        message = {
            "op": STREAM_OP,
            "run": run.state.run,
            "action": action.NAME,
            **action.to_plain(),
        }
        for worker in list(run.workers) if workers is None else workers:
            stream = self._scheduler.stream_comms.get(worker)
            if stream is not None:
                stream.send(message)
