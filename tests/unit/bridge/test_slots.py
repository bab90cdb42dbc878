"""How many slots the rings of a rank have, within the bytes that it may take."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_components.bridge.slots import Ring, SlotMemory, slot_size
from ips_components.wire.leases import SlotEvent

MIB = 1 << 20


def settled(limit, *blocks, replay=2, expected=None):
    """Rings of arrays "0", "1", ... that put one block each, of which the sizes were expected."""
    memory = SlotMemory(limit, 1 << 40)
    for i, nbytes in enumerate(blocks if expected is None else expected):
        memory.expect(str(i), nbytes, replay)
    rings = [Ring(replay, None, memory, str(i)) for i in range(len(blocks))]
    for ring, nbytes in zip(rings, blocks, strict=True):
        memory.settle(ring, slot_size(nbytes))
    return memory, rings


@pytest.mark.parametrize(
    ("limit", "replay", "length", "held"),
    [
        (320, 2, 5, 2),
        (288, 2, 4, 2),
        (192, 2, 3, 1),  # one is written, one can be sent again: receivers keep one
        (128, 2, 2, 0),
        (64, 2, 1, 0),
        (192, 0, 3, 2),  # nothing is to be sent again
        (128, 0, 2, 1),
        (64, 0, 1, 0),
    ],
)
def test_the_length_of_a_ring_follows_from_the_bytes(limit, replay, length, held):
    memory, (ring,) = settled(limit * MIB, 64 * MIB, replay=replay)
    assert (ring.length, ring.held) == (length, held)
    assert memory.settled == length * 64 * MIB
    assert ring.spare_for(0) == length - held
    assert ring.spare_for(1) == length  # another receiver copies what it wants to keep


def test_small_blocks_have_all_the_slots_they_would_take():
    memory, rings = settled(288 * MIB, *[MIB] * 40)
    assert {(ring.length, ring.held) for ring in rings} == {(5, 2)}
    assert memory.settled == memory.wished == 200 * MIB


def test_a_small_array_leaves_nearly_all_to_a_large_one():
    _, (large, small) = settled(288 * MIB, 64 * MIB, 4096)
    assert (large.length, small.length) == (4, 5)
    _, (small, large) = settled(288 * MIB, 4096, 64 * MIB)
    assert (large.length, small.length) == (4, 5)


def test_arrays_of_the_same_size_have_rings_of_the_same_length():
    memory, rings = settled(288 * MIB, 32 * MIB, 32 * MIB, 32 * MIB)
    assert [ring.length for ring in rings] == [3, 3, 3]
    assert memory.settled == 288 * MIB


def test_blocks_of_an_array_share_what_it_has():
    memory = SlotMemory(64 * MIB, 1 << 40)
    memory.expect("t", 4 * 4 * MIB - 1000, 2)  # about four blocks: other ranks have less
    rings = [Ring(2, None, memory, "t") for _ in range(4)]
    for ring in rings:
        memory.settle(ring, 4 * MIB)
    assert [ring.length for ring in rings] == [4, 4, 4, 4]
    assert memory.settled == 64 * MIB


def test_ragged_arrays_have_equal_shares_however_they_grow():
    memory = SlotMemory(64 * MIB, 1 << 40)
    memory.expect("x", None, 2)
    memory.expect("y", None, 2)
    rings = [Ring(2, None, memory, name) for name in "xy"]
    for size in (4096, 2 * MIB, 8 * MIB):
        for ring in rings:
            memory.settle(ring, size)
    assert [ring.length for ring in rings] == [4, 4]
    assert memory.settled == 64 * MIB


def test_a_block_that_does_not_fit_is_named_with_the_remedy(caplog):
    with caplog.at_level(logging.WARNING):
        _, rings = settled(10 * MIB, 8 * MIB, 8 * MIB)
    assert [(ring.length, ring.held) for ring in rings] == [(1, 0), (1, 0)]
    (record,) = caplog.records
    assert record.getMessage() == (
        "Array '1': a block of 8388608 bytes does not fit into what SLOT_BYTES = 10485760 leaves; "
        "it is sent all the same, and the blocks of this rank take 16777216 bytes. None would have "
        "to wait for another with SLOT_BYTES = 83886080"
    )


@given(
    limit=st.integers(1, 100 * MIB),
    blocks=st.lists(st.integers(0, 20 * MIB), min_size=1, max_size=6),
    replay=st.integers(0, 5),
)
def test_the_limit_is_kept_where_a_block_of_each_array_fits(limit, blocks, replay):
    memory, rings = settled(limit, *blocks, replay=replay)
    assert memory.settled == sum(ring.length * ring.size for ring in rings)
    forced = sum(ring.size for ring in rings if ring.length == 1)
    assert memory.settled <= max(limit, limit - 1 + forced)
    for ring in rings:
        assert 1 <= ring.length <= replay + 3
        assert 0 <= ring.held < ring.length
    if sum(ring.full * ring.size for ring in rings) * 2 <= limit:
        assert all(ring.length == ring.full and ring.held == 2 for ring in rings)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30), limit=st.integers(1, 100))
def test_a_ring_whose_blocks_grow_always_has_a_slot_that_comes_back(sizes, limit):
    """Receivers keep as many slots as they were allowed to, whatever their size, for ever."""
    memory = SlotMemory(limit * 4096, 1 << 40)
    memory.expect("x", None, 1)
    ring = Ring(1, None, memory, "x")
    kept = 0
    for step, pages in enumerate(sizes):
        slot = ring.next(pages * 4096)
        assert slot is not None
        slot.move(SlotEvent.PUBLISH)
        slot.use((0, step))
        if kept < ring.held:
            kept += 1
        else:
            slot.done((0, step))
        assert len(ring.slots) <= ring.full
