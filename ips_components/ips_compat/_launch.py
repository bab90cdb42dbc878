"""How a component launches a task: the command line of IPS, under a guard."""

import importlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ips_components.deadlines import Deadline, poll_until
from ips_components.ips_compat import guard
from ips_components.ips_compat._ips import RunningTask, ServicesProxy
from ips_components.ips_compat._tasks import launch_guarded

GUARD = Path(guard.__file__).resolve()

DIRECTORY = ".ips_components"
"""Where scripts and logs of ours are, below the working directory of a component."""

_TASK_EPILOG = "SLURM_TASK_EPILOG"
"""What srun reads as its option ``--task-epilog``."""

_CLOCKS_DIFFER = 60.0
_EPILOG = """\
#!/bin/sh
# Written by ips_components: Slurm runs this on the node after each task, also after one that it
# has killed together with its guard. Shared memory that no process maps any more is removed.
for each in {patterns}; do
    if [ -O "$each" ]; then
        exec {sweep}
    fi
done
"""


def guard_command(*options: str) -> list[str]:
    """Beginning of a command line that runs what follows under a guard."""
    return [sys.executable, "-I", "-S", str(GUARD), *options, "--"]


def make_executable(script: Path) -> None:
    """Make a script executable for all users who may read it by the umask."""
    mode = script.stat().st_mode
    script.chmod(mode | (mode & 0o444) >> 2)


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
    make_executable(draft)
    draft.replace(script)
    return script


def _prepare_slurm(working_dir: str) -> None:
    """Have Slurm tidy up after tasks that it kills with their guards; a user's epilog stays."""
    if "SLURM_JOB_ID" in os.environ and _TASK_EPILOG not in os.environ:
        since = time.time() - _CLOCKS_DIFFER
        os.environ[_TASK_EPILOG] = str(write_epilog(Path(working_dir, DIRECTORY), since))


class UnsplitPath(str):
    """Path of an executable with spaces in it, which IPS would split there."""

    __slots__ = ()

    def split(self, *_: Any) -> list[str]:  # type: ignore[override]
        """Return the whole of it."""
        return [self]


def unsplit(binary: Any) -> Any:
    """Return what IPS does not split where a path, not a command line, is given."""
    if isinstance(binary, str) and len(binary.split()) > 1 and os.access(binary, os.X_OK):
        return UnsplitPath(binary)
    return binary


def command_line(command: str, binary: str, args: Sequence[str]) -> list[str]:
    """Return the words of a command of IPS, which is one text with spaces between words.

    Examples
    --------
    >>> command_line("mpiexec -n 2 /my dir/a.out x  y", "/my dir/a.out", ["x", "", "y"])
    ['mpiexec', '-n', '2', '/my dir/a.out', 'x', '', 'y']
    """
    for end in (" ".join([binary, *args]), f"{binary} "):
        if command.endswith(end):
            return [*command[: -len(end)].split(), binary, *args]
    return command.split()


def _open_log(services: ServicesProxy, keywords: Mapping[str, Any], name: str) -> Any:
    """Open a file for output of a task, as IPS does; None when there is none."""
    path = keywords.get(name)
    try:
        return Path(path).open("w") if path else None
    except OSError:
        services.exception("Error opening %s %s of a task: using its standard output", name, path)
        return None


@dataclass(frozen=True, slots=True)
class CoupledTask:
    """A task that puts data: its environment, and what is called with its exit status."""

    environment: Mapping[str, str]
    ended: Callable[[int], None]


class _ReportedProcess:
    """A task's process which reports its end once, to whatever looks for it."""

    def __init__(self, process: Any, ended: Callable[[int], None]) -> None:
        self._process = process
        self._ended: Callable[[int], None] | None = ended

    def poll(self) -> int | None:
        return self._report(self._process.poll())

    def wait(self, *args: Any, **keywords: Any) -> int | None:
        return self._report(self._process.wait(*args, **keywords))

    def _report(self, status: int | None) -> int | None:
        ended = self._ended
        if status is not None and ended is not None:
            self._ended = None
            ended(status)
        return status

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)


_COUPLED_COMPONENT = "ips_components.ips.coupled_component"
_RUNNING, _POOL = "_ips_components_task", "_ips_components_in_pool"


@dataclass(frozen=True, slots=True)
class CoupledPool:
    """A pool on Dask whose tasks put data: what runs its tasks, and what is called at its end."""

    wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
    ended: Callable[[BaseException | None], None]


@dataclass(frozen=True, slots=True)
class _Coupling:
    """What begins the tasks and the pools of components with COUPLED = True."""

    begin_task: Callable[[Any, int, str], CoupledTask | None]
    begin_pool: Callable[[Any, str, int], CoupledPool | None]


_coupling: list[_Coupling] = []


def couple_tasks(
    begin_task: Callable[[Any, int, str], CoupledTask | None],
    begin_pool: Callable[[Any, str, int], CoupledPool | None],
) -> None:
    """Call functions before each task and each pool of a component with COUPLED = True.

    Parameters
    ----------
    begin_task
        Gets services, ranks and command line of the task.
    begin_pool
        Gets services, name and number of tasks of a pool on Dask.
    """
    _coupling[:] = [_Coupling(begin_task, begin_pool)]


def _coupling_of(services: ServicesProxy) -> _Coupling | None:
    """What begins the tasks of a component, None where its section does not say COUPLED = True."""
    section = getattr(services.component_ref, "config", None) or {}
    if str(section.get("COUPLED", "")).lower() not in ("true", "1", "yes", "on"):
        return None
    if not _coupling:  # the component was started before the analytics was imported
        importlib.import_module(_COUPLED_COMPONENT)
    return _coupling[0]


@contextmanager
def within_pool(services: ServicesProxy, kind: str) -> Iterator[None]:
    """Mark tasks that are launched within the block as those of a pool.

    Parameters
    ----------
    services
        Of the component.
    kind
        ``tasks``: they are launched one after another where they put data; ``workers``: they are
        Dask's workers, and put none.
    """
    services.__dict__[_POOL] = kind
    try:
        yield
    finally:
        services.__dict__.pop(_POOL)


def coupled_pool(services: ServicesProxy, name: str, tasks: int) -> CoupledPool | None:
    """Begin a pool on Dask whose tasks may put data; None for a component that is not coupled."""
    coupling = _coupling_of(services)
    return coupling.begin_pool(services, name, tasks) if coupling else None


def _coupled_task(services: ServicesProxy, nproc: int, command: str) -> CoupledTask | None:
    """Begin a launch where the section of the component says COUPLED = True."""
    pool = services.__dict__.get(_POOL)
    coupling = _coupling_of(services) if pool != "workers" else None
    if coupling is None:
        return None
    if pool == "tasks":
        _wait_for_the_one_before(services)
    return coupling.begin_task(services, nproc, command)


def _wait_for_the_one_before(services: ServicesProxy) -> None:
    """Tasks of one pool that put data are launched one after another, with their time-outs."""
    task = services.task_map.get(services.__dict__.get(_RUNNING))
    if task is None:
        return
    deadline = Deadline(task.start_time + float(task.timeout) - time.time())
    if not poll_until(lambda: task.process.poll() is not None, deadline, pause=0.05):
        task.process.kill()


def launch_task(
    services: ServicesProxy,
    nproc: int,
    working_dir: str,
    task_id: int,
    command: str,
    cores_allocated: int,
    env_update: Mapping[str, str] | None,
    tag: str,
    keywords: Mapping[str, Any],
    binary: str,
    args: Sequence[str],
) -> int:
    """Launch a task under a guard; otherwise as IPS does."""
    _prepare_slurm(working_dir)
    output, error = (_open_log(services, keywords, name) for name in ("logfile", "errfile"))
    path = services.binary_fullpath_cache.get(binary, binary)
    coupled = _coupled_task(services, nproc, command)
    services.debug("Launching command : %s", command)
    try:
        sys.stdout.flush()
        output_fd = (output or sys.stdout).fileno()
        process = launch_guarded(
            command_line(command, str(path), [str(each) for each in args]),
            working_dir,
            {**os.environ, **(env_update or {}), **(coupled.environment if coupled else {})},
            output_fd,
            error.fileno() if error else output_fd,
        )
    except Exception:
        services.exception("Error executing command : %s", command)
        raise
    finally:
        for file in (output, error):
            if file is not None:
                file.close()
    if coupled:
        services.__dict__[_RUNNING] = task_id
    services.task_map[task_id] = RunningTask(
        _ReportedProcess(process, coupled.ended) if coupled else process,
        time.time(),
        keywords.get("timeout", 1.0e9),
        nproc,
        cores_allocated,
        command,
        binary,
        args,
    )
    return task_id
