"""Ghost cells that differ on the two sides, and points that blocks share: both bridges."""

from itertools import product

import numpy as np
import pytest
from c_ranks import GEOMETRY, USAGE, RankError, agree, coupling, join_all, spec_of
from test_both_bridges import right

from ips_components.model.selection import Selection

CELLS = (8, 12)
SIDES = ((2, 3), (0, 1))


@pytest.fixture
def start(either):
    """Start ranks of either bridge."""
    return either


def tiles(more, grid=(2, 2)):
    """Offset and shape of the blocks of a grid, each with so many points beyond its cells."""
    edges = [[i * n // p for i in range(p + 1)] for n, p in zip(CELLS, grid, strict=True)]
    for index in product(*map(range, grid)):
        spans = [(e[i], e[i + 1] - e[i] + m) for e, i, m in zip(edges, index, more, strict=True)]
        yield tuple(zip(*spans, strict=True))


def offered(start, spec, boxes, sides=None, owners=None):
    """One rank for each box, with a halo per side and owners of shared points."""
    boxes = list(boxes)
    ranks = [start(i, len(boxes)) for i in range(len(boxes))]
    for rank, box in zip(ranks, boxes, strict=True):
        rank("array", spec.name, spec.itemsize, len(spec.shape), *spec.shape)
        rank("declare", spec.name, spec.dtype, len(spec.shape), *spec.shape)
        rank("steps", spec.name, 0, 1, spec.steps.count)
        if sides:
            rank("sides", spec.name, *(low for low, _ in sides), *(high for _, high in sides))
        if owners:
            rank("shared", spec.name, *owners)
        rank("block", spec.name, spec.dtype, *box[0], *box[1], *(0 for _ in spec.shape))
    return ranks


def put_all(ranks, spec, order="C"):
    for step in range(spec.steps.count):
        for rank in ranks:
            rank.tell("put", spec.name, step, order)
        for rank in ranks:
            rank.answer()
    for rank in ranks:
        rank.tell("close", 0)
    for rank in ranks:
        rank.answer()


@pytest.mark.parametrize("order", ["C", "R"])
def test_a_halo_that_differs_on_both_sides(start, sinks, tmp_path, order):
    spec = spec_of(count=3)
    made = sinks(2)
    contract = agree(spec, receivers=2)
    with coupling(tmp_path, made, contract) as (contact, _):
        ranks = offered(start, spec, tiles((0, 0)), SIDES)
        join_all(ranks, contact, tmp_path)
        put_all(ranks, spec, order)
        right(contract, *made)
        assert ranks[3].account("t") == ([3, 0, 3, 0, 0], [3 * 192, 0, 3 * 192, 0, 0])


def test_a_block_with_uneven_halo_is_computed_in_place(start, sinks, tmp_path):
    spec = spec_of(count=6)
    (sink,) = sinks()
    contract = agree(spec, selections=[Selection.from_key(np.s_[::2, 1:, ::3], (6, 8, 12))])
    with coupling(tmp_path, [sink], contract) as (contact, _):
        (rank,) = offered(start, spec, [((0, 0), CELLS)], SIDES)
        join_all([rank], contact, tmp_path)
        for step in range(6):
            rank("acquire", "t", step)
            rank("fill", "t", step)
            rank("publish", "t")
        rank("close", 0)
        right(contract, sink)
        assert rank.account("t")[1][0] == 6 * 8 * 12 * 8


@pytest.mark.parametrize(
    ("owners", "sides"),
    [(("low", "low"), None), (("high", "low"), SIDES), (("none", "high"), SIDES)],
    ids=["low", "mixed", "faces"],
)
def test_points_that_blocks_share_are_sent_once(start, sinks, tmp_path, owners, sides):
    more = [int(owner != "none") for owner in owners]
    shape = tuple(n + m for n, m in zip(CELLS, more, strict=True))
    spec = spec_of(count=4, shape=shape)
    made = sinks(2)
    contract = agree(spec, receivers=2)
    with coupling(tmp_path, made, contract) as (contact, _):
        ranks = offered(start, spec, tiles(more), sides, owners)
        join_all(ranks, contact, tmp_path)
        put_all(ranks, spec)
        right(contract, *made)
        delivered = sum(rank.account("t")[1][2] for rank in ranks)
        assert delivered == 4 * spec.itemsize * shape[0] * shape[1]
        # What ranks say that they hold tiles the array: nothing is named twice.
        hellos = [hello for sink in made for hello in sink.hellos]
        boxes = [box for hello in hellos for box in hello.blocks.get("t", ())]
        assert sum(n * m for _, (n, m) in set(boxes)) == shape[0] * shape[1]


def test_blocks_that_move_share_points(start, sinks, tmp_path):
    spec = spec_of(count=4, shape=(9, 13))
    (sink,) = sinks()
    contract = agree(spec)
    boxes = list(tiles((1, 1)))
    with coupling(tmp_path, [sink], contract) as (contact, _):
        ranks = offered(start, spec, boxes, SIDES, ("low", "high"))
        join_all(ranks, contact, tmp_path)
        for step in range(4):
            for number, rank in enumerate(ranks):
                offset, shape = boxes[(number + step) % 4]
                rank("put_block", "t", step, "C", *offset, *shape)
        for rank in ranks:
            rank.tell("close", 0)
        for rank in ranks:
            rank.answer()
        right(contract, sink)


def test_margins_of_the_config(start, sinks, tmp_path):
    attrs = {"process_grid": [2, 2], "halo": [[2, 3], [0, 1]], "shared": ["", "high"]}
    spec = spec_of(count=2, shape=(8, 13), attrs=attrs)
    (sink,) = sinks()
    contract = agree(spec)
    boxes = list(tiles((0, 1)))
    with coupling(tmp_path, [sink], contract) as (contact, _):
        ranks = [start(i, 4) for i in range(4)]
        join_all(ranks, contact, tmp_path)
        for step in range(2):
            for rank, (offset, shape) in zip(ranks, boxes, strict=True):
                if not step:
                    rank("array", "t", 8, 2, 8, 13)
                    rank("margins", "t", 2, 0, 3, 1)
                rank("put_block", "t", step, "C", *offset, *shape)
        for rank in ranks:
            rank.tell("close", 0)
        for rank in ranks:
            rank.answer()
        right(contract, sink)
        assert {box for hello in sink.hellos for box in hello.blocks.get("t", ())} == {
            ((0, 0), (4, 6)), ((0, 6), (4, 7)), ((4, 0), (4, 6)), ((4, 6), (4, 7)),
        }  # fmt: skip


def test_blocks_that_overlap_without_an_owner_are_still_found(start, sinks, tmp_path):
    spec = spec_of(count=1, shape=(8, 13))
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec)) as (contact, _):
        ranks = offered(start, spec, tiles((0, 1), (1, 2)))
        join_all(ranks, contact, tmp_path)
        put_all(ranks, spec)
        sink.wait(lambda: sink.missed)
        assert "overlap" in sink.missed[0][-1]


def test_a_block_with_a_single_shared_plane_is_refused(start, sinks, tmp_path):
    spec = spec_of(count=1, shape=(8, 13))
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec)) as (contact, _):
        (rank,) = offered(start, spec, [((0, 4), (8, 1))], None, ("none", "low"))
        with pytest.raises(RankError, match="only plane along dimension 1") as refused:
            join_all([rank], contact, tmp_path)
        assert refused.value.code in (GEOMETRY, USAGE)
