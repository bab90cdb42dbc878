"""Arrays that are indexed by global ids, from several ranks to several receivers."""

import json
import re

import numpy as np
import pytest
from _pair import RUN, assembled, receivers, together
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ips_components.bridge import Array, Bridge
from ips_components.coordination.settings import RunSettings
from ips_components.errors import BridgeError
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.selection import Selection
from ips_components.receiver.hello import described

N, STEPS = 40, 5


def field(step, columns=()):
    """Values of all points at a step."""
    base = np.arange(N * int(np.prod(columns, dtype=int)), dtype=float).reshape(N, *columns)
    return base * 10 + step


def agreed(array, *keys, n=2, chunks=None):
    spec = array.spec
    selections = [Selection.from_key(key, spec.index_shape) for key in keys] or None
    contract = ArrayContract.agree(
        spec, selections, run=RUN, receivers=range(n), n_receivers=n, chunks=chunks
    )
    return Contract(RUN, (contract,))


def partition(seed, size, shared=0):
    """Ids of each rank in random order, some of them on several ranks."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, size, N)
    parts = []
    for rank in range(size):
        mine = np.flatnonzero(owner == rank)
        if shared:
            mine = np.union1d(mine, rng.choice(N, shared, replace=False))
        parts.append(rng.permutation(mine))
    return parts


def run(contract, file, array, parts, values):
    """Put the values of each rank's ids at every step."""

    def work(rank):
        one = [Array(**{**array, "ids": True})]
        with Bridge(contact=file, arrays=one, rank=rank, size=len(parts(0))) as bridge:
            for step in range(STEPS):
                ids = parts(step)[rank]
                bridge.put("u", step, values(step, rank)[ids], ids=ids)
            return bridge.statistics().arrays["u"]

    return work


def expected(contract, columns=()):
    array = contract.arrays[0]
    whole = np.stack([field(step, columns) for step in range(STEPS)])
    kept = np.zeros(whole.shape, bool)
    for part in array.wanted:
        kept[part.to_slices()] = True
    return np.where(kept, whole, 0)[array.cover.to_slices()]


OFFER = {"name": "u", "shape": (N,), "steps": STEPS}


@pytest.mark.parametrize("lane", ["shm", "tcp"])
def test_ids_in_any_order_that_move_between_ranks(tmp_path, lane):
    contract = agreed(Array(**OFFER, ids=True))
    with receivers(tmp_path, contract, 2, contact_options={"lanes": [lane]}) as (file, _, sinks):
        work = run(contract, file, OFFER, lambda step: partition(step, 3), lambda t, _: field(t))
        accounts = together(3, work)
        assert np.array_equal(assembled(contract, 0, sinks), expected(contract))
    assert sum(a["bytes"]["delivered"] for a in accounts) == N * STEPS * 8
    assert {n for sink in sinks for n in sink.counts.values()} == {1}


def test_ids_that_are_described_once_and_columns(tmp_path):
    offer = {**OFFER, "shape": (N, 3)}
    keys = np.s_[::2, 3:30:4, 1:], np.s_[1, :5, :2]
    contract = agreed(Array(**offer, ids=True), *keys, chunks={1: (15, 25), 0: 2})
    parts = partition(1, 3)
    with receivers(tmp_path, contract, 2) as (file, _, sinks):

        def work(rank):
            array = Array(**offer, ids=parts[rank].tolist())
            with Bridge(contact=file, arrays=[array], rank=rank, size=3) as bridge:
                for step in range(STEPS):
                    bridge.put("u", step, np.asfortranarray(field(step, (3,))[parts[rank]]))
                return bridge.statistics().arrays["u"]["bytes"]

        accounts = together(3, work)
        found = assembled(contract, 0, sinks)
        assert np.array_equal(found, expected(contract, (3,)))
    wanted = contract.arrays[0].wanted_bytes
    assert sum(account["delivered"] for account in accounts) == wanted
    assert sum(account["produced"] for account in accounts) == N * 3 * 8 * STEPS


@pytest.mark.parametrize("rule", ["low", "high"])
def test_an_id_of_several_ranks_has_the_value_of_its_owner(tmp_path, rule):
    offer = {**OFFER, "shared": rule}
    contract = agreed(Array(**offer, ids=True))
    parts = partition(5, 3, shared=15)
    with receivers(tmp_path, contract, 2) as (file, _, sinks):
        values = lambda step, rank: field(step) + 1000 * rank  # noqa: E731
        together(3, run(contract, file, offer, lambda _: parts, values))
        found = assembled(contract, 0, sinks)
    holders = [[rank for rank in range(3) if i in parts[rank]] for i in range(N)]
    owner = np.array([(min if rule == "low" else max)(ranks) for ranks in holders])
    assert max(map(len, holders)) > 1
    assert np.array_equal(found, np.stack([field(t) + 1000 * owner for t in range(STEPS)]))


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda parts: parts[1].__setitem__(0, parts[0][0]), r"rank \d and rank \d both put ids"),
        (lambda parts: parts.__setitem__(2, parts[2][1:]), "no rank of 3 put ids"),
    ],
    ids=["twice", "missing"],
)
def test_ids_that_cannot_be(tmp_path, break_it, complaint):
    contract = agreed(Array(**OFFER, ids=True), n=1)
    parts = partition(2, 3)
    lost = {int(part[0]) for part in parts}
    break_it(parts)
    with receivers(tmp_path, contract, 1) as (file, _, sinks):
        together(3, run(contract, file, OFFER, lambda _: parts, lambda t, _: field(t)))
        sinks[0].wait(lambda: len(sinks[0].missed) == STEPS)
        _, chunk, _, why = sinks[0].missed[0]
    assert f"array 'u' at step {chunk}" in why
    assert any(f"ids {one}" in why for one in lost)
    assert re.search(complaint, why)


def refused(contact, complaint, array, *puts):
    with (
        pytest.raises(BridgeError, match=complaint),
        Bridge(contact=contact, arrays=[array]) as bridge,
    ):
        for cells, options in puts:
            bridge.put("u", 0, cells, **options)


def test_mistakes_are_refused_where_they_are_made(tmp_path):
    contract = agreed(Array(**OFFER, ids=True), n=1)
    cells = np.zeros(3)
    later = Array(**OFFER, ids=True)
    with receivers(tmp_path, contract, 1) as (file, _, _):
        for complaint, options in [
            (r"ids must be 0 to 39, got -1, 40", {"ids": [0, -1, 40]}),
            (r"ids 7 are given twice", {"ids": [7, 3, 7]}),
            (r"3 rows with 2 ids", {"ids": [7, 3]}),
            (r"say those of its rows", {}),
            (r"whole numbers", {"ids": [0.5, 1, 2]}),
        ]:
            refused(file, complaint, later, (cells, options))
        with (
            pytest.raises(BridgeError, match="cannot be computed in place"),
            Bridge(contact=file, arrays=[later]) as bridge,
            bridge.block("u", 0),
        ):
            pass


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"offset": (3,)}, "no offset"),
        ({"blocks": [((0,), (3,))]}, "no blocks"),
        ({"halo": 1}, "no halo"),
        ({"shared": ("low",)}, "shared must be"),
        ({"ids": [[1, 2]]}, "one for each row"),
    ],
)
def test_descriptions_that_contradict_themselves(more, complaint):
    with pytest.raises(BridgeError, match=f"array 'u'.*{complaint}"):
        Array(**{**OFFER, "ids": True, **more})


@st.composite
def meshes(draw):
    size = draw(st.integers(1, 4))
    shared = draw(st.sampled_from([0, 0, 6]))
    seed = draw(st.integers(0, 999))
    sizes = draw(st.sampled_from([None, (7, 33), (40,), (13, 13, 14)]))
    start, stop, step = draw(st.integers(0, 20)), draw(st.integers(21, N)), draw(st.integers(1, 6))
    when = draw(st.sampled_from([np.s_[:], np.s_[::2], np.s_[1:4]]))
    keys = [(when, np.s_[start:stop:step])]
    if draw(st.booleans()):
        keys.append((draw(st.integers(0, STEPS - 1)), np.s_[draw(st.integers(0, N - 1)) :]))
    span = draw(st.integers(1, 3))
    return size, shared, seed, sizes, keys, span


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(meshes())
def test_any_partition_any_selection_any_chunks(tmp_path_factory, case):
    size, shared, seed, sizes, keys, span = case
    offer = {**OFFER, **({"shared": "low"} if shared else {})}
    chunks = {0: span, **({1: sizes} if sizes else {})}
    contract = agreed(Array(**offer, ids=True), *keys, chunks=chunks)
    folder = tmp_path_factory.mktemp("run")
    with receivers(folder, contract, 2) as (file, _, sinks):
        parts = lambda step: partition(seed + step, size, shared)  # noqa: E731
        together(size, run(contract, file, offer, parts, lambda t, _: field(t)))
        assert np.array_equal(assembled(contract, 0, sinks), expected(contract))


@pytest.mark.parametrize("shared", [None, "low", "high"])
def test_a_description_travels_whole(shared):
    """From rank 0's hello to what the analysis offers: each field of the specification."""
    array = Array(
        "u", (N, 3), "f4", ids=True, shared=shared, steps=range(2, 20, 3), dims=("i", "c")
    )
    travelled = described({"arrays": json.loads(json.dumps([array.to_json()]))})
    assert RunSettings.specs_from(travelled) == [array.spec]
