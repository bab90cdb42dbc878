"""Memory of blocks within SLOT_BYTES: ranks in Python and in C do the same, and none starves."""

import numpy as np
import pytest
from c_ranks import USAGE, RankError, agree, coupling, delivered, expected, spec_of
from test_both_bridges import joined, numbers, right
from test_c_bridge import row_cells
from test_c_faults import shared_bytes

from ips_components.model.selection import Selection

BLOCK = 64 * 4096
SHAPE = (64, 512)  # of 8 bytes: one block
COUNT = 12
HALVES_OF_PAGES = [((0, 0), (4, 512)), ((4, 0), (4, 512))]


@pytest.fixture
def start(either):
    """Start ranks of either bridge."""
    return either


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
def test_all_slots_of_a_rank_are_within_the_bytes(start, sinks, tmp_path, lane, n):
    """The analysis keeps every chunk; the last step can be sent again."""
    spec = spec_of(shape=SHAPE, count=COUNT)
    (sink,) = sinks()
    contract = agree(spec)
    options = {"replay_steps": 2, "slot_bytes": n * BLOCK}
    with coupling(tmp_path, [sink], contract, options=options) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec, IPS_COMPONENTS_LANE=lane)
        for step in range(COUNT):
            rank("put", "t", step, "C")
        rank("wait", 5)
        if lane == "shm":
            assert shared_bytes(rank.process) == min(n, 5) * BLOCK
        right(contract, sink)
        held = COUNT - receiver.statistics().pool_leased // BLOCK  # the others are copies
        assert held == (min(max(n - 2, 0), 2) if lane == "shm" else 0)
        kept = COUNT - max(1, min(n, 5) - held)
        receiver.set_placement({}, [receiver.endpoint], [(0, t) for t in range(kept, COUNT)])
        while any(sink.counts[0, t] < 2 for t in range(kept, COUNT)):
            rank("progress")
        assert not sink.missed
        rank("close", 0)
        assert (delivered(contract.arrays[0], sink.chunks) == expected(contract.arrays[0])).all()


def test_blocks_and_arrays_share_the_bytes(start, sinks, tmp_path, lane):
    """Two blocks of one array and one of another, in each step."""
    specs = spec_of(shape=(8, 512), count=COUNT), spec_of("u", shape=(8, 512), count=COUNT)
    (sink,) = sinks()
    contract = agree(*specs)
    options = {"replay_steps": 2, "slot_bytes": 3 * 8 * 4096}  # three steps, of five
    with coupling(tmp_path, [sink], contract, options=options) as (contact, _):
        rank = start(IPS_COMPONENTS_LANE=lane)
        for spec, boxes in zip(specs, (HALVES_OF_PAGES, [((0, 0), (8, 512))]), strict=True):
            rank.offer(spec, *boxes[0])
            for box in boxes[1:]:
                rank("block", spec.name, spec.dtype, *box[0], *box[1], 0, 0)
        blob = tmp_path / "blob"
        rank("request", contact, blob)
        rank("join", blob)
        for step in range(COUNT):
            for box in HALVES_OF_PAGES:
                rank("put_block", "t", step, "C", *numbers(box))
            rank("put", "u", step, "C")
        rank("wait", 5)
        if lane == "shm":
            assert shared_bytes(rank.process) == 2 * 3 * 4 * 4096
        rank("close", 0)
        for ordinal, array in enumerate(contract.arrays):
            assert (delivered(array, sink.chunks, ordinal) == expected(array)).all()


def test_a_block_that_does_not_fit_is_sent_and_named(start, sinks, tmp_path):
    spec = spec_of(shape=SHAPE, count=COUNT)
    (sink,) = sinks()
    contract = agree(spec)
    options = {"replay_steps": 2, "slot_bytes": 1000}
    with coupling(tmp_path, [sink], contract, options=options) as (contact, _):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(COUNT):
            rank("put", "t", step, "C")
        rank("close", 0)
        right(contract, sink)
        status, errors = rank.end()
    assert status == 0
    assert errors.count("SLOT_BYTES = 1000 ") == 1
    assert f"a block of {BLOCK} bytes does not fit into what SLOT_BYTES = 1000 leaves" in errors
    assert f"with SLOT_BYTES = {5 * BLOCK}" in errors


def test_blocks_of_more_steps_than_slots_are_not_open_at_once(start, sinks, tmp_path, lane):
    spec = spec_of(shape=SHAPE, count=2)
    (sink,) = sinks()
    contract = agree(spec)
    options = {"replay_steps": 2, "slot_bytes": BLOCK}
    with coupling(tmp_path, [sink], contract, options=options) as (contact, _):
        rank = joined(start, contact, tmp_path, spec, IPS_COMPONENTS_LANE=lane)
        whole = numbers(((0, 0), SHAPE))
        rank("open_block", "t", 0, 0, *whole)
        with pytest.raises(RankError, match=r"all 1 buffers are blocks .* SLOT_BYTES") as refused:
            rank("open_block", "t", 1, 1, *whole)
        assert refused.value.code == USAGE
        rank("fill_block", "t", 0, 0)
        rank("publish_block", "t", 0, 0)
        rank("put", "t", 1, "C")
        rank("wait", 5)
        if lane == "shm":  # what was refused takes no memory
            assert shared_bytes(rank.process) == BLOCK
        rank("close", 0)
        right(contract, sink)


def test_rows_that_become_more_stay_within_the_bytes(start, sinks, tmp_path, lane):
    """The receiver keeps the first chunks, in slots that became too small, for ever."""
    spec = spec_of("x", "<f4", shape=(-1, 8), count=COUNT, ragged=True)
    (sink,) = sinks()
    options = {"replay_steps": 2, "slot_bytes": 6 * 4096}
    with coupling(tmp_path, [sink], agree(spec), options=options) as (contact, _):
        rank = start(IPS_COMPONENTS_LANE=lane)
        rank.offer(spec, (), ())
        blob = tmp_path / "blob"
        rank("request", contact, blob)
        rank("join", blob)
        for step in range(COUNT):
            rank("rows", "x", step, 128 * (1 + step // 2))  # 1 to 6 pages
        rank("wait", 5)
        rank("close", 0)
        assert sorted(sink.chunks) == [(0, step) for step in range(COUNT)]
        for (_, step), chunk in sink.chunks.items():
            assert chunk.shape == (1, 128 * (1 + step // 2), 8)
            raw = chunk[0].copy().view("u1").reshape(-1, 8, 4)
            assert (raw == row_cells(0, len(raw), 8, step)).all()


def test_blocks_of_a_step_are_open_at_once_with_a_slot_each(start, sinks, tmp_path, lane):
    spec = spec_of(shape=(8, 512), count=COUNT)
    (sink,) = sinks()
    contract = agree(spec)
    options = {"replay_steps": 2, "slot_bytes": 8 * 4096}
    with coupling(tmp_path, [sink], contract, options=options) as (contact, _):
        boxes = HALVES_OF_PAGES
        rank = joined(start, contact, tmp_path, spec, boxes=boxes, IPS_COMPONENTS_LANE=lane)
        for step in range(COUNT):
            for i, box in enumerate(boxes):
                rank("open_block", "t", step, i, *numbers(box))
            for i in (1, 0):
                rank("fill_block", "t", step, i)
                rank("publish_block", "t", step, i)
        rank("wait", 5)
        if lane == "shm":
            assert shared_bytes(rank.process) == 8 * 4096
        rank("close", 0)
        right(contract, sink)


def test_a_block_that_was_overwritten_is_gone_though_others_of_its_step_are_there(
    start, sinks, tmp_path, lane
):
    """Of the second step only one of two blocks is wanted, and takes the only slot of one."""
    spec = spec_of(shape=(8, 512), count=2)
    (sink,) = sinks(keep=False)
    shape = (2, *spec.shape)
    wanted = [Selection.from_key(key, shape) for key in (np.s_[:1], np.s_[1:, 4:])]
    contract = agree(spec, selections=wanted, chunks=shape)
    options = {"replay_steps": 1, "slot_bytes": 8 * 4096}
    with coupling(tmp_path, [sink], contract, options=options) as (contact, (receiver,)):
        boxes = HALVES_OF_PAGES
        rank = joined(start, contact, tmp_path, spec, boxes=boxes, IPS_COMPONENTS_LANE=lane)
        for step in range(2):
            for box in boxes:
                rank("put_block", "t", step, "C", *numbers(box))
        sink.wait(lambda: sink.counts.get((0, 0)))
        receiver.set_placement({}, [receiver.endpoint], [(0, 0)])
        while not sink.missed:
            rank("progress")
        assert [missed[:3] for missed in sink.missed] == [(0, 0, 0)]
        rank("close", 0)
