"""A process that cleans up after a framework that is killed."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ips_components.ips_compat import guard
from ips_components.ips_compat._launch import GUARD


def start_janitor(mark: str, pipes: Iterable[Path]) -> "subprocess.Popen[bytes]":
    """Entrust to a process of its own what is to be cleaned up if this one is killed.

    Parameters
    ----------
    mark
        Which all processes that this one starts from now on have in their environment.
    pipes
        Files to remove.
    """
    environment = {k: v for k, v in os.environ.items() if k != guard.MARK}
    command = [sys.executable, "-I", "-S", str(GUARD)]
    janitor = subprocess.Popen(
        [*command, "--parent", str(os.getpid()), "--janitor", mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    os.environ[guard.MARK] = mark
    if "PYTHONPATH" in os.environ:
        # Components and tasks run in other directories; what was meant is from here.
        entries = os.environ["PYTHONPATH"].split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(str(Path.cwd() / each) for each in entries)
    children = [child.pid for child in multiprocessing.active_children() if child.pid]
    lines = [f"kill {pid} {guard.started(pid)}" for pid in children]
    lines += [f"remove {path}" for path in pipes]
    lines.append(f"remove {scratch_directory(mark)}")
    if janitor.stdin is not None:
        janitor.stdin.write("".join(f"{line}\n" for line in lines).encode())
        janitor.stdin.flush()
    janitor.returncode = 0  # it outlives us on purpose: keep Popen from complaining
    return janitor


def scratch_directory(mark: str) -> Path:
    """Directory on the node for what must not outlive the run."""
    return Path(tempfile.gettempdir()) / f"ips_components-{mark}"
