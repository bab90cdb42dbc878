"""One launch of a run, and what the workers are sent about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ips_components.coordination.messages import ExpectLaunch
from ips_components.wire.messages import ContractIs


class LaunchRecord:
    """One launch, as the record of the run shows it."""

    def __init__(
        self, number: int, first_step: int, size: int, now: float, group: str = ""
    ) -> None:
        self.number = number
        self.first_step = first_step
        self.size = size
        self.began = now
        self.group = group  # tasks of one pool, each of which may be one of the ranks
        self.members = 1  # tasks that have begun it
        self.left = 0  # tasks that have ended
        self.awaits = 0  # contracts of attached clients that its ranks join before they put
        self.time: float | None = None  # of the driver's call
        self.last_step: int | None = None
        self.ok: bool | None = None
        self.ended: float | None = None
        self.accounts: dict[str, Any] = {}

    def message(self, launches: Mapping[str, Any]) -> ExpectLaunch:
        """What workers are sent, so that they expect its ranks."""
        flags = flags_of(launches) | min(self.awaits, ContractIs.MAX_AWAITED) << ContractIs.AWAITED
        return ExpectLaunch(self.size, self.number, self.first_step, flags)

    def to_json(self) -> dict[str, Any]:
        return {
            "launch": self.number,
            "first_step": self.first_step,
            "last_step": self.last_step,
            "time": self.time,
            "ranks": self.size,
            "began": self.began,
            "ended": self.ended,
            "ok": self.ok,
            "ledger": self.accounts,
        }


def flags_of(launches: Mapping[str, Any]) -> int:
    """Return the flags of `ContractIs` for a run's settings about launches."""
    if not launches:
        return 0
    return ContractIs.MANY_LAUNCHES | (ContractIs.RENUMBER if launches.get("renumber") else 0)
