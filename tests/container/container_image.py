"""A root file system with Python, this package and its dependencies, for the container tests.

The slow part, Debian and the dependencies, is built once and kept in a cache directory; its name
says what is in it. The package itself is installed anew for each session, into a clone whose files
are hard links.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = "/opt/venv/bin/python"
# What the analyses of the examples import inside, beyond what the package itself requires.
EXTRAS = ("scikit-learn",)
# A file which only the container has: tests prove with it where a function ran.
WITNESS = "/etc/ips-components-image"
# A version of Dask that is not the one outside.
OTHER = "2026.7.1" if metadata.version("dask") != "2026.7.1" else "2026.7.0"


class BuildError(RuntimeError):
    """A step of the build failed; carries what the step wrote."""


def missing_programs() -> list[str]:
    """Names of the programs that the container tests need and this machine lacks."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    names = ("bwrap", "debootstrap", "apt-get", "cp")
    return [name for name in names if shutil.which(name, path=path) is None]


def base_image(cache: Path) -> Path:
    """Return Debian with Python and the dependencies, of the versions that run outside.

    The tree is built beside its place and renamed when it is complete; a lock makes a second
    session wait for the first. Never change it: other sessions hold links to its files.
    """
    requirements = [r for r in metadata.requires("ips_components") or () if ";" not in r]
    requirements += EXTRAS
    pins = _pins(requirements)
    key = hashlib.sha256("\n".join([_suite(), *requirements, *pins]).encode()).hexdigest()[:12]
    place = cache / f"base-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache / "lock"):
        if not place.exists():
            for old in cache.glob("base-*"):
                shutil.rmtree(old)
            with _scratch(cache) as scratch:
                root = scratch / "root"
                _debootstrap(root)
                requirements = [
                    r for r in metadata.requires("ips_components") or () if ";" not in r
                ]
                wheels = _wheels([*requirements, *EXTRAS], pins, scratch / "wheels")
                _inside(root, "/usr/bin/python3", "-m", "venv", "/opt/venv")
                _install(root, wheels, *requirements)
                (root / WITNESS[1:]).write_text("made by the container tests\n")
                root.rename(place)
    return place


@contextmanager
def session_image(base: Path) -> Iterator[Path]:
    """Clone `base`, install this repository's package in the clone, remove it at the end."""
    with _scratch(base.parent) as scratch:
        root = clone(base, scratch / "root")
        source = scratch / "source"
        source.mkdir()
        for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
            if (REPOSITORY / name).exists():
                shutil.copy(REPOSITORY / name, source)
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(REPOSITORY / "ips_components", source / "ips_components", ignore=ignore)
        wheels = _wheels(["--no-deps", str(source)], [], scratch / "wheels")
        _install(root, wheels, "--no-deps", "ips_components")
        yield root


@contextmanager
def image_with(base: Path, *requirements: str) -> Iterator[Path]:
    """Clone `base`, install other versions of some packages in the clone, remove it at the end."""
    with _scratch(base.parent) as scratch:
        wheels = _wheels(["--no-deps", *requirements], [], scratch / "wheels")
        root = clone(base, scratch / "root")
        _install(root, wheels, "--no-deps", *requirements)
        yield root


def clone(base: Path, place: Path) -> Path:
    """Copy a tree with hard links: quick, and what is installed later stays in the copy."""
    _run("cp", "-al", str(base), str(place))
    return place


def python_version(root: Path) -> str:
    """First two numbers of the Python inside."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return _inside(root, "/usr/bin/python3", "-c", code).strip()


def _pins(requirements: Iterable[str]) -> list[str]:
    """What `requirements` and theirs are here, as name==version: constraints for pip."""
    pins: dict[str, str] = {}
    done: set[tuple[str, str]] = set()
    ahead = [Requirement(text) for text in requirements]
    while ahead:
        wanted = ahead.pop()
        for extra in {"", *wanted.extras} - {extra for name, extra in done if name == wanted.name}:
            done.add((wanted.name, extra))
            found = metadata.distribution(wanted.name)
            pins[wanted.name] = found.version
            theirs = map(Requirement, found.requires or ())
            ahead += [r for r in theirs if r.marker is None or r.marker.evaluate({"extra": extra})]
    return sorted(f"{name}=={version}" for name, version in pins.items())


def _suite() -> str:
    """Code name of this machine's Debian; the container gets the same."""
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    raise BuildError("/etc/os-release has no VERSION_CODENAME: is this a Debian?")


def _debootstrap(root: Path) -> None:
    """Make a minimal Debian at `root` from the mirror that this machine's apt uses."""
    suite = _suite()
    text = _run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)")
    rows = (line.split() for line in text.splitlines())
    mirrors = [row[0] for row in rows if row[1:] == [suite, "main"]]
    if not mirrors:
        raise BuildError(f"apt has no source of {suite} main: got\n{text}")
    packages = "--include=python3,python3-venv"
    _run("debootstrap", "--variant=minbase", packages, suite, str(root), mirrors[0])
    for name in ("hosts", "resolv.conf"):  # what `shifter` puts the machine's own upon
        (root / "etc" / name).touch()
    shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)


def _wheels(requirements: Sequence[str], pins: Sequence[str], wheels: Path) -> Path:
    """Fetch or build wheels with the pip outside, which knows this machine's indexes."""
    wheels.mkdir()
    constraints = wheels / "constraints.txt"
    constraints.write_text("\n".join(pins))
    _pip("wheel", "--wheel-dir", str(wheels), "--constraint", str(constraints), *requirements)
    return wheels


def _install(root: Path, wheels: Path, *requirements: str) -> None:
    """Install from `wheels` alone, by the pip inside; the network is not asked."""
    _inside(
        root, PYTHON, "-m", "pip", "install", "--quiet", "--no-index", "--find-links=/wheels",
        *requirements, bind=(wheels, "/wheels"),
    )  # fmt: skip


def _inside(root: Path, *command: str, bind: tuple[Path, str] | None = None) -> str:
    """Run `command` with `root` as a writable root file system."""
    mount = ("--ro-bind", str(bind[0]), bind[1]) if bind else ()
    return _run(
        "bwrap", "--bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
        *mount, "--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", "/tmp",
        "--die-with-parent", "--chdir", "/", *command,
    )  # fmt: skip


def _pip(*arguments: str) -> str:
    return _run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)


def _run(*command: str, timeout: float = 600.0) -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    program = shutil.which(command[0], path=path) or command[0]
    done = subprocess.run(
        [program, *command[1:]],
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        text = f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        raise BuildError(f"{' '.join(command)} ended with {done.returncode}:\n{text}")
    return done.stdout


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    """A directory on the file system of `directory`, so that renames and links stay cheap."""
    path = Path(tempfile.mkdtemp(prefix="scratch-", dir=directory))
    try:
        yield path
    finally:
        shutil.rmtree(path)
