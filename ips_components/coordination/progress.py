"""Progress and ledger of runs: what receivers report, and what people read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ips_components.coordination import launches
from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.messages import ReceiverNote, Sample, StepsEnded
from ips_components.coordination.step_report import StepReport
from ips_components.coordination.task_counts import task_counts


class Progress:
    """Takes reports of steps and samples in, and answers how far a run is.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    tasks : ExternalTasks
    """

    def __init__(self, scheduler: Any, tasks: Any) -> None:
        self._scheduler = scheduler
        self._tasks = tasks

    def steps_ended(self, run: CoordinatedRun, worker: str, event: StepsEnded) -> None:
        run.state.step_ends(StepReport.from_message(event.report))

    def note(self, run: CoordinatedRun, worker: str, event: ReceiverNote) -> None:
        run.state.fault(f"receiver on {worker}", "reports", event.text)

    def sample(self, run: CoordinatedRun, worker: str, event: Sample) -> None:
        run.state.sample({"worker": worker, **event.sample})

    def progress(self, run: CoordinatedRun) -> dict[str, Any]:
        """Return how far a run is, for the terminal and the live page."""
        tasks = task_counts(self._scheduler)
        return {
            **run.state.progress(),
            **_rates(run, tasks),
            "joining": _are_joining(run),
            "alone": launches.is_alone(run),
            "launch": run.launches[-1].number if run.launches else None,
            "lost": dict(run.state.lost_ranks),
            "fatal": None if run.state.fatal is None else run.state.fatal.to_json(),
            "n_steps": run.settings.get("n_steps"),
            "tasks": tasks,
            "states": self._states(run),
            "attached": sum(each.waiting for each in run.attached.values()),
        }

    def terms(self, run: CoordinatedRun) -> list[dict[str, Any]]:
        """Return the table of the contract; empty as long as there is none."""
        table = run.contract.table() if run.contract is not None else []
        return [{**row, **run.remarks.get(row["name"], {})} for row in table]

    def record(self, run: CoordinatedRun) -> dict[str, Any]:
        """Return the coordinator's part of the record."""
        if run.settings.get("task_log"):
            self._tasks.log.flush()
        launched = [record.to_json() for record in run.launches]
        account = run.state.record()
        return {
            **account,
            "step_counts": {**account["step_counts"], "put": run.state.position_put},
            **({"launches": launched} if launched else {}),
            **({"attached": _attached(run)} if run.attached else {}),
            "states": self._states(run),
            "contract": {"arrays": self.terms(run)},
        }

    def _states(self, run: CoordinatedRun) -> dict[str, int]:
        if not run.has_tasks or (run.ahead and not run.horizon):
            return {}  # windows declare their tasks one after another; none has begun yet
        counts: dict[str, int] = self._tasks.counts(run.state.run)
        return counts


def _attached(run: CoordinatedRun) -> list[dict[str, Any]]:
    """Return the account of the clients that were attached, and of each of their contracts."""
    return [client.to_json() for client in run.attached.values()]


def _rates(run: CoordinatedRun, tasks: Mapping[str, int]) -> dict[str, Any]:
    """Return bytes and steps per second, and the seconds that are left, as far as is known."""
    state, now = run.state, run.state.clock()
    if state.phase not in ("running", "ended"):
        return {"rate": None, "step_rate": None, "left": None}
    state.tasks_done.note(now, tasks["done"])
    sides = [state.tasks_done.left(now, tasks["total"])]
    is_running = state.phase == "running"
    if is_running:
        sides.append(state.steps_put.left(now, run.settings.get("n_steps")))
    known = [each for each in sides if each is not None]
    return {
        "rate": state.bytes_delivered.rate(now) if is_running else None,
        "step_rate": state.steps_put.rate(now) if is_running else None,
        "left": max(known) if len(known) == len(sides) else None,
    }


def _are_joining(run: CoordinatedRun) -> bool:
    """Whether ranks still come for their contract after the analysis has failed."""
    fatal = run.state.fatal
    failed = fatal is not None and fatal.who == "analysis"
    return failed and len(run.state.joined) != run.state.n_ranks
