"""What a run costs beyond its simulation: the wait before the first put and after the last step.

Side by side with the least that stock Dask takes for what every run does: a ``LocalCluster`` of two
workers and the import of matplotlib. The run is the main job of the README.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._accounting import measured
from benchmarks._harness import ROOT, Load, interleave, machine, ratio, spread, write

BARE = """\
import matplotlib.pyplot
from distributed import Client, LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
"""
GOALS = {"overhead": 6.0, "overhead over bare": 1.5, "to the first put": 2.5, "to the exit": 1.5}
ENVIRONMENT = {"PYTHONPATH": str(ROOT)}
SYSTEMS = ("bare", "main job")


def turn(system: str) -> dict[str, float]:
    """Run one of them once; return what it took.

    Returns
    -------
    dict
        As of `measured`; for the main job also, in seconds, ``overhead`` (all but the time from the
        first put to the last), ``to the first put`` and ``to the exit`` (from the last step that
        was analysed).
    """
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        folder = Path(name)
        if system == "bare":
            (folder / "bare.py").write_text(BARE)
            return measured([sys.executable, "bare.py"], folder, ENVIRONMENT)
        config = (ROOT / "configs" / "heat2d_ipca.config").read_text()
        lines = [
            f"SIM_ROOT = {name}/run" if line.startswith("SIM_ROOT") else line
            for line in config.replace("$PWD", str(ROOT)).splitlines()
        ]
        place = ROOT / "configs" / f"startup.{folder.name}.config"  # its paths begin where it lies
        place.write_text("\n".join(lines) + "\n")
        try:
            ips = str(Path(sys.executable).parent / "ips.py")
            platform = str(ROOT / "platform" / "workstation.conf")
            began = time.time()
            command = [ips, "--config", str(place), "--platform", platform]
            found = measured(command, folder, ENVIRONMENT)
            ended = began + found["wall"]
        finally:
            place.unlink()
        (record,) = folder.glob("run/run_*/run.json")
        steps = json.loads(record.read_text())["steps"]
        first, last = steps[0]["first_put"], steps[-1]["first_put"]
        return {
            **found,
            "overhead": found["wall"] - (last - first),
            "to the first put": first - began,
            "to the exit": ended - max(each["analysed"] for each in steps),
        }


def run(quick: bool = False, repeat: int = 5, folder: Path | None = None) -> dict[str, Any]:
    """Measure in turns; write ``startup.json``."""
    load = Load()
    turns = interleave(SYSTEMS, 1 if quick else repeat, turn)
    bare, job = turns["bare"], turns["main job"]
    ours = {
        name: spread([each[name] for each in job])
        for name in ("overhead", "to the first put", "to the exit")
    }
    over = ratio([each["wall"] for each in bare], [each["overhead"] for each in job])
    document = {
        "machine": machine(),
        "load": load.facts(),
        "goals": GOALS,
        "systems": {
            system: {what: spread([each[what] for each in found]) for what in ("wall", "core")}
            for system, found in turns.items()
        },
        "main job": {**ours, "overhead over bare": over},
        "turns": turns,
    }
    write("startup", document, **({"folder": folder} if folder else {}))
    return document
