"""What a program may write into the description of an array."""

import json

import numpy as np
import pytest
from _pair import agree, receivers

from ips_components.bridge import Array, Bridge
from ips_components.errors import BridgeError, GeometryError
from ips_components.model.spec import ArraySpec, StepAxis


def numbers(kind):
    """An array whose numbers are all of one type."""
    return Array(
        "t",
        shape=(kind(4), kind(6)),
        dtype="f8",
        blocks=[((kind(0), kind(0)), (kind(2), kind(6))), ((kind(2), kind(0)), (kind(2), kind(6)))],
        halo=(kind(1), kind(0)),
        steps=kind(3),
        attrs={"scale": kind(2)},
    )


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.float64, float])
def test_numbers_of_any_type_are_those_of_python(kind):
    described, expected = numbers(kind), numbers(int)
    assert described.spec == expected.spec
    assert described.blocks == expected.blocks
    assert described.halo == expected.halo
    assert json.loads(json.dumps(described.to_json())) == expected.to_json()
    assert json.loads(json.dumps(described.blocks)) == [[[0, 0], [2, 6]], [[2, 0], [2, 6]]]


@pytest.mark.parametrize(
    "changes", [{"shape": (4.5, 6)}, {"offset": (0.5, 0)}, {"halo": 0.1}, {"steps": 2.5}]
)
def test_parts_of_cells_are_refused(changes):
    (what,) = changes
    with pytest.raises(BridgeError, match=rf"array 't': {what} must be whole numbers"):
        Array(**{"name": "t", "shape": (4, 6), **changes})


ATTRS = {
    "nan": float("nan"),
    "pair": (1, 2.5),
    "flag": np.bool_(True),
    "none": None,
    "number": np.float32(0.5),
    "list": np.arange(3),
    "nested": {"deep": (np.int64(1), float("nan"))},
}


def test_attributes_of_any_kind_reach_the_other_side(tmp_path):
    spec = ArraySpec("t", "f8", (2,), StepAxis(count=1), attrs=ATTRS)
    assert spec.attrs["pair"] == [1, 2.5]
    assert spec.attrs["flag"] is True
    with receivers(tmp_path, agree(spec)) as (file, _, (sink,)):
        described = Array("t", (2,), "f8", grid=(1,), steps=1, attrs=ATTRS)
        with Bridge(contact=file, arrays=[described]) as bridge:
            bridge.put("t", 0, np.ones(2))
        sink.wait(lambda: sink.counts)
    assert described.spec == spec


def test_attributes_that_cannot_travel_are_refused():
    with pytest.raises(GeometryError, match="attrs must be JSON values"):
        Array("t", (2,), attrs={"odd": object()}).spec  # noqa: B018


def test_an_array_has_one_description(tmp_path):
    with pytest.raises(BridgeError, match="'t' is described more than once"):
        Bridge(contact=tmp_path / "none", arrays=[Array("t", (2,)), Array("t", (3,))])


@pytest.mark.parametrize("fill_value", [None, -1.0])
def test_masked_cells_are_filled_as_declared_or_refused(tmp_path, fill_value):
    spec = ArraySpec("t", "f8", (4,), StepAxis(count=2))
    with receivers(tmp_path, agree(spec)) as (file, _, (sink,)):
        arrays = [Array("t", (4,), "f8", grid=(1,), steps=2, fill_value=fill_value)]
        with Bridge(contact=file, arrays=arrays) as bridge:
            bridge.put("t", 0, np.ma.masked_array([1.0, 2, 3, 4], False))
            block = np.ma.masked_array([1.0, 2, 3, 4], [0, 1, 0, 1])
            if fill_value is None:
                with pytest.raises(BridgeError, match="'t' at step 1 on rank 0: 2 cells are mask"):
                    bridge.put("t", 1, block)
                block = block.filled(-1.0)
            bridge.put("t", 1, block)
        sink.wait(lambda: len(sink.counts) == 2)
    assert sink.chunks[0, 1].ravel().tolist() == [1, -1, 3, -1]


def test_a_list_may_be_put_at_a_step_that_nobody_wants(tmp_path):
    spec = ArraySpec("t", "f8", (2,), StepAxis(count=1))
    with receivers(tmp_path, agree(spec)) as (file, _, (sink,)):
        with Bridge(contact=file, arrays=[Array("t", (2,), "f8", offset=(0,))]) as bridge:
            bridge.put("t", 0, [1.0, 2.0])
            bridge.put("t", 1, [3.0, 4.0])
        sink.wait(lambda: sink.counts)
    assert sink.byes[0].status == "ok"


@pytest.mark.parametrize(("code", "status"), [(0, "ok"), (None, "ok"), (3, "aborted")])
def test_a_program_that_exits_within_the_bridge(tmp_path, code, status):
    spec = ArraySpec("t", "f8", (2,), StepAxis(count=1))
    with receivers(tmp_path, agree(spec)) as (file, _, (sink,)):
        with pytest.raises(SystemExit), Bridge(contact=file) as bridge:
            bridge.put("t", 0, np.ones(2))
            raise SystemExit(code)
        sink.wait(lambda: sink.byes)
    assert {bye.status for bye in sink.byes.values()} == {status}
