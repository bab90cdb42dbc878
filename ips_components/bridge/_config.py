"""``ips-components-config``: where compilers find the bridge for C, C++ and Fortran."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from ips_components._version import __version__
from ips_components.bridge._build import FORTRAN_MPI, SOURCES, library, sources
from ips_components.errors import BridgeError

_ABOUT = """\
Print where compilers find the bridge for C, C++ and Fortran:

  cc $(ips-components-config --cflags) simulation.c $(ips-components-config --libs)

The package brings the bridge as source. --libs compiles it once, by $CC or cc and with $CFLAGS,
into the user's cache directory. A Fortran program compiles the file that --fortran names along
with its own files, since module files belong to one compiler; with MPI, those of --fortran-mpi or
--fortran-mpi-f08 as well. In a CMake project, say
find_package(ips_bridge 0.1 REQUIRED PATHS <what --cmakedir prints>). Programs that use ADIOS2
need nothing of this but the engine that --adios2 compiles.
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
        "--libs": "flags for linking; the library is compiled if it is not there yet",
        "--sources": "the C files, to compile them with one's own",
        "--fortran": "the file of the Fortran module ips_bridge, which includes others beside it",
        "--fortran-mpi": "the files of the module ips_bridge_mpi, for programs with the module mpi",
        "--fortran-mpi-f08": "those of the module ips_bridge_mpi_f08, for programs with mpi_f08",
        "--cmakedir": "directory of the CMake package",
        "--adios2": "the engine for ADIOS2, compiled if it is not there yet: the value of its "
        "PluginLibrary; for the ADIOS2 of $ADIOS2_ROOT, of adios2-config or of Python",
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
            return [str(SOURCES / name) for name in FORTRAN_MPI]
        case "--fortran-mpi-f08":
            return [str(SOURCES / name) for name in (*FORTRAN_MPI, "ips_bridge_mpi_f08.f90")]
        case "--adios2":
            from ips_components.bridge._adios2 import engine

            return [str(engine())]
        case _:
            return [str(SOURCES)]
