"""Runs of IPS in the container tests: started, watched from outside, and awaited."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

CONFIG = "examples/shifter/inside.config"
HEAT2D = "configs/heat2d_ipca.config"
PLATFORM = """\
HOST = here
MPIRUN = mpiexec
NODE_DETECTION = manual
NODES = 1
PROCS_PER_NODE = 8
CORES_PER_NODE = 8
SOCKETS_PER_NODE = 1
NODE_ALLOCATION_MODE = SHARED
"""


def start_ips(workspace: Path, config: str = CONFIG, **changed: str) -> subprocess.Popen[str]:
    """Start one config in the workspace, with some of its lines changed."""
    path = workspace / config
    lines = path.read_text().splitlines()
    for name, value in changed.items():
        (at,) = (i for i, line in enumerate(lines) if line.strip().startswith(f"{name} ="))
        lines[at] = f"{name} = {value}"
    path.write_text("\n".join(lines) + "\n")
    ips = str(Path(sys.executable).with_name("ips.py"))
    return subprocess.Popen(
        [ips, f"--config={config}", "--platform=platform.conf"],
        cwd=workspace,
        env={**os.environ, "PWD": str(workspace)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_ips(workspace: Path, config: str = CONFIG, **changed: str) -> tuple[int, str]:
    """Run one config to its end; return the exit status and what was written."""
    ips = start_ips(workspace, config, **changed)
    output, _ = ips.communicate(timeout=180)
    return ips.returncode, output


def wait_for(condition: Callable[[], object], what: str, seconds: float) -> None:
    """Poll `condition` until it is true; after `seconds` raise TimeoutError that says `what`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.05)


def processes_of(workspace: Path) -> list[list[str]]:
    """Command lines with the workspace in them, seen from outside the container."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            words = process.cmdline()
            if any(str(workspace) in word for word in words):
                found.append(words)
    return found
