"""What the components of one coupled workflow know of each other: records that IPS keeps.

A component of IPS answers one call at a time, so that one which is busy cannot be called. What
another component must know meanwhile is a record: a small mapping under a name, with one writer,
which the framework keeps for the simulation (``services.set_config_param``). A record is written
and read as a whole, and is gone when ``ips.py`` has ended, so that none can be stale.

========================== ======================= ===============================================
record                     writer                  content
========================== ======================= ===============================================
`RUN`                      analytics               run id, directory, contact files, scheduler,
                                                   state (`STARTING`, `OPEN`, `DONE`, `FAILED`) and
                                                   cause
`launches_of` a port       component at the port   its launches, and whether it is finalized
`COORDINATOR`              analytics               what the coordinator knew at the end
`OUTCOME`                  analytics               what the analysis returned, and the figures of it
`ABORT`                    driver                  why the tasks of all simulations shall end now
========================== ======================= ===============================================
"""

import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONTACT = "contact.json"
RUN = "RUN"
COORDINATOR = "COORDINATOR"
OUTCOME = "OUTCOME"
ABORT = "ABORT"

STARTING = "starting"
OPEN = "open"
DONE = "done"
FAILED = "failed"

_PREFIX = "IPS_COMPONENTS_RECORD_"


def new_run_id() -> str:
    """Return an id that sorts by time and differs between restarts."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def run_directory(sim_root: str, run: str, private: bool = False) -> Path:
    """Directory of a run, made if need be; a private one is closed to other users."""
    directory = Path(sim_root) / f"run_{run}"
    directory.mkdir(parents=True, exist_ok=True)
    if private:
        directory.chmod(0o700)
    return directory


def launches_of(port: str) -> str:
    """Name of the record of the component at a port."""
    return f"LAUNCHES_{port}"


class Records:
    """The records of the workflow that a component belongs to.

    Parameters
    ----------
    services
        Of the component.
    """

    def __init__(self, services: Any) -> None:
        self._services = services

    def read(self, name: str) -> dict[str, Any]:
        """Return a record, empty when there is none."""
        try:
            text = self._services.get_config_param(_PREFIX + name, silent=True)
        except KeyError:
            return {}
        record: dict[str, Any] = json.loads(text)
        return record

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a record; readers get the old one or the new one."""
        # Bytes, since IPS would replace $NAME in a text.
        self._services.set_config_param(_PREFIX + name, json.dumps(record, default=str).encode())
