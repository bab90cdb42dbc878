"""How the processes of an MPI task died, by what its launcher has written at the end of the log.

Launchers report a process that a signal has ended, each in its own words, and end with a status
that says little of it. Their report is also the last thing in the log, below what the program
itself has written.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ips_components import ips_compat
from ips_components.ips.alike import same_on_others, without_rank
from ips_components.origin import is_library

#: Lines of the log that are searched, and those that are shown.
_SEARCHED, _SHOWN = 200, 8

_HYDRA_PROCESS = re.compile(r"^=\s+PID (\d+) RUNNING AT (\S+)", re.M)
_HYDRA_SIGNAL = re.compile(r"EXIT STRING: .*\(signal (\d+)\)")
_OPEN_MPI = re.compile(
    r"process rank (\d+) with PID (\d+) on node (\S+)\s+exited on\s+signal (\d+)"
)
_SLURM = re.compile(r"^srun: error: (\S+): tasks? ([\d,\-]+): ([A-Z][a-z ]+)", re.M)
_BY_SLURM = {signal.strsignal(number): number for number in signal.valid_signals()}
_CONSEQUENCES = (signal.SIGTERM, signal.SIGKILL)  # what a launcher sends to the other processes

#: Lines that launchers write, and not the program.
_OF_LAUNCHERS = re.compile(
    r"^(={20,}|-{20,}|=   .*|YOUR APPLICATION TERMINATED WITH .*|This typically refers to a .*"
    r"|Please see the FAQ page .*|Primary job  ?terminated .*|a non-zero exit code.*"
    r"|\w+run noticed that process .*|\w+run detected that one or more processes .*"
    r"|signal \d+ \(.*\)\.|thus causing the job to be terminated.*"
    r"|  Process name: \[.*|  Exit code: .*"
    r"|srun: .*|slurmstepd: .*)$"
)
#: Those of `MPI_Abort`: of use only where the program has written nothing before.
_ABORT = re.compile(
    r"^(Abort\(\d+\) on node \d+ .*|MPI_ABORT was invoked on rank .*|with errorcode \d+\.)$"
)
#: Slurm's pmi2 reads at most 1 KiB per line; MPICH 5 over UCX writes longer ones, and waits.
_CUT_BY_SLURM = re.compile(r"mpi/pmi2: (request not begin with|value not properly terminated)")
_USE_LIBFABRIC = (
    "; Slurm could not read the addresses that the ranks exchange in MPI_Init: with MPICH set "
    "MPIR_CVAR_CH4_NETMOD=ofi in the batch script, as platform/slurm.sbatch does"
)
_TRACEBACK = "Traceback (most recent call last):"
_FRAME = re.compile(r'^\s*File "(.+)", line \d+, in .+$')


@dataclass(frozen=True)
class Death:
    """A process of a task that a signal has ended.

    Parameters
    ----------
    signum : int
        Number of the signal.
    rank, pid : int or None
        As far as the launcher has reported them.
    host : str
        Where it ran.
    """

    signum: int
    rank: int | None = None
    pid: int | None = None
    host: str = ""

    def __str__(self) -> str:
        who = "a rank" if self.rank is None else f"rank {self.rank}"
        where = ", ".join(
            [f"process {self.pid}"] * (self.pid is not None) + [f"on {self.host}"] * bool(self.host)
        )
        name = signal.Signals(self.signum).name if self.signum in _BY_SLURM.values() else ""
        what = signal.strsignal(self.signum) if name else None
        why = "often: out of memory" if self.signum == signal.SIGKILL else (what or "").lower()
        by = f"{name or f'signal {self.signum}'}{f' ({why})' if why else ''}"
        return f"{who}{f' ({where})' if where else ''} died by {by}"


def find_death(text: str) -> Death | None:
    """Return the process that died first, by the report of MPICH, Open MPI or Slurm; else None.

    Examples
    --------
    >>> str(find_death("srun: error: n2: task 3: Segmentation fault"))
    'rank 3 (on n2) died by SIGSEGV (segmentation fault)'
    """
    if found := _HYDRA_SIGNAL.search(text):
        process = _HYDRA_PROCESS.search(text)
        pid, host = (int(process[1]), process[2]) if process else (None, "")
        return Death(int(found[1]), None, pid, host)
    if found := _OPEN_MPI.search(text):
        return Death(int(found[4]), int(found[1]), int(found[2]) or None, found[3])
    deaths = [
        Death(signum, int(re.split(r"[,\-]", tasks)[0]), None, host)
        for host, tasks, what in _SLURM.findall(text)
        if (signum := _BY_SLURM.get(what.strip())) is not None
    ]
    return min(deaths, key=lambda death: death.signum in _CONSEQUENCES, default=None)


def own_lines(text: str) -> list[str]:
    """Return the lines that are of the program and not of its launcher."""
    lines = [line for line in text.splitlines() if line.strip() and not _OF_LAUNCHERS.match(line)]
    return [line for line in lines if not _ABORT.match(line)] or lines


def lines_once(lines: Sequence[str]) -> list[str]:
    """Return each line once, where it was written last; ranks that fail alike write the same lines.

    Examples
    --------
    >>> lines_once(["rank 0: no input", "rank 2: no input", "rank 1: no input"])
    ['rank 1: no input  (the same on 2 other ranks)']
    """
    groups: dict[str, list[str]] = {}
    for line in lines:
        same = without_rank(line)
        groups[same] = [*groups.pop(same, []), line]
    once = list(groups.values())
    # Of lines written equally often, such as those of a traceback, the last one has the count.
    following = [*(_times(group) for group in once[1:]), ""]
    return [
        group[-1] + (said if said != after else "")
        for group, said, after in zip(once, map(_times, once), following, strict=True)
    ]


def _times(group: Sequence[str]) -> str:
    """How often a line was written, in words; empty for one that was written once."""
    others = len(set(group)) - 1
    if others:
        return f"  ({same_on_others(others)})"
    return f"  ({len(group)} times)" if len(group) > 1 else ""


def where_in(lines: Sequence[str]) -> str:
    """Return ``file, line n, in function`` of the traceback that ends these lines, else ""."""
    if _TRACEBACK not in lines:
        return ""
    start = len(lines) - 1 - list(reversed(lines)).index(_TRACEBACK)
    frames = [found for line in lines[start:] if (found := _FRAME.match(line))]
    own = [found[0] for found in frames if not is_library(found[1])]
    return own[-1].strip().removeprefix("File ").replace('"', "") if own else ""


def last_lines(log: Path) -> str:
    """Return what a program has written last, to go with the message of its end."""
    text = ips_compat.tail(log, _SEARCHED)
    lines = own_lines(text)
    if not lines:
        return f"; it has written nothing to {log}"
    where = where_in(lines)
    said = "\n".join(lines_once(lines)[-_SHOWN:]) + (f"; at {where}" if where else "")
    remedy = _USE_LIBFABRIC if _CUT_BY_SLURM.search(text) else ""
    return f"{remedy}; the last lines of {log}:\n{said}"


def describe_end(
    who: str, status: int, log: Path, rank_of: Callable[[int, str], int | None]
) -> str:
    """Return how a task ended that did not end well.

    Parameters
    ----------
    who : str
        The task.
    status : int
        Its exit status; negative: the signal that ended the launcher.
    log : Path
        What its processes and its launcher have written.
    rank_of : callable
        ``rank_of(pid, host)`` returns the rank of a process, None if that is not known.
    """
    ended = f"exit status {status}" if status > 0 else f"signal {-status}"
    death = find_death(ips_compat.tail(log, _SEARCHED))
    if death is None:
        return f"{who} ended with {ended}{last_lines(log)}"
    if death.rank is None and death.pid is not None:
        death = Death(death.signum, rank_of(death.pid, death.host), death.pid, death.host)
    return f"{death}: {who} ended with {ended}{last_lines(log)}"
