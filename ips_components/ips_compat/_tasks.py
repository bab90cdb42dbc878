"""Tasks of a component, each under a guard that a server forks."""

import array
import contextlib
import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ips_components.errors import IPSComponentsError
from ips_components.ips_compat import guard

_ANSWER_TIME_OUT = 30.0
_SERVER = Path(__file__).with_name("guard_server.py")


class TaskProcess:
    """A task, with the methods of ``subprocess.Popen`` that IPS calls.

    Its pid is the guard's; `kill` and `terminate` take the whole task, with all that descends
    from it.
    """

    def __init__(self, server: "GuardServer", pid: int, status: int, args: Sequence[str]) -> None:
        self.pid = pid
        self.args = list(args)
        self.returncode: int | None = None
        self._server = server
        self._status = status

    def poll(self) -> int | None:
        """Exit status, as ``Popen`` gives it; None while the task runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._finish()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the task; returns the exit status.

        Raises
        ------
        subprocess.TimeoutExpired
            When it has not ended in time.
        """
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._status, select.POLLIN)
            if not poll.poll(None if timeout is None else max(0.0, timeout) * 1000):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self._finish()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """Send a signal to the guard, unless the task has ended."""
        if self.poll() is None:
            self._server.signal(self.pid, signum)

    def terminate(self) -> None:
        """Ask the task to end; what has not ended after a grace is killed."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the task at once, with all that descends from it."""
        self.send_signal(signal.SIGQUIT)
        try:
            self.wait(guard.GRACE + 6.0)
        except subprocess.TimeoutExpired:
            self.send_signal(signal.SIGKILL)

    def _finish(self) -> None:
        data = os.read(self._status, 4)
        os.close(self._status)
        # A guard that was killed itself has written nothing.
        status = int.from_bytes(data, "big", signed=True) if len(data) == 4 else signal.SIGKILL
        self.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def __del__(self) -> None:
        if self.returncode is None:
            with contextlib.suppress(OSError):
                os.close(self._status)


class GuardServer:
    """Starts guards for the tasks of this process; made when it is first needed."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SERVER), str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        ours.settimeout(_ANSWER_TIME_OUT)
        self._connection = ours
        self._lock = threading.Lock()
        self.pid = os.getpid()

    def launch(
        self,
        command: Sequence[str],
        directory: str | os.PathLike[str],
        environment: Mapping[str, str],
        output: int,
        error: int,
    ) -> TaskProcess:
        """Run a command under a guard.

        Parameters
        ----------
        command
            The command and its arguments.
        directory
            Its working directory.
        environment
            All of its environment variables.
        output, error
            Descriptors of its standard output and error.

        Raises
        ------
        OSError
            When no process can be made.
        """
        request = {
            "command": list(command),
            "directory": os.fspath(directory),
            "environment": dict(environment),
            "grace": guard.GRACE,
            "umask": _umask(),
            "cpus": sorted(os.sched_getaffinity(0)),
            "limits": [resource.getrlimit(limit) for limit in _limits()],
        }
        status, report = os.pipe2(os.O_CLOEXEC)
        try:
            pid = self._ask(request, [output, error, report])
        except BaseException:
            os.close(status)
            raise
        finally:
            os.close(report)
        return TaskProcess(self, pid, status, command)

    def signal(self, pid: int, signum: int) -> None:
        """Send a signal to a guard, if it has not ended."""
        with contextlib.suppress(OSError, IPSComponentsError):
            self._ask({"pid": pid, "signal": int(signum)}, [])

    @property
    def usable(self) -> bool:
        """Whether it serves this process, which may have been forked from another one."""
        return self.pid == os.getpid() and self._process.poll() is None

    def close(self) -> None:
        """Close the connection; the server ends, and its tasks are ended."""
        self._connection.close()

    def _ask(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> int:
        data = json.dumps(request).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        with self._lock:
            try:
                head = len(data).to_bytes(4, "big")
                self._connection.sendmsg([head], rights if descriptors else [])
                self._connection.sendall(data)
                answer = self._connection.recv(4, socket.MSG_WAITALL)
            except (TimeoutError, ConnectionError):
                answer = b""
        if len(answer) < 4:
            self._process.kill()
            raise IPSComponentsError(
                f"the process that launches tasks (guard server, pid {self._process.pid}) did not "
                f"answer within {_ANSWER_TIME_OUT:g} s: was it killed, or is the node out of "
                "memory or processes?"
            )
        pid = int.from_bytes(answer, "big", signed=True)
        if pid < 0:
            raise OSError(-pid, f"cannot start a process: {os.strerror(-pid)}")
        return pid


_server: GuardServer | None = None
_made = threading.Lock()


def launch_guarded(
    command: Sequence[str],
    directory: str | os.PathLike[str],
    environment: Mapping[str, str],
    output: int,
    error: int,
) -> TaskProcess:
    """Run a command under a guard of this process; see `GuardServer.launch`."""
    global _server
    with _made:
        if _server is not None and not _server.usable:
            _server.close()
            _server = None
        if _server is None:
            _server = GuardServer()
    return _server.launch(command, directory, environment, output, error)


def _umask() -> int:
    """File mode creation mask; asking the usual way would change it for a moment."""
    match = re.search(r"^Umask:\s*([0-7]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(match[1], 8) if match else 0o022


def _limits() -> tuple[int, ...]:
    """Resource limits in the order in which the server expects them."""
    names = (name for name in vars(resource) if name.startswith("RLIMIT_"))
    return tuple(sorted({getattr(resource, name) for name in names}))
