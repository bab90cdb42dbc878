"""What people and other components see of a run while it is on, under real ``ips.py``."""

import json
import re
import time
import urllib.error
import urllib.request
from itertools import pairwise

import pytest
from workflows import BIN, PARTS, Workflow

pytestmark = pytest.mark.course

STEPS = 12
PROGRESS = re.compile(rf": step \d+ of {STEPS}, ")


def watched(directory, more="", **analytics):
    """A run that lasts some seconds, with a component that listens to it."""
    workflow = Workflow(
        directory,
        {
            "DRIVER": {"NAME": "WatchedDriver", "MODULE": "watching"},
            "WATCHER": {"NAME": "Watcher", "MODULE": "watching"},
            "SIMULATION": {
                "NAME": "Simulation",
                "MODULE": "ips_components.simulation",
                "EXECUTABLE": BIN / "python",
                "ARGS": f"{PARTS}/named_field.py hot 8 {{NSTEP}} 1.0 --pace 0.3 {more}",
            },
            "ANALYTICS": {
                "NAME": "Analytics",
                "MODULE": "ips_components.analytics",
                "ANALYSIS": "several_analysis:sums",
                "DASK_PPW": 1,
                "FIGURE": False,
                **analytics,
            },
        },
        platform={"MPIRUN": "mpiexec"},
        time_loop={"MODE": "REGULAR", "START": 0, "FINISH": 1, "NSTEP": STEPS},
    )
    workflow.write()
    return workflow


def heard(workflow):
    return json.loads((workflow.root / "heard.json").read_text())


def wait_for_contact(workflow, timeout=60.0):
    deadline = time.monotonic() + timeout
    while not (found := list(workflow.root.glob("run_*/contact.json"))):
        assert time.monotonic() < deadline, workflow.output() + workflow.log()
        time.sleep(0.05)
    return json.loads(found[0].read_text())


def test_live_page_and_events_while_it_runs(tmp_path, leaves_nothing):
    workflow = watched(tmp_path, LIVE_PAGE=True, PROGRESS=False)
    process = workflow.start()
    try:
        page = wait_for_contact(workflow)["live_page"]
        assert page.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{page}state", timeout=10) as answer:
            assert json.load(answer)["n_steps"] == STEPS
        base, token = page.rstrip("/").rsplit("/", 1)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{base}/{'x' * len(token)}/state", timeout=10)
        ended = workflow.wait(process, 100)
    finally:
        workflow.close()
    assert ended.status == 0, ended.output + ended.log
    assert page not in ended.log + ended.output
    assert 'for the address, see "live_page" in ' in ended.log

    events = heard(workflow)
    assert (events[-1]["phase"], events[-1]["step"], events[-1]["n_steps"]) == (
        "ended",
        STEPS,
        STEPS,
    )
    assert events[-1]["delivered"] == STEPS * 8 * 8
    steps = [event["step"] for event in events]
    assert steps == sorted(steps)
    assert len({*steps} - {0, STEPS}) >= 2, "nothing came while the run was on"
    told = [event["t"] for event in events]
    assert all(b - a > 0.9 for a, b in pairwise(told[:-1])), told
    assert events[1]["heard"] - events[1]["t"] < 2, "it came late"
    # PROGRESS = False: the terminal has the summary alone.
    assert not PROGRESS.search(ended.output)


def test_no_page_by_default_and_the_failure_is_an_event(tmp_path, leaves_nothing):
    workflow = watched(tmp_path, more="--fail-at 4")
    process = workflow.start()
    try:
        contact = wait_for_contact(workflow)
        ended = workflow.wait(process, 100)
    finally:
        workflow.close()
    assert ended.status == 1
    assert "live_page" not in contact
    assert "live page on" not in ended.log
    assert heard(workflow)[-1]["phase"] == "failed"
    assert PROGRESS.search(ended.output)
    contract = ended.output.index("The contract, what the analysis needs of each array:")
    assert re.search(r"hot +:12 of 12 +\[:8\] +100 % +768 B +12\b", ended.output[contract:])
    first = re.search(rf": step [1-9]\d* of {STEPS}, ", ended.output)
    assert contract < first.start(), "it comes before the first step"


def test_a_run_that_wants_its_last_step_alone_is_no_silent_one(tmp_path, leaves_nothing):
    """The puts of the other steps are progress, though nothing of them is sent."""
    more = {"ANALYSIS": "several_analysis:last", "STEP_TIME_OUT": 4}
    ended = watched(tmp_path, more="--pace 0.8", **more).run(100)
    assert ended.status == 0, ended.output + ended.log
