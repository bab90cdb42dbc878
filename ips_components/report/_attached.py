"""Clients that were attached to a run, for the report and the summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ips_components.report import _numbers as numbers


@dataclass(frozen=True, slots=True)
class Visit:
    """What one attached client had sent.

    Attributes
    ----------
    name, why
        Of the client; why it ended.
    since, until : float or None
        Seconds after the start of the run; None: to its end.
    contracts : int
        How many it had.
    steps : str
        From which step to which; empty if it had no contract.
    delivered, dropped : int
        Bytes that came, and that ranks did not send since it was too slow.
    notes : list of str
        What went wrong with its contracts.
    """

    name: str
    why: str
    since: float | None
    until: float | None
    contracts: int
    steps: str
    delivered: int
    dropped: int
    notes: list[str]


def visits(record: Mapping[str, Any]) -> list[Visit]:
    """Return the clients that were attached, in the order they came."""
    started = record["started"]

    def after(moment: float | None) -> float | None:
        return None if moment is None or started is None else max(0.0, moment - started)

    found = []
    for client in record["attached"]:
        contracts = client["contracts"]
        steps = [step for each in contracts for step in each.get("steps", ())]
        accounts = [
            account["bytes"]
            for each in contracts
            for account in each.get("ledger", {}).get("arrays", {}).values()
        ]
        notes = [note for each in contracts for note in each.get("notes", ())]
        found.append(
            Visit(
                client["name"],
                client["why"] or "the run ended",
                after(client["since"]),
                after(client["until"]),
                client["n_contracts"],
                f"{min(steps)} to {max(steps)}" if steps else "",
                sum(each.get("delivered", 0) for each in accounts),
                sum(each.get("dropped", 0) for each in accounts),
                list(dict.fromkeys(f"{n['who']} {n['what']}: {n['cause']}" for n in notes)),
            )
        )
    return found


def in_short(found: list[Visit]) -> str:
    """Return one line about all of them.

    >>> in_short([Visit("a", "detached", 1.0, 2.0, 1, "3 to 9", 2048, 0, [])])
    '1 client, 2.00 KiB delivered to it'
    """
    n = len(found)
    size = numbers.size(sum(each.delivered for each in found))
    text = f"{numbers.plural(n, 'client')}, {size} delivered to {'it' if n == 1 else 'them'}"
    if dropped := sum(each.dropped for each in found):
        text += f", {numbers.size(dropped)} dropped"
    if lost := sum(each.why.startswith("lost") for each in found):
        text += f", {lost} lost"
    return text
