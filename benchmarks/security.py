"""What encryption costs: whole runs and worker-to-worker transfers by ``SECURITY``.

Measured are the whole command ``ips.py`` of `whole_run`, with next to no data (start and end) and
with blocks of 512 KiB, and the time in which one worker of a Dask pool gets a block of another,
each without certificates (``none``), with Dask's traffic encrypted (``dask``, the default) and with
blocks over TCP encrypted as well (``tls``). The lane is TCP throughout, so that there is something
to encrypt.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import whole_run
from benchmarks._harness import KIB, MIB, Load, interleave, machine, ratio, spread, write

MODES = ("none", "dask", "tls")
ROWS = {"nothing": (8 * KIB, 2, 0.0), "512 KiB": (512 * KIB, 200, 0.005)}
QUICK = {"nothing": ROWS["nothing"]}
TRANSFER = 64 * MIB


def transfer(mode: str, nbytes: int = TRANSFER) -> dict[str, float]:
    """Start two workers, and move a block from one to the other; seconds."""
    from distributed import Client, LocalCluster

    from ips_components.ips_compat import make_credentials

    with tempfile.TemporaryDirectory(prefix="security-") as folder:
        begin = time.monotonic()
        made = None if mode == "none" else _security(make_credentials(Path(folder, "tls")))
        workers = {"n_workers": 2, "threads_per_worker": 1}
        address = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
        protocol = "tcp" if made is None else "tls"
        with (
            LocalCluster(**workers, **address, security=made, protocol=protocol) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            first, second = client.scheduler_info(n_workers=-1)["workers"]
            started = time.monotonic() - begin
            block = client.submit(np.ones, nbytes // 8, workers=[first], pure=False)
            client.submit(len, block, workers=[first], pure=False).result(timeout=60)
            begin = time.monotonic()
            client.submit(len, block, workers=[second], pure=False).result(timeout=60)
            return {"start": started, "transfer": time.monotonic() - begin}


def _security(credentials: Any) -> Any:
    """Return one certificate for all processes."""
    from distributed import Security

    roles = ("client", "scheduler", "worker")
    return Security(
        tls_ca_file=str(credentials.certificate),
        require_encryption=True,
        **{f"tls_{role}_cert": str(credentials.certificate) for role in roles},
        **{f"tls_{role}_key": str(credentials.key) for role in roles},
    )


def _turn(mode: str, row: tuple[int, int, float]) -> dict[str, float]:
    """Run ``ips.py`` once."""
    return whole_run.turn("this package", row, f"SECURITY = {mode}\n    LANES = tcp")


def run(quick: bool = False, repeat: int = 5, folder: Path | None = None) -> dict[str, Any]:
    """Measure all rows; write ``security.json``."""
    load = Load()
    turns = {
        "transfer": interleave(MODES, repeat, transfer),
        **{
            name: interleave(MODES, repeat, lambda mode, row=row: _turn(mode, row))
            for name, row in (QUICK if quick else ROWS).items()
        },
    }
    document = {
        "machine": machine(),
        "load": load.facts(),
        "rows": {name: _summary(found) for name, found in turns.items()},
        "turns": turns,
    }
    write("security", document, **({"folder": folder} if folder else {}))
    return document


def _summary(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return medians by mode, and how many times longer each takes than ``none``."""
    table = {
        mode: {what: spread([each[what] for each in turns]) for what in turns[0]}
        for mode, turns in found.items()
        if turns
    }
    over = {
        f"{what}, {mode} over none": ratio(
            [each[what] for each in found["none"]], [each[what] for each in found[mode]]
        )
        for mode in MODES[1:]
        if mode in table and "none" in table
        for what in table[mode]
    }
    return {"modes": table, "ratios": over}
