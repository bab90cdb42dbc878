"""The account of blocks: closes when every block has an entry, and says what is missing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ips_components.external._ledger import ENTRIES, Ledger


def counters(produced=0, skipped=0, delivered=0, dropped=0, lost=0, size=8):
    values = dict(zip(ENTRIES, (produced, skipped, delivered, dropped, lost), strict=True))
    return {"blocks": values, "bytes": {entry: n * size for entry, n in values.items()}}


def test_an_empty_ledger_is_closed():
    assert Ledger(["temperature"]).closed()


def test_counters_of_ranks_add_up():
    ledger = Ledger(["t"])
    ledger.update(0, {"t": counters(3, 1, 2)})
    ledger.update(1, {"t": counters(4, 4)})
    assert ledger.closed()
    assert ledger.to_json()["arrays"]["t"]["bytes"]["produced"] == 56
    assert ledger.accounts()["t"].blocks["skipped"] == 5


def test_a_block_without_a_name_opens_the_ledger():
    ledger = Ledger()
    ledger.update(0, {"t": counters(3, 1, 1)})
    assert not ledger.closed()
    assert "1 of 3 blocks" in ledger.imbalances()[0]


def test_an_overtaken_message_does_not_set_the_clock_back():
    ledger = Ledger()
    ledger.update(0, {"t": counters(5, 5)})
    ledger.update(0, {"t": counters(3, 3)})
    assert ledger.accounts()["t"].blocks["produced"] == 5


def test_final_counters_are_final():
    ledger = Ledger()
    ledger.update(0, {"t": counters(5, 5)}, final=True)
    ledger.update(0, {"t": counters(9, 9)})
    assert ledger.accounts()["t"].blocks["produced"] == 5


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_a_dead_ranks_unaccounted_blocks_are_lost(skipped, delivered, unknown):
    ledger = Ledger()
    ledger.update(7, {"t": counters(skipped + delivered + unknown, skipped, delivered)})
    ledger.write_off(7)
    assert ledger.closed()
    assert ledger.accounts()["t"].blocks["lost"] == unknown
