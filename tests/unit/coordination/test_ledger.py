"""The account of blocks: closes when every block has an entry, and says what is missing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ips_components.coordination.ledger import ENTRIES, Ledger


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


def test_accounts_of_many_ranks_are_taken_in_at_once():
    ledger, one_by_one = Ledger(["t"]), Ledger(["t"])
    ranks = np.arange(5000)
    counts = np.stack([ranks + 1, ranks, 0 * ranks + 1, 0 * ranks, 0 * ranks], axis=-1)
    table = np.stack([counts, 8 * counts], axis=1)[:, None]
    ledger.update_all(ranks, ["t"], table)
    for rank in ranks.tolist():
        one_by_one.update(rank, {"t": counters(rank + 1, rank, 1)})
    assert ledger.to_json() == one_by_one.to_json()
    assert ledger.closed()
    # Some are overtaken, some are newer.
    table = table + np.where(ranks % 2, -1, 1)[:, None, None, None] * table
    ledger.update_all(ranks, ["t"], table)
    assert ledger.total("produced", "blocks") == sum(
        rank + 1 if rank % 2 else 2 * (rank + 1) for rank in ranks.tolist()
    )


def test_arrays_that_a_rank_does_not_mention_keep_their_place():
    ledger = Ledger(["a", "b"])
    ledger.update(0, {"b": counters(2, 2), "c": counters(1, 1)})
    accounts = {name: each.blocks["produced"] for name, each in ledger.accounts().items()}
    assert accounts == {"a": 0, "b": 2, "c": 1}


def test_what_a_dead_rank_said_by_another_way_still_counts():
    ledger = Ledger()
    ledger.update(3, {"t": counters(4, 1, 1)})
    ledger.write_off(3)
    ledger.update(3, {"t": counters(6, 1, 4)})  # came through another receiver
    ledger.update(3, {"t": counters(5, 1, 3)})  # overtaken
    blocks = ledger.accounts()["t"].blocks
    assert (blocks["produced"], blocks["delivered"], blocks["lost"]) == (6, 4, 1)
    assert ledger.closed()


def test_a_goodbye_outlives_the_news_of_a_death():
    ledger = Ledger()
    ledger.update(0, {"t": counters(5, 5)}, final=True)
    ledger.write_off(0)
    assert ledger.accounts()["t"].blocks["lost"] == 0
