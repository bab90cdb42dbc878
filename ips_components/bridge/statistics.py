"""What a rank may ask about its bridge at any time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from ips_components.bridge.delivery import Delivery
from ips_components.bridge.outgoing import OutgoingArray
from ips_components.bridge.steps import Steps


@dataclass(frozen=True, slots=True)
class BridgeStatistics:
    """What a bridge did: its account per array, seconds waited, how it reaches receivers.

    ``waited_per_step`` has the latest steps that waited at all.
    """

    arrays: dict[str, dict[str, dict[str, int]]]
    waited: float
    waited_per_step: dict[int, float] = field(default_factory=dict)
    lanes: dict[int, str] = field(default_factory=dict)
    lost: str | None = None

    @classmethod
    def of(
        cls,
        arrays: Mapping[str, OutgoingArray],
        delivery: Delivery,
        steps: Steps,
        *,
        alone: bool,
    ) -> Self:
        """Return what stands in the parts of a bridge now."""
        accounts = {}
        for name, out in arrays.items():
            counters = out.account.counters()
            accounts[name] = {
                "blocks": dict(zip(counters.NAMES, counters.blocks, strict=True)),
                "bytes": dict(zip(counters.NAMES, counters.bytes, strict=True)),
            }
        mailbox = delivery.mailbox
        lost = mailbox.lost or (mailbox.fault.text if mailbox.fault else None)
        return cls(
            arrays=accounts,
            waited=delivery.waited_ns / 1e9,
            waited_per_step=steps.waited,
            lanes={c.ordinal: c.lane for c in delivery.connections.open()},
            lost=None if alone else lost,
        )
