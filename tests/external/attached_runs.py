"""Runs that go on until they are stopped, for clients that attach to them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from coupled_processes import COLUMNS, ROWS, Coupled, Peer, _log_to, field

from ips_components.bridge import Array, Bridge

EARLY = 6
"""Steps that the run's own analysis needs."""
MANY = 20_000
"""Steps that the array is described with."""


def early(arrays):
    """Needs the first steps only."""
    return {"early": arrays["t"][:EARLY].sum(axis=(1, 2))}


def endless(arrays, run):
    """Of an open-ended array: the sum of each window, to the end."""
    windows = run.rolling(arrays["t"], 2).scan(lambda n, x: (n + 1, x.sum()), 0)
    return {"sums": np.array([float(window.value) for window in windows])}


def giving_up(arrays, run, when):
    """Raises in its own code or in a task, while the simulation goes on."""
    t = arrays["t"]

    def boom(block):
        raise ArithmeticError("the analysis gave up")

    if when == "in a task":
        return {"early": t[:EARLY].map_blocks(boom, dtype=float, meta=np.empty((0, 0, 0)))}
    if when == "in its code":
        run.commit(early(arrays))
        for name, _ in run.completed():
            raise ArithmeticError(f"the analysis gave up after {name}")
    raise ArithmeticError("the analysis gave up")


def whole(step: int, ranks: int = 2) -> np.ndarray:
    """The whole field at a step."""
    return field(step, ranks)


def stepping_rank(
    pipe: Any,
    log: str,
    rank: int,
    ranks: int,
    contact: str,
    pace: float,
    steps: int,
    described: int | None = MANY,
) -> None:
    """Put until "stop" is said."""
    _log_to(log)
    try:
        mine = slice(rank * COLUMNS, (rank + 1) * COLUMNS)
        array = Array("t", (ROWS, COLUMNS * ranks), offset=(0, mine.start), steps=described)
        with Bridge(contact=contact, arrays=[array], rank=rank, size=ranks) as bridge:
            last = steps
            for step in range(steps):
                if pipe.poll():  # ranks stop at the same step, which is said beforehand
                    word, last = pipe.recv()
                    assert word == "stop"
                    pipe.send(("at", step))
                    last = min(steps, pipe.recv())
                if step >= last:
                    break
                bridge.put("t", step, field(step, ranks)[:, mine])
                time.sleep(pace)
        pipe.send(("done", bridge.statistics().lost))
    except Exception as error:
        pipe.send(("error", f"{type(error).__name__}: {error}"))
        sys.exit(1)


class SteppingRun(Coupled):
    """A run whose ranks put step after step until it is left."""

    def __init__(
        self,
        directory: Path,
        ranks: int = 2,
        pace: float = 0.05,
        steps: int = MANY,
        workers: int = 2,
        analysis: str = "early",
        described: int | None = MANY,
        **settings: Any,
    ) -> None:
        super().__init__(directory, workers=workers, ranks=ranks)
        self.begin(analysis=analysis, analyst=None, module=__name__, **settings)
        for rank in range(ranks):
            self.ranks.append(
                Peer(
                    f"rank {rank}",
                    stepping_rank,
                    str(directory / f"rank{rank}.log"),
                    rank,
                    ranks,
                    str(self.contact),
                    pace,
                    steps,
                    described,
                )
            )

    def stop(self) -> list[Any]:
        """Have all ranks stop at the same step, once the run's own result has all of its steps."""
        for rank in self.ranks:
            rank.pipe.send(("stop", 0))
        at = max(EARLY, *(rank.hear()[1] for rank in self.ranks)) + 2
        for rank in self.ranks:
            rank.pipe.send(at)
        return [rank.hear() for rank in self.ranks]


def attached_client(pipe: Any, log: str, directory: str, pauses: list[str]) -> None:
    """Attach, submit, and watch; stops at the moments that are named."""
    import ips_components
    from ips_components.live.attached_contract import AttachedContract

    _log_to(log)

    def at(moment: str) -> None:
        if moment in pauses:  # once each
            pauses.remove(moment)
            pipe.send(("at", moment))
            pipe.recv()

    opened = AttachedContract.open

    def opening(contract: AttachedContract) -> None:
        opened(contract)
        at("joined")

    AttachedContract.open = opening
    with ips_components.attach(directory) as live:
        at("attached")
        future = live.submit(lambda arrays: arrays["t"].mean(), steps=40)
        at("submitted")
        for found in live.watch(lambda arrays: arrays["t"].sum()):
            if found.index == 3:
                at("watching")
        del future
