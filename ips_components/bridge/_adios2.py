"""Compiling the engine for ADIOS2 against the user's own ADIOS2."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ips_components._version import __version__
from ips_components.bridge._build import SOURCES as C_SOURCES
from ips_components.bridge._build import cached, compile_c, make_directory, run, sources
from ips_components.errors import BridgeError

SOURCES = Path(__file__).parent / "adios2"
ENGINE = "libips_adios2.so"
OLDEST = (2, 9)
# a function of ADIOS2 with a std::string of the newer kind
_NEW_STRING = re.compile(rb"_ZNK?6adios2\w*NSt7__cxx11")
_CONFIG = Path("include", "adios2", "common", "ADIOSConfig.h")


@dataclass(frozen=True, slots=True)
class Adios2:
    """An installed ADIOS2.

    Parameters
    ----------
    prefix
        Directory that holds ``include``.
    version
        Numbers of its version.
    libraries
        The libraries that an engine is linked to.
    """

    prefix: Path
    version: tuple[int, ...]
    libraries: tuple[Path, ...]

    @property
    def flags(self) -> list[str]:
        """Flags to compile with: C++ strings are what those of the library are."""
        new = _NEW_STRING.search(self.libraries[0].read_bytes()) is not None
        return ["-isystem", str(self.prefix / "include"), f"-D_GLIBCXX_USE_CXX11_ABI={int(new)}"]

    @property
    def link_flags(self) -> list[str]:
        """Flags to link with, by the names under which the libraries are loaded."""
        folders = dict.fromkeys(path.parent for path in self.libraries)
        return [
            *(f"-L{folder}" for folder in folders),
            *(f"-Wl,-rpath,{folder}" for folder in folders),
            *(f"-l:{path.name}" for path in self.libraries),
        ]


def find() -> Adios2:
    """Return the ADIOS2 of $ADIOS2_ROOT or $ADIOS2_DIR, of ``adios2-config``, or of Python.

    Raises
    ------
    BridgeError
        When there is none, or it is too old, or it lacks headers or libraries.
    """
    for name in ("ADIOS2_ROOT", "ADIOS2_DIR"):
        if folder := os.environ.get(name):
            return _installed(_prefix_of(name, Path(folder)))
    if config := shutil.which("adios2-config"):
        return _installed(Path(config).resolve().parent.parent)
    found = importlib.util.find_spec("adios2")
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (Path(folder) / _CONFIG).exists():
            return _installed(Path(folder))
    raise BridgeError(
        "no ADIOS2 with headers was found: set ADIOS2_ROOT to the directory that holds its "
        "include and lib, put its adios2-config on PATH, or install the Python package adios2"
    )


def _prefix_of(name: str, folder: Path) -> Path:
    """Return the prefix above a folder, as ADIOS2_DIR is the one of the CMake package."""
    for prefix in (folder, *folder.parents[:4]):
        if (prefix / _CONFIG).exists():
            return prefix
    raise BridgeError(f"{name} is {os.environ[name]}, but there is no {_CONFIG} in it or above it")


def _installed(prefix: Path) -> Adios2:
    header = prefix / _CONFIG
    if not header.exists():
        raise BridgeError(f"ADIOS2 at {prefix} has no {_CONFIG}: are its headers installed?")
    text = header.read_text()
    numbers = [re.search(rf"ADIOS2_VERSION_{part}\s+(\d+)", text) for part in ("MAJOR", "MINOR")]
    version = tuple(int(number[1]) for number in numbers if number)
    if len(version) != len(numbers) or version < OLDEST:
        raise BridgeError(
            f"ADIOS2 at {prefix} is version {'.'.join(map(str, version)) or 'unknown'}; the engine "
            f"needs {'.'.join(map(str, OLDEST))} or later"
        )
    # 2.12 gives plugins its public classes, which are in a library of their own.
    parts = ("cxx", "core") if version >= (2, 12) else ("core",)
    folders = (prefix / "lib", prefix / "lib64", *sorted(prefix.glob("lib/*-linux-gnu*")), prefix)
    libraries = []
    for part in parts:
        for folder in folders:
            # A build may have a suffix in the names of its libraries.
            names = sorted(folder.glob(f"libadios2*_{part}.so.*.*"), key=lambda p: len(p.name))
            if names:
                libraries.append(names[0])
                break
        else:
            raise BridgeError(f"ADIOS2 at {prefix} has no shared library libadios2_{part}.so")
    return Adios2(prefix, version, tuple(libraries))


def engine() -> Path:
    """Return the path of the engine, compiled if it is not there yet.

    Raises
    ------
    BridgeError
        When there is no ADIOS2 or no compiler, or compiling fails.
    """
    adios2 = find()
    c, cxx = (shlex.split(os.environ.get(*pair)) for pair in (("CC", "cc"), ("CXX", "c++")))
    c_flags = shlex.split(os.environ.get("CFLAGS", "-O2 -g"))
    cxx_flags = shlex.split(os.environ.get("CXXFLAGS", "-O2 -g"))
    facts = (c, cxx, c_flags, cxx_flags, adios2, os.uname().machine)
    identity = hashlib.sha256(repr(facts).encode())
    identity.update((adios2.prefix / _CONFIG).read_bytes())
    for path in (*sources(), *C_SOURCES.glob("*.h"), *SOURCES.glob("*.[ch]pp")):
        identity.update(path.read_bytes())
    directory = cached(f"adios2-{__version__}-{identity.hexdigest()[:16]}")
    target = directory / ENGINE
    if not target.exists():
        if shutil.which(cxx[0]) is None:
            raise BridgeError(
                f"no {cxx[0]} to compile the engine with: install a C++ compiler, or name yours in "
                "CXX"
            )
        make_directory(directory)
        with tempfile.TemporaryDirectory(dir=directory) as work:
            objects = compile_c(c, c_flags, Path(work))
            files = [str(path) for path in sorted(SOURCES.glob("*.cpp"))]
            always = ["-std=c++17", "-fPIC", "-fvisibility=hidden", f"-I{C_SOURCES}"]
            command = [*cxx, *cxx_flags, *always, *adios2.flags, "-shared", "-o", ENGINE]
            run([*command, *files, *objects, *adios2.link_flags], Path(work))
            (Path(work) / ENGINE).replace(target)
    return target
