import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_components.errors import ContractError, GeometryError
from ips_components.model import (
    ArrayContract,
    ArraySpec,
    ChunkLayout,
    Contract,
    Placement,
    Selection,
    StepAxis,
    array_name,
    chunk_key,
)

from .strategies import PROFILE, chunks, selections, shapes

SPEC = ArraySpec(
    "temperature",
    "f8",
    (6, 8),
    StepAxis(start=10, every=5, count=20),
    dims=("y", "x"),
    attrs={"units": "K", "long_name": "température"},
)


def contract(**options):
    first = ArrayContract.agree(
        SPEC,
        [Selection.from_key(k, (20, 6, 8)) for k in (np.s_[::2, :2], np.s_[5, 4:, ::2])],
        run="run 1",
        receivers=(0, 1),
        **options,
    )
    rows = ArraySpec("x", "<f4", (-1, 3), StepAxis(), ragged=True)
    second = ArrayContract.agree(rows, run="run 1", receivers=(0, 1, 2), policy="drop")
    return Contract("run 1", (first, second))


@pytest.mark.parametrize("form", ["bytes", "json"])
def test_round_trip(form):
    agreed = contract()
    again = getattr(Contract, f"from_{form}")(getattr(agreed, f"to_{form}")())
    assert again == agreed
    assert again["temperature"].spec.attrs == SPEC.attrs
    assert again["x"].policy == "drop" and again["x"].layout.open_ended
    assert again.digest() == agreed.digest()


@given(st.data())
@PROFILE
def test_round_trip_of_random_contracts(data):
    shape = data.draw(shapes(max_dims=5))
    spec = ArraySpec(
        "a",
        data.draw(st.sampled_from(["f4", "c16", "u1", ">i8"])),
        shape[1:],
        StepAxis(count=shape[0]),
    )
    agreed = Contract(
        "r",
        (
            ArrayContract.agree(
                spec,
                data.draw(selections(shape)),
                run="r",
                chunks=data.draw(chunks(shape)),
                receivers=range(data.draw(st.integers(1, 4))),
            ),
        ),
    )
    data_bytes = agreed.to_bytes()
    assert len(data_bytes) % 8 == 0
    assert Contract.from_bytes(data_bytes) == agreed
    assert Contract.from_json(agreed.to_json()) == agreed


@given(st.data())
@PROFILE
def test_damaged_bytes_are_refused_or_read_never_worse(data):
    good = contract().to_bytes()
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    bad = bad[: data.draw(st.integers(0, len(bad)))]
    with suppress(ContractError):
        Contract.from_bytes(bytes(bad))


def test_a_huge_repetition_is_refused_before_it_is_unrolled():
    agreed = contract()
    data = bytearray(agreed.to_bytes())
    run = np.array([1, 20], "<i8").tobytes()  # twenty chunks of one step
    at = data.index(run) + 8
    for times in (1 << 40, 1 << 62, -1):
        data[at : at + 8] = np.int64(times).tobytes()
        with pytest.raises(ContractError, match="do not fit"):
            Contract.from_bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "cut short"), (b"GARBAGE!", "beginning with"), (b"IPSCTRT1" + bytes(8), "says that")],
)
def test_no_contract_at_all(data, words):
    with pytest.raises(ContractError, match=words):
        Contract.from_bytes(data)


def test_what_a_later_version_appends_is_skipped():
    agreed = contract()
    data = agreed.to_bytes()
    at = 16 + 16 + 8  # magic, length, run ("run 1" padded), number of arrays
    length = int.from_bytes(data[at : at + 8], "little")
    longer = bytearray(data[: at + length] + bytes(range(16)) + data[at + length :])
    longer[at : at + 8] = (length + 16).to_bytes(8, "little")
    longer[8:16] = len(longer).to_bytes(8, "little")
    assert Contract.from_bytes(longer) == agreed


def test_text_changed_by_hand():
    document = json.loads(contract().to_json())
    document["arrays"][0]["name"] = "pressure"
    with pytest.raises(ContractError, match="digest differs"):
        Contract.from_json(json.dumps(document))
    with pytest.raises(ContractError, match="version 2"):
        Contract.from_json(json.dumps({**document, "version": 2}))
    with pytest.raises(ContractError, match="not a valid contract"):
        Contract.from_json("[]")


def test_digest_ignores_placement_only():
    agreed = contract()
    moved = agreed.with_placements({"temperature": Placement(3, 1, (7, 8))})
    assert moved["temperature"].placement.epoch == 3 and moved["x"] == agreed["x"]
    assert moved.digest() == agreed.digest() and moved.to_bytes() != agreed.to_bytes()
    assert contract(policy="drop").digest() != agreed.digest()


def test_table():
    row, rows = contract().table()
    assert row == {
        "steps_per_chunk": 1,
        "name": "temperature",
        "dtype": "<f8",
        "shape": [6, 8],
        "dims": ["time", "y", "x"],
        "steps": ":19 of 20",
        "region": "[:6, :8] in 2 parts",
        "fraction": (10 * 2 * 8 + 2 * 4) / (20 * 6 * 8),
        "bytes": 8 * (10 * 2 * 8 + 2 * 4),
        "chunks": 11,
    }
    assert (rows["steps"], rows["region"], rows["bytes"], rows["chunks"]) == (
        ":",
        "[all rows, :3]",
        None,
        None,
    )
    json.dumps([row, rows])


def test_look_up():
    agreed = contract()
    assert agreed.ordinal("x") == 1 and agreed.ordinal("y") is None
    with pytest.raises(KeyError):
        agreed["y"]


def test_keys():
    name = array_name("temperature", "run 1")
    assert contract()["temperature"].key(3) == chunk_key(name, (1, 1, 0)) == (name, 1, 1, 0)
    assert name.startswith("external-temperature-") and len(name.rsplit("-", 1)[1]) == 8
    assert array_name("temperature", "run 2") != name


def parts(**changes):
    layout = ChunkLayout((20, 6, 8), ((1,) * 20, (6,), (8,)))
    whole = Selection.full((20, 6, 8))
    some = {
        "layout": layout,
        "cover": whole,
        "wanted": (whole,),
        "placement": Placement(0, 1, (0,)),
    }
    return {"spec": SPEC, "name": "external-t-0", **some, **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wanted": ()}, "nothing is wanted"),
        ({"cover": Selection.full((1, 6, 8))}, "outside its cover"),
        ({"cover": Selection.full((21, 6, 8))}, "outside the shape"),
        ({"wanted": (Selection.full((20, 6, 8)), Selection.full((1, 1, 1)))}, "overlap"),
        ({"placement": Placement(0, 1, (0, 1))}, "placement is for 2 chunks"),
        ({"layout": ChunkLayout((20, 6, 9), ((20,), (6,), (9,)))}, "simulation offers"),
        ({"policy": "perhaps"}, "policy must be"),
    ],
)
def test_contradictions(changes, words):
    ArrayContract(**parts())
    with pytest.raises(ContractError, match=words):
        ArrayContract(**parts(**changes))


def test_array_named_twice():
    array = ArrayContract(**parts())
    with pytest.raises(ContractError, match="twice"):
        Contract("r", (array, array))


def test_nothing_wanted():
    with pytest.raises(ContractError, match="leave the array out"):
        ArrayContract.agree(SPEC, [], run="r")


def test_unneeded_chunk():
    array = ArrayContract.agree(SPEC, [Selection.full((1, 6, 8))], run="r")
    with pytest.raises(ContractError, match="chunk 5 is not in the contract"):
        array.chunk_shape(5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "a b"}, "array name"),
        ({"dtype": "object"}, "not a plain"),
        ({"dtype": "nonsense"}, "unknown dtype"),
        ({"shape": (0, 3)}, "shape must be >= 1"),
        ({"dims": ("x",)}, "do not name"),
        ({"dims": ("time", "x", "x")}, "each once"),
        ({"attrs": {"a": object()}}, "JSON"),
        ({"ragged": True}, "begin with -1"),
    ],
)
def test_impossible_arrays(fields, words):
    good = {"name": "a", "dtype": "f8", "shape": (2, 3), "steps": StepAxis(count=1)}
    ArraySpec(**good)
    with pytest.raises(GeometryError, match=words):
        ArraySpec(**{**good, **fields})


def test_impossible_steps():
    with pytest.raises(GeometryError):
        StepAxis(every=0)
    with pytest.raises(GeometryError):
        StepAxis(count=0)
    with pytest.raises(GeometryError):
        StepAxis(count=3).step(3)
