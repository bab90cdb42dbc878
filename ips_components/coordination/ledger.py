"""The ledger: the account of every block that the simulation produced.

For each array, in blocks and in bytes::

    produced = skipped by contract + delivered + dropped by policy + lost

Ranks keep cumulative counters and send them along with every step; this module adds them
up.  A run whose ledger does not close is a failed run, because somewhere a block vanished
without a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENTRIES = ("produced", "skipped", "delivered", "dropped", "lost")
UNITS = ("blocks", "bytes")

_PRODUCED = ENTRIES.index("produced")
_LOST = ENTRIES.index("lost")
_BLOCKS = UNITS.index("blocks")


@dataclass(frozen=True, slots=True)
class Account:
    """Counters of one array, by entry."""

    blocks: Mapping[str, int]
    bytes: Mapping[str, int]

    def missing(self, unit: str) -> int:
        """What was produced and has no entry; negative when something was counted twice."""
        mine = getattr(self, unit)
        return int(mine["produced"] - sum(mine[entry] for entry in ENTRIES[1:]))

    def to_json(self) -> dict[str, dict[str, int]]:
        return {"blocks": dict(self.blocks), "bytes": dict(self.bytes)}


class Ledger:
    """Adds up the cumulative counters of the ranks.

    The counters of all ranks are one NumPy array, so that the accounts of thousands of ranks
    are taken in, and added up, at once.

    Parameters
    ----------
    arrays : iterable of str
        Names of the contracted arrays; others appear as ranks mention them.
    """

    def __init__(self, arrays: Iterable[str] = ()) -> None:
        self._columns: dict[str, int] = {}
        #: By rank, array, unit and entry.
        self._counts = np.zeros((0, 0, len(UNITS), len(ENTRIES)), np.int64)
        self._final = np.zeros(0, bool)  # ranks that have said goodbye
        self._dead = np.zeros(0, bool)  # ranks that will not
        #: Of the ranks of earlier launches together, by array, unit and entry.
        self._before = np.zeros((0, len(UNITS), len(ENTRIES)), np.int64)
        self.declare(arrays)

    def declare(self, arrays: Iterable[str]) -> None:
        """Make arrays appear in the account even if no rank ever mentions them."""
        for name in arrays:
            self._columns.setdefault(name, len(self._columns))
        self._grow(0)

    def begin_launch(self) -> None:
        """Take the accounts of the present ranks together: others follow, with new counters."""
        self._before = self._totals()
        self._counts = np.zeros((0, len(self._columns), *self._counts.shape[2:]), np.int64)
        self._final = np.zeros(0, bool)
        self._dead = np.zeros(0, bool)

    def _totals(self) -> NDArray[np.int64]:
        now: NDArray[np.int64] = self._counts.sum(axis=0)
        now[: len(self._before)] += self._before
        return now

    def launch_to_json(self) -> dict[str, Any]:
        """The accounts of the ranks of the newest launch."""
        return {name: a.to_json() for name, a in self._accounts(self._counts.sum(axis=0)).items()}

    def update(self, rank: int, counters: Mapping[str, Any], *, final: bool = False) -> None:
        """Take the newest cumulative counters of one rank; see :meth:`update_all`.

        Parameters
        ----------
        counters
            ``{array: {"blocks": {entry: n}, "bytes": {entry: n}}}``.
        final
            The rank has said goodbye: nothing changes its account any more.
        """
        counts = [
            [[int(array.get(unit, {}).get(entry, 0)) for entry in ENTRIES] for unit in UNITS]
            for array in counters.values()
        ]
        shape = (1, len(counters), len(UNITS), len(ENTRIES))
        self.update_all(
            np.array([rank]), list(counters), np.array(counts, np.int64).reshape(shape), final
        )

    def update_all(
        self,
        ranks: NDArray[np.int64],
        names: Sequence[str],
        counts: NDArray[np.int64],
        final: bool = False,
    ) -> None:
        """Take the newest cumulative counters of ranks, each of which is named once.

        Counters of one rank arrive through several receivers; they only ever grow, so an
        older message that was overtaken is recognised and left out.

        Parameters
        ----------
        ranks : array of int, shape (n,)
        names : sequence of str
            Names of the arrays.
        counts : array of int64, shape (n, len(names), 2, 5)
            Counters by rank, array, unit and entry.
        final
            The ranks have said goodbye: nothing changes their account any more.
        """
        if not len(ranks):
            return
        self.declare(names)
        self._grow(int(ranks.max()) + 1)
        fresh = ~self._final[ranks]
        if not final:
            produced = counts[:, :, _BLOCKS, _PRODUCED].sum(axis=1)
            fresh &= produced >= self._counts[ranks][:, :, _BLOCKS, _PRODUCED].sum(axis=1)
        ranks, counts = ranks[fresh], counts[fresh]
        columns = np.array([self._columns[name] for name in names], np.intp)
        self._counts[ranks] = 0
        self._counts[np.ix_(ranks, columns)] = counts
        if final:
            self._final[ranks] = True
        elif self._dead.any():
            self._count_lost(ranks[self._dead[ranks]])

    def write_off(self, rank: int) -> None:
        """Count what a dead rank produced and cannot account for as lost.

        What the rank had said before, and comes by another way later, still counts.
        """
        self._grow(rank + 1)
        self._dead[rank] = True
        if not self._final[rank]:
            self._count_lost(np.array([rank]))

    def _count_lost(self, ranks: NDArray[np.int64]) -> None:
        mine = self._counts[ranks]
        mine[..., _LOST] += 2 * mine[..., _PRODUCED] - mine.sum(axis=-1)
        self._counts[ranks] = mine

    def _grow(self, n_ranks: int) -> None:
        old = self._counts
        n_ranks, n_arrays = max(n_ranks, old.shape[0]), len(self._columns)
        if old.shape[:2] == (n_ranks, n_arrays):
            return
        if n_ranks > old.shape[0]:
            n_ranks = max(n_ranks, 2 * old.shape[0])
        self._counts = np.zeros((n_ranks, n_arrays, *old.shape[2:]), np.int64)
        self._counts[: old.shape[0], : old.shape[1]] = old
        self._final = np.pad(self._final, (0, n_ranks - len(self._final)))
        self._dead = np.pad(self._dead, (0, n_ranks - len(self._dead)))

    def accounts(self) -> dict[str, Account]:
        """The sum over all ranks, by array."""
        return self._accounts(self._totals())

    def _accounts(self, totals: NDArray[np.int64]) -> dict[str, Account]:
        rows = totals.tolist()
        return {
            name: Account(*(dict(zip(ENTRIES, each, strict=True)) for each in rows[column]))
            for name, column in self._columns.items()
        }

    def total(self, entry: str, unit: str = "bytes") -> int:
        """One entry, summed over ranks and arrays."""
        return int(self._totals()[:, UNITS.index(unit), ENTRIES.index(entry)].sum())

    def blocks_put(self, name: str, n_ranks: int) -> list[int]:
        """Blocks of an array that each rank of the newest launch has put."""
        counts = np.zeros(n_ranks, np.int64)
        if (column := self._columns.get(name)) is not None:
            known = self._counts[:n_ranks, column, _BLOCKS, _PRODUCED]
            counts[: len(known)] = known
        return [int(count) for count in counts]

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
