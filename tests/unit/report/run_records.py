"""Complete run records made by feeding a real run state with a clock of our own."""

from __future__ import annotations

import math
import random
from typing import Any

from ips_components.coordination.run_state import RunState
from ips_components.report.record import make_record

MIB = 2**20
START = 1_780_000_000.0
BLOCK = 8 * MIB

CONFIG = {
    "RUN_ID": "heat2d_ipca",
    "ANALYSIS": "ips_components.algorithms.ipca:analysis",
    "ANALYSIS_N_COMPONENTS": "3",
    "NPROC": 4,
    "DASK_NODES": 1,
    "DASK_PPN": 2,
    "REPLAY_STEPS": 4,
    "CONTRACT_TIMEOUT": 120.0,
    "ON_ANALYTICS_LOSS": "continue",
    "QUIET": False,
    "ARRAYS": ["temperature"],
    "PORTAL_API_KEY": "abcdef",
}
CONTRACT = {
    "arrays": [
        {
            "name": "temperature",
            "dtype": "float64",
            "shape": [2048, 2048],
            "dims": ["y", "x"],
            "steps": "0:100:2 of 100",
            "region": "[512:1536, 0:2048]",
            "fraction": 0.25,
            "bytes": 50 * BLOCK * 2,
            "chunks": 100,
        }
    ]
}
TRACEBACK = """Traceback (most recent call last):
  File "/home/ada/plasma/analysis.py", line 41, in project
    return scores @ basis.T
ValueError: matmul: mismatch in core dimension 0 (size 3 is different from 4)
"""


class Feed:
    """Plays a simulation and its analytics into a run state."""

    def __init__(self, ranks: int = 4, workers: int = 2, seed: int = 1) -> None:
        self.t = START
        self.random = random.Random(seed)
        self.state = RunState("heat2d_ipca", clock=lambda: self.t)
        self.ranks = ranks
        self.waited = [0.0] * ranks
        self.produced = [0] * ranks
        self.skipped = [0] * ranks
        self.blocks = [0] * ranks
        for ordinal in range(workers):
            self.state.endpoints[ordinal] = {
                "receiver": ordinal,
                "address": f"tcp://10.0.0.{ordinal + 1}:4071{ordinal}",
                "host": f"10.0.0.{ordinal + 1}",
                "hostname": f"node{ordinal + 1}",
                "pid": 7100 + ordinal,
                "nthreads": 1,
                "memory_limit": 2048 * MIB,
            }

    def begin(self) -> None:
        self.t += 2.4
        for rank in range(self.ranks):
            self.state.hello(
                rank,
                {
                    "size": self.ranks,
                    "host": f"node{1 + rank % 2}",
                    "pid": 9000 + rank,
                    "lane": "shm",
                },
            )
        self.state.ledger.declare(["temperature"])
        self.state.phase = "running"

    def run(self, steps: int, first: int = 0) -> None:
        due: list[tuple[float, int]] = []
        finished = self.t
        for step in range(first, first + steps):
            slow = 1.0 + 2.2 * math.exp(-(((step - 60) / 12) ** 2))
            self.t += 0.11 + 0.01 * self.random.random()
            for rank in range(self.ranks):
                wait = max(0.0, 0.06 * (slow - 1.35)) * (0.7 + 0.3 * self.random.random())
                self.waited[rank] += wait * (1 + 0.15 * rank)
            self.t += max(0.0, 0.06 * (slow - 1.35))
            for rank in range(self.ranks):
                self.put(rank, step)
            if step % 2 == 0:
                finished = max(finished, self.t) + 0.16 * slow
                due.append((finished, step))
            if step % 7 == 0:
                self.sample(slow)
            while due and due[0][0] <= self.t:
                self.analyse(*due.pop(0))
        for when, step in due:
            self.analyse(when, step)

    def analyse(self, when: float, step: int) -> None:
        now, self.t = self.t, when
        self.state.analysed(step)
        self.t = max(now, when)

    def put(self, rank: int, step: int) -> None:
        self.produced[rank] += BLOCK
        self.blocks[rank] += 1
        self.skipped[rank] += BLOCK if step % 2 else BLOCK // 2
        self.state.step_end(rank, step, self.waited[rank], self.counters(rank))

    def counters(self, rank: int) -> dict[str, Any]:
        produced, skipped = self.produced[rank], self.skipped[rank]
        half = (self.blocks[rank] + 1) // 2
        return {
            "temperature": {
                "bytes": {
                    "produced": produced,
                    "skipped": skipped,
                    "delivered": produced - skipped,
                },
                "blocks": {
                    "produced": self.blocks[rank],
                    "skipped": self.blocks[rank] - half,
                    "delivered": half,
                },
            }
        }

    def sample(self, slow: float) -> None:
        for ordinal, endpoint in self.state.endpoints.items():
            self.state.sample(
                {
                    "worker": endpoint["address"],
                    "rss": (330 + 160 * slow + 40 * ordinal + 12 * self.random.random()) * MIB,
                    "managed": 90 * slow * MIB,
                    "held": 24 * slow * MIB,
                    "credits": 64 * MIB,
                }
            )

    def bye(self) -> None:
        for rank in range(self.ranks):
            self.state.bye(rank, "ok", self.counters(rank))
        self.t += 0.6
        self.state.end()


def ok_record(ranks: int = 4, workers: int = 2, steps: int = 100) -> dict[str, Any]:
    feed = Feed(ranks, workers)
    feed.begin()
    feed.run(steps)
    feed.bye()
    return make_record(
        "heat2d_ipca",
        status="ok",
        coordinator={**feed.state.record(), "states": {"forgotten": 100}},
        config=CONFIG,
        contract=CONTRACT,
        n_steps=steps,
        comment="Heat in a plate, its principal components in transit",
        simulation={
            "executable": "python examples/heat2d/heat2d.py --nx 2048 --ny 2048",
            "nproc": ranks,
            "exit_status": 0,
            "hosts": ["node1", "node2"],
        },
        pool={"analysis": CONFIG["ANALYSIS"], "scheduler": "tcp://10.0.0.1:40700"},
        results={
            "path": "/scratch/ada/run_heat2d_ipca/results.zarr",
            "variables": {
                "components": {
                    "shape": [3, 1024, 2048],
                    "dtype": "float64",
                    "dims": ["component", "y", "x"],
                    "min": -0.0131,
                    "max": 0.0204,
                },
                "explained_variance_ratio": {
                    "shape": [3],
                    "dtype": "float64",
                    "dims": ["component"],
                    "min": 0.0213,
                    "max": 0.8412,
                    "values": [0.8412, 0.1017, 0.0213],
                },
                "mean": {
                    "shape": [1024, 2048],
                    "dtype": "float64",
                    "dims": ["y", "x"],
                    "units": "K",
                    "min": 0.0,
                    "max": 41.7,
                },
            },
        },
    )


def rank_death_record() -> dict[str, Any]:
    """Rank 2 is killed after step 36; its last steps reach no receiver."""
    feed = Feed()
    feed.begin()
    feed.run(37)
    feed.t += 0.3
    feed.produced[2] += BLOCK
    feed.blocks[2] += 1
    feed.state.step_end(2, 37, feed.waited[2], _half_sent(feed, 2))
    feed.state.rank_lost(2, "connection reset by node1 (process 9002) in the middle of a piece")
    feed.state.fail("rank 2", "lost", "connection reset by node1 (process 9002)")
    feed.t += 0.4
    feed.state.fault("analysis", "raised", TRACEBACK)
    feed.t += 0.8
    return make_record(
        "heat2d_ipca",
        status="failed",
        cause="rank 2 lost: connection reset by node1 (process 9002); "
        "simulation ended at step 37 of 100",
        coordinator={**feed.state.record(), "states": {"forgotten": 36, "memory": 2, "erred": 62}},
        config=CONFIG,
        contract=CONTRACT,
        n_steps=100,
        ended=feed.t,
        simulation={
            "executable": "python examples/heat2d/heat2d.py --nx 2048 --ny 2048",
            "nproc": 4,
            "exit_status": 137,
            "hosts": ["node1", "node2"],
        },
    )


def before_first_step_record() -> dict[str, Any]:
    """The simulation's program does not exist: no hello, no contract, no step."""
    feed = Feed()
    feed.t += 3.1
    feed.state.fail(
        "simulation",
        "did not start",
        "executable 'heat3d' not found in PATH of node1; give EXECUTABLE as an absolute path",
    )
    return make_record(
        "heat2d_ipca",
        status="failed",
        coordinator=feed.state.record(),
        config=CONFIG,
        simulation={"executable": "heat3d", "nproc": 4, "exit_status": 127, "hosts": ["node1"]},
    )


def replay_record() -> dict[str, Any]:
    """An analysis of a stored field: no simulation, no ranks, no ledger."""
    record = ok_record()
    return make_record(
        "heat2d_replay",
        status="ok",
        config=CONFIG,
        contract=CONTRACT,
        results=record["results"],
        simulation={"source": "/scratch/ada/field.zarr"},
        workers=record["workers"],
        started=START,
        ended=START + 8.2,
    )


def _half_sent(feed: Feed, rank: int) -> dict[str, Any]:
    """Counters of a rank that produced a block more than it could account for."""
    counters = feed.counters(rank)
    for unit, missing in (("bytes", BLOCK), ("blocks", 1)):
        counters["temperature"][unit]["delivered"] -= missing
    return counters


RECORDS = {
    "ok": ok_record,
    "rank-death": rank_death_record,
    "before-first-step": before_first_step_record,
    "replay": replay_record,
    "empty": lambda: make_record("nothing", status="failed"),
    "many": lambda: ok_record(ranks=600, workers=12, steps=40),
    "one-step": lambda: ok_record(steps=1),
}
