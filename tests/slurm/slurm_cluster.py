"""A real Slurm of several nodes on this one machine, for the life of a test session.

One ``munged``, one ``slurmctld`` and one ``slurmd`` per node, each in the foreground as a child of
this process, with ports, keys, state and logs of their own below one directory. Nothing of a Slurm
or MUNGE that the machine may have is read, written or contacted.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo", "srun", "sbatch", "scontrol", "scancel")
FINAL_STATES = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"}
)
# Every process of a job carries this variable, however it was started and whatever became of its
# parent: it is how the tests find what a job left behind.
TAG = "IPS_COMPONENTS_TEST_JOB"

_CONF = """\
ClusterName=ipstest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
# No systemd, no cgroups and no job database are asked of the machine.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=pmi2
# The machine may have fewer cores than the nodes pretend to have.
SlurmdParameters=config_overrides
ReturnToService=2
MailProg=/bin/true
# Short waits, since a test waits for them: TERM to KILL, and from submission to start.
KillWait=3
SchedulerParameters=batch_sched_delay=0,sched_interval=1,defer_batch
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
{nodes}
PartitionName=test Nodes=ALL Default=YES State=UP OverSubscribe=NO
"""


def missing_programs() -> list[str]:
    """Names of the programs that a cluster needs and that this machine lacks."""
    return [name for name in PROGRAMS if _which(name) is None]


def wait_for(condition: Callable[[], object], what: str, seconds: float) -> None:
    """Poll `condition` until it is true; after `seconds` raise TimeoutError that says `what`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.05)


def processes_tagged(tag: str) -> list[psutil.Process]:
    """Return the living processes whose environment carries `tag`."""
    wanted = f"{TAG}={tag}".encode()
    found = []
    for process in psutil.process_iter():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            if wanted in environment.split(b"\0") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (OSError, psutil.NoSuchProcess):
            continue
    return found


@dataclass(slots=True)
class Job:
    """One batch job: its id, its tag and where its output goes."""

    cluster: SlurmCluster
    id: int
    tag: str
    output: Path

    def info(self) -> dict[str, str]:
        """What ``scontrol show job`` says, as a dictionary."""
        text = self.cluster.run("scontrol", "-o", "show", "job", str(self.id))
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def state(self) -> str:
        """Return the state of the job, as Slurm spells it."""
        return self.info()["JobState"]

    def wait(self, seconds: float) -> str:
        """Wait until the job has ended and return its final state."""
        try:
            wait_for(lambda: self.state() in FINAL_STATES, f"the end of job {self.id}", seconds)
        except TimeoutError as error:
            error.add_note(f"state {self.state()}; its output so far:\n{self.text()}")
            raise
        return self.state()

    def exit_code(self) -> int:
        """Exit code of the batch script; 128 + the signal when one ended it."""
        code, signum = map(int, self.info()["ExitCode"].split(":"))
        return code or (128 + signum if signum else 0)

    def text(self) -> str:
        """Return everything that the job has written so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def steps(self) -> dict[str, str]:
        """Nodes of each running step, by step id, without the batch step."""
        text = self.cluster.run("squeue", "-h", "-s", "-j", str(self.id), "-o", "%i %N")
        pairs = (line.split() for line in text.splitlines())
        return {step: nodes for step, nodes in pairs if step.split(".")[1].isdigit()}

    def nodes(self) -> list[str]:
        """Names of the nodes that the job has."""
        return self.cluster.run("scontrol", "show", "hostnames", self.info()["NodeList"]).split()

    def processes(self) -> list[psutil.Process]:
        """Return the living processes that this job started, wherever their parent is now."""
        return processes_tagged(self.tag)

    def processes_with(self, word: str, program: str = "") -> list[psutil.Process]:
        """Those of `processes` with `word` in their command line, running `program`."""
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                if any(word in each for each in words) and program in Path(words[0]).name:
                    found.append(process)
        return found

    def cancel(self) -> None:
        """Cancel the job, as its user would."""
        self.cluster.run("scancel", str(self.id))

    def end(self, seconds: float = 30.0) -> None:
        """Cancel the job where it is still alive, and wait until it is not."""
        if self.state() not in FINAL_STATES:
            self.cancel()
            self.wait(seconds)

    def assert_nothing_left(self, seconds: float = 15.0) -> None:
        """Fail unless every process of the job is gone within `seconds`."""
        try:
            wait_for(lambda: not self.processes(), "the job's processes to be gone", seconds)
        except TimeoutError:
            left = [" ".join(process.cmdline()) for process in self.processes()]
            raise AssertionError(f"job {self.id} left {left}\n{self.text()}") from None


@dataclass(slots=True)
class SlurmCluster:
    """The daemons of one cluster and the commands that talk to them.

    Attributes
    ----------
    root : Path
        Directory of everything that the cluster writes; a short path, since a socket lies in it.
    nodes : int
        How many nodes, called ``n1``, ``n2`` and so on.
    cpus : int
        CPUs of each node, whatever the machine has.
    """

    root: Path
    nodes: int = 3
    cpus: int = 4
    jobs: list[Job] = field(default_factory=list)
    _daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, seconds: float = 60.0) -> None:
        """Start the daemons and wait until every node is idle."""
        (self.root / "state").mkdir(parents=True)
        self.root.chmod(0o755)  # munged wants its socket's directory to be searchable
        key = self.root / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        controller_port, *ports = _free_ports(1 + self.nodes)
        host = socket.gethostname()
        nodes = "\n".join(
            f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus}"
            for i, port in enumerate(ports, start=1)
        )
        for i in range(1, self.nodes + 1):
            (self.root / f"spool.n{i}").mkdir()
        (self.root / "slurm.conf").write_text(
            _CONF.format(host=host, controller_port=controller_port, root=self.root, nodes=nodes)
        )
        socket_path = self.root / "munge.socket"
        # --force: the path above may be open to others, as /tmp is.
        self._spawn(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={socket_path}",
            f"--pid-file={self.root}/munged.pid", f"--seed-file={self.root}/munged.seed",
            f"--log-file={self.root}/munged.log",
        )  # fmt: skip
        wait_for(socket_path.exists, f"munged to open its socket; see {self.root}", 20)
        self._spawn("slurmctld", "-D", "-c")
        for i in range(1, self.nodes + 1):
            self._spawn("slurmd", "-D", "-N", f"n{i}")
        wait_for(self._all_idle, f"{self.nodes} idle nodes; logs in {self.root}", seconds)

    def stop(self) -> None:
        """End the daemons and whatever of a job still runs; remove all files."""
        for signum in (signal.SIGTERM, signal.SIGKILL):
            for daemon in reversed(self._daemons):
                if daemon.poll() is None:
                    daemon.send_signal(signum)
            try:
                wait_for(lambda: all(d.poll() is not None for d in self._daemons), "daemons", 10)
            except TimeoutError:
                continue
            break
        self._daemons.clear()
        # What runs a step outlives its slurmd, and a job's processes outlive that.
        left = [*self._step_daemons(), *(p for job in self.jobs for p in job.processes())]
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, 10)
        shutil.rmtree(self.root)

    def environment(self) -> dict[str, str]:
        """Environment in which Slurm's commands find this cluster."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        # Over libfabric, MPICH 5.0.2 sometimes waits in MPI_Init for ever where nodes have several
        # ranks each, which speak through shared memory: 1 time in 8, with both cores busy.
        own = {"SLURM_CONF": str(self.root / "slurm.conf"), "MPIR_CVAR_NOLOCAL": "1"}
        return {**inherited, **own}

    def run(self, *command: str, timeout: float = 60.0, **environment: str) -> str:
        """Run one of Slurm's commands and return its output; raise when it fails."""
        done = subprocess.run(
            [_which(command[0]) or command[0], *command[1:]],
            env={**self.environment(), **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def sbatch(
        self, script: Path, *options: str, cwd: Path, arguments: tuple[str, ...] = (), **env: str
    ) -> Job:
        """Submit `script` from `cwd`; `options` are sbatch's, `env` goes to the job."""
        tag = secrets.token_hex(8)
        output = cwd / f"job-{tag}.out"
        text = self.run(
            "sbatch", "--parsable", f"--chdir={cwd}", f"--output={output}", *options,
            str(script), *arguments, **{TAG: tag, **env},
        )  # fmt: skip
        job = Job(self, int(text.split(";")[0]), tag, output)
        self.jobs.append(job)
        return job

    def idle_nodes(self) -> int:
        """How many nodes are idle now."""
        states = self.run("sinfo", "-h", "-N", "-o", "%T").split()
        return states.count("idle")

    def _all_idle(self) -> bool:
        for daemon in self._daemons:
            if daemon.poll() is not None:
                raise RuntimeError(f"{daemon.args} ended with {daemon.returncode}:\n{self._logs()}")
        try:
            return self.idle_nodes() == self.nodes
        except RuntimeError:  # the controller does not answer yet
            return False

    def _step_daemons(self) -> list[psutil.Process]:
        """Return this cluster's slurmstepd, known by the directory in which slurmd started them."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.name() == "slurmstepd" and Path(process.cwd()) == self.root:
                    found.append(process)
        return found

    def _logs(self) -> str:
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}"
            for log in sorted(self.root.glob("*.log"))
        )

    def _spawn(self, *command: str) -> None:
        program = _which(command[0])
        with (self.root / f"{command[0]}.output.log").open("ab") as output:
            self._daemons.append(
                subprocess.Popen(
                    [program or command[0], *command[1:]],
                    env=self.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self.root,
                )
            )


def _which(program: str) -> str | None:
    """Find `program` also where daemons live, which is not on every user's PATH."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")


def _free_ports(count: int) -> list[int]:
    """Return `count` different TCP ports that were free just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
