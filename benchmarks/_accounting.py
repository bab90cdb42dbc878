"""Wall and core-seconds of a command with all that it starts, orphans included.

Run as a program: ``python -m benchmarks._accounting FILE -- COMMAND ...`` writes the figures as
JSON. It is a process of its own because the kernel adds up the times of waited-for children only:
this one adopts orphans (``PR_SET_CHILD_SUBREAPER``) and waits for every one of them.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36


def measured(
    command: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    timeout: float = 600.0,
) -> dict[str, float]:
    """Run a command and return what it took.

    Returns
    -------
    dict
        ``wall``, ``core`` (user and system mode together) and ``system`` in seconds, ``faults``
        (page faults that needed no disk).

    Raises
    ------
    RuntimeError
        When it failed; the message ends with its output.
    subprocess.TimeoutExpired
    """
    figures = cwd / "accounting.json"
    figures.unlink(missing_ok=True)
    log = cwd / "accounting.log"
    program = [sys.executable, "-m", "benchmarks._accounting", str(figures), "--", *command]
    with log.open("wb") as output:
        status = subprocess.run(
            program,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        ).returncode
    if status:
        text = log.read_text(errors="replace")
        raise RuntimeError(f"{' '.join(command[:4])} ended with {status}:\n{text[-3000:]}")
    found: dict[str, float] = json.loads(figures.read_text())
    return found


def main(arguments: list[str]) -> int:
    """Run what stands after ``--``; write the figures; return its exit status."""
    at = arguments.index("--")
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    began = time.perf_counter()
    status = subprocess.run(arguments[at + 1 :], check=False).returncode
    wall = time.perf_counter() - began
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    facts: dict[str, Any] = {
        "wall": wall,
        "core": used.ru_utime + used.ru_stime,
        "system": used.ru_stime,
        "faults": used.ru_minflt,
    }
    Path(arguments[0]).write_text(json.dumps(facts))
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
