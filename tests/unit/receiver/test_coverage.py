"""No cell of a chunk has two ranks."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ips_components.receiver.coverage import Coverage, Tiling, intersects

AXIS = st.tuples(st.integers(0, 9), st.integers(1, 5), st.integers(1, 4))
BOX = st.lists(AXIS, min_size=2, max_size=2).map(tuple)


def cells(box):
    """The cells of a box in a mask."""
    mask = np.zeros((40, 40), bool)
    mask[tuple(slice(a, a + (n - 1) * s + 1, s) for a, n, s in box)] = True
    return mask


@settings(max_examples=300, deadline=None)
@given(BOX, BOX)
def test_boxes_intersect_where_they_have_a_cell_in_common(a, b):
    assert intersects(a, b) == bool((cells(a) & cells(b)).any())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 3), BOX), max_size=8), max_size=4))
def test_claims_are_refused_exactly_where_cells_have_another_owner(chunks):
    tiling = Tiling()
    for claims in chunks:
        coverage, owners = Coverage(tiling), {}
        for rank, box in claims:
            taken = [o for o, r in owners.items() if (cells(o) & cells(box)).any()]
            overlap = coverage.claim(rank, ((0, 1, 1), *box))
            if not taken or (taken == [box] and owners[box] == rank):
                assert overlap is None
                owners[box] = rank
            else:
                assert overlap.box[1:] in taken
                assert owners[overlap.box[1:]] == overlap.rank
        tiling = coverage.learnt()


def test_the_same_box_at_another_step_is_no_overlap():
    coverage = Coverage(Tiling())
    space = ((0, 4, 1),)
    assert coverage.claim(0, ((0, 1, 1), *space)) is None
    assert coverage.claim(1, ((1, 1, 1), *space)) is None
    assert coverage.claim(1, ((0, 1, 1), *space)) == (0, ((0, 1, 1), *space))


def test_chunks_of_thousands_of_pieces_are_compared_once():
    tiling = Tiling()
    boxes = [((i, 1, 1), (j * 7, 7, 1)) for i in range(64) for j in range(64)]
    for _ in range(3):
        coverage = Coverage(tiling)
        assert not any(coverage.claim(rank, ((0, 1, 1), *box)) for rank, box in enumerate(boxes))
        tiling = coverage.learnt()
        assert len(tiling) == len(boxes)
    assert coverage.claim(9, ((0, 1, 1), (3, 1, 1), (6, 2, 1))).rank in (3 * 64, 3 * 64 + 1)
