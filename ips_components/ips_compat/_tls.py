"""Ephemeral certificates for the Dask pool of one run: made for it, and gone with it."""

import math
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ips_components.errors import ConfigError

_DAYS = 365
"""Validity where nothing limits the run; the files are removed with the run anyway."""
_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate that trusts itself, and its key; a process that has both belongs to the run."""

    certificate: Path
    key: Path

    def options(self) -> list[str]:
        """Options of Dask's scheduler and workers."""
        words = ["--protocol", "tls", "--tls-ca-file", self.certificate]
        words += ["--tls-cert", self.certificate, "--tls-key", self.key]
        return [str(word) for word in words]

    def environment(self) -> dict[str, str]:
        """Variables with which a client that is given an address only is let in."""
        certificate, key = str(self.certificate), str(self.key)
        return {
            "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": certificate,
            "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT": certificate,
            "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY": key,
        }

    def security(self) -> Any:
        """What a client needs to be let in."""
        from distributed.security import Security

        return Security(
            tls_ca_file=str(self.certificate),
            tls_client_cert=str(self.certificate),
            tls_client_key=str(self.key),
            require_encryption=True,
        )


def days_of_run(environment: Mapping[str, str] = os.environ) -> int:
    """Return the days for which a certificate must be valid: those that a batch job has left."""
    try:
        left = float(environment["SLURM_JOB_END_TIME"]) - time.time()
    except (KeyError, ValueError):
        return _DAYS
    return max(1, math.ceil(left / _DAY))


def make_credentials(directory: Path) -> Credentials:
    """Make a certificate and a key in a directory that only the user can enter.

    Raises
    ------
    ConfigError
        When there is no command ``openssl``, or it fails.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        raise ConfigError(
            "the certificates of Dask's processes need the command openssl, which is not in PATH: "
            "install it or load its module; or say SECURITY = none in the section of the component "
            "that starts them, where no other user can reach their ports"
        )
    directory.mkdir(mode=0o700)
    credentials = Credentials(directory / "certificate.pem", directory / "key.pem")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ips_components"
    files = ["-keyout", str(credentials.key), "-out", str(credentials.certificate)]
    made = subprocess.run(
        [openssl, *words.split(), "-days", str(days_of_run()), *files],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if made.returncode != 0:
        raise ConfigError(
            f"openssl made no certificate for the Dask processes: {made.stderr.strip()}"
        )
    credentials.key.chmod(0o600)
    return credentials
