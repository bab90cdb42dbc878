"""A small process between a launcher and what it launches, so that nothing is orphaned.

Run as a script (``python -I -S guard.py --parent PID -- COMMAND ...``), standard library only: it
starts in some 20 ms and works with any interpreter, also where this package is not installed.

As a *guard* it runs one command in a session of its own. When the command ends, when the guard is
asked to end, or when its parent dies in whatever way (kill -9 included), it ends every process that
descends from the command. It is a child subreaper, so that it knows descendants which changed
session or lost their parents. Its exit status is the command's. Scratch directories and secret
files that it was given (``--scratch``) are removed at the end.

As a *janitor* (``--janitor``) it watches one process without launching anything. When that process
is gone it kills the processes and removes the files that were entrusted to it through standard
input, and then whatever else still carries the run's mark in its environment.

As a *sweeper* (``--sweep SECONDS``) it removes the shared memory that killed processes have left
since then. Slurm runs it where a task has ended: there the guard was killed with the task.
"""

import argparse
import contextlib
import ctypes
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

MARK = "IPS_COMPONENTS_MARK"
"""Name of the environment variable that marks all that one framework process launched."""

GRACE = 4.0
"""Seconds between asking politely (SIGTERM) and not asking (SIGKILL)."""

_TRACKER_GRACE = 2.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PARENT_DIED = signal.SIGUSR1
AWAITED = {
    signal.SIGCHLD,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    _PARENT_DIED,
}
SEGMENTS = ("mpich_", "vader_segment.", "sm_segment.", "psm2_shm", "ucx_shm", "sem.mp-")
"""How names in /dev/shm begin that MPI libraries, or Python's multiprocessing, have made."""

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Ask the kernel to send *signum* to this process when the thread that made it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)


def _adopt_orphans() -> None:
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


# --- what the kernel knows about processes ----------------------------------------------------


def _stat_fields(pid: int) -> list[str]:
    """Fields of ``/proc/PID/stat`` from the state on, or nothing when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    # The command name is in brackets and may hold anything, brackets included.
    return text.rpartition(")")[2].split()


def started(pid: int) -> str:
    """Start time of a process in clock ticks, "" when it is gone: with the pid, an identity."""
    fields = _stat_fields(pid)
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def state(pid: int) -> str:
    """State letter of a process as in ``ps`` ("T": stopped), "" when it is gone."""
    return (_stat_fields(pid) or [""])[0]


def _all_pids() -> Iterator[int]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            yield int(entry.name)


def descendants(ancestor: int) -> list[int]:
    """Pids of all living processes below *ancestor*, nearest first."""
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        fields = _stat_fields(pid)
        if len(fields) > 1 and fields[0] not in "ZX":
            children.setdefault(int(fields[1]), []).append(pid)
    found: list[int] = []
    front = children.get(ancestor, [])
    while front:
        found += front
        front = [grandchild for child in front for grandchild in children.get(child, [])]
    return found


def marked(mark: str) -> list[int]:
    """Pids of living processes that were started with ``MARK=mark`` in their environment."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for pid in _all_pids():
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") and started(pid):
                found.append(pid)
    return found


def _signal_all(pids: Sequence[int], signum: int) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signum)


def _tracks_resources(pid: int) -> bool:
    """Whether a process is the one in which Python's multiprocessing notes its semaphores."""
    try:
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _segments() -> dict[Path, os.stat_result]:
    """Shared memory of MPI libraries and of multiprocessing that is ours."""
    found = {}
    for path in Path("/dev/shm").glob("*"):
        with contextlib.suppress(OSError):
            status = path.stat()
            if path.name.startswith(SEGMENTS) and status.st_uid == os.getuid():
                found[path] = status
    return found


def _unmapped(files: dict[Path, os.stat_result]) -> dict[Path, os.stat_result]:
    """Those files that no process maps.

    They are known by device and inode: the maker of a semaphore maps it under another name.
    """
    left = {
        path: f" {os.major(each.st_dev):02x}:{os.minor(each.st_dev):02x} {each.st_ino} "
        for path, each in files.items()
    }
    for pid in _all_pids() if left else ():
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
            left = {path: identity for path, identity in left.items() if identity not in maps}
    return {path: files[path] for path in left}


def remove_segments(since: float) -> None:
    """Remove segments and semaphores that processes which were killed have left behind.

    What a living MPI program or a living pool of processes needs is mapped by one of them at least.
    What no process maps, made after *since* (seconds since the epoch) and more than a moment ago,
    is waste.
    """
    recent = {path: each for path, each in _segments().items() if each.st_ctime >= since}
    waste = _unmapped(recent)
    if not waste:
        return
    youngest = max(each.st_ctime for each in waste.values())
    time.sleep(max(0.0, min(1.0, youngest + 1.0 - time.time())))
    for path in _unmapped(waste):
        path.unlink(missing_ok=True)


# --- the guard --------------------------------------------------------------------------------


def _reap(main: int, status: int | None) -> int | None:
    """Collect ended children; return the wait status of the command once it is known."""
    while True:
        try:
            pid, ended = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == main:
            status = ended


def _has_children() -> bool:
    """Whether anything is left that descends from the command: we adopt what lost its parent."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _end_descendants(main: int, status: int | None, grace: float) -> int | None:
    """TERM to the command's group, KILL to all descendants that outlive the grace."""
    deadline = time.monotonic() + grace
    if grace > 0:
        with contextlib.suppress(OSError):
            os.killpg(main, signal.SIGTERM)
        # A stopped process cannot act on SIGTERM before it is continued.
        with contextlib.suppress(OSError):
            os.killpg(main, signal.SIGCONT)
    asked: set[int] = set()
    while time.monotonic() < deadline and (status is None or descendants(os.getpid())):
        if status is not None:  # the command is gone: what it left is asked too, each once
            left = [pid for pid in descendants(os.getpid()) if pid not in asked]
            _signal_all(left, signal.SIGTERM)
            asked.update(left)
        got = signal.sigtimedwait({signal.SIGCHLD, signal.SIGQUIT}, 0.05)
        if got is not None and got.si_signo == signal.SIGQUIT:
            break
        status = _reap(main, status)
    now = time.monotonic()
    while (remaining := descendants(os.getpid())) and time.monotonic() < now + 5.0:
        # A resource tracker removes what killed processes have left, and ends by itself after that.
        others = [pid for pid in remaining if not _tracks_resources(pid)]
        _signal_all(
            others if time.monotonic() < now + _TRACKER_GRACE else remaining, signal.SIGKILL
        )
        signal.sigtimedwait({signal.SIGCHLD}, 0.05)
        status = _reap(main, status)
    return _reap(main, status)


def _start(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Start the command in a process group of its own, and return its pid.

    Raises
    ------
    OSError
        When it cannot be executed.
    """
    failed, report = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for signum in (*AWAITED, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(signum, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)
            die_with_parent(signal.SIGKILL)
            os.execvpe(command[0], list(command), dict(environment))
        except OSError as error:
            os.write(report, (error.errno or 0).to_bytes(4, "big"))
        finally:
            os._exit(127)
    os.close(report)
    number = os.read(failed, 4)
    os.close(failed)
    if number:
        os.waitpid(pid, 0)
        code = int.from_bytes(number, "big")
        raise OSError(code, os.strerror(code))
    with contextlib.suppress(OSError):  # it has done so itself already
        os.setpgid(pid, pid)
    return pid


def guard(
    command: Sequence[str],
    parent: int,
    grace: float,
    environment: Mapping[str, str] = os.environ,
) -> int:
    """Run *command* so that nothing of it outlives *parent*; return its wait status."""
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    die_with_parent(_PARENT_DIED)
    if os.getppid() != parent:  # it died before the kernel was asked to report it
        return signal.SIGTERM  # as a command that was ended for that reason
    with contextlib.suppress(OSError):  # refused to a group leader, which is apart already
        os.setsid()
    _adopt_orphans()

    started_at = time.time() - 1.0
    main, status = _start(command, environment), None
    while status is None:
        got = signal.sigtimedwait(AWAITED, 1.0)
        signum = 0 if got is None else got.si_signo
        status = _reap(main, status)
        if os.getppid() != parent or signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            status = _end_descendants(main, status, grace)
            break
        if signum == signal.SIGQUIT:
            status = _end_descendants(main, status, 0.0)
            break
    else:
        # The command is done; children that it left behind get a moment to end by themselves.
        if _has_children():
            status = _end_descendants(main, status, min(grace, 1.0))
    if status != 0:
        remove_segments(started_at)
    return signal.SIGKILL if status is None else status


def _exit_like(status: int) -> None:
    """End this process as the command ended: same exit code or same signal."""
    if os.WIFSIGNALED(status):
        signum = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command has dumped its own core
        with contextlib.suppress(OSError, ValueError):
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)
        os.kill(os.getpid(), signum)
    os._exit(os.waitstatus_to_exitcode(status) if not os.WIFSIGNALED(status) else 1)


def _remove(path: Path) -> None:
    """Remove a file or a directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# --- the janitor ------------------------------------------------------------------------------


def _entrusted() -> tuple[list[tuple[int, str]], list[Path]]:
    """Processes to kill (pid, start time) and files to remove, as written to standard input."""
    os.set_blocking(0, False)
    text = b""
    with contextlib.suppress(BlockingIOError):
        while block := os.read(0, 65536):
            text += block
    processes, files = [], []
    for line in text.decode(errors="replace").splitlines():
        word, _, rest = line.partition(" ")
        if word == "kill":
            pid, _, start = rest.partition(" ")
            processes.append((int(pid), start))
        elif word == "remove":
            files.append(Path(rest))
    return processes, files


def janitor(parent: int, mark: str, grace: float) -> None:
    """Wait for *parent* to be gone, however it went, and then clean up after it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    die_with_parent(_PARENT_DIED)
    os.setsid()
    began = time.time() - 1.0
    while os.getppid() == parent:
        signal.sigtimedwait({_PARENT_DIED, signal.SIGTERM}, 1.0)
    processes, files = _entrusted()
    for pid, start in processes:
        if start and started(pid) == start:
            _signal_all([pid], signal.SIGKILL)
    # Guards are at work now; what carries the mark after their grace has lost its guard.
    deadline = time.monotonic() + grace + 2.0
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    deadline = time.monotonic() + 3.0
    while left and time.monotonic() < deadline:
        _signal_all(left, signal.SIGKILL)
        time.sleep(0.05)
        left = marked(mark)
    for path in files:
        _remove(path)
    remove_segments(began)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parent", type=int, default=os.getppid(), help="pid whose end ends us")
    parser.add_argument("--grace", type=float, default=GRACE, help="seconds between TERM and KILL")
    parser.add_argument(
        "--scratch", action="append", default=[], help="directory or file to remove at the end"
    )
    parser.add_argument("--janitor", metavar="MARK", help="watch and clean up, launch nothing")
    parser.add_argument(
        "--sweep", type=float, metavar="SECONDS", help="remove what was left since the epoch + this"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND [ARGUMENT ...]")
    options = parser.parse_args(argv)
    if options.janitor:
        janitor(options.parent, options.janitor, options.grace)
        return
    if options.sweep is not None:
        remove_segments(options.sweep)
        return
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("no command given")
    try:
        status = guard(command, options.parent, options.grace)
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error}\n")
        os._exit(127)
    finally:
        for path in options.scratch:
            _remove(Path(path))
            with contextlib.suppress(OSError):  # not empty: other guards have scratch there
                Path(path).parent.rmdir()
    sys.stderr.flush()
    _exit_like(status)


if __name__ == "__main__":
    main()
