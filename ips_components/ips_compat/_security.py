"""Access to the Dask processes of a pool: their certificates, and where they listen.

Parameters of the section of the component that submits the pool decide:

``SECURITY``
    ``none``: any user who can reach a port of the pool may run code as its owner. Anything else:
    Dask's processes take certificates of the pool only, which is the default.
``LOOPBACK``
    Whether the pool listens on the loopback interface only. By default it does where all of its
    processes are on one host.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ips_components.errors import ConfigError
from ips_components.ips_compat._launch import DIRECTORY
from ips_components.ips_compat._tls import Credentials, make_credentials

DEFAULT = "dask"
CHOICES = (DEFAULT, "tls", "none")
LOOPBACK = "127.0.0.1"

#: Dask's HTTP servers cannot be switched off. They listen on the loopback interface and have no
#: pages, unless the environment names some.
_HTTP = ("--dashboard-address", f"{LOOPBACK}:0")
PAGES = {
    "DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": "[]",
    "DASK_DISTRIBUTED__WORKER__HTTP__ROUTES": "[]",
}

_BATCH_SYSTEMS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "COBALT_JOBID", "FLUX_JOB_ID")
_FALSE, _TRUE = ("false", "no", "off", "0"), ("true", "yes", "on", "1")


@dataclass(frozen=True, slots=True)
class PoolSecurity:
    """What a pool's processes get.

    Parameters
    ----------
    credentials
        Their certificates; None where nothing is encrypted.
    loopback
        Whether they listen on the loopback interface only.
    directory
        What is removed with the certificates.
    """

    credentials: Credentials | None
    loopback: bool
    directory: Path | None = None

    def options(self) -> list[str]:
        """Options of Dask's scheduler and workers."""
        where = ["--host", LOOPBACK] if self.loopback else []
        certificates = self.credentials.options() if self.credentials else []
        return [*_HTTP, *where, *certificates]

    def environment(self) -> dict[str, str]:
        """Variables of their processes, where they have no value: a ``Client(address)`` in a task
        is let in as well."""
        found = self.credentials
        return {**PAGES, **(found.environment() if found else {})}

    def client(self) -> dict[str, Any]:
        """Options of a client."""
        return {"security": self.credentials.security()} if self.credentials else {}

    @property
    def directories(self) -> list[Path]:
        """Directories with secrets, which end with the pool."""
        return [self.directory] if self.directory is not None else []

    def remove(self) -> None:
        """Remove the certificates; the guard of the scheduler may have done it."""
        for each in self.directories:
            shutil.rmtree(each, ignore_errors=True)


def make_security(pool: Any) -> PoolSecurity:
    """Make what the config of the pool's component asks for.

    Raises
    ------
    ConfigError
        When its parameters make no sense, or no certificates can be made.
    """
    config = pool.services.component_ref.config
    word = _choice(config, "SECURITY", CHOICES, DEFAULT)
    listen = _choice(config, "LOOPBACK", (*_TRUE, *_FALSE, ""), "")
    loopback = listen in _TRUE if listen else all_on_one_host(pool.services.get_config_param)
    if word == "none":
        return PoolSecurity(None, loopback)
    directory: Path | None = pool.__dict__.get("credentials_directory")
    if directory is not None:
        return PoolSecurity(make_credentials(directory), loopback, directory)
    below = Path.cwd() / DIRECTORY
    below.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="tls-", dir=below))  # a pool is submitted many times
    return PoolSecurity(make_credentials(directory / "pool"), loopback, directory)


def all_on_one_host(
    parameter_of: Any,
    environment: Mapping[str, str] = os.environ,
) -> bool:
    """Return whether all processes of a pool, and of tasks beside it, run on this host.

    Parameters
    ----------
    parameter_of
        Returns the value of a parameter of the platform file, or raises.
    environment
        Where batch systems say what a job has.
    """

    def text(name: str) -> str:
        try:
            return str(parameter_of(name, silent=True) or "")
        except Exception:  # a platform file need not have it
            return ""

    launcher = text("MPIRUN")
    if launcher == "eval":
        return True
    if "SLURM_JOB_ID" in environment:
        # Names differ on a login node, from which the job's node is reached over the network.
        node = environment.get("SLURMD_NODENAME")
        return bool(node) and environment.get("SLURM_JOB_NODELIST") == node
    if launcher not in ("mpiexec", "mpirun") or any(name in environment for name in _BATCH_SYSTEMS):
        return False
    return text("NODE_DETECTION") == "manual" and text("NODES") in ("", "0", "1")


def _choice(config: Mapping[str, Any], name: str, allowed: Sequence[str], default: str) -> str:
    raw = config.get(name)
    if raw is None or raw == "":
        return default
    word = str(raw).strip().lower()
    if word not in allowed:
        expected = ", ".join(each for each in allowed if each)
        raise ConfigError(f"{name}: expected one of {expected}, got {raw!r}")
    return word
