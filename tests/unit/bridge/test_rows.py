"""Rows that lie apart are packed by the bridge, and only where they are wanted."""

import numpy as np
import pytest
from _pair import RUN, assembled, receivers

from ips_components.bridge import Array, Bridge, Rows
from ips_components.errors import BridgeError
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.selection import Selection

ATOMS = Array("x", (-1, 3), steps=4, ragged=True)
CELLS = np.arange(60.0).reshape(20, 3)


def contract_of(array, key):
    spec = array.spec
    shape = (spec.steps.count, 1, 3) if spec.ragged else spec.index_shape
    selections = [Selection.from_key(key, shape)]
    return Contract(RUN, (ArrayContract.agree(spec, selections, run=RUN),))


@pytest.mark.parametrize(
    ("rows", "index"),
    [
        (Rows(CELLS), np.arange(20)),
        (Rows(CELLS, [4, 4, 0]), [4, 4, 0]),
        (Rows(CELLS, np.arange(20) % 3 == 1), np.arange(1, 20, 3)),
        (Rows(CELLS, []), []),
        ([Rows(CELLS[::2]), Rows(CELLS[1::2], [9, 0])], [*range(0, 20, 2), 19, 1]),
    ],
    ids=["all", "list", "mask", "none", "parts"],
)
def test_rows_arrive_in_their_order(tmp_path, rows, index):
    contract = contract_of(ATOMS, np.s_[1::2, :, :2])
    with receivers(tmp_path, contract) as (file, _, sinks):
        with Bridge(contact=file, arrays=[ATOMS]) as bridge:
            for step in range(4):
                bridge.put("x", step, rows)
            account = bridge.statistics().arrays["x"]["bytes"]
        assert sorted(sinks[0].counts) == [(0, 1), (0, 3)]
        assert all((chunk[0] == CELLS[index][:, :2]).all() for chunk in sinks[0].chunks.values())
    assert account["produced"] == 4 * len(index) * 24


def test_steps_that_nobody_wants_are_not_packed(tmp_path, monkeypatch):
    packed = []
    monkeypatch.setattr(Rows, "pack", lambda self: packed.append(1) or self.cells[self.index])
    with (
        receivers(tmp_path, contract_of(ATOMS, np.s_[3])) as (file, _, _),
        Bridge(contact=file, arrays=[ATOMS]) as bridge,
    ):
        for step in range(4):
            bridge.put("x", step, Rows(CELLS, [1]))
    assert len(packed) == 1


def test_points_of_a_mesh_out_of_several_parts(tmp_path):
    mesh = Array("u", (30,), steps=1, ids=True)
    contract = contract_of(mesh, np.s_[:])
    values = np.arange(30.0)
    with receivers(tmp_path, contract) as (file, _, sinks):
        with Bridge(contact=file, arrays=[mesh]) as bridge:
            parts = [Rows(values[20:]), Rows(values, np.arange(20)[::-1])]
            bridge.put("u", 0, parts, ids=[*range(20, 30), *range(20)[::-1]])
        assert (assembled(contract, 0, sinks) == values).all()


def test_mistakes(tmp_path):
    for index, complaint in [
        ([20], "rows 0 to 19, the index names row 20"),
        ([-1], "names row -1"),
        ([0.5], "whole numbers or a mask"),
        (np.ones(3, bool), "mask of shape"),
    ]:
        with pytest.raises(BridgeError, match=complaint):
            Rows(CELLS, index)
    with pytest.raises(BridgeError, match="one dimension or more"):
        Rows(3.0)
    field = Array("t", (4, 3), steps=1)
    with (
        receivers(tmp_path, contract_of(field, np.s_[:])) as (file, _, _),
        pytest.raises(BridgeError, match=r"'t' at step 0 .* ragged or indexed"),
        Bridge(contact=file, arrays=[field]) as bridge,
    ):
        bridge.put("t", 0, Rows(CELLS))
