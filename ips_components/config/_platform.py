"""The platform file, and whether its launcher is what it is taken for."""

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ips_components.config._files import Reader, read_file, with_environment
from ips_components.config._problems import Problems
from ips_components.config._sections import Platform

_VERSION_TIME_OUT = 10.0


@dataclass(frozen=True, slots=True)
class Machine:
    """A platform file as it was read.

    Attributes
    ----------
    platform
        Its parameters; None when it could not be read.
    names
        Every name in the file.
    """

    platform: Platform | None
    names: frozenset[str]


def read_platform(path: Path, problems: Problems, inherited: Iterable[str]) -> Machine:
    """Read the platform file; note those of the *inherited* names that come from elsewhere."""
    conf = read_file(path, problems)
    if conf is None:
        return Machine(None, frozenset())
    own = with_environment(conf)
    platform = Platform(**Reader("", conf, problems, frozenset(conf) - own).read(Platform))
    for name in inherited:
        if name in conf and name not in own and getattr(platform, name.lower()):
            problems.add(
                "",
                name,
                f"is not in this file; the environment variable {name} = {conf[name]} is taken "
                "for it",
                f"unset {name}, or give {name} in this file",
                fatal=False,
            )
    return Machine(platform, own)


def check_launcher(platform: Platform | None, problems: Problems) -> None:
    """Note a launcher that is missing, or is another one than its name says."""
    name = platform.mpirun if platform is not None else None
    if name in (None, "eval"):
        return
    assert name is not None
    path = shutil.which(name)
    if path is None:
        remedy = {
            "srun": "this is no Slurm machine: MPIRUN = mpiexec for MPICH, mpirun for Open MPI",
            "mpiexec": "install an MPI (pip install 'ips_components[mpich]'), or load its module",
        }.get(name, "load its module, or choose another MPIRUN")
        problems.add("", "MPIRUN", f"there is no command {name} in PATH", remedy)
    elif name == "mpirun" and "HYDRA" in _version(path):
        problems.add(
            "",
            "MPIRUN",
            f"{path} is the launcher of MPICH (Hydra), which does not know the options that IPS "
            "gives to Open MPI's mpirun",
            "MPIRUN = mpiexec",
        )


def _version(path: str) -> str:
    """Return what a launcher says about itself, "" when it does not."""
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_TIME_OUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr
