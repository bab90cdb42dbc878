"""Windows that are kept at random positions of a time loop: their numbers are those of one run."""

from __future__ import annotations

import os
import pickle
import random
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from opened_runs import DEADLINES, open_run, settings_of

from ips_components.analysis import run_analysis, run_record, wait_for_end
from ips_components.analysis.coordinator_client import call
from ips_components.analysis.window_checkpoints import FILE
from ips_components.bridge import Array, Bridge
from ips_components.errors import ContractError

RANKS, CELLS, EVERY = 2, 6, 5
MINE = CELLS // RANKS
SEEDS = range(int(os.environ.get("CHECKPOINT_SEEDS", "3")))


# -- the analysis and its simulation -------------------------------------------------------


def in_step(arrays, run, plan, stop_at=None):
    """Iterate all windows such that the one that ends earliest comes next."""
    volume, weights = arrays["volume"][0], arrays["weights"][:, 1:]
    rollings = [
        run.rolling(
            [arrays[name] for name in names],
            size,
            stride=stride,
            ahead=ahead,
            beside=() if number else [volume, weights],
        )
        for number, (names, size, stride, ahead) in enumerate(plan)
    ]

    def update(stride):
        def fold(state, windows):
            total, count = state
            there = weights[min(count * stride // EVERY, 2)]
            product = sum((da.sin(window) * volume).sum(axis=0) for window in windows)
            total = 0.7 * total + product
            return (total, count + 1), total.sum() + (total[1:] / there).max()

        return fold

    scans = [
        each.scan(update(stride), (da.zeros(CELLS, chunks=4), 0))
        for each, (_, _, stride, _) in zip(rollings, plan, strict=True)
    ]
    seen = [[] for _ in plan]
    left = dict.fromkeys(range(len(plan)), 0)
    while left:
        turn = min(left, key=lambda n: (left[n] + plan[n][1], n))
        window = next(scans[turn], None)
        if window is None or (turn, window.index) == stop_at:
            del left[turn]
            scans[turn].close()
            continue
        left[turn] += plan[turn][2]
        seen[turn].append(float(window.value))
        run.publish({"value": (turn, float(window.value))}, step=window.steps[-1])
    results = {f"seen{n}": np.array(each) for n, each in enumerate(seen)}
    return results | {f"total{n}": each.state[0] for n, each in enumerate(rollings)}


def value(name: str, step: int, cells: slice) -> np.ndarray:
    return np.random.default_rng([ord(name[0]), step]).random(CELLS)[cells]


def launch(rank: int, contact: Path, steps: int, total: int | None) -> None:
    here = slice(rank * MINE, (rank + 1) * MINE)

    def array(name, steps):
        return Array(name, (CELLS,), "f8", offset=(rank * MINE,), steps=steps)

    often = range(0, 3 * EVERY, EVERY)
    arrays = [array("u", total), array("p", total), array("volume", 1), array("weights", often)]
    with Bridge(contact=contact, arrays=arrays, rank=rank, size=RANKS) as bridge:
        for step in range(bridge.first_step, bridge.first_step + steps):
            if step == 0:
                bridge.put("volume", 0, 1 + value("volume", 0, here))
            if step in often:
                bridge.put("weights", step, 1 + value("weights", step, here))
            bridge.put("u", step, value("u", step, here))
            bridge.put("p", step, value("p", step, here))


# -- runs ----------------------------------------------------------------------------------


@dataclass
class Checkpoint:
    """What the workflow keeps, and what it had got of the analysis by then."""

    position: dict
    file: str
    launches: int
    published: list


@dataclass
class Looped:
    """A run of many launches."""

    results: xr.Dataset
    published: list
    checkpoints: list[Checkpoint] = field(default_factory=list)


def start_run(cluster, directory, analysis, **changes):
    """Submit an analysis; return the run's settings, its contact file and the analysis' future."""
    name = "r" + secrets.token_hex(4)
    directory = directory / name
    directory.mkdir()
    deadlines = {**DEADLINES, "step": 60.0}
    settings = settings_of(
        f"{__name__}:{analysis}", directory, run=name, deadlines=deadlines, **changes
    )
    contact = directory / "contact.json"
    open_run(cluster, settings, contact)
    return settings, contact, cluster.submit(run_analysis, settings.to_dict(), pure=False)


def launch_all(contact: Path, steps: int, total: int | None) -> None:
    with ThreadPoolExecutor(RANKS) as pool:
        list(pool.map(lambda rank: launch(rank, contact, steps, total), range(RANKS)))


def loop(cluster, directory, case, *, keep=True, start: Checkpoint | None = None) -> Looped:
    """Launch a simulation again and again, from its start or from a checkpoint."""
    position = {k: v for k, v in start.position.items() if k != "windows"} if start else {}
    settings, contact, future = start_run(
        cluster,
        directory,
        "in_step",
        parameters=case.parameters,
        windows=start.file if start else "",
        launches={"many": True, "steps": None, "checkpoint": keep, "begin": 0.0, **position},
    )
    name, directory = settings.run, contact.parent
    published, checkpoints = [*start.published] if start else [], []
    begun = start.launches if start else 0
    for number, steps in enumerate(case.launches[begun:], begun + 1):
        at, first = call(cluster, "begin_launch", name, size=RANKS, time=float(number), timeout=20)
        assert (at, first) == (number - 1, sum(case.launches[: number - 1]))
        launch_all(contact, steps, case.total)
        assert call(cluster, "end_launch", name, launch=at, ok=True)
        if keep:
            if number in case.takes:  # the workflow does not look at each of its times
                call(cluster, "quiet", name, timeout=60)
                published += [
                    (step, pickle.loads(values)[1]["value"])
                    for step, values, _ in call(cluster, "published", name)
                ]
            position = call(cluster, "checkpoint", name, timeout=60)
            copy = directory / f"kept{number}"
            copy.write_bytes((directory / FILE).read_bytes())
            checkpoints.append(Checkpoint(position, str(copy), number, [*published]))
    call(cluster, "end_simulation", name)
    future.result(60)
    published += [
        (step, pickle.loads(values)[1]["value"])
        for step, values, _ in call(cluster, "published", name)
    ]
    record = wait_for_end(cluster, name, 20)
    assert record["phase"] == "ended"
    assert record["ledger"]["closed"]
    with xr.open_zarr(settings.results, consolidated=False) as results:
        return Looped(results.load(), published, checkpoints)


class Case:
    """What a random number makes of the windows and of the launches."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.launches = [chance.randint(1, 5) for _ in range(chance.randint(3, 5))]
        self.launches.append(max(1, 3 * EVERY - sum(self.launches)))
        chance.shuffle(self.launches)
        self.total = sum(self.launches) if chance.random() < 0.5 else None
        self.takes = {n for n in range(len(self.launches) + 1) if chance.random() < 0.6}
        plan = [
            (chance.choice(["u", "p", "up"]), chance.randint(1, 4), chance.randint(1, 4), n + 1)
            for n in range(seed % 3 + 1)
        ]
        self.parameters = {"plan": plan}
        if len(plan) > 1 and chance.random() < 0.5:  # the analysis sees enough of some windows
            self.parameters["stop_at"] = (len(plan) - 1, chance.randint(0, 4))
        self.chosen = chance.sample(range(len(self.launches) - 1), 2)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_windows_go_on_from_any_checkpoint_with_the_same_numbers(cluster, tmp_path, seed):
    case = Case(seed)
    whole = loop(cluster, tmp_path, case, keep=False)
    kept = loop(cluster, tmp_path, case)
    xr.testing.assert_identical(kept.results.drop_attrs(), whole.results.drop_attrs())
    assert kept.published == whole.published
    for number in case.chosen:
        again = loop(cluster, tmp_path, case, start=kept.checkpoints[number])
        xr.testing.assert_identical(again.results.drop_attrs(), whole.results.drop_attrs())
        assert again.published == whole.published
        if len(again.checkpoints) > 1:  # of a run that has gone on already
            twice = loop(cluster, tmp_path, case, start=again.checkpoints[0])
            xr.testing.assert_identical(twice.results.drop_attrs(), whole.results.drop_attrs())
            assert twice.published == whole.published


def test_windows_that_are_not_those_of_the_checkpoint_are_refused(cluster, tmp_path):
    case = Case(0)
    case.parameters, case.total = {"plan": [("u", 2, 2, 2), ("p", 1, 1, 2)]}, None
    kept = loop(cluster, tmp_path, case).checkpoints[-2]
    case.parameters = {"plan": [("u", 2, 2, 2)]}
    with pytest.raises(ContractError, match=r"with 2 run\.rolling, now there are 1"):
        loop(cluster, tmp_path, case, start=kept, keep=False)


# -- an analysis that fails between launches -----------------------------------------------


def gives_up(arrays, run, after):
    def update(count, window):
        if count == after:
            raise RuntimeError("the analysis gives up")
        return count + 1, window.sum()

    for _ in run.rolling(arrays["u"], 1, ahead=1, beside=arrays["volume"]).scan(update, 0):
        pass


@pytest.mark.parametrize("after", [0, 3], ids=["at once", "later"])
def test_the_launches_after_an_analysis_that_has_failed_go_on_alone(cluster, tmp_path, after):
    """``on_analytics_loss = continue``: no launch waits for receivers that are gone."""
    settings, contact, future = start_run(
        cluster,
        tmp_path,
        "gives_up",
        parameters={"after": after},
        launches={"many": True, "steps": None, "begin": 0.0},
    )
    for number in range(3):
        at, first = call(
            cluster, "begin_launch", settings.run, size=RANKS, time=float(number), timeout=20
        )
        assert (at, first) == (number, 4 * number)
        launch_all(contact, 4, None)
        assert call(cluster, "end_launch", settings.run, launch=at, ok=True)
        if number == 0:
            with pytest.raises(RuntimeError, match="gives up"):
                future.result(60)
    call(cluster, "end_simulation", settings.run)
    record = wait_for_end(cluster, settings.run, 20)
    assert record["phase"] == "failed"
    launches = run_record(cluster, settings.run)["launches"]
    assert [each["ok"] for each in launches] == [True] * 3
