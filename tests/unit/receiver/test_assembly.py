"""Admission and assembly, without any connection."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ips_components.errors import ProtocolError
from ips_components.model.block import Block
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.pieces import BlockPlan
from ips_components.model.placement import Placement
from ips_components.model.selection import Selection
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.receiver.assembly import ChunkAssembler
from ips_components.receiver.buffers import BufferPool, on_last_view
from ips_components.receiver.claims import BlocksOverlap
from ips_components.receiver.rows import MAX_OPEN
from ips_components.wire.messages import Piece

ROW = 4 * 8


def assembler(specs, budget, receivers=(0,), receiver=0, size=1, **options):
    arrays = tuple(
        ArrayContract.agree(spec, run="r", receivers=receivers, **options) for spec in specs
    )
    freed = []
    made = ChunkAssembler(BufferPool(), budget, freed.append)
    made.set_contract(Contract("r", arrays), receiver, size)
    return made, arrays, freed


def piece(chunk, start=0, count=4, array=0, t=None):
    return Piece(array, chunk, chunk if t is None else t, ((0, 1, 1), (start, count, 1)))


def fill(made, piece, rank=0, value=1.0):
    claim = made.begin(rank, piece)
    if claim is None:
        return None
    claim.cells[...] = value
    return made.commit(claim)


SPEC = ArraySpec("t", "f8", (4,), StepAxis(count=10))


def test_a_run_that_goes_on_keeps_no_memory_for_steps_that_came_before():
    later = ArraySpec("later", "f8", (4,), StepAxis(start=4, every=2, count=3))
    arrays = tuple(ArrayContract.agree(spec, run="r") for spec in (SPEC, later))
    made = ChunkAssembler(BufferPool(), 3 * ROW, lambda _: None)
    made.set_contract(Contract("r", arrays), 0, 1, first_step=7)
    assert made.admit() == []
    assert made.watermarks() == [9, 3]
    assert fill(made, piece(2, array=1)).value.shape == (1, 4)
    assert made.begin(0, piece(6)) is None


def test_rows_are_admitted_up_to_the_budget():
    made, _, freed = assembler([SPEC], 3 * ROW)
    assert made.admit() == []
    assert made.watermarks() == [3]
    with pytest.raises(ProtocolError, match="chunk 3 was sent without credit"):
        made.begin(0, piece(3))
    complete = fill(made, piece(0))
    assert complete.value.shape == (1, 4)
    assert made.held == ROW
    made.admit()
    assert made.watermarks() == [3]
    nbytes = complete.nbytes
    del complete
    assert freed == [nbytes]
    made.freed(nbytes)
    made.admit()
    assert made.watermarks() == [4]


def test_the_value_is_read_only_for_good():
    made, _, _ = assembler([SPEC], 3 * ROW)
    made.admit()
    value = fill(made, piece(0)).value
    with pytest.raises(ValueError, match="read-only"):
        value[0, 0] = 2
    view = value[:, 1:]
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.flags.writeable = True


def test_pieces_of_two_ranks_and_a_twin():
    made, _, _ = assembler([SPEC], 3 * ROW, size=2)
    made.admit()
    assert fill(made, piece(0, 0, 2), 0, 1.0) is None
    assert made.begin(0, piece(0, 0, 2)) is None
    assert fill(made, piece(0, 0, 2), 0, 5.0) is None
    complete = fill(made, piece(0, 2, 2), 1, 2.0)
    assert complete.value.tolist() == [[1, 1, 2, 2]]
    assert made.begin(1, piece(0, 2, 2)) is None


def test_overlapping_blocks_are_refused_before_a_cell_is_written():
    made, _, _ = assembler([SPEC], 3 * ROW, size=3)
    made.admit()
    fill(made, piece(0, 0, 2), 5)
    message = r"array 't', chunk 0: the blocks of rank 5 and rank 1 overlap: \[0:1, 0:2\] and "
    with pytest.raises(BlocksOverlap, match=message + r"\[0:1, 1:3\]"):
        made.begin(1, piece(0, 1, 2))
    # With a hole of the same size the cells would add up.
    assert fill(made, piece(0, 3, 1), 2) is None
    assert fill(made, piece(0, 2, 1), 1) is not None


def test_overlaps_are_found_in_a_tiling_that_was_seen_before():
    made, _, _ = assembler([SPEC], 6 * ROW, size=3)
    made.admit()
    for chunk in range(2):
        fill(made, piece(chunk, 0, 2), 0)
        assert fill(made, piece(chunk, 2, 2), 1) is not None
    fill(made, piece(2, 0, 2), 0)
    with pytest.raises(BlocksOverlap, match="rank 0 and rank 1"):
        made.begin(1, piece(2, 0, 2))
    # Blocks that move are no overlap.
    assert fill(made, piece(3, 0, 1), 0) is None
    assert fill(made, piece(3, 1, 3), 1) is not None
    fill(made, piece(4, 0, 3), 0)
    with pytest.raises(BlocksOverlap, match="rank 0 and rank 1"):
        made.begin(1, piece(4, 2, 2))


def test_a_claim_that_was_given_up_keeps_no_other_rank_out():
    made, _, _ = assembler([SPEC], 3 * ROW, size=2)
    made.admit()
    claim = made.begin(0, piece(0, 0, 3))
    made.abandon(claim)
    assert fill(made, piece(0, 2, 2), 1) is None
    assert fill(made, piece(0, 0, 2), 0) is not None


@pytest.mark.parametrize(
    "dst",
    [
        ((0, 1, 1),),
        ((0, 1, 1), (0, 5, 1)),
        ((0, 1, 1), (3, 2, 1)),
        ((0, 1, 1), (0, 2, 4)),
        ((1, 1, 1), (0, 4, 1)),
        ((0, 1, 1), (0, 0, 1)),
        ((0, 1, 1), (0, 4, 0)),
        ((0, 1, 1), (2**63, 1, 1)),
        ((0, 2, 1), (0, 4, 1)),
    ],
)
def test_a_piece_outside_its_chunk(dst):
    made, _, _ = assembler([SPEC], 3 * ROW)
    made.admit()
    with pytest.raises(ProtocolError, match="is outside the chunk's shape"):
        made.begin(0, Piece(0, 0, 0, dst))


def test_an_array_that_is_not_agreed():
    made, _, _ = assembler([SPEC], 3 * ROW)
    with pytest.raises(ProtocolError, match="array number 7 is not in the contract"):
        made.begin(0, piece(0, array=7))


def test_only_own_chunks_count():
    made, _, _ = assembler([SPEC], 3 * ROW, receivers=(0, 1), chunks=(1, -1))
    made.admit()
    assert made.watermarks() == [5]
    assert made.reserved == 3 * ROW


def test_arrays_advance_by_simulation_step():
    other = ArraySpec("u", "f8", (4,), StepAxis(0, 3, 4))
    made, _, _ = assembler([SPEC, other], 5 * ROW)
    made.admit()
    assert made.watermarks() == [4, 1]


def test_a_chunk_asked_for_again_passes_a_full_budget_one_at_a_time():
    made, _, _ = assembler([SPEC], 2 * ROW)
    made.admit()
    values = [fill(made, piece(chunk)).value for chunk in (0, 1)]
    made.set_placement({}, [(0, 1), (0, 0)])
    assert made.admit() == [(0, 0)]
    assert made.admit() == []
    assert made.asked() == [(0, 0)]
    values.append(fill(made, piece(0)).value)
    assert made.admit() == [(0, 1)]
    values.append(fill(made, piece(1)).value)
    assert made.asked() == []
    assert made.watermarks() == [2]


def test_a_new_owner_asks_for_what_it_lacks():
    made, _, _ = assembler([SPEC], 4 * ROW, receivers=(0, 1), chunks=(1, -1))
    made.admit()
    assert made.watermarks() == [7]
    value = fill(made, piece(0)).value
    made.set_placement({0: Placement(1, 1, (0,))}, [(0, 1), (0, 3), (0, 9)])
    asked = made.admit()
    assert asked == [(0, 1)]  # the budget is full: one chunk in excess of it
    value_1 = fill(made, piece(1)).value
    assert made.admit() == [(0, 3)]
    for chunk in (2, 3, 4, 6):
        assert fill(made, piece(chunk)).chunk == chunk
    made.freed(made.held)
    made.freed(-2 * ROW)
    assert (0, 9) not in made.asked()
    made.admit()
    del value, value_1


def test_what_is_placed_elsewhere_is_forgotten():
    made, _, _ = assembler([SPEC], 4 * ROW)
    made.admit()
    made.set_placement({0: Placement(1, 2, (0, 1))}, [])
    assert made.reserved == 2 * ROW
    assert made.begin(0, piece(1)) is None
    assert fill(made, piece(0)) is not None


def test_what_was_asked_for_again_and_is_placed_elsewhere_holds_up_nothing():
    made, _, _ = assembler([SPEC], 2 * ROW)
    made.admit()
    values = [fill(made, piece(chunk)).value for chunk in (0, 1)]
    made.set_placement({}, [(0, 0), (0, 1)])
    assert made.admit() == [(0, 0)]  # in excess of the budget, hence alone
    made.set_placement({0: Placement(1, 2, (1, 0))}, [])
    assert made.asked() == []
    assert made.admit() == [(0, 1)]
    assert fill(made, piece(1)).chunk == 1
    assert made.reserved == 0
    del values


def test_dropped_chunks_cost_no_budget():
    made, _, _ = assembler([SPEC], 2 * ROW)
    made.admit()
    assert made.give_up(0, 1)
    assert not made.give_up(0, 1)
    assert made.give_up(0, 3)
    assert not made.give_up(0, 3)
    made.admit()
    assert made.watermarks() == [4]
    assert made.open_chunks() == 2
    assert made.begin(0, piece(3)) is None


def test_unfilled_cells_are_zero():
    parts = [Selection.from_key(np.s_[:, :1], (10, 4)), Selection.from_key(np.s_[:, 2:], (10, 4))]
    array = ArrayContract.agree(SPEC, parts, run="r")
    made = ChunkAssembler(BufferPool(), 10 * ROW, lambda nbytes: None)
    made.set_contract(Contract("r", (array,)), 0, 1)
    made.admit()
    for chunk in range(3):
        fill(made, piece(chunk, 0, 1))
        complete = fill(made, piece(chunk, 2, 2))
        assert complete.value.tolist() == [[1, 0, 1, 1]]
        del complete  # the memory is used again, dirty


def test_rows_of_two_connections_of_a_rank_are_not_mixed():
    """The rank has reconnected in the middle of its rows and sends them again."""
    spec = ArraySpec("x", "f4", (-1, 2), StepAxis(count=5), ragged=True)
    made, _, _ = assembler([spec], 1 << 20, size=1)
    made.admit()
    rows = Piece(0, 0, 0, ((0, 1, 1), (0, 3, 1), (0, 2, 1)))
    first, second = made.begin(0, rows), made.begin(0, rows)
    first.cells[...] = 1.0
    complete = made.commit(first)
    second.cells[...] = 2.0
    assert made.commit(second) is None
    assert (complete.value == 1.0).all()


def test_ragged_rows_come_in_rank_order():
    spec = ArraySpec("x", "f4", (-1, 2), StepAxis(count=5), ragged=True)
    made, _, _ = assembler([spec], 1 << 20, size=3)
    made.admit()
    assert made.watermarks() == [1]

    def rows(count):
        return Piece(0, 0, 0, ((0, 1, 1), (0, count, 1), (0, 2, 1)))

    assert fill(made, rows(2), 2, 3.0) is None
    assert made.no_rows(1, 0, 0, 0) is None
    assert made.no_rows(1, 0, 0, 0) is None
    complete = fill(made, rows(1), 0, 1.0)
    assert complete.value[0, :, 0].tolist() == [1, 3, 3]
    made.admit()
    assert made.watermarks() == [5]
    with pytest.raises(ProtocolError, match=r"expected \(1, rows, \(2,\)\)"):
        made.begin(0, Piece(0, 1, 1, ((0, 1, 1), (0, 2, 1), (0, 3, 1))))


def test_the_oldest_chunk_by_ids_says_which_ranks_have_answered():
    spec = ArraySpec("u", "f8", (4,), StepAxis(count=4), ids="unique")
    made, _, _ = assembler([spec], 1 << 20, size=2, chunks=(2, 4))
    made.admit()
    row = np.frombuffer(np.float64(7).tobytes() + np.uint32(3).tobytes(), np.uint8)
    fill(made, Piece(0, 0, 0, ((0, 1, 1), (0, row.size, 1))), 1, row)
    assert made.oldest() == [(0, 0, [(1, 0)])]
    made.no_rows(0, 0, 0, 0)
    made.no_rows(0, 0, 0, 1)
    assert made.oldest() == [(0, 0, [(0, 0), (0, 1), (1, 0)])]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_order_of_pieces_gives_the_field(data):
    shape = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    edges = [sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=2))}) for n in shape]
    chunks = (data.draw(st.integers(1, 3)), *(data.draw(st.integers(1, n)) for n in shape))
    spec = ArraySpec("t", "i4", shape, StepAxis(count=4))
    made, (array,), _ = assembler([spec], 1 << 20, chunks=chunks)
    made.admit()
    field = np.arange(4 * shape[0] * shape[1], dtype="i4").reshape(4, *shape)
    jobs = []
    for low_y, high_y in zip(edges[0], edges[0][1:], strict=False):
        for low_x, high_x in zip(edges[1], edges[1][1:], strict=False):
            block = Block((low_y, low_x), (high_y - low_y, high_x - low_x))
            plan = BlockPlan(array, block)
            for t in range(4):
                cells = field[t][block.to_slices()]
                jobs += [(p, t, cells[p.src]) for p in plan.at(t)]
    found = np.full_like(field, -1)
    for p, t, cells in data.draw(st.permutations(jobs)):
        one = Piece(0, p.chunk, t, p.dst)
        claim = made.begin(0, one)
        claim.cells[...] = cells
        if complete := made.commit(claim):
            found[array.chunk_selection(p.chunk).to_slices()] = complete.value
    assert np.array_equal(found, field)
    assert made.reserved == 0


def test_pool_recycles_by_the_last_view():
    pool = BufferPool(keep=1 << 20)
    cells = pool.array((1000,), np.dtype("f8"))
    view = cells[10:].reshape(-1, 10)[:, ::2]
    del cells
    assert pool.statistics().leased == 8192
    del view
    assert pool.statistics().idle == 8192
    again = pool.array((8,), np.dtype("f8"))
    assert pool.statistics().idle == 8192  # of another size
    del again
    big = [pool.array((1 << 17,), np.dtype("f8")) for _ in range(2)]
    del big
    assert pool.statistics().idle <= 1 << 20
    pool.close()
    assert pool.statistics().idle == 0


def test_last_view_is_told_once():
    told = []
    root = np.zeros(10)
    on_last_view(root, lambda: told.append(1))
    on_last_view(root, lambda: told.append(2))
    views = [root[i:] for i in range(5)]
    del root
    assert told == []
    views.clear()
    assert sorted(told) == [1, 2]


def test_chunks_that_become_ours_in_rows_that_were_admitted_are_expected():
    """With room for many rows, ranks may send them at any time, however far they are."""
    made, _, _ = assembler([SPEC], 100 * ROW, receivers=(0, 1), chunks=(1, 2))
    made.admit()
    assert made.watermarks() == [10]
    made.set_placement({0: Placement(1, 1, (0, 0))}, [(0, 5)], {0: (2, 4)}, [(0, 7)])
    assert made.admit() == [(0, 5)]
    for chunk in (5, 9, 19):  # asked for again; in rows that no rank had begun
        complete = fill(made, Piece(0, chunk, chunk // 2, ((0, 1, 1), (0, 2, 1))))
        assert complete.chunk == chunk
    assert made.open_chunks() == 10 + 4
    for chunk in (1, 3, 7):  # had arrived elsewhere
        assert fill(made, Piece(0, chunk, chunk // 2, ((0, 1, 1), (0, 2, 1)))) is None


def test_a_newcomer_begins_with_its_first_row():
    made, _, _ = assembler([SPEC], 3 * ROW, receivers=(0,), receiver=1)
    made.admit()
    assert made.watermarks() == [0]
    made.set_placement({0: Placement(1, 2, (0, 1))}, [(0, 5)], {0: (4, 8)}, [])
    assert made.admit() == [(0, 5)]
    assert made.watermarks() == [10]
    assert made.reserved == 3 * ROW
    assert fill(made, piece(7)) is not None


def test_no_more_is_expected_than_can_come_soon():
    """However much room there is: small chunks of a long run are not all expected at once."""
    spec = ArraySpec("t", "f8", (4,), StepAxis())
    other = ArraySpec("u", "f8", (4,), StepAxis())
    made, _, _ = assembler([spec, other], 1 << 40, chunks=(1, 2))
    made.admit()
    assert made.open_chunks() == MAX_OPEN
    rows = MAX_OPEN // 4
    assert made.watermarks() == [rows, rows]
    held = [
        fill(made, Piece(array, chunk, 0, ((0, 1, 1), (0, 2, 1))))
        for array in (1, 0)
        for chunk in (0, 1)
    ]
    assert None not in held
    made.admit()
    assert made.watermarks() == [rows + 1, rows + 1]


def test_a_step_of_very_many_chunks_is_expected_whole():
    specs = [ArraySpec(name, "f8", (3 * MAX_OPEN,), StepAxis(count=2)) for name in "tu"]
    made, _, _ = assembler(specs, 1 << 40, chunks=(1, 1))
    made.admit()
    assert made.watermarks() == [1, 1]
    assert made.open_chunks() == 6 * MAX_OPEN
