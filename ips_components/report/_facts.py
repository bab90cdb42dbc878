"""What a run record amounts to: the few numbers that the report and the terminal both show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ips_components.report._numbers import count, duration, percent, plural, size
from ips_components.report._schema import LEDGER_ENTRIES
from ips_components.report.record import last_line


@dataclass(frozen=True, slots=True)
class Facts:
    """Derived from a checked record; None where the record does not say.

    Attributes
    ----------
    source : str or None
        Stored field that was analysed instead of a simulation.
    put : int
        Steps that the simulation has put, whether the analysis takes them or not.
    steps : int
        Those of which all ranks have sent what the analysis takes.
    bytes, blocks : dict
        The ledger summed over the arrays.
    open_account : str
        Why the ledger does not close; empty if it does, or if no rank ever connected.
    waited : float or None
        Seconds that the slowest rank waited for the analytics.
    active : float or None
        Seconds from the first put to the last complete step.
    rate : float or None
        Bytes per second delivered, over `active`.
    explained_variance : list of float or None
        Ratio per component, if the results have it.
    """

    ok: bool
    cause: str | None
    source: str | None
    duration: float | None
    ranks: int | None
    put: int
    steps: int
    last_step: int | None
    n_steps: int | None
    bytes: dict[str, int]
    blocks: dict[str, int]
    open_account: str
    waited: float | None
    active: float | None
    rate: float | None
    peak_memory: float | None
    explained_variance: list[float] | None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Facts:
        complete = [s for s in record["steps"] if s["complete"] is not None]
        active = None
        if complete:
            first = min(s["first_put"] or s["complete"] for s in complete)
            active = max(s["complete"] for s in complete) - first
        totals = {
            unit: {
                entry: sum(a[unit][entry] for a in record["ledger"]["arrays"].values())
                for entry in LEDGER_ENTRIES
            }
            for unit in ("bytes", "blocks")
        }
        delivered = totals["bytes"]["delivered"]
        steps = max(len(complete), record["step_counts"]["complete"] or 0)
        waits = record["waited"]["per_rank"]
        ends = (record["started"], record["ended"])
        return cls(
            ok=record["status"] == "ok",
            cause=record["cause"],
            source=record["simulation"]["source"],
            duration=None if None in ends else ends[1] - ends[0],
            ranks=len(record["ranks"]) or record["simulation"]["nproc"],
            put=max(steps, record["step_counts"]["put"] or 0),
            steps=steps,
            last_step=max((s["step"] for s in complete), default=None),
            n_steps=record["n_steps"],
            **totals,
            open_account=open_account(record),
            waited=max(waits) if waits else None,
            active=active,
            rate=delivered / active if active else None,
            peak_memory=max((s["rss"] for s in record["samples"] if s["rss"]), default=None),
            explained_variance=_explained_variance(record["results"]["variables"]),
        )

    @property
    def waited_share(self) -> float | None:
        """Of the simulation's time between its first put and its last."""
        if self.waited is None or not self.active or self.waited > self.active:
            return None  # it waited before its first step was complete, too
        return self.waited / self.active

    def taken_steps(self) -> str:
        """How many steps went to the analysis, in words."""
        return f"{count(self.steps) if self.steps else 'none'} of them went to the analysis"

    def share(self, entry: str) -> float | None:
        """One entry of the ledger as a fraction of the bytes produced."""
        produced = self.bytes["produced"]
        return self.bytes[entry] / produced if produced else None

    def sentences(self) -> list[str]:
        """What happened, in a few plain sentences."""
        if self.source:
            return [f"Replayed from {self.source}: no simulation ran."]
        if not self.put:
            return ["The simulation put no complete step."]
        ranks = plural(self.ranks, "rank") if self.ranks else "The ranks"
        within = f" in {duration(self.active)}" if self.active else ""
        taken = f"; {self.taken_steps()}" if self.steps < self.put else ""
        said = [f"{ranks} put {plural(self.put, 'step')}{taken}{within}."]
        if self.bytes["produced"]:
            said.append(self._way_of_the_data())
        for entry, why in (("dropped", "by policy"), ("lost", "on the way")):
            if self.bytes[entry] or self.blocks[entry]:
                said.append(f"{size(self.bytes[entry])} were {entry} {why}.")
        if self.waited:
            share = self.waited_share
            of = "" if share is None else f", {percent(share)} of that time"
            said.append(f"The slowest rank waited {duration(self.waited)} for the analytics{of}.")
        elif self.waited is not None:
            said.append("No rank ever waited for the analytics.")
        return said

    def _way_of_the_data(self) -> str:
        produced, delivered, skipped = (
            self.bytes[entry] for entry in ("produced", "delivered", "skipped")
        )
        if delivered == produced:
            return f"All {size(produced)} that they produced went to the analytics."
        text = (
            f"Of the {size(produced)} that they produced, {size(delivered)} "
            f"({percent(self.share('delivered'))}) went to the analytics"
        )
        if skipped:
            text += (
                f"; the analysis did not need the other {size(skipped)}, which stayed in the ranks"
                if (delivered + skipped == produced)
                else f", and {size(skipped)} that the analysis did not need stayed in the ranks"
            )
        return text + "."

    def short_cause(self) -> str:
        """The cause in one line; of a traceback the line that names the error."""
        return last_line(self.cause) or "no cause is on record"


def open_account(record: Mapping[str, Any]) -> str:
    """Why the ledger of a checked record does not close, in one clause; empty if it does.

    A run that no rank ever joined has an empty ledger, in which nothing is missing.
    """
    if record["ledger"]["closed"]:
        return ""
    for name, account in record["ledger"]["arrays"].items():
        blocks = account["blocks"]
        if missing := blocks["produced"] - sum(blocks[entry] for entry in LEDGER_ENTRIES[1:]):
            of = f"of {plural(blocks['produced'], 'block')} of array {name!r}"
            return f"{missing} {of} have no entry" if missing > 0 else f"{-missing} {of} too many"
    silent = [rank["rank"] for rank in record["ranks"] if str(rank["rank"]) not in record["byes"]]
    if silent:
        others = f" and {plural(len(silent) - 1, 'other')}" if len(silent) > 1 else ""
        return f"rank {silent[0]}{others} did not close the bridge"
    return "not every rank closed its bridge" if record["ledger"]["arrays"] else ""


def _explained_variance(variables: Mapping[str, Any]) -> list[float] | None:
    for name, variable in variables.items():
        if "explained_variance_ratio" in name and isinstance(variable["values"], list):
            values = variable["values"]
            while values and isinstance(
                values[-1], list
            ):  # one row per step: the last is the result
                values = values[-1]
            if all(isinstance(value, (int, float)) for value in values):
                return [float(value) for value in values]
    return None
