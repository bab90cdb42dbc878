"""``ips-components-config``: tells compilers where the bridge for C and Fortran is."""

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

_ABOUT = """\
Tell compilers where the bridge for C, C++ and Fortran is:

  cc $(ips-components-config --cflags) simulation.c $(ips-components-config --libs)

The package brings the bridge as source. --libs compiles it once, by $CC or cc and with $CFLAGS,
into the user's cache directory. A Fortran program compiles the file that --fortran names along
with its own files, since module files belong to one compiler. In a CMake project, say
find_package(ips_bridge REQUIRED PATHS <what --cmakedir prints>).
"""


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
        "--libs": "the library for linking; compiled if it is not there yet",
        "--sources": "the C files, to compile them with one's own",
        "--fortran": "the file of the Fortran module ips_bridge",
        "--cmakedir": "directory of the CMake package",
    }
    for option, about in asked.items():
        parser.add_argument(option, action="append_const", dest="asked", const=option, help=about)
    options = parser.parse_args(arguments)
    if not options.asked:
        parser.print_usage(sys.stderr)
        return 2
    try:
        words = [word for option in options.asked for word in _answer(option)]
    except (BridgeError, OSError) as error:
        sys.stderr.write(f"ips-components-config: {error}\n")
        return 1
    sys.stdout.write(shlex.join(words) + "\n")
    return 0


def _answer(option: str) -> list[str]:
    match option:
        case "--version":
            return [__version__]
        case "--cflags":
            return [f"-I{SOURCES}"]
        case "--libs":
            return [str(library())]
        case "--sources":
            return [str(path) for path in sources()]
        case "--fortran":
            return [str(SOURCES / "ips_bridge.f90")]
        case _:
            return [str(SOURCES)]


def sources() -> list[Path]:
    """Return the C files of the library."""
    return sorted(SOURCES.glob("*.c"))


def library() -> Path:
    """Return the path of the static library, compiled if it is not there yet.

    Raises
    ------
    BridgeError
        When there is no compiler, or it fails.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    flags = shlex.split(os.environ.get("CFLAGS", "-O2 -g"))
    identity = hashlib.sha256(repr((compiler, flags, os.uname().machine)).encode())
    for path in (*sources(), *sorted(SOURCES.glob("*.h"))):
        identity.update(path.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "ips_components" / f"c-{__version__}-{identity.hexdigest()[:16]}"
    target = directory / LIBRARY
    if not target.exists():
        directory.mkdir(parents=True, exist_ok=True)
        # Others may be doing the same: the complete library replaces theirs, which is the same.
        with tempfile.TemporaryDirectory(dir=directory) as work:
            _compile(compiler, flags, Path(work)).replace(target)
    return target


def _compile(compiler: Sequence[str], flags: Sequence[str], work: Path) -> Path:
    missing = [tool for tool in (compiler[0], "ar") if shutil.which(tool) is None]
    if missing:
        raise BridgeError(
            f"no {' and no '.join(missing)} to compile the bridge with: install a C compiler, "
            "or name yours in CC"
        )
    always = ("-std=c11", "-fPIC", "-fvisibility=hidden", "-c")
    _run([*compiler, *flags, *always, *map(str, sources())], work)
    _run(["ar", "rcs", LIBRARY, *(f"{path.stem}.o" for path in sources())], work)
    return work / LIBRARY


def _run(command: Sequence[str], work: Path) -> None:
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BridgeError(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr}")
