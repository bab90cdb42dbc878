"""Deaths in a workflow of many launches: in the first, between two, in the last one.

Whatever dies, the outcome is a run with the right numbers, or one that has failed with a cause.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from loop_runs import ANALYTICS, CELLS, check, loop, record_of, simulation
from workflows import BIN, PARTS

pytestmark = [pytest.mark.deaths, pytest.mark.timeout(260)]

LAUNCHES, PER_LAUNCH = 3, 4
campaign = pytest.mark.campaign
RETRIED = {"ON_LAUNCH_FAILURE": "retry", "RETRIES": 2}


def flow_of(directory, arguments="", driver=(), sim=(), analytics=()):
    words = f"{PER_LAUNCH} --total {LAUNCHES * PER_LAUNCH} --launch {{LAUNCH}} {arguments}"
    components = {
        "SIM": simulation("field", words, **dict(sim)),
        "ANALYTICS": {
            **ANALYTICS,
            "REPLAY_STEPS": LAUNCHES * PER_LAUNCH,
            "ON_ANALYTICS_LOSS": "abort",
            "STEP_TIME_OUT": 60,
            **dict(analytics),
        },
    }
    return loop(directory, LAUNCHES, components, **dict(driver))


def right(flow):
    """The run went well, each launch in its turn, and its numbers are right."""
    check(flow, "field", LAUNCHES * PER_LAUNCH)
    record = record_of(flow)
    assert record["status"] == "ok"
    assert record["ledger"]["closed"]
    good = [launch for launch in record["launches"] if launch["ok"]]
    assert [launch["first_step"] for launch in good] == [0, 4, 8]
    assert np.isfinite([launch["ended"] for launch in record["launches"]]).all()
    return record


def failed(flow, ended, *causes):
    """The run has failed, and says so with one of these causes everywhere."""
    assert ended.status == 1, ended.output
    assert any(cause in ended.last_lines for cause in causes), ended.output + ended.log
    (path,) = flow.root.glob("run_*/run.json")
    record = json.loads(path.read_text())
    assert record["status"] == "failed"
    assert any(cause in record["cause"] for cause in causes), record["cause"]
    assert not list(flow.root.glob("run_*/contact.json")), "a secret is left behind"


@pytest.mark.parametrize("launch", [0, pytest.param(1, marks=campaign), 2])
def test_a_rank_is_killed_and_its_launch_repeated(tmp_path, leaves_nothing, launch):
    flow = flow_of(tmp_path, f"--die {launch}:2", sim=RETRIED)
    ended = flow.run(220)
    assert ended.status == 0, ended.output + ended.log
    record = right(flow)
    assert [each["launch"] for each in record["launches"] if not each["ok"]] == [launch]


def test_a_rank_of_an_own_component_is_killed_which_launches_it_again(tmp_path, leaves_nothing):
    component = {
        "NAME": "OwnPhysics",
        "MODULE": "generic_driver",
        "SUB_CLASS": "field",
        "NPROC": 2,
        "PROGRAM": BIN / "python",
        "COUPLED": True,
        "TRIES": 3,
        "OPTIONS": f"{PARTS}/counting.py field {CELLS} {PER_LAUNCH} --total 12 --die 0:2",
        **RETRIED,
    }
    flow = loop(tmp_path, LAUNCHES, {"SIM": component, "ANALYTICS": ANALYTICS})
    ended = flow.run(220)
    assert ended.status == 0, ended.output + ended.log
    assert [each["ok"] for each in right(flow)["launches"]] == [False, True, True, True]


@pytest.mark.parametrize("launch", [pytest.param(0, marks=campaign), 2])
def test_the_launcher_is_killed_and_its_launch_repeated(tmp_path, leaves_nothing, launch):
    """With all of its ranks: whatever has the name of the program in its command."""
    flow = flow_of(tmp_path, f"--die {launch}:9 --kill counting.py:{launch}:2", sim=RETRIED)
    ended = flow.run(220)
    assert ended.status == 0, ended.output + ended.log
    right(flow)


@pytest.mark.parametrize(
    ("how", "cause"),
    [("--exit 1:2", "exit status 3"), ("--stall 1:2", "TIME_OUT")],
    ids=["status", "time out"],
)
def test_a_launch_that_ends_badly_or_never_is_repeated(tmp_path, leaves_nothing, how, cause):
    flow = flow_of(tmp_path, how, sim={**RETRIED, "TIME_OUT": 40})
    ended = flow.run(220)
    assert ended.status == 0, ended.output + ended.log
    record = right(flow)
    assert [each["launch"] for each in record["launches"] if not each["ok"]] == [1]
    (failed,) = (each for each in record["simulation"]["launches"] if not each["ok"])
    assert cause in failed["cause"]


@pytest.mark.parametrize("launch", [pytest.param(0, marks=campaign), 2])
def test_a_launch_that_dies_fails_the_run_where_it_is_not_repeated(
    tmp_path, leaves_nothing, launch
):
    flow = flow_of(tmp_path, f"--die {launch}:2")
    failed(flow, flow.run(220), "signal 9", "exit status", "lost")


@pytest.mark.parametrize("launch", [0, pytest.param(2, marks=campaign)])
def test_a_worker_is_killed_in_a_launch(tmp_path, leaves_nothing, launch):
    """Ranks that are there send again what was theirs; what earlier ones had sent is gone."""
    flow = flow_of(tmp_path, f"--kill worker:{launch}:2")
    ended = flow.run(220)
    if ended.status == 0:
        right(flow)
    else:
        failed(flow, ended, "worker", "lost with its worker", "cannot be sent again")


BETWEEN = {
    "worker": ("worker", ["worker", "lost with its worker", "cannot be sent again"]),
    "scheduler": ("dask_scheduler", ["Dask scheduler", "scheduler"]),
    "simulation": ("component:Simulation", ["was ended by SIGKILL"]),
    "analytics": ("component:Analytics", ["was ended by SIGKILL"]),
}


@pytest.mark.parametrize(
    "who",
    [
        pytest.param("worker", marks=campaign),
        pytest.param("scheduler", marks=campaign),
        "simulation",
        "analytics",
    ],
)
def test_somebody_is_killed_between_two_launches(tmp_path, leaves_nothing, who):
    word, causes = BETWEEN[who]
    flow = flow_of(tmp_path, driver={"KILL": f"{word}:2"})
    ended = flow.run(220)
    if ended.status == 0:
        assert who == "worker"  # nothing of the chunks that it held was needed any more
        right(flow)
    elif who == "analytics":  # no process is left to write a record, but the exit status is true
        assert any(cause in ended.last_lines for cause in causes)
    else:
        failed(flow, ended, *causes)


def test_results_stay_when_the_teardown_of_a_worker_plugin_is_cut(tmp_path, leaves_nothing):
    """Record, summary and figure show what was computed, although the run has failed."""
    slow = {
        "WORKER_PLUGINS": "field_analysis:slow_plugins",
        "INPUT_DIR": Path(__file__).parents[1] / "faults" / "coupled",
        "TEARDOWN_TIME_OUT": 3,
        "FIGURE": True,
    }
    flow = flow_of(tmp_path, analytics=slow)
    ended = flow.run(200)
    failed(flow, ended, "was cut after 3 s (TEARDOWN_TIME_OUT)")
    check(flow, "field", LAUNCHES * PER_LAUNCH)
    record = record_of(flow)
    assert set(record["results"]["variables"]) == {"field_series", "field_total"}
    assert f"results              {record['results']['path']}\n" in ended.output
    assert record["figures"] == ["results.png"]
