"""How much of its work Dask has done, apart from external tasks."""

from __future__ import annotations

from typing import Any

from ips_components.model.keys import PREFIX


def task_counts(scheduler: Any) -> dict[str, int]:
    """Return how many tasks the scheduler has been given and has done, ``{"done", "total"}``.

    Dask counts per prefix of the key how often a task entered a state. Every task waits once
    before it runs, so that these two counts grow until they meet; a task that is run again counts
    again in both. What has failed is not done. External tasks do not run and are left out.
    """
    done = total = 0
    for name, prefix in scheduler.task_prefixes.items():
        if not name.startswith(PREFIX):
            done += prefix.state_counts["memory"]
            total += prefix.state_counts["waiting"]
    return {"done": min(done, total), "total": total}
