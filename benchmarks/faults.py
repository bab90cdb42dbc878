"""A worker is killed in the middle of a run: the pause, and what the simulation feels of it."""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._cluster import PATIENCE, CoupledRun, clustered, finish, mpiexec, victim
from benchmarks._harness import KIB, Load, figure, interleave, machine, spread, write
from benchmarks._turns import make_job, write_job

SIZE, STEPS, PACE = 256 * KIB, 60, 0.03


def run(
    quick: bool = False,
    ranks: int = 2,
    repeat: int = 5,
    replays: list[int] | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Run all turns; write results and a plot.

    Two workers; the one that does not run the analysis gets SIGKILL when half of the steps are
    complete. 0 steps of replay means that nothing can be sent again.
    """
    load = Load()
    replays = replays or ([1, 4, STEPS] if quick else [1, 2, 4, 8, 16, STEPS])
    names = ["no worker killed", *(f"{k} steps of replay" for k in replays)]

    def once(name: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as scratch:
            replay = STEPS if name == names[0] else int(name.split()[0])
            return turn(Path(scratch), ranks, replay, kill=name != names[0])

    options = {} if folder is None else {"folder": folder}
    document: dict[str, Any] = {
        "machine": machine(),
        "load": load.facts(),
        "ranks": ranks,
        "workers": 2,
        "steps": f"{STEPS}, one in {PACE * 1e3:g} ms",
        "block KiB": SIZE // KIB,
        "turns of each": repeat,
        "rows": [],
    }

    def keep(turns: dict[str, list[Any]]) -> None:
        rows = [row_of(name, turns[name]) for name in names if turns[name]]
        document.update({"load": load.facts(), "rows": rows})
        write("faults", document, **options)

    interleave(names, repeat, once, keep=keep)
    figure("faults_recovery", lambda axes: draw(axes, document["rows"]), **options)
    return document


def each_step(arrays: Any) -> dict[str, Any]:
    """Analysis: a stamp for each step, each a result of its own."""
    from benchmarks._consumers import stamped

    stamps = stamped(arrays)["stamps"]
    return {f"step_{k}": stamps[k] for k in range(stamps.shape[0])}


def turn(folder: Path, ranks: int, replay: int, kill: bool) -> dict[str, Any]:
    """One run with a death in its middle, or without."""
    with clustered(workers=2) as (_, client):
        run = CoupledRun(
            client, folder, "benchmarks.faults:each_step", receivers=2, n_steps=STEPS,
            replay_steps=replay, parameters={},
        )  # fmt: skip
        job = make_job("shm", SIZE, [("all", STEPS, PACE)], ranks, folder)
        file = write_job({**job, "contact": str(run.contact)}, folder)
        process = mpiexec(ranks, "benchmarks._ranks", file)
        killed = 0.0
        if kill:
            pid = victim(client, run)
            deadline = time.monotonic() + PATIENCE
            while len(run.record()["steps"]) < STEPS // 2:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise TimeoutError(f"half of the steps did not come: {run.record()['steps']}")
                time.sleep(0.02)
            killed = time.time()
            os.kill(pid, signal.SIGKILL)
        gathered = finish(process, file)
        outcome, stamps = "complete", np.empty(0)
        try:
            results = run.results()
        except Exception as error:
            outcome = f"{type(error).__name__}"
        else:
            stamps = np.array([results[f"step_{k}"][1] for k in range(STEPS)])
        end = time.time()
        run.future = None
    begin = min(rank["begin"] for rank in gathered)
    held = np.concatenate([rank["phases"]["all"]["held"] for rank in gathered])
    late = np.sort(stamps[stamps > killed]) if kill else np.sort(stamps)
    pauses = np.diff(np.concatenate([[killed], late] if kill else [late]))
    return {
        "outcome": outcome,
        "seconds": end - begin,
        "pause": float(pauses.max()) if len(pauses) else float("nan"),
        "held": float(held.max()),
        "held median": float(np.median(held)),
    }


def row_of(name: str, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and spread over the turns."""
    outcomes = sorted({t["outcome"] for t in turns})
    complete = [t for t in turns if t["outcome"] == "complete"]
    row: dict[str, Any] = {
        "turns": name,
        "outcome": ", ".join(f"{sum(t['outcome'] == o for t in turns)} {o}" for o in outcomes),
        "longest hold of a rank ms": spread((t["held"] * 1e3 for t in turns), 3),
        "median hold ms": float(f"{statistics.median(t['held median'] for t in turns) * 1e3:.3g}"),
    }
    if complete:
        row["longest pause of the analysis s"] = spread((t["pause"] for t in complete), 3)
        row["time to result s"] = spread((t["seconds"] for t in complete), 3)
    return row


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Bars: the longest time that a rank was held, and the pause of the analysis."""
    for i, (key, scale) in enumerate(
        (("longest pause of the analysis s", 1.0), ("longest hold of a rank ms", 1e-3))
    ):
        for j, row in enumerate(rows):
            if key in row:
                value = {k: v * scale for k, v in row[key].items()}
                axes.bar(
                    j + 0.4 * i, value["median"], 0.4, color=f"C{i}",
                    label=("analysis pauses", "a rank is held")[i] if j == 0 else None,
                    yerr=[[value["median"] - value["p10"]], [value["p90"] - value["median"]]],
                )  # fmt: skip
    axes.set_xticks(range(len(rows)), [row["turns"] for row in rows], fontsize=7)
    axes.set_ylabel("seconds")
    axes.legend()
