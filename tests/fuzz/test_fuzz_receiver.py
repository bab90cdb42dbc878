"""Any bytes to a receiver: nothing but a closed connection and a log line.

The first tests run always (Hypothesis). With ``-m fuzz`` there is a long run of the same, and a
coverage-guided one of a minute where atheris is installed (``pip install atheris``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ips_components.ips_compat import make_credentials
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.receiver.receiver import Receiver
from ips_components.receiver.sink import Sink
from ips_components.wire import contact as contacts
from ips_components.wire import framing, proof, tls
from ips_components.wire import messages as m

VECTORS = Path(__file__).parents[1] / "conformance" / "wire.json"
RUN, TOKEN = "fuzzed", "a1" * 32
SPECS = (
    ArraySpec("t", "f8", (8, 8), StepAxis(count=50)),
    ArraySpec("x", "f4", (-1, 3), StepAxis(count=50), ragged=True),
)
BUDGET = 1 << 20


class CountingSink(Sink):
    def __init__(self):
        self.faults = []
        self.chunks = 0

    def fault(self, text):
        self.faults.append(text)

    def chunk(self, array, chunk, value, nbytes):
        self.chunks += 1


@pytest.fixture(scope="module")
def target():
    logging.getLogger("ips_components").setLevel(logging.ERROR)
    sink = CountingSink()
    receiver = Receiver(sink, run=RUN, token=TOKEN, budget=BUDGET, ordinal=0, grace=0.1)
    arrays = tuple(ArrayContract.agree(spec, run=RUN) for spec in SPECS)
    receiver.set_contract(Contract(RUN, arrays))
    with receiver:
        yield receiver, sink
    logging.getLogger("ips_components").setLevel(logging.NOTSET)


def hello(rank=0):
    return m.Hello(run=RUN, rank=rank, size=4, pid=1, session=rank + 1)


def introduced(receiver, sock, message):
    """Greet a receiver, and return the bytes of the hello that answers its challenge."""
    greeting = m.Greeting(bytes(32), message.session)
    sock.sendall(framing.pack(greeting))
    (challenge,) = framing.Decoder().feed(sock.recv(1 << 16))
    known = bytes.fromhex(TOKEN), greeting, challenge, receiver.endpoint.id
    return framing.pack(proof.answer(message, *known))


def dial(receiver, context=None):
    """Connect over TCP, encrypted if a context is given."""
    sock = socket.create_connection((receiver.endpoint.host, receiver.endpoint.port))
    return sock if context is None else context.wrap_socket(sock)


def throw(receiver, *parts, local=False, fds=(), context=None):
    """Send bytes and wait until the receiver has had enough of them."""
    if local:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect("\0" + receiver.endpoint.unix[1:])
    else:
        sock = dial(receiver, context)
    with sock:
        sock.settimeout(10)
        try:
            for part in parts:
                if isinstance(part, m.Hello):
                    part = introduced(receiver, sock, part)
                if fds:
                    socket.send_fds(sock, [part or b"x"], fds)
                else:
                    sock.sendall(part)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
        except OSError:
            pass  # it closed while we were still talking


def is_well(receiver, sink, context=None):
    """The receiver still serves: a proper rank gets a chunk through."""
    assert not sink.faults
    before = sink.chunks
    answered = dial(receiver, context)
    with answered:
        answered.settimeout(10)
        answered.sendall(introduced(receiver, answered, hello(3)))
        decoder = framing.Decoder()
        row = None
        while row is None:
            for message in decoder.feed(answered.recv(1 << 16)):
                if isinstance(message, m.Credit) and message.array == 0:
                    row = message.rows - 1
        cells = np.zeros((1, 8, 8))
        dst = ((0, 1, 1), (0, 8, 1), (0, 8, 1))
        answered.sendall(framing.pack_piece(0, 1, row, row, dst, cells.nbytes) + cells.tobytes())
        answered.sendall(framing.pack(m.Bye(0)))
        while not any(isinstance(x, m.ByeAck) for x in decoder.feed(answered.recv(1 << 16))):
            pass
    assert sink.chunks - before in (0, 1)
    numbers = receiver.statistics()
    assert numbers.held + numbers.reserved <= BUDGET
    names = [t.name for t in threading.enumerate() if t.name.startswith("receiver")]
    assert len(names) < 20, names  # of two receivers


FUZZ = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

ops = st.sampled_from(sorted(m.BY_OP))
u64 = st.one_of(st.integers(0, 100), st.integers(0, 2**64 - 1))
u32 = st.one_of(st.integers(0, 4), st.integers(0, 2**32 - 1))


@st.composite
def frames(draw):
    """Frames with a sound header and any fields in the body."""
    body = draw(st.one_of(st.binary(max_size=120), st.lists(u64, max_size=14).map(_u64s)))
    data = draw(st.binary(max_size=64))
    length = draw(st.one_of(st.just(len(body)), u32))
    header = framing.HEADER.pack(
        framing.MAGIC, m.VERSION, draw(ops), 0, draw(u64), length, draw(u32),
        draw(st.one_of(st.just(0), st.just(len(data)), u64)),
    )  # fmt: skip
    return header + body + data


def _u64s(numbers):
    return struct.pack(f"<{len(numbers)}Q", *numbers)


@st.composite
def pieces(draw):
    """Pieces that are almost right."""
    dst = tuple(
        draw(st.lists(st.tuples(u64, u64, u64), min_size=1, max_size=4))
        if draw(st.booleans())
        else [(0, 1, 1), (draw(st.integers(0, 9)), draw(st.integers(0, 9)), 1), (0, 8, 1)]
    )
    data = draw(st.sampled_from([0, 8, 64, 512, 1 << 20]))
    array, seq = draw(st.integers(0, 3)), draw(u64)
    chunk = draw(st.integers(0, 60))
    if draw(st.booleans()):
        return framing.pack_piece(array, seq, chunk, chunk, dst, data) + bytes(data)
    strides = tuple(draw(st.integers(-(2**63), 2**63 - 1)) for _ in dst)
    slot, offset = draw(u32), draw(u64)
    if slot == m.NO_SLOT:
        slot = 0
    return framing.pack_piece(array, seq, chunk, chunk, dst, 0, slot, offset, strides)


@FUZZ
@given(st.lists(st.binary(max_size=400), max_size=4), st.booleans())
def test_any_bytes_before_a_hello(target, parts, local):
    throw(target[0], *parts, local=local)
    is_well(*target)


@FUZZ
@given(frames(), st.booleans())
def test_any_frame_before_a_hello(target, frame, local):
    throw(target[0], frame, local=local)
    is_well(*target)


@FUZZ
@given(st.lists(st.one_of(frames(), pieces(), st.binary(max_size=90)), max_size=5), st.booleans())
def test_any_frames_of_a_rank_that_knows_the_token(target, parts, local):
    throw(target[0], hello(), *parts, local=local)
    is_well(*target)


@FUZZ
@given(st.binary(max_size=300))
def test_any_info_in_a_hello(target, info):
    throw(target[0], m.Hello(RUN, 1, 4, 1, 9, info=info))
    is_well(*target)


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory):
    """A receiver that takes TLS only, and the context of a rank that it lets in."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    logging.getLogger("ips_components").setLevel(logging.ERROR)
    made = make_credentials(tmp_path_factory.mktemp("certificates") / "run")
    own = str(made.certificate)
    mine = tls.context_of_rank(contacts.Certificates(own, own, str(made.key)))
    theirs = made.security().get_listen_args("client")["ssl_context"]
    sink = CountingSink()
    receiver = Receiver(sink, run=RUN, token=TOKEN, budget=BUDGET, ordinal=0, grace=0.1, tls=theirs)
    receiver.set_contract(Contract(RUN, tuple(ArrayContract.agree(s, run=RUN) for s in SPECS)))
    with receiver:
        yield receiver, sink, mine
    logging.getLogger("ips_components").setLevel(logging.NOTSET)


@st.composite
def hellos_of_tls(draw):
    """The first words of a proper client, damaged somewhere."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    with contextlib.suppress(ssl.SSLWantReadError):
        client.wrap_bio(incoming, outgoing).do_handshake()
    words = bytearray(outgoing.read())
    for at in draw(st.lists(st.integers(1, len(words) - 1), max_size=4)):
        words[at] = draw(st.integers(0, 255))
    return bytes(words[: draw(st.integers(1, len(words)))]) + draw(st.binary(max_size=40))


@settings(FUZZ, max_examples=40)
@given(st.one_of(hellos_of_tls(), st.binary(max_size=200), frames()))
def test_any_bytes_instead_of_tls(encrypted, words):
    receiver, sink, context = encrypted
    throw(receiver, words)
    is_well(receiver, sink, context)


@settings(FUZZ, max_examples=40)
@given(st.lists(st.one_of(frames(), pieces(), st.binary(max_size=90)), max_size=5), st.booleans())
def test_any_frames_inside_tls(encrypted, parts, known):
    receiver, sink, context = encrypted
    throw(receiver, *([hello()] if known else []), *parts, context=context)
    is_well(receiver, sink, context)


@settings(FUZZ, max_examples=15)
@given(st.integers(1, 40), st.booleans())
def test_descriptors_that_nobody_announced(target, count, known):
    read, write = os.pipe()
    try:
        throw(target[0], hello() if known else b"", b"", local=True, fds=[read] * count)
    finally:
        os.close(read)
    with os.fdopen(write, "wb", 0):
        is_well(*target)
        closed = select.poll()
        closed.register(write, 0)  # an error, as soon as no reading end is open
        assert closed.poll(10_000)


def test_a_slot_that_is_not_sealed(target):
    receiver, sink = target
    fd = os.memfd_create("unsealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, 4096)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect("\0" + receiver.endpoint.unix[1:])
            sock.settimeout(10)
            sock.sendall(introduced(receiver, sock, hello()))
            socket.send_fds(sock, [framing.pack(m.Slot(1, 0, 4096, 4, 2))], [fd])
            with pytest.raises(OSError, match=r"reset|closed"):
                while sock.recv(1 << 16):
                    pass
                raise OSError("closed")
    finally:
        os.close(fd)
    is_well(receiver, sink)


def test_a_stranger_who_says_nothing(target):
    receiver = Receiver(CountingSink(), run=RUN, token=TOKEN, budget=BUDGET, handshake=0.2)
    with receiver, socket.create_connection((receiver.endpoint.host, receiver.endpoint.port)) as s:
        s.settimeout(10)
        assert s.recv(1) == b""


@pytest.mark.fuzz
@pytest.mark.timeout(600)
@settings(FUZZ, max_examples=2000)
@given(
    st.lists(st.one_of(frames(), pieces(), st.binary(max_size=90)), max_size=12),
    st.booleans(),
    st.booleans(),
)
def test_very_many_frames(target, parts, known, local):
    throw(target[0], *([hello()] if known else []), *parts, local=local)
    assert not target[1].faults


@pytest.mark.fuzz
@pytest.mark.timeout(180)
def test_atheris(tmp_path):
    """Coverage-guided, over the sans-I/O parts that all bytes go through."""
    pytest.importorskip("atheris")
    corpus = tmp_path / "corpus"  # sound frames to begin with
    corpus.mkdir()
    for n, case in enumerate(json.loads(VECTORS.read_text())["frames"]):
        (corpus / str(n)).write_bytes(bytes.fromhex(case["frame"]))
    script = tmp_path / "fuzz.py"
    script.write_text(
        textwrap.dedent(
            """
            import struct, sys
            import atheris
            with atheris.instrument_imports(include=["ips_components"]):
                from ips_components.errors import ProtocolError
                from ips_components.wire import framing
            def one(data):
                for parse in (framing.Decoder().feed, head):
                    try:
                        parse(data)
                    except ProtocolError:
                        pass
            def head(data):
                if len(data) >= framing.HEADER_BYTES:
                    header = framing.parse_header(data)
                    framing.parse(header, memoryview(data)[framing.HEADER_BYTES:])
            atheris.Setup(sys.argv, one)
            atheris.Fuzz()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script), str(corpus), "-max_total_time=60", "-max_len=4096"],
        cwd=tmp_path, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
