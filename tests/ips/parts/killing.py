"""Kill processes of the workflow that the caller belongs to; others run at the same time."""

from contextlib import suppress
from pathlib import Path

import psutil

FORKS = "multiprocessing.forkserver"
"""In the command of the process from which Dask's workers are forked, and in those of workers."""


def is_worker(process):
    """Whether a process is a worker of Dask."""
    with suppress(psutil.Error):
        parent = process.parent()
        return parent is not None and all(FORKS in _command(each) for each in (process, parent))
    return False


def kill(word):
    """Kill each ``worker`` of Dask, ``component:NAME``, or what has a word in its command.

    Raises
    ------
    ProcessLookupError
        When there is none.
    """
    here = str(Path.cwd()).rpartition("/work/")[0]
    kind, _, name = word.rpartition(":")
    killed = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = _command(process)
            if not (here in command or process.cwd().startswith(here)):
                continue
            if word == "worker":
                found = is_worker(process)
            elif kind == "component":
                found = "ips.py" in command and f"_{name}_" in process.cwd()
            else:
                found = word in command
            if found:
                process.kill()
                killed += 1
    if not killed:
        raise ProcessLookupError(f"no process to kill: {word}")


def _command(process):
    return " ".join(process.cmdline())
