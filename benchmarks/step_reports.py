"""What the scheduler pays for the ends of a step, against the number of ranks, without a cluster.

Workers gather what their ranks say (64 ranks to a worker) and send one message each, which is
packed and unpacked as on Dask's streams; figures are CPU times of the scheduler's part, medians.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from distributed.protocol import dumps, loads

from benchmarks._harness import Load, interleave, machine, spread, write
from ips_components.coordination.run_state import RunState
from ips_components.coordination.step_report import StepReport, StepTally
from ips_components.receiver.sink import StepInfo
from ips_components.wire.messages import Counters

STEPS = 20
RANKS_PER_WORKER = 64


def messages(n: int, step: int, accounts: bool) -> list[list[bytes]]:
    """One message of each worker about one step."""
    account = (Counters(0, (step, 0, step, 0, 0), (step, 0, step, 0, 0)),) if accounts else ()
    workers = max(1, n // RANKS_PER_WORKER)
    packed = []
    for worker in range(workers):
        tally = StepTally()
        for rank in range(worker, n, workers):
            tally.add(rank, StepInfo(step, 0.1 * step, account))
        packed.append(dumps([{"report": tally.take(["t"]).to_message()}]))
    return packed


def measure(n: int, accounts: bool) -> float:
    """Seconds of CPU for one step of `n` ranks."""
    state = RunState("benchmark")
    state.hello(0, {"size": n})
    turns = []
    for step in range(STEPS):
        packed = messages(n, step, accounts)
        start = time.process_time()
        for frames in packed:
            for message in loads(frames):
                state.step_ends(StepReport.from_message(message["report"]))
        turns.append(time.process_time() - start)
    if state.steps_done != STEPS:
        raise RuntimeError(f"{state.steps_done} of {STEPS} steps are complete")
    return statistics.median(turns)


def run(quick: bool = False, repeat: int = 5, folder: Path | None = None) -> dict[str, Any]:
    """Measure all numbers of ranks; write a table."""
    load, rows = Load(), []
    for n in (4, 64, 1024, *(() if quick else (4096, 10_000))):
        workers = max(1, n // RANKS_PER_WORKER)
        turns = interleave(
            ("bare", "with accounts"), repeat, lambda name, n=n: measure(n, name != "bare") * 1e6
        )
        rows.append(
            {
                "ranks": n,
                "workers": workers,
                **{f"us per step, {name}": spread(each, 3) for name, each in turns.items()},
                "us per worker and step": float(
                    f"{statistics.median(turns['bare']) / workers:.3g}"
                ),
            }
        )
    document = {"machine": machine(), "load": load.facts(), "turns of each": repeat, "rows": rows}
    write("step_reports", document, **({} if folder is None else {"folder": folder}))
    return document
