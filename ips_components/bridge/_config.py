"""``ips-components-config``: where compilers find the bridge for C, C++ and Fortran."""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ips_components._version import __version__
from ips_components.errors import BridgeError

SOURCES = Path(__file__).parent / "c"
LIBRARY = "libips_bridge.a"
SONAME = f"libips_bridge.so.{__version__.rpartition('.')[0]}"

_ABOUT = """\
Print where compilers find the bridge for C, C++ and Fortran:

  cc $(ips-components-config --cflags) simulation.c $(ips-components-config --libs)

The package brings the bridge as source. --libs compiles it once, by $CC or cc and with $CFLAGS,
into the user's cache directory. A Fortran program compiles the file that --fortran names along
with its own files, since module files belong to one compiler; with MPI, those of --fortran-mpi or
--fortran-mpi-f08 as well. In a CMake project, say
find_package(ips_bridge 0.1 REQUIRED PATHS <what --cmakedir prints>).
"""


_FORTRAN_MPI = ("ips_bridge_mpi_f.c", "ips_bridge_mpi.f90")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is asked for, in one line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="ips-components-config",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    asked = {
        "--version": "version of the package",
        "--includedir": "directory of ips_bridge.h, of the other sources and of their Makefile",
        "--cflags": "flags for compiling",
        "--libs": "flags for linking; the library is compiled if it is not there yet",
        "--sources": "the C files, to compile them with one's own",
        "--fortran": "the file of the Fortran module ips_bridge",
        "--fortran-mpi": "the files of the module ips_bridge_mpi, for programs with the module mpi",
        "--fortran-mpi-f08": "those of the module ips_bridge_mpi_f08, for programs with mpi_f08",
        "--cmakedir": "directory of the CMake package",
    }
    for option, about in asked.items():
        parser.add_argument(option, action="append_const", dest="asked", const=option, help=about)
    parser.add_argument(
        "--shared", action="store_true", help="with --libs: the shared library, found at run time"
    )
    options = parser.parse_args(arguments)
    if not options.asked:
        parser.print_usage(sys.stderr)
        return 2
    try:
        words = [
            word for option in options.asked for word in _answer(option, shared=options.shared)
        ]
    except (BridgeError, OSError) as error:
        sys.stderr.write(f"ips-components-config: {error}\n")
        return 1
    sys.stdout.write(shlex.join(words) + "\n")
    return 0


def _answer(option: str, *, shared: bool) -> list[str]:
    match option:
        case "--version":
            return [__version__]
        case "--cflags":
            return [f"-I{SOURCES}"]
        case "--libs":
            folder = library(shared=shared).parent
            rpath = [f"-Wl,-rpath,{folder}"] if shared else []
            return [f"-L{folder}", *rpath, "-lips_bridge"]
        case "--sources":
            return [str(path) for path in sources()]
        case "--fortran":
            return [str(SOURCES / "ips_bridge.f90")]
        case "--fortran-mpi":
            return [str(SOURCES / name) for name in _FORTRAN_MPI]
        case "--fortran-mpi-f08":
            return [str(SOURCES / name) for name in (*_FORTRAN_MPI, "ips_bridge_mpi_f08.f90")]
        case _:
            return [str(SOURCES)]


def sources() -> list[Path]:
    """Return the C files of the library."""
    return sorted(path for path in SOURCES.glob("*.c") if path.name not in _FORTRAN_MPI)


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
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    # One kind of library in each folder, so that -lips_bridge finds this one.
    kind = "shared" if shared else "static"
    directory = cache / "ips_components" / f"c-{__version__}-{identity.hexdigest()[:16]}" / kind
    target = directory / ("libips_bridge.so" if shared else LIBRARY)
    if not target.exists():
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BridgeError(
                f"the library cannot be kept in {directory}: {error.strerror}; set XDG_CACHE_HOME "
                "to a directory that you may write"
            ) from None
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


def _compile(compiler: Sequence[str], flags: Sequence[str], work: Path) -> list[str]:
    if shutil.which(compiler[0]) is None:
        raise BridgeError(
            f"no {compiler[0]} to compile the bridge with: install a C compiler, or name yours "
            "in CC"
        )
    always = ("-std=c11", "-fPIC", "-fvisibility=hidden", "-c")
    _run([*compiler, *flags, *always, *map(str, sources())], work)
    return [f"{path.stem}.o" for path in sources()]


def _archive(compiler: Sequence[str], flags: Sequence[str], work: Path) -> Path:
    objects = _compile(compiler, flags, work)
    if shutil.which("ar") is None:
        raise BridgeError("no ar to make the library with: install binutils")
    _run(["ar", "rcs", LIBRARY, *objects], work)
    return work / LIBRARY


def _link(compiler: Sequence[str], flags: Sequence[str], work: Path) -> Path:
    objects = _compile(compiler, flags, work)
    _run([*compiler, *flags, "-shared", f"-Wl,-soname,{SONAME}", "-o", SONAME, *objects], work)
    return work / SONAME


def _run(command: Sequence[str], work: Path) -> None:
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BridgeError(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr}")
