"""A client that stays attached while a time loop launches the simulation again and again."""

import json

import numpy as np
import pytest
from loop_runs import ANALYTICS, CELLS, check, loop, record_of, simulation

import ips_components
from ips_components.deadlines import Deadline, poll_until

pytestmark = [pytest.mark.course, pytest.mark.timeout(300)]


def test_a_client_gets_the_steps_of_all_launches(tmp_path, leaves_nothing):
    go = tmp_path / "go"
    words = f"4 --total 12 --pace 0.1 --hold {go}"
    flow = loop(tmp_path, 3, {"SIM": simulation("field", words), "ANALYTICS": ANALYTICS})
    process = flow.start()
    try:
        assert poll_until(lambda: [*flow.root.glob("run_*/contact.json")], Deadline(90), pause=0.05)
        with ips_components.attach(flow.root) as live:
            assert poll_until(
                lambda: live.progress()["ranks"] == 2, Deadline(90), pause=0.05
            )  # they stay after their first step
            future = live.submit(lambda arrays: arrays["field"].sum(axis=1), steps=12)
            go.touch()
            sums = future.result(120)
        ended = flow.wait(process, 150)
    finally:
        flow.close()
    assert ended.status == 0, ended.output + ended.log
    check(flow, "field", 12)
    assert len(sums) >= 9  # it asked while the first step was the newest
    expected = 100.0 * CELLS * np.arange(12) + np.arange(CELLS).sum()
    np.testing.assert_array_equal(sums, expected[12 - len(sums) :])
    record = record_of(flow)
    (client,) = record["attached"]
    assert client["why"] == "detached"
    assert all(each["ledger"]["closed"] for each in client["contracts"]), json.dumps(client)


def test_the_analysis_fails_in_the_second_launch(tmp_path, leaves_nothing):
    """The launches go on alone; a client that has asked before gets the steps of all of them."""
    go = tmp_path / "go"
    words = f"4 --total 12 --pace 0.1 --hold {go}"
    analytics = {**ANALYTICS, "ANALYSIS": "loop_analysis:fails_at_five"}
    flow = loop(tmp_path, 3, {"SIM": simulation("field", words), "ANALYTICS": analytics})
    process = flow.start()
    try:
        assert poll_until(lambda: [*flow.root.glob("run_*/contact.json")], Deadline(90), pause=0.05)
        with ips_components.attach(flow.root) as live:
            assert poll_until(lambda: live.progress()["ranks"] == 2, Deadline(90), pause=0.05)
            future = live.submit(lambda arrays: arrays["field"].sum(axis=1), steps=12)
            go.touch()
            assert poll_until(lambda: live.status == "alone", Deadline(90), pause=0.02)
            sums = future.result(120)
        ended = flow.wait(process, 150)
    finally:
        flow.close()
    assert ended.status == 1, ended.output + ended.log
    expected = 100.0 * CELLS * np.arange(12) + np.arange(CELLS).sum()
    np.testing.assert_array_equal(sums, expected[12 - len(sums) :])
    record = record_of(flow)
    assert record["status"] == "failed"
    (client,) = record["attached"]
    assert all(each["ledger"]["closed"] for each in client["contracts"]), json.dumps(client)
    assert record["ledger"]["closed"]
