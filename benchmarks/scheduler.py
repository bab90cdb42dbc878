"""What a step costs Dask's scheduler, against the number of ranks that speak the real protocol."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._cluster import (
    DEADLINES,
    PATIENCE,
    Cluster,
    CoupledRun,
    clustered,
    environment,
)
from benchmarks._harness import Load, figure, interleave, machine, spread, write

ROWS, COLUMNS = 1, 64
WAYS = ("one chunk per step", "one chunk per rank")
#: Seconds over which the scheduler is watched with nothing to do.
AT_REST = 5.0


def run(
    quick: bool = False,
    repeat: int = 5,
    sizes: list[int] | None = None,
    steps: int = 20,
    separate: int = 256,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Run all turns; write results and a plot."""
    load = Load()
    options = {} if folder is None else {"folder": folder}
    sizes = sizes or ([4, 16, 64, 256, 1024] if quick else [4, 16, 64, 256, 1024, 4096])
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {
        "machine": machine(),
        "load": load.facts(),
        "steps": steps,
        "block": f"{ROWS} x {COLUMNS} doubles: the cost is that of messages, not of bytes",
        "turns of each": repeat,
    }
    with tempfile.TemporaryDirectory() as scratch, clustered() as (cluster, client):
        rest = at_rest(cluster)
        facts["scheduler CPU at rest, ms per second"] = round(rest * 1e3, 2)
        for n in sizes:
            print(f"{n} ranks")

            def once(way: str, n: int = n) -> dict[str, float]:
                return turn(cluster, client, Path(scratch), n, steps, way == WAYS[0])

            # A warm-up turn of each size would cost as much as the turns: the first size pays.
            # Thousands of ranks without coalescing only say again what hundreds have said.
            ways = WAYS if n <= separate else WAYS[:1]
            before = list(rows)

            def keep(turns: dict[str, list[Any]], n: int = n, before: list[Any] = before) -> None:
                rows[:] = [
                    *before,
                    *(row_of(n, way, steps, each, rest) for way, each in turns.items() if each),
                ]
                facts.update({"load": load.facts(), "rows": rows})
                write("scheduler", facts, **options)

            interleave(ways, repeat, once, keep=keep)
            figure("scheduler_cpu", lambda axes: draw(axes, rows), **options)
    return facts


def turn(
    cluster: Cluster, client: Any, folder: Path, n: int, steps: int, coalesced: bool
) -> dict[str, float]:
    """Let `n` emulated ranks put all steps; CPU of the scheduler and of the worker."""
    chunks = {} if coalesced else {"chunks": {"t": (1, ROWS, -1)}}
    # Thousands of ranks on a few cores take their time to open and to put a step.
    patience = max(PATIENCE, 0.05 * n)
    deadlines = dict.fromkeys((*DEADLINES, "silence"), patience)
    run = CoupledRun(
        client, folder, "benchmarks._consumers:reduced",
        lanes=("tcp",), n_steps=steps, deadlines=deadlines, **chunks,
    )  # fmt: skip
    before_open = cluster.cpu()
    ranks = Emulated(run, folder, n, steps, patience)
    try:
        ranks.expect("open")
        before, begin = cluster.cpu(), time.monotonic()
        ranks.go()
        ranks.expect("put")
        put = time.monotonic() - begin
        sums = run.results(patience)["sums"]
        after, seconds = cluster.cpu(), time.monotonic() - begin
        ranks.go()
        ranks.finish(patience)
        record = run.end(patience)
        if not record["ledger"]["closed"] or not (sums == n * ROWS * COLUMNS).all():
            raise RuntimeError(f"wrong results or an open ledger: {record['ledger']}, {sums}")
    finally:
        ranks.close()
        run.close()
    return {
        "opening": before["scheduler"] - before_open["scheduler"],
        "scheduler": after["scheduler"] - before["scheduler"],
        "worker": after["workers"] - before["workers"],
        "put": put,
        "seconds": seconds,
    }


class Emulated:
    """The process that emulates the ranks."""

    def __init__(self, run: CoupledRun, folder: Path, n: int, steps: int, patience: float) -> None:
        job = folder / f"{run.name}.json"
        job.write_text(
            json.dumps({"contact": str(run.contact), "ranks": n, "steps": steps, "rows": ROWS,
                        "columns": COLUMNS, "patience": patience})
        )  # fmt: skip
        self.log = job.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks._emulated", str(job)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env=environment(), text=True,
            )  # fmt: skip

    def go(self) -> None:
        """Let it go on."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def expect(self, word: str) -> None:
        """Wait for a word of it; its ranks have deadlines, so that it speaks or ends."""
        heard = self.process.stdout.readline().strip()
        if heard != word:
            said = self.log.read_text()[-800:]
            raise RuntimeError(f"emulated ranks should say {word!r}, said {heard!r}: {said}")

    def finish(self, timeout: float) -> None:
        if self.process.wait(timeout):
            raise RuntimeError(self.log.read_text()[-800:])

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(15)
        self.process.stdin.close()
        self.process.stdout.close()


def at_rest(cluster: Cluster) -> float:
    """CPU seconds per second of a scheduler that has workers and nothing to do.

    The more ranks, the longer a step takes on few cores, and the more of this falls into it.
    """
    before = cluster.cpu()["scheduler"]
    time.sleep(AT_REST)
    return (cluster.cpu()["scheduler"] - before) / AT_REST


def row_of(
    n: int, way: str, steps: int, turns: list[dict[str, float]], rest: float
) -> dict[str, Any]:
    """Medians and spread over the turns."""
    chunks = 1 if way == WAYS[0] else n
    seconds = statistics.median(turn["seconds"] for turn in turns)
    return {
        "ranks": n,
        "chunks": way,
        "scheduler CPU per step, ms": spread((t["scheduler"] / steps * 1e3 for t in turns), 3),
        "of it at rest, ms": round(rest * seconds / steps * 1e3, 2),
        "scheduler CPU per chunk, us": float(
            f"{statistics.median(t['scheduler'] for t in turns) / steps / chunks * 1e6:.3g}"
        ),
        "scheduler CPU to open, ms": float(
            f"{statistics.median(t['opening'] for t in turns) * 1e3:.3g}"
        ),
        "worker CPU per block, us": float(
            f"{statistics.median(t['worker'] for t in turns) / steps / n * 1e6:.3g}"
        ),
        "steps per second": float(f"{steps / seconds:.3g}"),
    }


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """CPU per step against the number of ranks."""
    for way, style in zip(WAYS, ("o-", "s--"), strict=True):
        mine = [row for row in rows if row["chunks"] == way]
        cpu = [row["scheduler CPU per step, ms"] for row in mine]
        y = [each["median"] for each in cpu]
        error = [[abs(e["median"] - e[edge]) for e in cpu] for edge in ("p10", "p90")]
        axes.errorbar([row["ranks"] for row in mine], y, error, fmt=style, label=way, capsize=2)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("ranks")
    axes.set_ylabel("scheduler CPU per step, ms")
    axes.legend()
