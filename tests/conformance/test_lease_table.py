"""The life of a slot is the one that leases.json states."""

import json
from pathlib import Path

import pytest
from make_leases import vectors

from ips_components.errors import BridgeError
from ips_components.wire.leases import SlotEvent, SlotLife, SlotState

VECTORS = json.loads(Path(__file__).with_name("leases.json").read_text())


def test_vectors_are_those_of_the_table():
    assert vectors() == VECTORS


@pytest.mark.parametrize("row", VECTORS["transitions"], ids=lambda r: f"{r['state']}-{r['event']}")
def test_event_leads_to_the_next_state(row):
    slot = SlotLife()
    slot.state = SlotState[row["state"]]
    slot.move(SlotEvent[row["event"]])
    assert slot.state.name == row["next"]


@pytest.mark.parametrize("row", VECTORS["refused"], ids=lambda r: f"{r['state']}-{r['event']}")
def test_event_is_refused(row):
    slot = SlotLife()
    slot.state = SlotState[row["state"]]
    with pytest.raises(BridgeError, match=f"{row['event']} in state {row['state']}"):
        slot.move(SlotEvent[row["event"]])
    assert slot.state.name == row["state"]
