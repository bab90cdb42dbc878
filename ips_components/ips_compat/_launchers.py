"""The two executables that IPS looks for and that Dask no longer has.

``dask-scheduler`` and ``dask-worker`` left distributed in 2026.6.0. In their place small scripts
are written into the directory from which a pool is submitted, which all nodes of the job can see.
"""

import os
import shlex
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import dask

from ips_components.external import forked_workers
from ips_components.ips_compat import guard
from ips_components.ips_compat._launch import DIRECTORY, guard_command, make_executable

_SCRIPT = """\
#!/bin/sh
# Written by ips_components for one task pool of IPS: distributed has no such executable any more.
log={directory}/{name}.$(hostname).$$.log
exec 2>>"$log"
# A directory that only this user can enter, and that cannot have existed before.
base=${{TMPDIR:-/tmp}}
if [ -n "${mark}" ]; then
    scratch=$base/ips_components-${mark}
    (umask 077 && mkdir -p "$scratch/$$") && [ -O "$scratch" ] && scratch=$scratch/$$
else
    # The launcher has not passed the environment on.
    scratch=$(mktemp -d "$base/ips_components-XXXXXXXXXX")
fi || {{ echo "cannot make a directory for Dask below $base (TMPDIR)" >&2; exit 1; }}
{temporary}
{memory}
{environment}
exec {guard} --parent "$PPID" --scratch "$scratch" {secrets} -- \\
    {python} -m {module} "$@" {extra}
"""

_SHIFTER = """\
#!/bin/sh
# Written by ips_components: what runs in a container ends with its parent, too. IPS asks for
# executables that Dask no longer has, so the image's own Python runs what they stood for.
# Options of shifter may come before them, all in one word.
set -f
options= name=shifter
for word in "$@"; do
    case $word in
    dask-scheduler | dask-worker) name=$word; break ;;
    esac
done
while [ "$name" != shifter ]; do
    word=$1
    shift
    [ "$word" != "$name" ] || break
    options="$options $word"
done
case $name in
dask-scheduler) set -- python3 -m distributed.cli.dask_scheduler "$@" {scheduler} ;;
dask-worker) {memory}
    set -- python3 -m distributed.cli.dask_worker "$@" {worker} ;;
esac
{environment}
exec 2>>{directory}/"$name.$(hostname).$$.log"
exec {guard} --parent "$PPID" -- {shifter} $options "$@"
"""

#: How glibc serves the arrays of a worker, unless the environment says otherwise. Dask's nanny has
#: every large array returned to the kernel when it is freed and fetched page by page when the next
#: one is made, which costs reductions more than their arithmetic does. Here freed memory is used
#: again, and returned only beyond the first number of bytes; huge pages serve it where they may.
MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_ARENA_MAX": "1",  # other arenas than the first hold at most 64 MiB in one piece
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


@dataclass(frozen=True, slots=True)
class Launchers:
    """Paths of a pool's two executables, and of the logs that they write."""

    scheduler: Path
    worker: Path
    shifter: Path | str = ""

    def logs(self) -> list[Path]:
        """Logs that exist, the last written one last."""
        found = self.scheduler.parent.glob("*.log")
        return sorted(found, key=lambda path: path.stat().st_mtime)


def _temporary_directory() -> str:
    """Line that makes Dask keep its files in a directory which is removed, unless one is given."""
    if dask.config.get("temporary-directory", None):
        return ": # Dask is configured to use a directory of the user's"
    return "DASK_TEMPORARY_DIRECTORY=$scratch; export DASK_TEMPORARY_DIRECTORY"


def _memory() -> str:
    """Return the line of a script that sets `MEMORY` where the user has not."""
    defaults = " ".join(f'"${{{name}:={value}}}"' for name, value in MEMORY.items())
    return f": {defaults}; export {' '.join(MEMORY)}"


def _defaults(values: Mapping[str, str]) -> str:
    """Return the line of a script that sets variables which are not set."""
    if not values:
        return ":"
    lines = [f'[ -n "${{{name}+x}}" ] || {name}={shlex.quote(v)}' for name, v in values.items()]
    return "\n".join([*lines, f"export {' '.join(values)}"])


def _forks() -> dict[str, str]:
    """Variables of workers that are forked; none where the user has set how Dask starts them.

    Those which libraries look at when they are read have to be there before; of stock Dask, its
    nanny sets them.
    """
    import_module("distributed")  # brings its part of Dask's configuration
    if dask.config.get(forked_workers.METHOD, None, config=dask.config.collect()) is not None:
        return {}
    nanny = dask.config.get("distributed.nanny")
    given = {**nanny["pre-spawn-environ"], **nanny["environ"]}
    variables = {name: str(value) for name, value in given.items() if value is not None}
    return {forked_workers.METHOD_VARIABLE: "forkserver", **variables}


def _write(directory: Path, name: str, template: str, **words: str) -> Path:
    script = directory / name
    *guarded, _ = guard_command()
    draft = directory / f"{name}.{os.getpid()}.draft"
    draft.write_text(
        template.format(
            directory=shlex.quote(str(directory)),
            name=name,
            mark="{" + guard.MARK + ":-}",
            guard=shlex.join(guarded),
            python=shlex.quote(sys.executable),
            temporary=_temporary_directory(),
            **words,
        )
    )
    make_executable(draft)
    draft.replace(script)  # a pool that was submitted before may be reading it
    return script


def write_launchers(
    work: Path,
    pool: str,
    workers_per_node: int = 1,
    scheduler_options: Sequence[str] = (),
    worker_options: Sequence[str] = (),
    shifter: str | None = None,
    secrets: Sequence[Path] = (),
    environment: Mapping[str, str] = types.MappingProxyType({}),
    libraries: Sequence[str] = (),
) -> Launchers:
    """Write the executables of one pool.

    Parameters
    ----------
    work
        The working directory of the component that submits the pool.
    pool
        Name of the pool.
    workers_per_node
        Dask workers to start where IPS starts one.
    scheduler_options, worker_options
        Further words for the command lines.
    shifter
        Path of the command that runs another one in a container, where there is one.
    secrets
        Files and directories to remove when the scheduler has ended, in whatever way.
    environment
        Variables of scheduler and workers, where they have no value yet.
    libraries
        Modules that workers need, read once for all workers of a node.
    """
    directory = work / DIRECTORY / "".join(c if c.isalnum() else "_" for c in pool)
    directory.mkdir(parents=True, exist_ok=True)
    for log in directory.glob("*.log"):
        log.unlink(missing_ok=True)
    # The last one of an option that is given twice holds: IPS itself says --nworkers 1.
    workers = f"--nworkers {workers_per_node} "
    worker, forks = "distributed.cli.dask_worker", _forks()
    if forks:
        worker = f"{forked_workers.__name__} {','.join(['distributed', *libraries])}"
    return Launchers(
        scheduler=_write(
            directory,
            "dask-scheduler",
            _SCRIPT,
            module="distributed.cli.dask_scheduler",
            memory=":",
            environment=_defaults(environment),
            secrets=shlex.join(word for path in secrets for word in ("--scratch", str(path))),
            extra=shlex.join(scheduler_options),
        ),
        worker=_write(
            directory,
            "dask-worker",
            _SCRIPT,
            module=worker,
            memory=_memory(),
            environment=_defaults({**environment, **forks}),
            secrets="",
            extra=workers + shlex.join(worker_options),
        ),
        shifter=(
            _write(
                directory,
                "shifter",
                _SHIFTER,
                shifter=shlex.quote(shifter),
                memory=_memory(),
                environment=_defaults(environment),
                scheduler=shlex.join(scheduler_options),
                worker=workers + shlex.join(worker_options),
            )
            if shifter
            else ""
        ),
    )
