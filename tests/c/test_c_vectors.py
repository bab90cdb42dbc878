"""The C bridge passes the vectors of contracts, pieces and frames that the Python one passes."""

import hmac
import json
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ips_components.bridge.attached import Attachments
from ips_components.bridge.segments import Segments
from ips_components.model.decomposition import dims_create
from ips_components.wire import proof
from ips_components.wire.messages import Attach

VECTORS = Path(__file__).parents[1] / "conformance"
GEOMETRY = json.loads((VECTORS / "geometry_vectors.json").read_text(encoding="utf-8"))
CONTRACTS = json.loads((VECTORS / "contract_vectors.json").read_text(encoding="utf-8"))
LEASES = json.loads((VECTORS / "leases.json").read_text(encoding="utf-8"))
WIRE = json.loads((VECTORS / "wire.json").read_text(encoding="utf-8"))
TO_RANK = 32


@pytest.fixture(scope="session")
def ask(built):
    """Give the driver some lines and return its answers."""

    def ask(*lines, command=(str(built / "vectors"),)):
        text = "".join(f"{line}\n" for line in lines)
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return ask


def words(*values):
    """Flatten to the words that the driver prints."""
    found = []
    for value in values:
        if isinstance(value, (list, tuple)):
            found += words(*value)
        elif isinstance(value, bool):
            found.append(str(int(value)))
        else:
            found.append(str(value))
    return found


def text(value):
    return value.encode().hex() or "-"


def selection_words(item):
    return words(item["start"], item["count"], item["step"])


def contract_words(document):
    found = ["contract", text(document["run"]), str(len(document["arrays"]))]
    for a in document["arrays"]:
        count = a["steps"]["count"]
        found += ["array", a["name"], a["dtype"], str(np.dtype(a["dtype"]).itemsize)]
        found += words(a["ragged"], a["policy"] == "drop", a["steps"]["start"])
        found += words(a["steps"]["every"], -1 if count is None else count)
        found += words(len(a["index_shape"]), a["index_shape"])
        for dim, runs in enumerate(a["chunk_runs"]):
            if dim == 0 and count is None:  # repeats to the end of the open-ended axis
                runs = [[runs[0][0], -(-a["index_shape"][0] // runs[0][0])]]
            found += words(len(runs), runs)
        found += selection_words(a["cover"]) + words(len(a["wanted"]))
        for part in a["wanted"]:
            found += selection_words(part)
        placement = a["placement"]
        found += words(placement["epoch"], placement["period"])
        found += words(len(placement["owners"]), placement["owners"])
    return found


@pytest.mark.parametrize("vector", CONTRACTS["contracts"], ids=lambda v: v["json"]["run"])
def test_contract_is_parsed(ask, vector):
    (answer,) = ask(f"contract {vector['hex']}")
    assert answer.split() == contract_words(vector["json"])


@pytest.mark.parametrize("vector", CONTRACTS["refused"], ids=lambda v: v["why"])
def test_contract_is_refused(ask, vector):
    (answer,) = ask(f"contract {vector['hex'] or '-'}")
    assert answer.startswith("refused ")


def piece_words(piece):
    return [
        "piece",
        *words(piece["chunk"], piece["receiver"], piece["src"], piece["dst"], piece["cells"]),
    ]


@pytest.mark.parametrize("vector", GEOMETRY, ids=lambda v: v["title"])
def test_pieces(ask, vector):
    for block in vector.get("blocks", ()):
        box = words(len(block["offset"]), block["offset"], block["shape"], block["halo"])
        (answer,) = ask(" ".join(["plan", vector["contract"], *box, *block["pieces"]]))
        found = ["plan", "0"]
        for t, pieces in block["pieces"].items():
            found += ["at", t, str(len(pieces))]
            for piece in pieces:
                found += piece_words(piece)
        assert answer.split() == found
    for one in vector.get("ranks", ()):
        times = list(one["pieces"])
        (answer,) = ask(
            " ".join(["rows", vector["contract"], *words(one["rank"], one["size"]), *times])
        )
        found = ["rows"]
        for t, piece in one["pieces"].items():
            found += ["at", t]
            if piece is not None:
                found += words(piece["chunk"], piece["receiver"], piece["columns"])
        assert answer.split() == found


@pytest.mark.parametrize("vector", [v for v in GEOMETRY if "ids" in v], ids=lambda v: v["title"])
def test_rows_by_ids(ask, vector):
    for one in vector["ids"]:
        times = list(one["pieces"])
        (answer,) = ask(
            " ".join(["ids", vector["contract"], *words(len(one["ids"]), one["ids"]), *times])
        )
        found = ["ids"]
        for t, pieces in one["pieces"].items():
            found += ["at", t, str(len(pieces))]
            for piece in pieces:
                found += words(*(piece[name] for name in ("chunk", "receiver", "time", "bytes")))
                found += words(piece["columns"], len(piece["rows"]))
                found += words(piece["rows"], piece["positions"])
        assert answer.split() == found


def receivers_words(endpoints):
    found = ["receivers", str(len(endpoints))]
    for e in endpoints:
        found += words(e["ordinal"], e["port"], e["pid"], e["id"])
        found += [text(e[name]) for name in ("host", "unix", "hostname", "boot")]
    return found


def body_words(name, f):
    """The fields of a message from a receiver, as the driver prints them."""
    match name:
        case "Welcome":
            return words(f["last_seq"], f["ordinal"], f["heartbeat_ms"], f["silence_ms"])
        case "ContractIs":
            launch = words(f["first_step"], f["launch"], f["launch_flags"])
            return [f["digest"], f["contract"], *launch, *receivers_words(f["endpoints"])]
        case "Challenge":
            return [f["nonce"], f["proof"]]
        case "Credit":
            return words(f["rows"])
        case "Resend":
            return words(f["chunk"])
        case "Ack":
            return words(f["seq"])
        case "Release":
            return words(f["leases"])
        case "PlacementIs":
            found = words(f["epoch"])
            for one in f["owners"]:
                found += ["owners", *words(one["array"], one["epoch"], one["period"])]
                found += words(one["owners"])
            return found + receivers_words(f["endpoints"])
        case "Feedback":
            return [
                *words(f["step"], f["kind"], len(f["shape"]), f["shape"]),
                text(f["name"]),
                f["data"] or "-",
            ]
        case "Fault":
            return [str(f["policy"]), text(f["text"])]
        case "Attach":
            return [f["contact"]]
        case "Stop" | "Refused":
            return [text(f["text"])]
        case "ByeAck" | "Ping":
            return []
    raise AssertionError(name)


@pytest.mark.parametrize(
    "vector", [v for v in WIRE["frames"] if v["op"] >= TO_RANK], ids=lambda v: v["message"]
)
def test_message_to_a_rank_is_parsed(ask, vector):
    f = vector["fields"]
    (answer,) = ask(f"frame {vector['frame']}")
    head = ["frame", *words(vector["op"], f.get("flags", 0), f.get("array", 0))]
    assert answer.split() == head + body_words(vector["message"], f)


def counters_words(counters):
    return words(
        len(counters), [[c["array"], c["blocks"], c["bytes"], c["beyond"]] for c in counters]
    )


def pack_words(name, f):
    """A message to a receiver, as the driver wants it told."""
    match name:
        case "Hello":
            found = [f["proof"], text(f["run"]), *words(f["rank"], f["size"], f["pid"])]
            return [
                *found,
                *words(f["session"]),
                f["digest"],
                *words(f["epoch"], f["flags"]),
                f["info"],
            ]
        case "Piece":
            found = words(f["array"], f["seq"], f["chunk"], f["t"], len(f["dst"]), f["dst"])
            return found + words(f["slot"], f["slot_offset"], f["generation"], f["strides"])
        case "Rows":
            return words(f["array"], f["seq"], f["chunk"], f["t"], f["rows"])
        case "StepEnd":
            return words(f["step"], f["waited_ns"]) + counters_words(f["counters"])
        case "StepTime":
            (bits,) = struct.unpack("<q", struct.pack("<d", f["time"]))
            return words(f["step"], bits)
        case "Bye":
            found = words(f["last_step"], f["status"]) + counters_words(f["counters"])
            return [*found, text(f["reason"])]
        case "Want":
            return words(0, f["array"], 0, f["row"])
        case "Dropped":
            return words(f["flags"], f["array"], f["seq"], f["chunk"])
        case "Gone":
            return words(0, f["array"], 0, f["chunk"])
        case "Slot":
            found = words(f["slot"], f["ring"], f["size"], f["length"], f["spare"])
            return found + words(f["segment"], f["offset"])
        case "SlotDrop":
            return words(f["slot"])
        case "Greeting":
            return [f["nonce"], *words(f["session"])]
        case "Ping":
            return []
    raise AssertionError(name)


# A C rank knows its blocks before its hello, which tells them: it never sends Blocks.
TO_RECEIVER = [v for v in WIRE["frames"] if v["op"] < TO_RANK and v["message"] != "Blocks"]


@pytest.mark.parametrize("vector", TO_RECEIVER, ids=lambda v: v["message"])
def test_message_to_a_receiver_is_packed(ask, vector):
    (answer,) = ask(
        " ".join(["pack", str(vector["op"]), *pack_words(vector["message"], vector["fields"])])
    )
    frame = bytearray.fromhex(vector["frame"])
    if vector["message"] == "Hello":
        frame[32 + 156 : 32 + 160] = bytes(4)  # a library without a thread promises no heartbeat
    assert answer == f"pack {frame.hex()}"


@pytest.mark.parametrize(
    "row", LEASES["transitions"] + LEASES["refused"], ids=lambda r: f"{r['state']}-{r['event']}"
)
def test_life_of_a_slot(ask, row):
    state, event = LEASES["states"].index(row["state"]), LEASES["events"].index(row["event"])
    after = LEASES["states"].index(row["next"]) if "next" in row else "-"
    assert ask(f"lease {state} {event}") == [f"lease {after}"]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(1, 20), st.lists(st.tuples(st.integers(1, 6), st.integers(0, 9)), max_size=40))
def test_slots_lie_at_the_same_places_of_segments(ask, slots, moves):
    """Moves take so many pages, or give an earlier part back, which may be read for ever."""
    segments, taken, numbers = Segments(), [], {}
    given, expected = [], []
    for pages, choice in moves:
        held = [i for i, part in enumerate(taken) if part]
        if choice < 6 or not held:
            segment, offset = segments.take(pages << 12, slots)
            taken.append((segment, offset, pages << 12))
            given += ["take", pages << 12]
            expected += [numbers.setdefault(segment.number, len(numbers)), offset]
        else:
            which, reuse = held[pages % len(held)], choice < 9
            segments.give_back(*taken[which], reuse)
            taken[which] = None
            given += ["give", which, int(reuse)]
        expected.append(len(segments._segments))
    for part in filter(None, taken):
        segments.give_back(*part)
    assert ask(" ".join(words("segments", slots, given))) == [" ".join(words("segments", expected))]


@pytest.mark.parametrize("vector", WIRE["proofs"], ids=lambda v: v["token"][:4])
def test_proofs_are_the_same(ask, vector):
    given = words(*(vector[n] for n in ("token", *proof.Channel._fields)))
    (answer,) = ask(" ".join(["proofs", *given]))
    assert answer == f"proofs {vector['of_rank']} {vector['of_receiver']}"


RFC_4231 = [
    (
        "0b" * 20,
        b"Hi There".hex(),
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    ),
    (
        b"Jefe".hex(),
        b"what do ya want for nothing?".hex(),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    ("aa" * 20, "dd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (
        bytes(range(1, 26)).hex(),
        "cd" * 50,
        "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
    ),
    (
        "aa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First".hex(),
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
    (
        "aa" * 131,
        (
            b"This is a test using a larger than block-size key and a larger than block-size data. "
            b"The key needs to be hashed before being used by the HMAC algorithm."
        ).hex(),
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
    ),
]


@pytest.mark.parametrize(("key", "data", "expected"), RFC_4231)
def test_hmac_of_the_rfc(ask, key, data, expected):
    assert ask(f"hmac {key} {data}") == [f"hmac {expected}"]


@pytest.mark.parametrize("length", [0, 1, 55, 56, 63, 64, 65, 119, 120, 200])
def test_hmac_of_any_length(ask, length):
    data = bytes(i % 251 for i in range(length))
    expected = hmac.digest(b"key", data, "sha256").hex()
    assert ask(f"hmac {b'key'.hex()} {data.hex() or '-'}") == [f"hmac {expected}"]


@pytest.mark.parametrize("vector", WIRE["refused"], ids=lambda v: v["why"])
def test_damaged_frame_is_refused(ask, vector):
    (answer,) = ask(f"frame {vector['frame']}")
    assert answer.startswith("refused ")


def test_contact_record_is_parsed(ask):
    f = WIRE["contact"]["fields"]
    (answer,) = ask(f"contact {WIRE['contact']['binary']}")
    limits = [f"{f['deadlines'][name]:g}" for name in ("connect", "contract", "step", "drain")]
    options = f["options"]
    lanes = sum({"tcp": 1, "shm": 2}[lane] for lane in options["lanes"])
    rest = words(lanes, options["on_analytics_loss"] == "abort", options["replay_steps"])
    found = ["contact", f["token"], f["run"], *limits, *rest]
    found += [str(options["replay_bytes"]), str(options["slot_bytes"])]
    assert answer.split() == found + receivers_words(f["endpoints"])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_gather_is_numpy(ask, data):
    itemsize = data.draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    shape = data.draw(st.lists(st.integers(1, 5), min_size=0, max_size=4))
    gaps = data.draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))
    turns = data.draw(st.lists(st.sampled_from([1, -1]), min_size=len(shape), max_size=len(shape)))
    order = data.draw(st.permutations(range(len(shape))))
    strides, run = [0] * len(shape), itemsize
    for d in order:
        strides[d] = run * gaps[d] * turns[d]
        run = abs(strides[d]) * shape[d]
    low = sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if s < 0)
    high = sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if s > 0)
    memory = np.arange(high - low + itemsize).astype(np.uint8)
    view = np.ndarray((*shape, itemsize), np.uint8, memory, -low, (*strides, 1))
    flat = np.ascontiguousarray(view).reshape(-1, itemsize)
    first = data.draw(st.integers(0, len(flat) - 1))
    n = data.draw(st.integers(1, len(flat) - first))
    command = ["gather", *words(itemsize, len(shape), shape, strides, first, n)]
    assert ask(" ".join(command)) == [f"gather {flat[first : first + n].tobytes().hex()}"]


def test_types_are_numpys(ask):
    names = ["f8", "<f4", ">i2", "=u8", "|b1", "u1", "i1", "c16", "c8", "f2", "S5", "V3", "U2"]
    names += ["float64", "int32", "complex64", "bool", "f16", "<U3", "|S1"]
    for name, answer in zip(names, ask(*(f"dtype {name}" for name in names)), strict=True):
        dtype = np.dtype(name)
        assert answer == f"dtype {dtype.str} {dtype.itemsize}"
    wrong = ["f3", "x8", "f", "", "O8", "M8", "i16", "b2", "f8f8", "S0", "<"]
    assert set(ask(*(f"dtype {name}" for name in wrong))) == {"dtype - 0"}


def test_default_process_grids_are_the_same(ask):
    cases = [(size, ndim) for size in (1, 2, 7, 12, 36, 64, 97, 120) for ndim in (1, 2, 3, 4)]
    answers = ask(*(f"dims {size} {ndim}" for size, ndim in cases))
    assert answers == [" ".join(["dims", *words(dims_create(*case))]) for case in cases]


def test_keys_of_json_are_found_at_their_depth_only(ask):
    document = (
        '{"a": {"x": 1, "k": "}\\"]"}, "b": ["x", {"x": 2}], "x" : [3, 4], "t": "\\"x\\": 9"}'
    )
    answers = ask(*(f"json {depth} x {document}" for depth in (1, 2, 3, 4)))
    assert answers[0].startswith("json [3, 4]")
    assert answers[1].startswith("json 1,")
    assert answers[2].startswith("json 2}")
    assert answers[3] == "json -"


@pytest.mark.parametrize(
    ("awaited", "ended", "seen"), [(1, "a", True), (2, "aba", True), (2, "aa", False)]
)
def test_no_launch_waits_for_an_attached_run_that_has_ended(ask, awaited, ended, seen):
    """Each receiver says it: it is counted once."""
    messages = [Attach.ended(f"c-run~{each}") for each in ended]
    (answer,) = ask(" ".join(words("attached", awaited, *(m.contact.hex() for m in messages))))
    assert answer == f"attached {int(seen)}"
    own = Attachments({}, 0, 1, lambda: -1)
    for each in messages:
        own.invite(each)
    assert own.wait(awaited) is seen
