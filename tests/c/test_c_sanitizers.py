"""All tests of the C bridge once more, under valgrind and under the address and undefined-behaviour
sanitizers: no error, no leak."""

import shutil
import subprocess
from functools import partial

import pytest
from c_ranks import Rank, build, compiler
from test_both_attached import *  # noqa: F403  (collected here, with the fixtures below)
from test_both_attached import test_two_attached_runs_at_once
from test_both_slots import *  # noqa: F403
from test_c_bridge import *  # noqa: F403
from test_c_faults import *  # noqa: F403
from test_c_faults import survive_nonsense
from test_c_vectors import *  # noqa: F403

pytestmark = [pytest.mark.sanitizer, pytest.mark.timeout(600)]

WAYS = {
    "sanitizers": (
        "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all",
        [],
    ),
    "valgrind": (
        "-O1 -g",
        [
            *("valgrind", "-q", "--error-exitcode=9", "--leak-check=full"),
            *("--show-leak-kinds=all", "--errors-for-leak-kinds=all"),
        ],
    ),
}


@pytest.fixture(scope="session", params=WAYS)
def way(request, tmp_path_factory):
    """Directory of the drivers, and what is put before their commands."""
    flags, before = WAYS[request.param]
    if not (compiler() and shutil.which("make")) or (before and not shutil.which(before[0])):
        pytest.skip(f"needs make, a C compiler and {before[:1]}")
    return build(tmp_path_factory.mktemp(request.param), flags), before


@pytest.fixture
def start(way):
    """Start C ranks; each must end without a complaint."""
    out, before = way
    started = []

    def start(rank=0, size=1, **environment):
        started.append(Rank([*before, str(out / "remote")], rank, size, **environment))
        return started[-1]

    yield start
    try:
        for one in started:
            if one.process.poll() is None:
                assert one.end() == (0, "")
    finally:
        for one in started:
            one.forget()


@pytest.fixture(scope="session")
def ask(way):
    """Give the driver of the vectors some lines and return its answers."""
    out, before = way

    def ask(*lines):
        text = "".join(f"{line}\n" for line in lines)
        done = subprocess.run(
            [*before, str(out / "vectors")],
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # names in damaged contracts
            timeout=500,  # valgrind needs a minute of one core for the damaged contracts
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    return ask


def damaged(data, rng):
    """Some bytes or words of a contract changed, or some cut off."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(data))
        if rng.random() < 0.5:
            data[at] = rng.randrange(256)
        else:
            word = rng.choice([0, 1, 2, 3, 7, 2**31, 2**40, 2**48, 2**62, 2**63 - 1, 2**64 - 1])
            at -= at % 8
            data[at : at + 8] = word.to_bytes(8, "little")
    return data[: rng.randrange(len(data))] if rng.random() < 0.1 else data


def test_damaged_contracts(ask):
    """Whatever the bytes, a contract is refused, or its plan can be made and asked."""
    rng = random.Random(7)  # noqa: F405
    lines = []
    for vector in GEOMETRY:  # noqa: F405
        good = bytes.fromhex(vector["contract"])
        for _ in range(300):
            text = damaged(good, rng).hex() or "-"
            lines.append(f"contract {text}")
            for block in vector.get("blocks", ())[:1]:
                box = words(len(block["offset"]), block["offset"], block["shape"], block["halo"])  # noqa: F405
                lines.append(" ".join(["plan", text, *box, *list(block["pieces"])[:3]]))
            for one in vector.get("ids", ())[:1]:
                ids = words(len(one["ids"]), one["ids"])  # noqa: F405
                lines.append(" ".join(["ids", text, *ids, *list(one["pieces"])[:3]]))
    answers = ask(*lines)
    assert len(answers) == len(lines)
    assert {answer.split()[0] for answer in answers} == {"contract", "plan", "refused", "ids"}


def test_damaged_frames_and_contacts(ask):
    rng = random.Random(8)  # noqa: F405
    good = [("frame", bytes.fromhex(v["frame"])) for v in WIRE["frames"]]  # noqa: F405
    good.append(("contact", bytes.fromhex(WIRE["contact"]["binary"])))  # noqa: F405
    lines = []
    for kind, data in good:
        for _ in range(200):
            lines.append(f"{kind} {damaged(data, rng).hex() or '-'}")
    assert len(ask(*lines)) == len(lines)


def test_much_nonsense(start, tmp_path):
    survive_nonsense(start, tmp_path, range(100, 140), rounds=40, timeout=1.0)


def test_attached_runs_over_tcp(start, sinks, tmp_path):
    over_tcp = partial(start, IPS_COMPONENTS_LANE="tcp")
    test_two_attached_runs_at_once(over_tcp, sinks, tmp_path)
