"""Runs on a cluster of a test, and the contact files of their ranks."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from ips_components.analysis import wait_for_receivers
from ips_components.coordination import RunSettings, run_plugin
from ips_components.wire.contact import Contact, Endpoint, write

DEADLINES = {"connect": 20.0, "contract": 20.0, "step": 20.0, "drain": 20.0}


def settings_of(analysis: str, directory: Path, **changes: Any) -> RunSettings:
    """Settings of a run of two receivers that leaves its files in a directory."""
    usual = {
        "run": "r" + secrets.token_hex(4),
        "token": secrets.token_hex(32),
        "n_receivers": 2,
        "results": str(directory / "results.zarr"),
        "run_dir": str(directory),
        "deadlines": DEADLINES,
    }
    return RunSettings(analysis=analysis, **{**usual, **changes})


def open_run(client: Any, settings: RunSettings, contact: Path) -> None:
    """Open the receivers of a run, and write where they are."""
    client.register_plugin(run_plugin(settings))
    endpoints = wait_for_receivers(client, settings.run, settings.n_receivers, 20)
    known = Endpoint.__dataclass_fields__
    there = tuple(Endpoint(**{k: e[k] for k in known}) for e in endpoints)
    terms = {"lanes": settings.lanes, "on_analytics_loss": settings.on_analytics_loss}
    write(contact, Contact(settings.run, settings.token, there, settings.deadlines, terms))
