"""Blocks of adaptive meshes: only the wanted levels and the wanted box leave the ranks."""

import numpy as np
import pytest
from _pair import RUN, receivers, together
from hypothesis import given
from hypothesis import strategies as st

from ips_components.analysis.arrays import external_arrays
from ips_components.analysis.contract import contract_from_graph
from ips_components.bridge import Array, Bridge
from ips_components.errors import BridgeError, ContractError, SelectionError
from ips_components.model.amr import BlockChoice
from ips_components.model.contract import Contract

STEPS, SHAPE = 4, (4, 4)
MESH = Array("rho", (-1, *SHAPE), steps=STEPS, ragged=True, levels=3, dims=("block", "y", "x"))


def blocks(rank, step):
    """A mesh of 16 x 16 cells whose blocks refine and move from step to step."""
    rng = np.random.default_rng(10 * step + rank)
    n = 5 + 3 * rank - step
    levels = rng.integers(0, 3, n)
    places = 4 * rng.integers(0, 4 * 2 ** levels[:, None], (n, 2))
    values = rng.random((n, *SHAPE))
    return values, levels, places


def simulate(file, size=2):
    def work(rank):
        with Bridge(contact=file, arrays=[MESH], rank=rank, size=size) as bridge:
            for step in range(STEPS):
                values, levels, places = blocks(rank, step)
                bridge.put("rho", step, values, levels=levels, places=places)
            return bridge.statistics().arrays

    return together(size, work)


def agreed(use):
    """The contract of results that `use` makes of the arrays."""
    arrays = external_arrays([MESH.spec, MESH.table.spec], run=RUN, n_receivers=1)
    return contract_from_graph(use(arrays), arrays, run=RUN)


def arrived(contract, sink, name):
    ordinal = [array.spec.name for array in contract.arrays].index(name)
    return {t: sink.chunks[ordinal, t][0] for o, t in sink.chunks if o == ordinal}


def touches(level, place, box):
    return all(
        low < (p + n) / 2**level and p / 2**level < high
        for (low, high), p, n in zip(box, place, SHAPE, strict=True)
    )


@pytest.mark.parametrize(
    ("options", "keep"),
    [
        ({"level": -1}, lambda level, place: level == 2),
        ({"level": slice(1, None)}, lambda level, place: level >= 1),
        ({"box": np.s_[3:9, :5]}, lambda level, place: touches(level, place, ((3, 9), (0, 5)))),
        (
            {"level": 1, "box": np.s_[:8, 8:16]},
            lambda level, place: level == 1 and touches(level, place, ((0, 8), (8, 16))),
        ),
        ({"box": np.s_[:, 9:]}, lambda level, place: touches(level, place, ((0, 99), (9, 99)))),
        ({}, lambda level, place: True),
    ],
    ids=["finest", "levels", "box", "both", "open", "all"],
)
def test_only_what_is_wanted_leaves_the_ranks(tmp_path, options, keep):
    contract = agreed(lambda a: [a["rho"].only(**options)[::2].sum(), a["rho.blocks"][::2].sum()])
    with receivers(tmp_path, contract) as (file, _, sinks):
        accounts = simulate(file)
        found, tables = (
            arrived(contract, sinks[0], "rho"),
            arrived(contract, sinks[0], "rho.blocks"),
        )
    assert sorted(found) == [0, 2]
    sent = 0
    for step in found:
        expected, table = [], []
        for rank in range(2):
            for value, level, place in zip(*blocks(rank, step), strict=True):
                if keep(level, place):
                    expected.append(value)
                    table.append([level, *place])
        assert np.array_equal(found[step], np.reshape(expected, (-1, *SHAPE)))
        assert np.array_equal(tables[step], np.reshape(table, (-1, 3)))
        sent += len(expected)
    every = sum(len(blocks(rank, step)[0]) for rank in range(2) for step in range(STEPS))
    assert sum(account["rho"]["bytes"]["delivered"] for account in accounts) == sent * 128
    assert sum(account["rho"]["bytes"]["produced"] for account in accounts) == every * 128


def test_the_choice_is_in_the_contract_and_its_table():
    contract = agreed(lambda a: a["rho"].only(level=-1, box=np.s_[:8, 2:4]).sum())
    (array,) = contract.arrays
    assert array.blocks == BlockChoice((2, 3), ((0, 8), (2, 4)), 2)
    assert Contract.from_bytes(contract.to_bytes()) == contract
    assert Contract.from_json(contract.to_json()) == contract
    assert "level 2 in [0:8, 2:4]" in array.row()["region"]


def test_an_array_has_one_choice():
    def twice(arrays):
        arrays["rho"].only(level=0)
        return arrays["rho"].only(level=1)

    with pytest.raises(ContractError, match=r"blocks of level 1 .* the run has those of level 0"):
        agreed(twice)
    for options, complaint in [
        ({"level": 3}, "levels 0 to 2, got 3"),
        ({"level": slice(3, None)}, "levels 0 to 2"),
        ({"box": np.s_[:3]}, "has 2 dimensions"),
        ({"box": np.s_[::2, :3]}, "made of slices"),
        ({"box": np.s_[3:3, :3]}, "must have cells"),
    ]:
        with pytest.raises(SelectionError, match=complaint):
            agreed(lambda a, options=options: a["rho"].only(**options))
    with pytest.raises(SelectionError, match="no blocks with levels"):
        agreed(lambda a: a["rho.blocks"].only(level=0))


def test_mistakes_of_the_simulation(tmp_path):
    for wrong in ({"shape": (4, 4)}, {"ragged": False}, {"levels": -1}, {"refinement": 0}):
        options = {"shape": (-1, 4), "ragged": True, "levels": 2, **wrong}
        with pytest.raises(BridgeError, match="array 'r' has levels"):
            Array("r", **options)
    contract = agreed(lambda a: a["rho"].sum())
    cells = np.zeros((2, *SHAPE))
    with receivers(tmp_path, contract) as (file, _, _):
        for options, complaint in [
            ({}, "say level and place"),
            ({"levels": [0], "places": [[0, 0]]}, "2 blocks need levels of shape"),
            ({"levels": [0, 3], "places": [[0, 0]] * 2}, "levels must be 0 to 2"),
            ({"levels": [0, 0.5], "places": [[0, 0]] * 2}, "whole numbers"),
        ]:
            with (
                pytest.raises(BridgeError, match=complaint),
                Bridge(contact=file, arrays=[MESH]) as bridge,
            ):
                bridge.put("rho", 0, cells, **options)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(0, 30)),
        min_size=1,
        max_size=20,
    ),
    st.tuples(st.integers(0, 3), st.integers(1, 4)),
    st.tuples(st.integers(0, 12), st.integers(1, 8), st.integers(0, 12), st.integers(1, 8)),
    st.integers(1, 3),
)
def test_blocks_that_touch_the_box(table, levels, box, refinement):
    y, ny, x, nx = box
    span = (levels[0], levels[0] + levels[1])
    choice = BlockChoice(span, ((y, y + ny), (x, x + nx)), refinement)
    found = choice.accept(np.array(table), (3, 2))
    for (level, py, px), kept in zip(table, found, strict=True):
        scale = refinement**level
        inside = (
            span[0] <= level < span[1]
            and y * scale < py + 3
            and py < (y + ny) * scale
            and x * scale < px + 2
            and px < (x + nx) * scale
        )
        assert kept == inside
