"""A randomised campaign: any process of a coupled run dies at any moment.

``CAMPAIGN_RUNS`` says how many runs (40), ``CAMPAIGN_SEED`` with which seed the first one (0): a
run that failed is repeated by its seed and ``CAMPAIGN_RUNS=1``.
"""

import json
import os
import random
import signal
import time

import numpy as np
import psutil
import pytest
import xarray as xr

RUNS = int(os.environ.get("CAMPAIGN_RUNS", "40"))
FIRST = int(os.environ.get("CAMPAIGN_SEED", "0"))
STEPS = 30


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + RUNS))
def test_any_process_at_any_moment(coupled, seed):
    rng = random.Random(seed)
    flow = coupled(
        pace=0.1,
        steps=STEPS,
        workers=2,
        REPLAY_STEPS=STEPS,
        STEP_TIME_OUT=15,
        ON_ANALYTICS_LOSS=rng.choice(["continue", "abort"]),
    )
    process = flow.start()
    time.sleep(rng.uniform(0.5, 14.0))
    victim = _somebody(process, rng)
    signum = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
    if victim is not None:
        story = f"seed {seed}: {signum.name} to {' '.join(victim.cmdline())[:150]}"
        victim.send_signal(signum)
        if victim.pid == process.pid and signum == signal.SIGSTOP:
            time.sleep(1.0)
            victim.send_signal(signal.SIGCONT)
    else:
        story = f"seed {seed}: it was over before"
    ended = flow.wait(process, 150)
    print(story, "->", ended.status)
    # No process has died: the run has no excuse.
    assert victim is not None or ended.status == 0, ended.output + ended.log
    records = [json.loads(path.read_text()) for path in flow.root.glob("run_*/run.json")]
    if ended.status == 0:
        assert len(records) == 1, story
    told = [record["status"] for record in records]
    # ips.py itself may be ended when the run is over and told about, before the process is.
    ended_late = victim is not None and victim.pid == process.pid and ended.status != 1
    if ended.status == 0 or (ended_late and told == ["ok"]):
        assert told == ["ok"], story
        _assert_right(records[0], story)
    else:
        assert set(told) <= {"failed"}, story
        if ended.status > 0:
            assert "cause:" in ended.output, story


def _assert_right(record, story):
    assert record["ledger"]["closed"], story
    with xr.open_zarr(record["results"]["path"], consolidated=False) as results:
        expected = np.arange(64).sum() + 64 * 100.0 * np.arange(STEPS)
        np.testing.assert_array_equal(results["sums"], expected, err_msg=story)


def _somebody(process, rng):
    try:
        ips = psutil.Process(process.pid)
        processes = [ips, *ips.children(recursive=True)]
    except psutil.NoSuchProcess:
        return None
    # One death at a time: guards and janitors are there for the death of others.
    processes = [each for each in processes if each.is_running() and not _is_guard(each)]
    return rng.choice(processes) if processes else None


def _is_guard(process):
    try:
        return "guard.py" in " ".join(process.cmdline())
    except psutil.Error:
        return True
