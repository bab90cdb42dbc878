"""Clients that attach at random, ask at random, and leave or are killed at random.

Each answer is right, or an error of the package says why there is none; the run has its own
results, and the account of each contract closes.
"""

from __future__ import annotations

import os
import random
import threading
import time
import traceback

import numpy as np
import pytest
from attached_runs import EARLY, SteppingRun, attached_client, whole
from coupled_processes import Peer, fork_server, series

import ips_components
from ips_components.errors import IPSComponentsError

SECONDS = float(os.environ.get("CAMPAIGN_SECONDS", "600"))

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(int(SECONDS) + 600)]

MOMENTS = ("attached", "joined", "submitted", "watching")


def ask(live, rng: random.Random, ranks: int) -> None:
    """Ask for something at random, and check the answer."""
    kind = rng.choice(("latest", "region", "compute", "submit", "watch", "give up"))
    if kind in ("latest", "region"):
        cut = (slice(None, None, rng.randint(1, 3)), slice(rng.randint(0, 2), None))
        region = cut if kind == "region" else ()
        newest = live.latest("t", *region)
        expected = whole(int(newest["time"]), ranks)
        np.testing.assert_array_equal(newest, expected[region] if region else expected)
    elif kind == "compute":
        steps = rng.randint(1, 6)
        found = live.compute(lambda arrays: arrays["t"].to_xarray().sum(("dim_1", "dim_2")), steps)
        expected = [whole(int(step), ranks).sum() for step in found["time"]]
        np.testing.assert_array_equal(found, expected)
    elif kind == "submit":
        assert live.submit(lambda arrays: arrays["t"][:, 0, 0].sum(), 3).result(60) % 1000 == 0
    elif kind == "watch":
        every, window = rng.randint(1, 4), rng.randint(1, 3)
        for found in live.watch(lambda arrays: arrays["t"].sum(), every=every, window=window):
            assert found.value == sum(whole(step, ranks).sum() for step in found.steps)
            if found.index >= rng.randint(0, 5):
                break
    else:  # not waited for
        live.submit(lambda arrays: arrays["t"].mean(), rng.randint(1, 200))


def behave(run: SteppingRun, seed: int, until: float, wrong: list[str]) -> None:
    """Attach and leave, again and again."""
    rng = random.Random(seed)
    while time.monotonic() < until:
        try:
            with ips_components.attach(run.directory) as live:
                for _ in range(rng.randint(0, 4)):
                    if time.monotonic() < until:
                        ask(live, rng, run.n_ranks)
        except (IPSComponentsError, TimeoutError) as error:
            if not str(error):
                wrong.append(repr(error))
        except Exception:
            wrong.append(traceback.format_exc())


def test_random_clients(tmp_path):
    seed = int(os.environ.get("CAMPAIGN_SEED", time.time()))
    end = time.monotonic() + SECONDS
    with fork_server():
        while time.monotonic() < end:
            seed += 1
            print(f"seed {seed}")
            one_run(tmp_path / str(seed), seed, min(end, time.monotonic() + 60))


def one_run(directory, seed: int, until: float) -> None:
    """One run, with up to three clients and some that are killed."""
    rng = random.Random(seed)
    directory.mkdir()
    run = SteppingRun(
        directory,
        ranks=rng.randint(1, 3),
        workers=rng.randint(1, 2),
        pace=rng.choice((0.01, 0.05, 0.2)),
    )
    victims: list[Peer] = []
    wrong: list[str] = []
    try:
        clients = [
            threading.Thread(target=behave, args=(run, seed + 1000 * i, until, wrong))
            for i in range(rng.randint(1, 3))
        ]
        for each in clients:
            each.start()
        while time.monotonic() < until - 15:
            moment = rng.choice(MOMENTS)
            log = str(directory / f"client{len(victims)}.log")
            victims.append(Peer("client", attached_client, log, str(directory), [moment]))
            victims[-1].reached(moment, 90)
            victims[-1].kill()
        for each in clients:
            each.join(180)
            assert not each.is_alive(), f"seed {seed}: a client hangs"
        assert not wrong, f"seed {seed}: {wrong[0]}"
        assert run.stop() == [("done", None)] * run.n_ranks
        record = run.end(60)
        assert record["phase"] == "ended", record["faults"]
        run.future.result(30)
        expected = series(EARLY, run.n_ranks).sum(axis=(1, 2))
        np.testing.assert_array_equal(run.dataset()["early"], expected)
        record = run.record()
        assert record["ledger"]["closed"]
        for client in record["attached"]:
            assert client["until"], client
            for contract in client["contracts"]:
                assert contract["ledger"]["closed"] or contract["phase"] == "failed", contract
    except BaseException:
        print(run.logs())
        raise
    finally:
        for each in victims:
            each.close()
        run.close()
