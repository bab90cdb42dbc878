"""What changes inside the process of a component: it cannot be orphaned, nor orphan its tasks.

Every task goes through :mod:`~ips_components.ips_compat.guard`; an answer that cannot be pickled
reaches the framework as a failure that says so, instead of getting lost in a queue.
"""

import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

from ips_components.ips_compat import guard
from ips_components.ips_compat._ips import Component, ServicesProxy
from ips_components.ips_compat._queues import PickleCheckedQueue

GUARD = Path(guard.__file__).resolve()

DIRECTORY = ".ips_components"
"""Where scripts and logs of ours are, below the working directory of a component."""

_TASK_EPILOG = "SLURM_TASK_EPILOG"
"""What srun reads as its option ``--task-epilog``."""

_CLOCKS_DIFFER = 60.0
_EPILOG = """\
#!/bin/sh
# Written by ips_components: Slurm runs this on the node after each task, also after one that it
# has killed together with its guard. Shared memory that nobody maps any more is removed.
for each in {patterns}; do
    if [ -O "$each" ]; then
        exec {sweep}
    fi
done
"""


def guard_command(*options: str) -> list[str]:
    """Beginning of a command line that runs what follows under a guard."""
    return [sys.executable, "-I", "-S", str(GUARD), *options, "--"]


def write_epilog(directory: Path, since: float) -> Path:
    """Write the script for the end of a task of Slurm.

    Parameters
    ----------
    directory
        A directory that all nodes of the job can see; made if need be.
    since
        Shared memory that is older, in seconds since the epoch, is none of ours.
    """
    *python, _ = guard_command("--sweep", f"{since:.0f}")
    script = directory / "task-epilog"
    directory.mkdir(parents=True, exist_ok=True)
    draft = script.with_suffix(f".{os.getpid()}.draft")
    patterns = " ".join(f"/dev/shm/{name}*" for name in guard.SEGMENTS)
    draft.write_text(_EPILOG.format(patterns=patterns, sweep=shlex.join(python)))
    draft.chmod(0o755)
    draft.replace(script)
    return script


def _prepare_slurm(working_dir: str) -> None:
    """Have Slurm tidy up after tasks that it kills with their guards; a user's epilog stays."""
    if "SLURM_JOB_ID" in os.environ and _TASK_EPILOG not in os.environ:
        since = time.time() - _CLOCKS_DIFFER
        os.environ[_TASK_EPILOG] = str(write_epilog(Path(working_dir, DIRECTORY), since))


class GuardedProcess:
    """A task's process as IPS sees it; ``kill`` takes the whole task, not only its guard."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def kill(self) -> None:
        """End the task at once, with all that descends from it."""
        self._process.send_signal(signal.SIGQUIT)
        try:
            self._process.wait(guard.GRACE + 6.0)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)


terminating = threading.Event()
"""Set in a component's process that was asked to end: the framework answers no more."""


def _terminate(signum: int, _frame: object) -> NoReturn:
    terminating.set()
    raise SystemExit(128 + signum)


def _prepare_process(component: Component) -> None:
    """First thing in a component's process: tie its life to the framework's."""
    guard.die_with_parent(signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)  # the framework died before the kernel was asked to send a signal
    # Ctrl-C reaches the whole foreground group; the framework alone answers it, and ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminate)
    component.services.fwk_in_q = PickleCheckedQueue(component.services.fwk_in_q)


def install() -> None:
    """Change ipsframework's classes for all components that are created from now on."""
    run, launch = Component.__run__, ServicesProxy._launch_task
    send_event = ServicesProxy._send_monitor_event

    @wraps(run)
    def __run__(self: Component) -> None:
        _prepare_process(self)
        run(self)

    @wraps(launch)
    def _launch_task(
        self: ServicesProxy, nproc: int, working_dir: str, task_id: int, command: str, *rest: Any
    ) -> int:
        _prepare_slurm(working_dir)
        guarded = " ".join([*guard_command("--parent", str(os.getpid())), command])
        launched: int = launch(self, nproc, working_dir, task_id, guarded, *rest)
        task = self.task_map[launched]
        self.task_map[launched] = task._replace(
            process=GuardedProcess(task.process), command=command
        )
        return launched

    @wraps(send_event)
    def _send_monitor_event(
        self: ServicesProxy, eventType: str = "", comment: str = "", **keywords: Any
    ) -> None:
        # The portal's log is read line by line: a comment of several lines ends the portal bridge.
        send_event(self, eventType, " ".join(comment.splitlines()), **keywords)

    Component.__run__ = __run__
    ServicesProxy._send_monitor_event = _send_monitor_event
    ServicesProxy._launch_task = _launch_task
