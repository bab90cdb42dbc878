"""What the components of one coupled run share: its directory, and notices that they leave there.

A component of IPS answers one call at a time, so that one which is busy for the whole run cannot be
called. What it must learn meanwhile is put into the run's directory as a small file.
"""

import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONTACT = "contact.json"
SIMULATION = "simulation"
"""Beginning of the notices of the driver: a simulation has started, or ended and how."""
ABORT = "abort"
"""Notice of the driver: the simulations shall end now, and why."""
COORDINATOR = "coordinator"
"""Notice of the analytics: what the coordinator knew at the end."""


def new_run_id() -> str:
    """Return an id that sorts by time and differs between restarts."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def run_directory(sim_root: str, run: str) -> Path:
    """Directory of a run, made if need be."""
    directory = Path(sim_root) / f"run_{run}"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def about(port: str) -> str:
    """Name of the notice about the simulation at a port."""
    return f"{SIMULATION}_{port}"


def task_of(port: str) -> str:
    """Name of the notice of the simulation at a port: how its task ended."""
    return f"task_{port}"


def leave_notice(directory: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Leave a notice; readers see the old one or the new one, never half of one."""
    path = directory / f".{name}.notice"
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(facts, default=str))
    draft.replace(path)


def read_notice(directory: Path, name: str) -> dict[str, Any]:
    """Return a notice, empty when there is none."""
    try:
        notice: dict[str, Any] = json.loads((directory / f".{name}.notice").read_text())
    except FileNotFoundError:
        return {}
    return notice


def remove_notices(directory: Path) -> None:
    """Take all notices away."""
    for path in directory.glob(".*.notice"):
        path.unlink(missing_ok=True)
