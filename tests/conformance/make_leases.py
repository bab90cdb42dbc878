"""Writes leases.json: the life of a slot, which every rank's side must keep in the same way.

Run it after a deliberate change: ``python tests/conformance/make_leases.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ips_components.wire.leases import TRANSITIONS, SlotEvent, SlotState


def vectors() -> dict[str, Any]:
    """Return the content of leases.json."""
    return {
        "states": [state.name for state in SlotState],
        "events": [event.name for event in SlotEvent],
        "transitions": [
            {"state": state.name, "event": event.name, "next": after.name}
            for (state, event), after in TRANSITIONS.items()
        ],
        "refused": [
            {"state": state.name, "event": event.name}
            for state in SlotState
            for event in SlotEvent
            if (state, event) not in TRANSITIONS
        ],
    }


if __name__ == "__main__":
    file = Path(__file__).with_name("leases.json")
    file.write_text(json.dumps(vectors(), indent=1) + "\n")
