"""Blocks over an encrypted connection, and who is not let in."""

from __future__ import annotations

import logging
import os
import random
import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import numpy as np
import pytest
from _pair import TOKEN, agree, assembled, receivers, together
from hostile_peers import break_tls, client_hello, words

from ips_components.bridge import Array, Bridge
from ips_components.errors import BridgeError, ContactError, TlsError
from ips_components.ips_compat import make_credentials
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.wire import contact as contacts
from ips_components.wire import framing, proof, tls
from ips_components.wire import messages as m

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")

STEPS, RANKS = 4, 3
STEP_AXIS = StepAxis(count=STEPS)
SPEC = ArraySpec("t", "f8", (6 * RANKS, 4000), STEP_AXIS)


@pytest.fixture(scope="module")
def credentials(tmp_path_factory):
    return make_credentials(tmp_path_factory.mktemp("certificates") / "run")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Certificates of another run."""
    return make_credentials(tmp_path_factory.mktemp("certificates") / "other")


def serving(credentials):
    """What Dask makes of the same files for its own listeners."""
    from distributed.security import Security

    files = {"tls_ca_file": credentials.certificate, "tls_worker_cert": credentials.certificate}
    security = Security(
        **{name: str(path) for name, path in files.items()}, tls_worker_key=str(credentials.key)
    )
    return security.get_listen_args("worker")["ssl_context"]


def named(credentials):
    own = str(credentials.certificate)
    return contacts.Certificates(own, own, str(credentials.key))


@contextmanager
def encrypted(tmp_path, credentials, certificates, **options):
    """A receiver with TLS, and a contact file that names some certificates (or None)."""
    contract = agree(SPEC)
    with receivers(tmp_path, contract, tls=serving(credentials), **options) as (file, made, sinks):
        contacts.write(file, replace(contacts.read(file), tls=certificates))
        yield file, made[0], sinks, contract


@contextmanager
def logged(text):
    """Wait at the end for a line in the log: a receiver answers a rank before it logs why."""
    there = threading.Event()

    class Heard(logging.Handler):
        def emit(self, record):
            if text in record.getMessage():
                there.set()

    heard = Heard()
    logging.getLogger().addHandler(heard)
    try:
        yield
        assert there.wait(30), f"{text!r} is not in the log"
    finally:
        logging.getLogger().removeHandler(heard)


@pytest.fixture
def over_tcp(monkeypatch):
    monkeypatch.setenv("IPS_COMPONENTS_LANE", "tcp")


def cells(rank, step):
    return np.random.default_rng([rank, step]).random((6, 4000))


def put_all(file, rank, size=RANKS):
    arrays = [Array("t", SPEC.shape, "f8", grid=(RANKS, 1), steps=STEP_AXIS)]
    with Bridge(contact=file, rank=rank, size=size, arrays=arrays) as bridge:
        for step in range(STEPS):
            bridge.put("t", step, cells(rank, step))
        bridge.wait()
        return bridge.statistics().lanes


@pytest.mark.parametrize("replay", [0, 1])
def test_blocks_arrive_as_they_were_put(tmp_path, over_tcp, credentials, replay):
    options = {"replay_steps": replay}
    with encrypted(tmp_path, credentials, named(credentials), contact_options=options) as (
        file,
        receiver,
        sinks,
        contract,
    ):
        spied = Spy(receiver)
        there = spied.instead(contacts.read(file))
        contacts.write(file, there)
        receiver.set_contract(contract, there.endpoints)
        with spied:
            lanes = together(RANKS, lambda rank: put_all(file, rank))
        assert lanes == [{0: "tcp"}] * RANKS
        expected = np.stack(
            [np.concatenate([cells(r, step) for r in range(RANKS)]) for step in range(STEPS)]
        )
        np.testing.assert_array_equal(assembled(contract, 0, sinks), expected)
        # Neither the token nor a single row can be read on the way.
        assert len(spied.seen) > expected.nbytes
        assert bytes.fromhex(contacts.read(file).token) not in spied.seen
        assert cells(1, 2)[0].tobytes()[:64] not in spied.seen


class Spy:
    """Stands between ranks and receiver, and keeps what passes to the receiver."""

    def __init__(self, receiver):
        self.to = (receiver.endpoint.host, receiver.endpoint.port)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.seen = bytearray()
        self.threads, self.sockets = [], []

    def instead(self, contact):
        port = self.server.getsockname()[1]
        (endpoint,) = contact.endpoints
        return replace(contact, endpoints=(replace(endpoint, port=port),))

    def __enter__(self):
        self.threads.append(threading.Thread(target=self._accept))
        self.threads[0].start()
        return self

    def __exit__(self, *exc_info):
        self.server.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)
        for sock in (self.server, *self.sockets):
            sock.close()

    def _accept(self):
        while True:
            try:
                rank, _ = self.server.accept()
            except OSError:
                return
            receiver = socket.create_connection(self.to)
            self.sockets += [rank, receiver]
            for one, other, keep in ((rank, receiver, True), (receiver, rank, False)):
                thread = threading.Thread(target=self._pass, args=(one, other, keep))
                self.threads.append(thread)
                thread.start()

    def _pass(self, one, other, keep):
        with suppress(OSError):
            while data := one.recv(1 << 16):
                if keep:
                    self.seen += data
                other.sendall(data)
        for sock in (one, other):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def test_the_same_node_needs_no_encryption(tmp_path, credentials):
    with encrypted(tmp_path, credentials, named(credentials)) as (file, _, sinks, contract):
        assert together(RANKS, lambda rank: put_all(file, rank)) == [{0: "shm"}] * RANKS
        assert assembled(contract, 0, sinks).any()


def test_receiver_of_another_authority_is_not_trusted(tmp_path, over_tcp, credentials, foreign):
    with encrypted(tmp_path, credentials, named(foreign)) as (file, _, sinks, _):
        with pytest.raises(BridgeError, match=r"receiver 0 at .* not of this run's authority"):
            put_all(file, 0)
        assert not sinks[0].hellos


def test_rank_of_another_authority_is_not_let_in(tmp_path, over_tcp, credentials, foreign):
    own = str(foreign.certificate)
    mixed = contacts.Certificates(str(credentials.certificate), own, str(foreign.key))
    with encrypted(tmp_path, credentials, mixed) as (file, _, sinks, _):
        refused = pytest.raises(BridgeError, match="do not trust each other: TLS says")
        with logged("not of this run's authority"), refused:
            put_all(file, 0)
        assert not sinks[0].hellos


def test_rank_without_certificates_is_told(tmp_path, over_tcp, credentials):
    with encrypted(tmp_path, credentials, None) as (file, receiver, sinks, _):
        refused = pytest.raises(BridgeError, match=r"refused rank 0: .* TLS only")
        with logged("speaks without TLS"), refused:
            put_all(file, 0)
        assert not sinks[0].hellos
        assert not receiver.statistics().lanes["tcp"]


def test_certificates_that_cannot_be_read(tmp_path, over_tcp, credentials):
    gone = contacts.Certificates("/nowhere/ca", "/nowhere/certificate", "/nowhere/key")
    with (
        encrypted(tmp_path, credentials, gone) as (file, *_),
        pytest.raises(ContactError, match=r"cannot be used on .* all nodes share"),
    ):
        put_all(file, 0)


def test_without_encryption_a_rank_with_certificates_says_nothing(tmp_path, over_tcp, credentials):
    """A process that has taken a receiver's port does not get the token."""
    with receivers(tmp_path, agree(SPEC), handshake=0.3) as (file, _, sinks):
        contact = contacts.read(file)
        contacts.write(file, replace(contact, tls=named(credentials), deadlines={"connect": 0.5}))
        with pytest.raises(BridgeError):
            put_all(file, 0)
        assert not sinks[0].hellos


def test_a_client_that_says_nothing_is_shut_out(tmp_path, credentials):
    with encrypted(tmp_path, credentials, None, handshake=0.2) as (_, receiver, *_):
        at = (receiver.endpoint.host, receiver.endpoint.port)
        for first in (b"", b"\x16", b"\x16\x03\x01\x02\x00"):
            with socket.create_connection(at, 10) as sock:
                sock.sendall(first)
                while sock.recv(1024):
                    pass


# -- the socket by itself --------------------------------------------------------------------------


@pytest.fixture
def pair(credentials):
    """Two ends of an encrypted connection."""
    one, other = socket.socketpair()
    server = tls.TlsSocket(one, serving(credentials), server_side=True)
    client = tls.TlsSocket(other, tls.context_of_rank(named(credentials)), server_side=False)
    thread = threading.Thread(target=server.handshake)
    thread.start()
    client.handshake()
    thread.join(10)
    yield server, client
    server.close()
    client.close()


@pytest.mark.parametrize("size", [0, 1, 1 << 14, (1 << 20) + 3])
def test_bytes_both_ways_at_once(pair, size):
    sent = [os.urandom(size), os.urandom(size)]
    got = [memoryview(bytearray(size)) for _ in sent]

    def read(end):
        at = 0
        while at < size:
            at += pair[end].recv_into(got[end][at:], 0, socket.MSG_WAITALL)

    def write(end):
        pair[end].sendall(sent[end][: size // 3], socket.MSG_MORE)
        pair[end].sendall(sent[end][size // 3 :])

    together(4, lambda n: (read if n < 2 else write)(n % 2))
    assert [bytes(one) for one in got] == sent[::-1]


def test_sending_without_waiting_takes_the_same_bytes_up_again(pair):
    server, client = pair
    data = memoryview(os.urandom(8 << 20))
    got = bytearray()
    at = stalls = 0
    while at < len(data):
        try:
            at += server.send(data[at:], socket.MSG_DONTWAIT)
        except BlockingIOError:
            stalls += 1
            got += client.recv(1 << 18)
    with pytest.raises(BlockingIOError):
        while True:
            got += client.recv(1 << 18, socket.MSG_DONTWAIT)
    assert stalls
    assert got == data
    server.sendall(b"the end")
    assert client.recv(100) == b"the end"


def test_damaged_records_end_the_connection(credentials):
    one, other = socket.socketpair()
    with one, other:
        server = tls.TlsSocket(one, serving(credentials), server_side=True)
        other.sendall(b"\x16\x03\x01\x00\x04" + bytes(4))
        with pytest.raises(TlsError, match="TLS says"):
            server.handshake()


def test_contact_names_files_and_no_secrets(tmp_path, credentials):
    endpoint = contacts.Endpoint(0, "127.0.0.1", 4000)
    plain = contacts.Contact("run", contacts.new_token(), (endpoint, endpoint))
    contact = replace(plain, tls=named(credentials))
    contacts.write(tmp_path / "contact", contact)
    assert contacts.read(tmp_path / "contact") == contact
    assert contacts.Contact.from_bytes(contact.to_bytes()) == contact
    assert contacts.Contact.from_bytes(plain.to_bytes()) == plain
    assert "PRIVATE" not in (tmp_path / "contact").read_text()
    with pytest.raises(ContactError):
        contacts.Contact.from_bytes(contact.to_bytes()[:-1])


def test_certificates_of_a_dask_cluster(credentials):
    from distributed.security import Security

    assert contacts.Certificates.of_security(Security()) is None
    assert contacts.Certificates.of_security(credentials.security()) == named(credentials)


def test_hello_over_tls_by_hand(tmp_path, credentials):
    """A receiver reads the same bytes as without; what comes later than its handshake, too."""
    with encrypted(tmp_path, credentials, None) as (_, receiver, sinks, _):
        at = (receiver.endpoint.host, receiver.endpoint.port)
        sock = socket.create_connection(at, 10)
        end = tls.TlsSocket(sock, tls.context_of_rank(named(credentials)), server_side=False)
        try:
            end.handshake()
            greeting = m.Greeting(bytes(32), 1)
            end.sendall(framing.pack(greeting))
            (challenge,) = framing.Decoder().feed(end.recv(1 << 16))
            hello = m.Hello(run="test-run", rank=0, size=1, pid=1, session=1)
            known = bytes.fromhex(TOKEN), greeting, challenge, receiver.endpoint.id
            hello = proof.answer(hello, *known)
            end.sendall(framing.pack(hello) + framing.pack(m.Ping()))
            sinks[0].wait(lambda: sinks[0].hellos)
            assert isinstance(framing.Decoder().feed(end.recv(1 << 16))[0], m.Welcome)
        finally:
            end.close()


def test_logging_names_who_was_closed(tmp_path, credentials, caplog):
    caplog.set_level(logging.WARNING)
    with encrypted(tmp_path, credentials, None) as (_, receiver, *_):
        sock = socket.create_connection((receiver.endpoint.host, receiver.endpoint.port), 10)
        with sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while sock.recv(1024):
                pass
            name = "{}:{}".format(*sock.getsockname())
    assert f"Connection of {name} closed: it speaks without TLS" in caplog.text


def test_handshakes_that_break_off_and_peers_that_break_the_protocol_change_nothing(
    tmp_path, over_tcp, credentials, foreign
):
    """Beside ranks that put; connections that say nothing more stay until the oldest is dropped."""
    rng = random.Random(1)
    with encrypted(tmp_path, credentials, named(credentials)) as (file, _, sinks, contract):
        contact = contacts.read(file)
        (endpoint,) = contact.endpoints
        with ThreadPoolExecutor(RANKS) as pool, ExitStack() as idle:
            ranks = [pool.submit(put_all, file, rank) for rank in range(RANKS)]
            for number in range(100):
                family = socket.AF_UNIX if number % 3 == 0 else socket.AF_INET
                sock = socket.socket(family)
                sock.settimeout(2)
                with suppress(OSError), ExitStack() as opened:
                    opened.enter_context(sock)
                    if family == socket.AF_UNIX:
                        sock.connect("\0" + endpoint.unix[1:])
                        for part in words(rng, contact, sock):
                            sock.sendall(part)
                        continue
                    sock.connect((endpoint.host, endpoint.port))
                    if number % 4:
                        break_tls(rng, sock, rng.choice([None, foreign]))
                        continue
                    sock.sendall(client_hello()[: rng.randrange(1, 150)])
                    idle.enter_context(opened.pop_all())
            assert [rank.result(60) for rank in ranks] == [{0: "tcp"}] * RANKS
        expected = np.stack(
            [np.concatenate([cells(r, step) for r in range(RANKS)]) for step in range(STEPS)]
        )
        np.testing.assert_array_equal(assembled(contract, 0, sinks), expected)
        assert {(each.rank, each.size) for each in sinks[0].hellos} == {
            (r, RANKS) for r in range(3)
        }
        assert not sinks[0].faults
        assert len(threading.enumerate()) < 40
