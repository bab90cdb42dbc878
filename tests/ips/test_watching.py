"""What people and other components see of a run while it is on, under real ``ips.py``."""

import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

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


def test_a_terminal_has_addresses_that_answer_and_the_lines_of_their_tunnels(
    tmp_path, leaves_nothing
):
    workflow = watched(tmp_path, LIVE_PAGE=True)
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as shown:
        process = workflow.start(theirs)
        os.close(theirs)
        try:
            text = ""
            while text.count("ssh -N -L") < 2 or "waiting for" not in text:
                text += shown.read(1 << 16).decode(errors="replace")
            pages = re.findall(r"(live page|Dask dashboard): (http://127.0.0.1:(\d+)/\S+)", text)
            assert [name for name, _, _ in pages] == ["live page", "Dask dashboard"]
            for _, page, port in pages:
                with urllib.request.urlopen(page, timeout=30) as answer:
                    assert answer.status == 200
                here = socket.gethostname()
                assert f"another machine: ssh -N -L {port}:127.0.0.1:{port} {here}" in text
            with suppress(OSError):  # the other side is closed
                while shown.read(1 << 16):
                    pass
            assert process.wait(100) == 0
        finally:
            workflow.close()


def test_the_cause_is_printed_once_as_the_last_thing_with_file_and_line(tmp_path, leaves_nothing):
    workflow = watched(tmp_path, ANALYSIS="several_analysis:early", ON_ANALYTICS_LOSS="abort")
    try:
        ended = workflow.wait(workflow.start(), 100)
    finally:
        workflow.close()
    assert ended.status == 1
    what = "ValueError: the analysis does not like these fields"
    where = PARTS / "several_analysis.py"
    raised = '    raise ValueError("the analysis does not like these fields")'
    line = where.read_text().splitlines().index(raised) + 1
    *_, title, log, cause, place = ended.output.strip().splitlines()
    assert title == "ips_components: the run failed"
    assert Path(log.removeprefix("  log:   ")).read_text() == ended.log
    assert cause.startswith("  cause: component Analytics, ")
    assert cause.endswith(what)
    assert place == f"  where: {where}, line {line}, in early"
    assert ended.output.count(what) == 1


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
