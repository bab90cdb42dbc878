"""The ledger: the account of every block that the simulation produced.

For each array, in blocks and in bytes::

    produced = skipped by contract + delivered + dropped by policy + lost

Ranks keep cumulative counters and send them along with every step; this module adds them
up.  A run whose ledger does not close is a failed run, because somewhere a block vanished
without a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

ENTRIES = ("produced", "skipped", "delivered", "dropped", "lost")
UNITS = ("blocks", "bytes")


@dataclass(slots=True)
class Account:
    """Counters of one array: ``{"blocks": {entry: n}, "bytes": {entry: n}}``."""

    blocks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENTRIES, 0))
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENTRIES, 0))

    def add(self, counters: Mapping[str, Mapping[str, int]]) -> None:
        for unit in UNITS:
            mine = getattr(self, unit)
            for entry in ENTRIES:
                mine[entry] += int(counters.get(unit, {}).get(entry, 0))

    def missing(self, unit: str) -> int:
        """What was produced and has no entry; negative when something was counted twice."""
        mine = getattr(self, unit)
        return mine["produced"] - sum(mine[entry] for entry in ENTRIES[1:])

    def to_json(self) -> dict[str, dict[str, int]]:
        return {"blocks": dict(self.blocks), "bytes": dict(self.bytes)}


class Ledger:
    """Adds up the cumulative counters of the ranks.

    Parameters
    ----------
    arrays : iterable of str
        Names of the contracted arrays; others appear as ranks mention them.
    """

    def __init__(self, arrays: Iterable[str] = ()) -> None:
        self._arrays = list(arrays)
        self._ranks: dict[int, Mapping[str, Any]] = {}
        self._final: set[int] = set()

    def declare(self, arrays: Iterable[str]) -> None:
        """Make arrays appear in the account even if no rank ever mentions them."""
        self._arrays.extend(name for name in arrays if name not in self._arrays)

    def update(self, rank: int, counters: Mapping[str, Any], *, final: bool = False) -> None:
        """Take the newest cumulative counters of one rank.

        Counters of one rank arrive through several receivers; they only ever grow, so an
        older message that was overtaken is recognised and left out.
        """
        if rank in self._final:
            return
        if final:
            self._final.add(rank)
        elif _produced(self._ranks.get(rank, {})) > _produced(counters):
            return
        self._ranks[rank] = counters

    def write_off(self, rank: int) -> None:
        """Count what a dead rank produced and cannot account for as lost."""
        counters = {
            name: {unit: dict(values) for unit, values in array.items()}
            for name, array in self._ranks.get(rank, {}).items()
        }
        for array in counters.values():
            account = Account()
            account.add(array)
            for unit in UNITS:
                array.setdefault(unit, {})
                array[unit]["lost"] = array[unit].get("lost", 0) + account.missing(unit)
        self._ranks[rank] = counters
        self._final.add(rank)

    def accounts(self) -> dict[str, Account]:
        """The sum over all ranks, by array."""
        accounts = {name: Account() for name in self._arrays}
        for counters in self._ranks.values():
            for name, array in counters.items():
                accounts.setdefault(name, Account()).add(array)
        return accounts

    def total(self, entry: str, unit: str = "bytes") -> int:
        """One entry, summed over ranks and arrays."""
        return sum(
            int(array.get(unit, {}).get(entry, 0))
            for counters in self._ranks.values()
            for array in counters.values()
        )

    def imbalances(self) -> list[str]:
        """One sentence for each array and unit that does not add up."""
        return [
            f"array {name!r}: {account.missing(unit)} of {getattr(account, unit)['produced']} "
            f"{unit} produced are neither skipped, delivered, dropped nor lost"
            for name, account in self.accounts().items()
            for unit in UNITS
            if account.missing(unit)
        ]

    def closed(self) -> bool:
        """Whether every block has an entry."""
        return not self.imbalances()

    def to_json(self) -> dict[str, Any]:
        return {
            "closed": self.closed(),
            "arrays": {name: account.to_json() for name, account in self.accounts().items()},
        }


def _produced(counters: Mapping[str, Any]) -> int:
    return sum(int(array.get("blocks", {}).get("produced", 0)) for array in counters.values())
