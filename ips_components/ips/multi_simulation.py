"""Several simulations that feed one analysis: one run each with the coordinator, reported as one.

Each simulation has a run id, a contact file, receivers and ranks 0, 1, ... of its own, so that
none of them needs to know of the others. People see one run: the functions here put the
coordinator's accounts of the runs together.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ips_components.ips.coupling import CONTACT

_TOTALS = ("ranks", "produced", "delivered", "rate", "skipped", "faults")
_PHASES = ("failed", "open", "contracted", "running", "ended")
"""The first of these that any of the runs is in is the phase of all."""


def runs_of(run: str, ports: Iterable[str]) -> dict[str, str]:
    """Return the run id for each simulation; the first one's is that of the whole."""
    names = list(ports)
    return {port: run if port == names[0] else f"{run}+{port}" for port in names}


def contact_file(run: str) -> str:
    """Return the name of the contact file of a run, in the directory of the whole."""
    _, plus, port = run.partition("+")
    return f"contact_{port}.json" if plus else CONTACT


def task_log_file(run: str) -> str:
    """Return the name of the file of a run's changes of states, in the same directory."""
    _, plus, port = run.partition("+")
    return f"external_tasks_{port}.jsonl" if plus else "external_tasks.jsonl"


def together(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the progress of several runs as if they were one; it is as far as the slowest is.

    Parameters
    ----------
    states
        ``RunCoordinator.progress()`` of each; an empty one is of a run that has not answered yet.
    """
    known = [state for state in states if state]
    if len(known) < 2:
        return dict(known[0]) if known else {}
    left = [state.get("left") for state in known]
    counts: dict[str, int] = {}
    for state in known:
        for name, count in (state.get("states") or {}).items():
            counts[name] = counts.get(name, 0) + count
    return {
        **known[0],
        **{name: sum(state.get(name) or 0 for state in known) for name in _TOTALS},
        "phase": next(p for p in _PHASES if any(state.get("phase") == p for state in known)),
        "steps": min(state.get("steps") or 0 for state in known),
        "position": min(state.get("position") or 0 for state in known),
        "analysed": min(state.get("analysed") or 0 for state in known),
        "waited": max(state.get("waited") or 0.0 for state in known),
        "left": None if None in left else max(left),
        "states": counts,
    }


def one_record(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Put the coordinator's records of several runs together.

    Parameters
    ----------
    records
        ``RunState.record()`` with contract and states, by port of the simulation.

    Returns
    -------
    dict
        The same for all. Ranks are numbered through, in the order of the simulations, which they
        and the faults name.
    """
    if len(records) == 1:
        return dict(next(iter(records.values())))
    first = next(iter(records.values()))
    whole: dict[str, Any] = {
        **first,
        "ranks": [],
        "byes": {},
        "faults": [],
        "samples": [],
        "states": {},
        "waited": {"per_rank": []},
        "ledger": {"closed": True, "arrays": {}},
        "contract": {"arrays": []},
    }
    if attached := [each for record in records.values() for each in record.get("attached", ())]:
        whole["attached"] = attached
    for port, record in records.items():
        before = len(whole["ranks"])
        for each in record["ranks"]:
            whole["ranks"].append({**each, "rank": before + each["rank"], "simulation": port})
        for rank, status in record["byes"].items():
            whole["byes"][str(before + int(rank))] = status
        whole["faults"] += [_reported_by(port, fault) for fault in record["faults"]]
        whole["samples"] += record["samples"]
        for name, count in record["states"].items():
            whole["states"][name] = whole["states"].get(name, 0) + count
        whole["waited"]["per_rank"] += record["waited"]["per_rank"]
        whole["ledger"]["closed"] &= record["ledger"]["closed"]
        whole["ledger"]["arrays"].update(record["ledger"]["arrays"])
        whole["contract"]["arrays"] += record["contract"]["arrays"]
    launched = [
        {**each, "simulation": port}
        for port, record in records.items()
        for each in record.get("launches", ())
    ]
    if launched:
        whole["launches"] = sorted(launched, key=lambda launch: launch["began"])
    whole["faults"].sort(key=lambda fault: fault["t"])
    whole["samples"].sort(key=lambda sample: sample["t"])
    whole["steps"] = _steps(records.values())
    counts = [record["step_counts"] for record in records.values()]
    whole["step_counts"] = {name: max(count[name] for count in counts) for name in counts[0]}
    whole["faults_left_out"] = sum(record["faults_left_out"] for record in records.values())
    whole["left_out"] = [
        {**fault, "simulation": port} for port, r in records.items() for fault in r["left_out"]
    ]
    fatal = [_reported_by(port, r["fatal"]) for port, r in records.items() if r["fatal"]]
    whole["fatal"] = min(fatal, key=lambda fault: fault["t"], default=None)
    reasons = [record["stop_reason"] for record in records.values()]
    whole["stop_reason"] = next((reason for reason in reasons if reason), None)
    return whole


def _reported_by(port: str, fault: Mapping[str, Any]) -> dict[str, Any]:
    """A fault of one of several simulations; the analysis is common to all."""
    mine = fault["who"] == "simulation" or fault["who"].startswith("rank")
    cause = f"{port}: {fault['cause']}" if mine else fault["cause"]
    return {**fault, "cause": cause, "simulation": port}


def _steps(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Steps of several simulations, matched by their number.

    A step that one of them has left out, of its many, is left out.
    """
    found: dict[int, list[dict[str, Any]]] = {}
    left_out = []
    for record in records:
        steps = record["steps"]
        for step in steps:
            found.setdefault(step["step"], []).append(step)
        if len(steps) < record["step_counts"]["begun"]:
            counted = {step["step"] for step in steps}
            left_out.append((range(min(counted), max(counted)), counted))
    return [
        _one_step(found[number])
        for number in sorted(found)
        if all(number in counted or number not in within for within, counted in left_out)
    ]


def _one_step(same: list[dict[str, Any]]) -> dict[str, Any]:
    """One step that several simulations have put; it is complete when the last one has."""
    completed = [step["complete"] for step in same]
    delivered = [step["delivered"] for step in same]
    waits = [step["waited"] for step in same]
    return {
        "step": same[0]["step"],
        "first_put": min(step["first_put"] for step in same),
        "complete": None if None in completed else max(completed),
        "analysed": max((s["analysed"] for s in same if s["analysed"] is not None), default=None),
        "delivered": None if None in delivered else sum(delivered),
        "waited": {
            "max": max(wait["max"] for wait in waits),
            "mean": sum(wait["mean"] for wait in waits) / len(waits),
        },
    }
