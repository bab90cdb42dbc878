"""From a path to a run that is under way: its contact file, and how to reach its scheduler."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ips_components.errors import ContactError
from ips_components.wire import contact as contacts
from ips_components.wire.contact import Contact

if TYPE_CHECKING:
    from distributed import Security

PATTERN = "contact*.json"


def find_contact(where: str | os.PathLike[str]) -> tuple[Path, Contact]:
    """Return the contact file of a run, and what it says.

    Parameters
    ----------
    where
        A contact file, the directory of a run, or a directory with directories of runs (SIM_ROOT),
        of which the newest that is under way is taken.

    Raises
    ------
    ContactError
        When there is none, there are several, it belongs to another user or is readable by others,
        or does not allow clients to attach.
    """
    path = _file(Path(where).expanduser())
    contact = contacts.read(path)
    if not contact.scheduler:
        raise ContactError(
            f"run {contact.run} may not be attached to: its config has ATTACH = False in the "
            f"section of the analytics (contact file {path} names no scheduler)"
        )
    return path, contact


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise ContactError(
            f"{path} is neither a contact file nor a directory; give the directory of a run "
            "(SIM_ROOT/run_...), or SIM_ROOT"
        )
    own = sorted(path.glob(PATTERN))
    if not own:
        runs = [found for each in path.glob("run_*") if (found := _newest(each)) is not None]
        if not runs:
            raise ContactError(
                f"no run is under way in {path}: neither it nor a directory run_* in it has a file "
                f"{PATTERN}, which a run has from its start to its end"
            )
        newest = max(runs, key=lambda each: each[0])[1].parent
        own = sorted(newest.glob(PATTERN))
    if len(own) > 1:
        names = ", ".join(each.name for each in own)
        raise ContactError(
            f"{own[0].parent} has several simulations ({names}): give the contact file of one"
        )
    return own[0]


def _newest(directory: Path) -> tuple[float, Path] | None:
    """Return when the newest contact file of a run was written, and its path."""
    found = []
    for each in directory.glob(PATTERN):
        with contextlib.suppress(OSError):  # gone meanwhile
            found.append((each.stat().st_mtime, each))
    return max(found) if found else None


def security_of(contact: Contact) -> Security | None:
    """Return what a Dask client needs to be let in; None where nothing is encrypted."""
    tls = contact.scheduler_tls or contact.tls
    if tls is None:
        return None
    from distributed import Security

    return Security(
        tls_ca_file=tls.authority,
        tls_client_cert=tls.certificate,
        tls_client_key=tls.key,
        require_encryption=True,
    )
