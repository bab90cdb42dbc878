"""Compiling what the package brings as source, once, into the user's cache directory."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ips_components._version import __version__
from ips_components.errors import BridgeError

SOURCES = Path(__file__).parent / "c"
LIBRARY = "libips_bridge.a"
SONAME = f"libips_bridge.so.{__version__.rpartition('.')[0]}"
FORTRAN_MPI = ("ips_bridge_mpi_f.c", "ips_bridge_mpi.f90")


def sources() -> list[Path]:
    """Return the C files of the library."""
    return sorted(path for path in SOURCES.glob("*.c") if path.name not in FORTRAN_MPI)


def library(*, shared: bool = False) -> Path:
    """Return the path of the library, compiled if it is not there yet.

    Raises
    ------
    BridgeError
        When there is no compiler, or it fails, or there is no place for the library.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    flags = shlex.split(os.environ.get("CFLAGS", "-O2 -g"))
    identity = hashlib.sha256(repr((compiler, flags, os.uname().machine)).encode())
    for path in (*sources(), *sorted(SOURCES.glob("*.h"))):
        identity.update(path.read_bytes())
    # One kind of library in each folder, so that -lips_bridge finds this one.
    kind = "shared" if shared else "static"
    directory = cached(f"c-{__version__}-{identity.hexdigest()[:16]}") / kind
    target = directory / ("libips_bridge.so" if shared else LIBRARY)
    if not target.exists():
        make_directory(directory)
        # Another process may do the same: the complete library replaces its, which is the same.
        with tempfile.TemporaryDirectory(dir=directory) as work:
            if shared:
                _link(compiler, flags, Path(work)).replace(directory / SONAME)
                link = Path(work) / target.name
                link.symlink_to(SONAME)
                link.replace(target)
            else:
                _archive(compiler, flags, Path(work)).replace(target)
    return target


def cached(name: str) -> Path:
    """Return a directory in the user's cache, which need not be there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return cache / "ips_components" / name


def make_directory(directory: Path) -> None:
    """Make a directory for a library.

    Raises
    ------
    BridgeError
        When it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BridgeError(
            f"the library cannot be kept in {directory}: {error.strerror}; set XDG_CACHE_HOME "
            "to a directory that you may write"
        ) from None


def compile_c(compiler: Sequence[str], flags: Sequence[str], work: Path) -> list[str]:
    """Compile the C files of the library; return the names of the objects in `work`."""
    if shutil.which(compiler[0]) is None:
        raise BridgeError(
            f"no {compiler[0]} to compile the bridge with: install a C compiler, or name yours "
            "in CC"
        )
    always = ("-std=c11", "-fPIC", "-fvisibility=hidden", "-c")
    run([*compiler, *flags, *always, *map(str, sources())], work)
    return [f"{path.stem}.o" for path in sources()]


def _archive(compiler: Sequence[str], flags: Sequence[str], work: Path) -> Path:
    objects = compile_c(compiler, flags, work)
    if shutil.which("ar") is None:
        raise BridgeError("no ar to make the library with: install binutils")
    run(["ar", "rcs", LIBRARY, *objects], work)
    return work / LIBRARY


def _link(compiler: Sequence[str], flags: Sequence[str], work: Path) -> Path:
    objects = compile_c(compiler, flags, work)
    run([*compiler, *flags, "-shared", f"-Wl,-soname,{SONAME}", "-o", SONAME, *objects], work)
    return work / SONAME


def run(command: Sequence[str], work: Path) -> None:
    """Run a command in a directory, and raise with what it said if it fails."""
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BridgeError(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr}")
