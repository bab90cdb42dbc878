"""Simulations that fail and are left out: the run goes on with the others, and says so."""

import signal

import numpy as np
import psutil
import pytest
import xarray as xr
from coupled_outcomes import WORKER, at_step, failed, find, record_of

MEMBERS = ("a", "b", "c")
STEPS = 12
FIELD = np.arange(64) + 100.0 * np.arange(STEPS)[:, None]


def describe(flow):
    """Describe the arrays of all members, so that one which never starts can be left out."""
    flow.write()
    with flow.config_file.open("a") as file:
        file.write("[[ARRAYS]]\n")
        for name in MEMBERS:
            port = f"MEMBER_{name}".upper()
            file.write(f"[[[{name}]]]\nSHAPE = 64,\nDTYPE = float64\nSIMULATION = {port}\n")


def results_without(flow, ended, left_out, cause):
    """Check that exactly these members are left out; return the results.

    A killed rank is noticed by its connections and by the end of its program, in any order.
    """
    assert ended.status == 0, ended.output + ended.log
    record = record_of(flow)
    assert record["status"] == "ok"
    assert record["ledger"]["closed"]
    assert [each["simulation"] for each in record["left_out"]] == left_out
    for each in record["left_out"]:
        assert cause in f"{each['who']} {each['what']}: {each['cause']}"
        assert f"{each['simulation']}: {each['who']}" in ended.output
    assert "left out" in next(flow.root.glob("run_*/report.html")).read_text()
    with xr.open_zarr(record["results"]["path"], consolidated=False) as results:
        return results.load()


def assert_members(results, gone, since=0):
    """The statistics have all members, and from step `since` on those that are not gone."""
    for name in MEMBERS:
        sums = FIELD.sum(axis=1)
        if name in gone:
            known = np.isfinite(results[name].values)
            assert not known[since + 1 :].any()  # a step may have been under way
            np.testing.assert_array_equal(results[name].values[known], sums[known])
        else:
            np.testing.assert_array_equal(results[name], sums)
    np.testing.assert_array_equal(results["mean"], FIELD)  # all members have the same numbers
    used = results["used"].values
    assert (used[since + 1 :] == len(MEMBERS) - len(gone)).all()
    counted = sum(np.isfinite(results[name].values).astype(int) for name in MEMBERS)
    np.testing.assert_array_equal(used, np.repeat(counted[:, None], 64, axis=1))


def test_a_member_that_is_killed_in_the_middle_is_left_out(members):
    flow = members(b="--fault 1:kill@step:5", pace=0.1)
    results = results_without(flow, flow.run(110), ["MEMBER_B"], "")
    assert_members(results, "b", since=5)
    assert np.isfinite(results["b"].values[:4]).all()


@pytest.mark.deaths
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("0:exit@start", "exit status 3"),
        ("0:kill@start", ""),
        ("1:raise@open", "negative density"),
        ("0:raise@step:3", "negative density"),
        ("1:kill@end", ""),
    ],
)
def test_a_member_that_fails_at_any_moment_is_left_out(members, fault, cause):
    flow = members(c=f"--fault {fault}", pace=0.05)
    describe(flow)
    ended = flow.run(110)
    step = {"start": 0, "open": 0, "end": STEPS}.get(fault.partition("@")[2], 3)
    results = results_without(flow, ended, ["MEMBER_C"], cause)
    assert_members(results, "c" if step < STEPS else "", since=step)


@pytest.mark.deaths
def test_a_member_that_ends_early_is_left_out(members):
    flow = members(a="--end-at 4")
    results = results_without(flow, flow.run(110), ["MEMBER_A"], "ended early")
    assert_members(results, "a", since=4)


@pytest.mark.deaths
def test_a_member_whose_ranks_stop_is_left_out(members):
    flow = members(a="--fault 1:stop@step:4", pace=0.1, SILENCE_TIME_OUT=8)
    results = results_without(flow, flow.run(110), ["MEMBER_A"], "no sign of life")
    assert_members(results, "a", since=4)


@pytest.mark.deaths
def test_the_component_of_a_member_is_killed(members):
    flow = members(pace=0.3)
    process = flow.start()
    at_step(flow, 3)
    (rank,) = [each for each in find(process, "--name b") if each.name().startswith("python")][:1]
    victim = next(p for p in rank.parents() if "ips.py" in " ".join(p.cmdline()))
    victim.send_signal(signal.SIGKILL)
    psutil.wait_procs([victim], timeout=10)
    results = results_without(flow, flow.wait(process, 110), ["MEMBER_B"], "")
    assert_members(results, "b", since=STEPS)


@pytest.mark.deaths
def test_a_worker_dies_after_a_member_was_left_out(members):
    """What stands for the missing steps is with every worker, and survives one."""
    flow = members(a="--fault 0:kill@step:2", workers=2, pace=0.3, REPLAY_STEPS=30)
    process = flow.start()
    at_step(flow, 8)
    find(process, WORKER)[0].kill()
    results = results_without(flow, flow.wait(process, 110), ["MEMBER_A"], "")
    np.testing.assert_array_equal(results["mean"], FIELD)


@pytest.mark.deaths
def test_a_run_without_any_member_fails(members):
    flow = members(**dict.fromkeys(MEMBERS, "--fault 1:kill@step:5"), pace=0.05)
    failed(flow, "every simulation has failed")


@pytest.mark.deaths
def test_only_what_says_so_is_left_out(members):
    flow = members(b="--fault 1:kill@step:5", pace=0.1, on_failure={"b": "fail"})
    failed(flow, "MEMBER_B: ")
