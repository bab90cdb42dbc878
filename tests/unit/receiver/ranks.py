"""A rank as far as a receiver can see it: a socket that speaks the protocol."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from contextlib import contextmanager

import numpy as np

from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.receiver.receiver import Receiver
from ips_components.wire import framing, proof
from ips_components.wire import messages as m

RUN, TOKEN = "received", "c4" * 32
DEADLINE = 20.0


class Sink:
    """Keeps what a receiver reports; tests wait on it with a deadline."""

    def __init__(self):
        self.changed = threading.Condition()
        self.reports = []
        self.chunks = {}

    def _note(self, *report):
        with self.changed:
            self.reports.append(report)
            self.changed.notify_all()

    def chunk(self, array, chunk, value, nbytes):
        self.chunks[array, chunk] = value
        self._note("chunk", array, chunk)

    def __getattr__(self, name):
        return lambda *arguments: self._note(name, *arguments)

    def named(self, name):
        return [report[1:] for report in self.reports if report[0] == name]

    def wait(self, done):
        with self.changed:
            assert self.changed.wait_for(done, DEADLINE), self.reports


@contextmanager
def receiving(*specs, contract=True, size=None, **options):
    """A receiver of these arrays, and its sink."""
    sink = Sink()
    options = {"budget": 1 << 26, "ordinal": 0, **options}
    with Receiver(sink, run=RUN, token=TOKEN, **options) as receiver:
        if size is not None:
            receiver.set_size(size)
        if contract:
            receiver.set_contract(contract_of(*specs))
        yield receiver, sink


def until(done):
    """Wait for what no report announces."""
    deadline = time.monotonic() + DEADLINE
    while not done():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def contract_of(*specs, **options):
    return Contract(RUN, tuple(ArrayContract.agree(spec, run=RUN, **options) for spec in specs))


def spec_of(shape, count=10, **options):
    return ArraySpec("t", "f8", shape, StepAxis(count=count), **options)


class Rank:
    """One connection; ``with`` closes it."""

    def __init__(self, receiver, rank=0, size=1, *, lane="tcp", session=None, hello=True, **fields):
        endpoint = receiver.endpoint
        self.receiver_id = endpoint.id
        if lane == "tcp":
            self.sock = socket.create_connection((endpoint.host, endpoint.port))
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect("\0" + endpoint.unix[1:])
        self.sock.settimeout(DEADLINE)
        self.decoder = framing.Decoder()
        self.messages = deque()
        self.seq = 0
        if hello:
            session = rank + 1 if session is None else session
            self.introduce(m.Hello(RUN, rank, size, 1000 + session, session, **fields))

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.sock.close()

    def introduce(self, hello, token=TOKEN):
        """Send a hello as any process that has a token does."""
        greeting = m.Greeting(proof.new_nonce(), hello.session)
        self.say(greeting)
        nonces = greeting.nonce, self.hear_until(m.Challenge).nonce
        channel = proof.Channel(*nonces, hello.session, self.receiver_id)
        proved = channel.proof_of_rank(bytes.fromhex(token))
        self.say(m.Hello(**{**hello.fields(), "proof": proved}))

    def say(self, *messages):
        self.sock.sendall(b"".join(map(framing.pack, messages)))

    def hear(self):
        """The next message; None at the end of the connection."""
        while not self.messages:
            try:
                received = self.sock.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not received:
                return None
            self.messages.extend(self.decoder.feed(received))
        return self.messages.popleft()

    def hear_until(self, kind):
        """The next message of a kind."""
        while not isinstance(message := self.hear(), kind):
            assert message is not None, f"the connection ended before {kind.__name__}"
        return message

    def frame(self, chunk, dst, cells, array=0, seq=None):
        """The bytes of a piece."""
        self.seq = self.seq + 1 if seq is None else seq
        cells = np.ascontiguousarray(cells)
        head = framing.pack_piece(array, self.seq, chunk, chunk, dst, cells.nbytes)
        return head + cells.tobytes()

    def put(self, *piece, **options):
        self.sock.sendall(self.frame(*piece, **options))
