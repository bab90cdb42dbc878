"""Where the time goes: py-spy looks at a rank, at the worker and at the scheduler of one run.

Shares are of samples in which a thread of that process was running (the waiting is left out), by
innermost Python function: time in NumPy or in the kernel counts for the function that called it.
"""

from __future__ import annotations

import collections
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks._cluster import PATIENCE, CoupledRun, clustered, finish, mpiexec
from benchmarks._harness import KIB, MIB, Load, machine, write
from benchmarks._turns import make_job, write_job

SHOWN = 0.05
CASES = {"small blocks": (32 * KIB, 0.002), "large blocks": (2 * MIB, 0.005)}


def run(
    quick: bool = False, repeat: int = 1, seconds: float = 0.0, folder: Path | None = None
) -> dict[str, Any]:
    """Look at one run of small and one of large blocks; write a table."""
    load, seconds = Load(), seconds or (8.0 if quick else 30.0)
    rows = []
    for case, (size, pace) in CASES.items():
        for lane in ("shm", "tcp"):
            for process, found in look(lane, size, pace, seconds).items():
                rows += [
                    {"run": f"{case}, {lane}", "process": process, "function": where,
                     "share": round(share, 3)}
                    for where, share in found
                    if share >= SHOWN
                ]  # fmt: skip
    document = {
        "machine": machine(),
        "load": load.facts(),
        "seconds of each run": seconds,
        "rows": rows,
    }
    options = {} if folder is None else {"folder": folder}
    write("hotspots", document, **options)
    return document


def look(lane: str, size: int, pace: float, seconds: float) -> dict[str, list[tuple[str, float]]]:
    """Run two ranks for about twice the time that py-spy looks at them."""
    spy = Path(sys.executable).with_name("py-spy")
    command = str(spy) if spy.exists() else shutil.which("py-spy")
    if command is None:
        raise FileNotFoundError("py-spy: `pip install py-spy`")
    with tempfile.TemporaryDirectory() as scratch, clustered() as (cluster, client):
        folder = Path(scratch)
        steps = round(2 * seconds / (pace + 0.002))
        run_ = CoupledRun(
            client, folder, "benchmarks._consumers:stamped", n_steps=steps,
            lanes=("tcp",) if lane == "tcp" else ("shm", "tcp"),
        )  # fmt: skip
        job = make_job(lane, size, [("all", steps, pace)], 2, folder)
        file = write_job({**job, "contact": str(run_.contact)}, folder)
        ranks = mpiexec(2, "benchmarks._ranks", file)
        begun(run_)
        watched = {
            "rank": rank_pid(ranks.pid),
            "worker": cluster.workers[0].pid,
            "scheduler": cluster.scheduler.pid,
        }
        spies = {
            name: subprocess.Popen(
                [command, "record", "--pid", str(pid), "--duration", str(max(1, round(seconds))),
                 "--rate", "200", "--format", "raw", "--output", str(folder / name),
                 "--nonblocking"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for name, pid in watched.items()
        }  # fmt: skip
        for each in spies.values():
            each.wait(seconds + PATIENCE)
        finish(ranks, file, 5 * PATIENCE)
        run_.results()
        run_.close()
        return {name: shares(folder / name) for name in watched if (folder / name).exists()}


def begun(run_: CoupledRun) -> None:
    """Wait until the first steps are complete."""
    deadline = time.monotonic() + PATIENCE
    while len(run_.record()["steps"]) < 5:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no steps within {PATIENCE:g} s: {run_.record()}")
        time.sleep(0.05)


def rank_pid(mpiexec_pid: int) -> int:
    """Return the process of some rank."""
    for child in psutil.Process(mpiexec_pid).children(recursive=True):
        if "benchmarks._ranks" in child.cmdline() and "python" in child.name():
            return child.pid
    raise RuntimeError("mpiexec has no ranks")


def shares(raw: Path) -> list[tuple[str, float]]:
    """Sum py-spy's samples by innermost function."""
    counts: collections.Counter[str] = collections.Counter()
    for line in raw.read_text().splitlines():
        stack, _, number = line.rpartition(" ")
        frame = stack.split(";")[-1]
        counts[frame.rpartition(":")[0].rstrip(")").replace("site-packages/", "")] += int(number)
    total = sum(counts.values()) or 1
    return [(name + ")" * ("(" in name), n / total) for name, n in counts.most_common()]
