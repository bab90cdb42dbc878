"""Blocks of adaptive meshes, cut by level and box in the ranks: both bridges."""

import numpy as np
import pytest
from c_ranks import GEOMETRY, RUN, USAGE, RankError, coupling, join_all

from ips_components.bridge import Array
from ips_components.config._array import ArrayConfig
from ips_components.coordination.settings import RunSettings
from ips_components.model.amr import NO_END, BlockChoice
from ips_components.model.contract import ArrayContract, Contract

STEPS, SHAPE = 3, (2, 4)
MESH = Array("rho", (-1, *SHAPE), "f4", steps=STEPS, ragged=True, levels=4, refinement=3)


@pytest.fixture
def start(either):
    """Start ranks of either bridge."""
    return either


def blocks(rank, step):
    """Level and place of each block of a rank; in the last step rank 1 has none."""
    rng = np.random.default_rng(7 * step + rank)
    n = 0 if (rank, step) == (1, STEPS - 1) else 6 + rank
    levels = rng.integers(0, 4, n)
    places = rng.integers(0, 5 * 3 ** levels[:, None], (n, 2))
    return np.column_stack([levels, places])


def offered(start, size=2):
    ranks = [start(i, size) for i in range(size)]
    for rank in ranks:
        rank.offer(MESH.spec, (), ())
        rank("levels", "rho", 4, 3)
    return ranks


CHOICES = [
    None,
    BlockChoice((3, 4), (), 3),
    BlockChoice((0, 3), ((1, 3), (0, 4)), 3),
    BlockChoice((0, 4), ((0, NO_END), (3, NO_END)), 3),
]


@pytest.mark.parametrize("choice", CHOICES, ids=["all", "finest", "box", "open box"])
def test_only_the_chosen_blocks_are_sent(start, sinks, tmp_path, choice):
    (sink,) = sinks()
    contract = Contract(
        RUN,
        tuple(
            ArrayContract.agree(spec, run=RUN, blocks=choice)
            for spec in (MESH.spec, MESH.table.spec)
        ),
    )
    with coupling(tmp_path, [sink], contract) as (contact, _):
        ranks = offered(start)
        join_all(ranks, contact, tmp_path)
        for step in range(STEPS):
            for number, rank in enumerate(ranks):
                table = blocks(number, step)
                rank.tell("put_blocks", "rho", step, len(table), *table.ravel())
            for rank in ranks:
                rank.answer()
        for rank in ranks:
            rank.tell("close", 0)
        for rank in ranks:
            rank.answer()
        kept = 0
        for step in range(STEPS):
            table = np.concatenate([blocks(rank, step) for rank in range(2)])
            if choice is not None:
                table = table[choice.accept(table, SHAPE)]
            assert np.array_equal(sink.chunks[1, step][0], table)
            first = (table[:, 0] * 131 + table[:, 1]) * 131 + table[:, 2]
            index = first[:, None, None] + np.arange(8)[:, None]
            raw = (index * 7 + step * 13 + np.arange(4) * 31).astype(np.uint8)
            found = np.ascontiguousarray(sink.chunks[0, step])
            assert np.array_equal(found.view(np.uint8).reshape(raw.shape), raw)
            kept += len(table)
        accounts = [rank.account("rho")[1] for rank in ranks]
        assert sum(account[2] for account in accounts) == kept * 32
        every = sum(len(blocks(rank, step)) for rank in range(2) for step in range(STEPS))
        assert sum(account[0] for account in accounts) == every * 32


def test_levels_that_cannot_be(start, sinks, tmp_path):
    (sink,) = sinks()
    contract = Contract(RUN, (ArrayContract.agree(MESH.spec, run=RUN),))
    with coupling(tmp_path, [sink], contract) as (contact, _):
        (rank,) = offered(start, 1)
        join_all([rank], contact, tmp_path)
        for table in ([4, 0, 0], [0, -1, 0]):
            with pytest.raises(RankError, match="levels must be 0 to 3") as refused:
                rank("put_blocks", "rho", 0, 1, *table)
            assert refused.value.code in (USAGE, GEOMETRY)
        for command in (("rows", "rho", 0, 2), ("put_parts", "rho", 0, 2, 0, 1)):
            with pytest.raises(RankError, match="say level and place of each"):
                rank(*command)


def test_rows_without_levels_are_no_blocks(start, sinks, tmp_path):
    """A rank that has none says nothing of them; gfortran takes an empty list for one not given."""
    (sink,) = sinks()
    specs = MESH.spec, MESH.table.spec
    contract = Contract(RUN, tuple(ArrayContract.agree(spec, run=RUN) for spec in specs))
    with coupling(tmp_path, [sink], contract) as (contact, _):
        (rank,) = offered(start, 1)
        join_all([rank], contact, tmp_path)
        rank("rows", "rho", 0, 0)
        rank("put_blocks", "rho", 1, 0)
        rank("rows", "rho", 2, 0)
        rank("close", 0)
        for step in range(STEPS):
            assert sink.chunks[0, step].shape == (1, 0, *SHAPE)
            assert sink.chunks[1, step].shape == (1, 0, 3)


@pytest.mark.parametrize("wanted", [(0, 1), (0,), (1,)], ids=["both", "blocks", "table"])
def test_a_mesh_that_the_config_describes(start, sinks, tmp_path, wanted):
    config = ArrayConfig(name="rho", shape=(-1, *SHAPE), dtype="float32", levels=4, refinement=3)
    specs = RunSettings.specs_from(config.descriptions(STEPS))
    choice = BlockChoice((1, 4), ((0, 2), (0, 4)), 3)
    agreed = tuple(ArrayContract.agree(specs[i], run=RUN, blocks=choice) for i in wanted)
    contract = Contract(RUN, agreed, tuple(s for i, s in enumerate(specs) if i not in wanted))
    (sink,) = sinks()
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = start()
        rank.offer(specs[0], (), (), declare=False)
        join_all([rank], contact, tmp_path)
        with pytest.raises(RankError, match="levels must be 0 to 3"):
            rank("put_blocks", "rho", 0, 1, 4, 0, 0)
        for step in range(STEPS):
            table = blocks(0, step)
            rank("put_blocks", "rho", step, len(table), *table.ravel())
        rank("close", 0)
        for step in range(STEPS):
            table = blocks(0, step)
            table = table[choice.accept(table, SHAPE)]
            if 1 in wanted:
                assert np.array_equal(sink.chunks[len(wanted) - 1, step][0], table)
            if 0 in wanted:
                first = (table[:, 0] * 131 + table[:, 1]) * 131 + table[:, 2]
                index = first[:, None, None] + np.arange(8)[:, None]
                raw = (index * 7 + step * 13 + np.arange(4) * 31).astype(np.uint8)
                found = np.ascontiguousarray(sink.chunks[0, step][0])
                assert np.array_equal(found.view(np.uint8).reshape(raw.shape), raw)
