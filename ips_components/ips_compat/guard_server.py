"""A process that makes guards at the price of a fork, for a component that launches many tasks.

A guard that is started as a script costs some 40 ms, most of it for the start of Python. This
server (``python -I -S guard_server.py FD``) starts once for a component, and forks a guard for each
task that it is asked for through a socket. When the component is gone, in whatever way, the server
ends, and with it, by their own rules, its guards.

A request is a length and JSON, with the descriptors of the task's standard output and error and of
a pipe for its exit status beside it. The answer is the guard's pid.
"""

import array
import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parent))  # nothing of the package is needed, nor imported

import guard

LIMITS = tuple(
    sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})
)
LENGTH = struct.Struct("!I")
ANSWER = struct.Struct("!i")
STATUS = struct.Struct("!i")
N_DESCRIPTORS = 3


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Return a request and its descriptors; None when the component is gone."""
    descriptors = array.array("i")
    room = socket.CMSG_SPACE(N_DESCRIPTORS * descriptors.itemsize)
    head, ancillary, _, _ = connection.recvmsg(LENGTH.size, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    while head and len(head) < LENGTH.size:
        more = connection.recv(LENGTH.size - len(head))
        head = head + more if more else b""
    if not head:
        return None
    (left,) = LENGTH.unpack(head)
    parts = []
    while left:
        part = connection.recv(min(left, 1 << 20))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    request: dict[str, Any] = json.loads(b"".join(parts))
    return request, list(descriptors)


class Server:
    """Forks guards on request, and reaps them."""

    def __init__(self, connection: socket.socket, parent: int) -> None:
        self.connection = connection
        self.parent = parent
        self.pid = os.getpid()
        self.guards: set[int] = set()

    def serve(self) -> None:
        """Serve until the component is gone."""
        read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for signum in guard.AWAITED:
            signal.signal(signum, lambda *_: None)  # the component's end is what ends us
        guard.die_with_parent(signal.SIGUSR1)
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        poll.register(read_end, select.POLLIN)
        while os.getppid() == self.parent:
            ready = {descriptor for descriptor, _ in poll.poll(1000)}
            if read_end in ready:
                os.read(read_end, 4096)
            if self.connection.fileno() in ready:
                got = receive(self.connection)
                if got is None:
                    return
                self.answer(*got)
            self.reap()

    def answer(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """Launch, or pass on a signal; guards are not reaped meanwhile, so that pids are theirs."""
        try:
            pid = request.get("pid", 0)
            if "signal" in request:
                if pid in self.guards:
                    os.kill(pid, request["signal"])
            else:
                # A signal for the new guard waits until the guard is ready for it.
                signal.pthread_sigmask(signal.SIG_BLOCK, guard.AWAITED)
                pid = os.fork()
                if pid == 0:
                    self._become_guard(request, descriptors)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, guard.AWAITED)
                self.guards.add(pid)
        except OSError as error:
            pid = -(error.errno or 1)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self.connection.sendall(ANSWER.pack(pid))

    def reap(self) -> None:
        """Collect guards that have ended."""
        while self.guards:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self.guards.discard(pid)

    def _become_guard(self, request: dict[str, Any], descriptors: list[int]) -> NoReturn:
        """Run the command of a request; the exit status is that of the command."""
        status = 127 << 8
        try:
            signal.set_wakeup_fd(-1)
            output, error, report = descriptors
            os.dup2(output, 1)
            os.dup2(error, 2)
            os.set_inheritable(1, True)
            os.set_inheritable(2, True)
            self.connection.close()
            os.umask(request["umask"])
            os.sched_setaffinity(0, request["cpus"])
            for limit, values in zip(LIMITS, request["limits"], strict=True):
                if list(resource.getrlimit(limit)) != values:
                    resource.setrlimit(limit, (values[0], values[1]))
            os.chdir(request["directory"])
            status = guard.guard(
                request["command"], self.pid, request["grace"], request["environment"]
            )
        except OSError as problem:
            os.write(2, f"cannot run {request['command'][0]}: {problem}\n".encode())
        finally:
            with contextlib.suppress(OSError):  # the component does not want to know any more
                os.write(report, STATUS.pack(status))
            os._exit(0)


def main() -> None:
    """Entry point of the script."""
    os.setsid()
    gc.disable()  # a collection would copy all pages that a fork shares
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    Server(connection, int(sys.argv[2])).serve()


if __name__ == "__main__":
    main()
