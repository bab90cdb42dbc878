"""Another user of the same machine, beside a whole run: what it reaches, reads and is told."""

import contextlib
import json
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from coupled_outcomes import at_step, record_of, right
from hostile_peers import break_tls, client_hello, words

from ips_components.ips_compat import make_credentials
from ips_components.wire import contact as contacts

STRANGER = Path(__file__).parent / "coupled" / "stranger.py"
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
STEPS = 12
CONNECTIONS = 1500


def _started(coupled, go_on, **parameters):
    """A run in the middle of its steps, where it stays until there is a file `go_on`."""
    flow = coupled(arguments=f"--until {go_on}", steps=STEPS, workers=2, **parameters)
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


def _question(flow, process, files):
    """What another user is to try; of some files, and of all that the run has open."""
    (run_dir,) = flow.root.glob("run_*")
    (scheduler,) = flow.root.glob("work/*Analytics*/.analytics_dask_shed_*.json")
    contact = json.loads((run_dir / "contact.json").read_text())
    known = [run_dir / "external_tasks.jsonl", run_dir / "contact.json", *files]
    return {
        "files": list(map(str, known)),
        "ports": sorted(port for _, port in _listening(process)),
        "unix": [each["unix"] for each in contact["endpoints"] if each["unix"]],
        "scheduler": json.loads(scheduler.read_text())["address"],
        "run": contact["run"],
        "pids": [each.pid for each in _family(process)],
        "uid": os.getuid(),
    }


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
def test_another_user_gets_nothing(coupled, stranger, tmp_path, parameters):
    go_on = tmp_path / "go_on"
    flow, process = _started(coupled, go_on, LIVE_PAGE=True, PRIVATE=True, **parameters)
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
    assert f'for the address, see "live_page" in {contact_file}' in flow.output()

    question = _question(flow, process, [tls / "key.pem", tls / "certificate.pem"])
    assert question["scheduler"].startswith("tls://127.0.0.1:")
    assert stranger(question) == []
    go_on.touch()
    right(flow, STEPS)
    assert not tls.exists()
    assert not contact_file.exists()


@pytest.mark.deaths
def test_another_user_finds_what_is_not_protected(coupled, stranger, tmp_path):
    """Otherwise finding nothing would mean nothing."""
    go_on = tmp_path / "go_on"
    flow, process = _started(coupled, go_on, SECURITY="none")
    found = "\n".join(stranger(_question(flow, process, [])))
    go_on.touch()
    right(flow, STEPS)
    assert "run code as user 0 by tcp" in found
    for kind in ("Scheduler", "Worker", "Nanny"):
        assert f"'type': '{kind}'" in found


def test_without_security_the_summary_says_so(coupled):
    flow = coupled(SECURITY="none", steps=4)
    ended = flow.run(110.0)
    assert ended.status == 0, ended.output + ended.log
    assert "SECURITY = none" in ended.output
    (log,) = flow.root.glob("work/*Analytics*/.ips_components/*/dask-scheduler*.log")
    assert "tcp://127.0.0.1:" in log.read_text()
    assert "SECURITY = none" not in json.dumps(record_of(flow)["cause"])


def test_files_have_no_more_permissions_than_the_umask_gives(coupled):
    """The run's directory, its logs, records and results, and what IPS makes beside them."""
    before = os.umask(0o077)
    try:
        flow = coupled(steps=4)
        ended = flow.run(110.0)
    finally:
        os.umask(before)
    assert ended.status == 0, ended.output + ended.log
    made = [path for path in flow.root.rglob("*") if not path.is_symlink()]
    assert any(path.name == "run.json" for path in made)
    assert [str(path) for path in made if _mode(path) & 0o077] == []


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
                    begun = client_hello()
                    sock.sendall(begun[: rng.randrange(1, len(begun))])
                idle.append(sock)
                opened.pop_all()
                continue
            sock.settimeout(0.5)
            if isinstance(lane, int) and rng.random() < 0.4:
                break_tls(rng, sock, own)
                continue
            for part in words(rng, contact, sock):
                sock.sendall(part)
    return idle


def _family_of(lane):
    return (socket.AF_INET if isinstance(lane, int) else socket.AF_UNIX,)


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
def test_hostile_connections_change_nothing(coupled, tmp_path, parameters):
    go_on = tmp_path / "go_on"
    flow, process = _started(coupled, go_on, **parameters)
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
    go_on.touch()
    right(flow, STEPS)
