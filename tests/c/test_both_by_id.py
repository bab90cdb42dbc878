"""Arrays that are indexed by global ids, and rows that lie apart: both bridges."""

import numpy as np
import pytest
from c_ranks import CONTRACT, GEOMETRY, USAGE, RankError, agree, coupling, join_all
from test_both_bridges import right
from test_c_bridge import row_cells
from test_c_faults import cut

from ips_components.model.selection import Selection
from ips_components.model.spec import ArraySpec, StepAxis

N, STEPS = 30, 4


@pytest.fixture
def start(either):
    """Start ranks of either bridge."""
    return either


def spec_by_id(rule="unique", columns=(), dtype="<f8"):
    return ArraySpec("u", dtype, (N, *columns), StepAxis(count=STEPS), ids=rule)


def partition(seed, size=3, shared=0):
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, size, N)
    owner[owner == size - 1] = 0 if seed % 2 else owner[owner == size - 1]  # a rank without ids
    parts = [np.flatnonzero(owner == rank) for rank in range(size)]
    if shared:
        parts = [np.union1d(part, rng.choice(N, shared, replace=False)) for part in parts]
    return [rng.permutation(part).tolist() for part in parts]


def offered(start, spec, described=None, size=3):
    """Ranks that know the array, with ids that are described or come with the puts."""
    ranks = [start(i, size) for i in range(size)]
    for number, rank in enumerate(ranks):
        rank("array", spec.name, spec.itemsize, len(spec.shape), *spec.shape)
        rank("declare", spec.name, spec.dtype, len(spec.shape), *spec.shape)
        rank("steps", spec.name, 0, 1, spec.steps.count)
        owner = "none" if spec.ids == "unique" else spec.ids
        ids = [-1] if described is None else [len(described[number]), *described[number]]
        rank("ids", spec.name, owner, *ids)
    return ranks


def put_all(ranks, parts, shift=0):
    for step in range(STEPS):
        for number, rank in enumerate(ranks):
            ids = parts(step)
            words = [-1] if ids is None else [len(ids[number]), *ids[number]]
            rank.tell("put_ids", "u", step, shift * number, *words)
        for rank in ranks:
            rank.answer()
    for rank in ranks:
        rank.tell("close", 0)
    for rank in ranks:
        rank.answer()


def test_ids_that_move_between_ranks(start, sinks, tmp_path):
    spec = spec_by_id()
    made = sinks(2)
    contract = agree(spec, receivers=2)
    with coupling(tmp_path, made, contract) as (contact, _):
        ranks = offered(start, spec)
        join_all(ranks, contact, tmp_path)
        put_all(ranks, partition)
        right(contract, *made)
        accounts = [rank.account("u") for rank in ranks]
        assert [blocks for blocks, _ in accounts] == [[STEPS, 0, STEPS, 0, 0]] * 3
        assert sum(nbytes[2] for _, nbytes in accounts) == N * STEPS * 8


@pytest.mark.parametrize("dtype", ["<f8", "<c16", "|S3"])
def test_strides_of_ids_and_columns_of_described_ids(start, sinks, tmp_path, dtype):
    spec = spec_by_id(columns=(4,), dtype=dtype)
    made = sinks(2)
    keys = np.s_[::2, 3:25:4, 1:3], np.s_[1, :6, 2]
    selections = [Selection.from_key(key, spec.index_shape) for key in keys]
    contract = agree(spec, selections=selections, receivers=2, chunks={0: 3, 1: (11, 19), 2: 2})
    with coupling(tmp_path, made, contract) as (contact, _):
        ranks = offered(start, spec, partition(2))
        join_all(ranks, contact, tmp_path)
        put_all(ranks, lambda step: None)
        right(contract, *made)
        sent = sum(rank.account("u")[1][2] for rank in ranks)
        assert sent == contract.arrays[0].wanted_bytes


@pytest.mark.parametrize("rule", ["low", "high"])
def test_shared_ids_have_the_value_of_their_owner(start, sinks, tmp_path, rule):
    spec = spec_by_id(rule)
    (sink,) = sinks()
    contract = agree(spec)
    parts = partition(4, shared=12)
    with coupling(tmp_path, [sink], contract) as (contact, _):
        ranks = offered(start, spec, parts)
        join_all(ranks, contact, tmp_path)
        put_all(ranks, lambda step: None, shift=5)
        owner = [[n for n in range(3) if i in parts[n]] for i in range(N)]
        owner = np.array([ranks_[0 if rule == "low" else -1] for ranks_ in owner])
        k = np.arange(8)
        for step in range(STEPS):
            index = np.arange(N)[:, None] * 7 + (step + 5 * owner)[:, None] * 13 + k * 31
            found = np.ascontiguousarray(sink.chunks[0, step]).view(np.uint8).reshape(N, 8)
            assert (found == index.astype(np.uint8)).all()


def test_ids_that_cannot_be(start, sinks, tmp_path):
    spec = spec_by_id()
    (sink,) = sinks()
    twice, missing = partition(2), partition(2)
    twice[1].append(twice[0][0])
    gone = missing[0].pop()
    with coupling(tmp_path, [sink], agree(spec)) as (contact, _):
        ranks = offered(start, spec)
        join_all(ranks, contact, tmp_path)
        rank = ranks[0]
        for words, complaint, codes in [
            ((3, 1, 2, 1), "ids 1 are given twice by the same rank", (USAGE, GEOMETRY)),
            ((2, 4, N), f"ids must be 0 to {N - 1}, got {N}", (USAGE, GEOMETRY)),
        ]:
            with pytest.raises(RankError, match=complaint) as refused:
                rank("put_ids", "u", 0, 0, *words)
            assert refused.value.code in codes
        put_all(ranks, lambda step: twice if step == 0 else missing if step == 1 else partition(2))
        sink.wait(lambda: len(sink.missed) == 2)
        first, second = [why for *_, why in sorted(sink.missed, key=lambda one: one[1])]
        assert "array 'u' at step 0" in first
        assert "both put ids" in first
        assert "at step 1: no rank of 3 put ids " + str(gone) in second


def test_a_chunk_is_sent_again_with_what_ranks_do_not_have(start, sinks, tmp_path):
    spec = spec_by_id()
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, (receiver,)):
        ranks = offered(start, spec)
        join_all(ranks, contact, tmp_path)
        for step in range(STEPS):
            if step == 2:
                cut(receiver)
            for number, rank in enumerate(ranks):
                ids = partition(1)[number]
                rank.tell("put_ids", "u", step, 0, len(ids), *ids)
            for rank in ranks:
                rank.answer()
        for rank in ranks:
            rank.tell("close", 0)
        for rank in ranks:
            rank.answer()
        right(contract, sink)


def test_blocks_and_ids_do_not_go_together(start, sinks, tmp_path):
    spec = ArraySpec("u", "<f8", (N,), StepAxis(count=STEPS))
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec)) as (contact, _):
        (rank,) = offered(start, spec_by_id(), size=1)
        with pytest.raises(RankError) as refused:
            join_all([rank], contact, tmp_path)
        assert refused.value.code == CONTRACT


def test_rows_by_a_list_and_out_of_several_parts(start, sinks, tmp_path):
    spec = ArraySpec("x", "<f4", (-1, 3), StepAxis(count=STEPS), ragged=True)
    (sink,) = sinks()
    columns = [Selection.from_key(np.s_[1:, :, ::2], (STEPS, 1, 3))]
    with coupling(tmp_path, [sink], agree(spec, selections=columns)) as (contact, _):
        ranks = [start(i, 2) for i in range(2)]
        for rank in ranks:
            rank.offer(spec, (), ())
        join_all(ranks, contact, tmp_path)
        index = [7, 0, 3, 3, 9], []
        for step in range(STEPS):
            for rank, mine in zip(ranks, index, strict=True):
                rank("put_parts", "x", step, len(mine), *mine)
        for rank in ranks:
            rank.tell("close", 0)
        for rank in ranks:
            rank.answer()
        for step in range(1, STEPS):
            whole = row_cells(0, 10, 3, step)
            found = np.ascontiguousarray(sink.chunks[0, step])
            assert (found.view(np.uint8).reshape(5, 2, 4) == whole[index[0]][:, ::2]).all()
        assert ranks[0].account("x")[1] == [5 * 12 * STEPS, 5 * 12 + 3 * 20, 3 * 40, 0, 0]
