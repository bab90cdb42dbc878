"""Another user of the same machine, beside a whole run: what it reaches, reads and is told."""

import contextlib
import json
import os
import random
import shutil
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from coupled_outcomes import at_step, record_of, right

from ips_components.errors import IPSComponentsError
from ips_components.ips_compat import make_credentials
from ips_components.wire import contact as contacts
from ips_components.wire import framing, proof
from ips_components.wire import messages as m

STRANGER = Path(__file__).parent / "coupled" / "stranger.py"
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
STEPS = 40
CONNECTIONS = 1500


def _started(coupled, **parameters):
    """A run in the middle of its steps."""
    flow = coupled(steps=STEPS, pace=0.5, workers=2, **parameters)
    process = flow.start()
    flow.wait_for("The contract", 110.0)
    at_step(flow, 1)
    return flow, process


def _family(process):
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def _listening(process):
    """Addresses on which the processes of a run listen, without those that MPI opens.

    The launcher passes its port on to what it launches, and ranks open ports of MPI's own.
    """
    ours, of_mpi = set(), set()
    for each in _family(process):
        try:
            connections = each.net_connections(kind="inet")
            command = each.cmdline()
        except psutil.NoSuchProcess:
            continue
        found = {c.laddr[:2] for c in connections if c.status == psutil.CONN_LISTEN}
        mpi = {"mpiexec", "hydra_pmi_proxy", "field.py"} & {Path(word).name for word in command}
        (of_mpi if mpi else ours).update(found)
    return ours - of_mpi


def _with(secret, directory):
    """Files below a directory in which a secret stands."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path for path in files if secret.encode() in path.read_bytes()}


def _ask(question):
    """Have another user try what it can."""
    program = [*AS_NOBODY, sys.executable, "-B", STRANGER]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "DASK_CONFIG": "/nonexistent",
    }
    asked = subprocess.run(
        program,
        input=json.dumps(question),
        stdout=subprocess.PIPE,
        text=True,
        timeout=100,
        check=True,
        env=environment,
    )
    return json.loads(asked.stdout)


@pytest.fixture
def stranger():
    """Another user, who can run this Python."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user, with the command setpriv")
    able = [*AS_NOBODY, sys.executable, "-B", "-c", "import distributed"]
    if subprocess.run(able, capture_output=True, check=False).returncode != 0:
        pytest.skip("another user cannot run this Python")
    return _ask


def _mode(path):
    return stat.S_IMODE(path.stat().st_mode)


SETTINGS = [
    pytest.param({}, id="default"),
    pytest.param({"SECURITY": "tls", "LANES": "tcp"}, id="tls", marks=pytest.mark.deaths),
]


@pytest.mark.parametrize("parameters", SETTINGS)
def test_another_user_gets_nothing(coupled, stranger, parameters):
    flow, process = _started(coupled, LIVE_PAGE=True, PRIVATE=True, **parameters)
    listening = _listening(process)
    assert listening
    assert {host for host, _ in listening} <= {"127.0.0.1", "::1"}

    (run_dir,) = flow.root.glob("run_*")
    contact_file, tls = run_dir / "contact.json", run_dir / ".tls"
    contact = json.loads(contact_file.read_text())
    assert (_mode(run_dir), _mode(contact_file), _mode(tls)) == (0o700, 0o600, 0o700)
    for secret in (contact["token"], contact["live_page"]):
        assert _with(secret, flow.directory) <= {contact_file}
        assert not any(secret in " ".join(each.cmdline()) for each in _family(process))
    assert f"its address is live_page in {contact_file}" in flow.output()

    (scheduler,) = flow.root.glob("work/*Analytics*/.analytics_dask_shed_*.json")
    question = {
        "files": [
            str(run_dir / "external_tasks.jsonl"),
            str(contact_file),
            str(tls / "key.pem"),
            str(tls / "certificate.pem"),
        ],
        "ports": sorted(port for _, port in listening),
        "unix": [each["unix"] for each in contact["endpoints"] if each["unix"]],
        "scheduler": json.loads(scheduler.read_text())["address"],
        "pids": [each.pid for each in _family(process)],
        "uid": os.getuid(),
    }
    assert question["scheduler"].startswith("tls://127.0.0.1:")
    assert stranger(question) == []
    right(flow, STEPS)
    assert not tls.exists()
    assert not contact_file.exists()


def test_without_security_the_summary_says_so(coupled):
    flow = coupled(SECURITY="none", steps=4)
    ended = flow.run(110.0)
    assert ended.status == 0, ended.output + ended.log
    assert "SECURITY = none" in ended.output
    (log,) = flow.root.glob("work/*Analytics*/.ips_components/*/dask-scheduler*.log")
    assert "tcp://127.0.0.1:" in log.read_text()
    assert "SECURITY = none" not in json.dumps(record_of(flow)["cause"])


def _hostile(run, process, seed):
    """Connections that end, say nothing, or say what they should not, to every port of a run."""
    rng = random.Random(seed)
    contact = contacts.read(run)
    ports = [port for _, port in _listening(process)]
    unix = [each.unix for each in contact.endpoints]
    own = make_credentials(run.parent.parent / "stranger")
    idle = []
    for number in range(CONNECTIONS):
        lane = rng.choice([*ports, *unix])
        with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
            # Where it is closed, that is the best answer.
            sock = opened.enter_context(socket.socket(*_family_of(lane)))
            sock.settimeout(5)
            sock.connect(("127.0.0.1", lane) if isinstance(lane, int) else "\0" + lane[1:])
            if number % 8 == 0:  # says nothing more, some in the middle of a TLS handshake
                if number % 16 == 0:
                    begun = _client_hello()
                    sock.sendall(begun[: rng.randrange(1, len(begun))])
                idle.append(sock)
                opened.pop_all()
                continue
            sock.settimeout(0.5)
            if isinstance(lane, int) and rng.random() < 0.4:
                _break_tls(rng, sock, own)
                continue
            for part in _words(rng, contact, sock):
                sock.sendall(part)
    return idle


def _tls_client(own):
    """A client without a certificate, or with one of an authority of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    return context


def _client_hello():
    out = ssl.MemoryBIO()
    side = _tls_client(None).wrap_bio(ssl.MemoryBIO(), out)
    with contextlib.suppress(ssl.SSLWantReadError):
        side.do_handshake()
    return out.read()


def _break_tls(rng, sock, own):
    """A handshake that ends in its middle, goes on with noise, or is done by a stranger."""
    match rng.randrange(4):
        case 0:
            sock.sendall(_client_hello()[: rng.randrange(1, 200)])
        case 1:
            sock.sendall(_client_hello() + rng.randbytes(300))
        case 2:
            sock.sendall(_client_hello())
            sock.recv(1 << 16)
            sock.sendall(rng.randbytes(300))
        case 3:
            context = _tls_client(rng.choice([None, own]))
            with context.wrap_socket(sock) as secured:
                secured.sendall(framing.pack(m.Greeting(rng.randbytes(32))))
                secured.recv(1 << 16)


def _family_of(lane):
    return (socket.AF_INET if isinstance(lane, int) else socket.AF_UNIX,)


def _words(rng, contact, sock):
    """Parts of a conversation, the last of them wrong."""
    greeting = m.Greeting(rng.randbytes(32))
    yield rng.choice([b"GET / HTTP/1.1\r\n\r\n", rng.randbytes(200), framing.pack(greeting)])
    if rng.random() < 0.5 or sock.family != socket.AF_UNIX:
        yield rng.randbytes(rng.choice([1, 40, 400]))
        return
    # This one knows the token, and breaks the protocol.
    try:
        (challenge,) = framing.Decoder().feed(sock.recv(1 << 16))
        good = {"run": contact.run, "rank": 1, "size": 2, "pid": 1, "session": rng.randrange(9)}
        wrong = rng.choice(
            [
                {"size": 7},
                {"rank": 2**31 - 1},
                {"rank": 5},
                {"run": "another"},
                {"info": b"{" * 5000},
                {"info": json.dumps({"arrays": [{"name": "field", "shape": [-1]}]}).encode()},
                {"info": json.dumps({"blocks": {"field": [[[1e300], [2]]]}}).encode()},
            ]
        )
        hello = m.Hello(**{**good, **wrong})
        answered = framing.pack(proof.answer(hello, contact.secret, greeting, challenge))
        yield rng.choice([answered, answered[: len(answered) // 2], answered * 2])
        yield rng.choice([framing.pack(m.Credit(0, 1)), framing.pack(m.Want(9, 1 << 60)), b""])
        yield rng.randbytes(100)
    except (IPSComponentsError, ValueError):
        return


def _size(process):
    """Descriptors, threads and memory of the processes of a run, the largest of each."""
    sizes = []
    for each in _family(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            sizes.append((each.num_fds(), each.num_threads(), each.memory_info().rss))
    return [max(column) for column in zip(*sizes, strict=True)]


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize("parameters", [{}, {"SECURITY": "tls", "LANES": "tcp, shm"}])
def test_hostile_connections_change_nothing(coupled, parameters):
    flow, process = _started(coupled, **parameters)
    (run,) = flow.root.glob("run_*/contact.json")
    before = _size(process)
    idle = _hostile(run, process, seed=1)
    descriptors, threads, memory = _size(process)
    for sock in idle:
        sock.close()
    assert descriptors <= before[0] + 400
    assert threads <= before[1] + 40
    assert memory <= before[2] + (200 << 20)
    logs = [path for path in flow.directory.rglob("*") if path.suffix in (".log", ".txt")]
    assert sum(path.stat().st_size for path in logs) < 3 << 20
    right(flow, STEPS)
