"""Deaths of which a coupled run knows nothing beforehand: workers, scheduler, ranks, launchers."""

import signal

import psutil
import pytest
from coupled_outcomes import WORKER, at_step, failed, find, record_of, right

STEPS = 40
SLOWLY = {"pace": 0.1, "steps": STEPS, "REPLAY_STEPS": STEPS}

campaign = pytest.mark.campaign
pytestmark = pytest.mark.deaths


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=campaign)])
@pytest.mark.parametrize("step", [5, pytest.param(STEPS - 2, marks=campaign)])
def test_one_of_two_workers_is_killed(coupled, victim, step):
    """Whichever of them runs the analysis: what died is sent again, and nothing is missing.

    Ranks rest after each put, so that the last moment is in the last step.
    """
    flow = coupled(workers=2, **{**SLOWLY, "pace": 0.1 if step == 5 else 0.4})
    process = flow.start()
    at_step(flow, step)
    find(process, WORKER)[victim].kill()
    record = right(flow, STEPS)
    assert [fault["what"] for fault in record["faults"]] == ["lost"]


@campaign
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_is_killed_when_all_is_put(coupled, victim):
    """The ranks are leaving: what died is sent again, or the run says what is lost."""
    flow = coupled(workers=2, **SLOWLY)
    process = flow.start()
    at_step(flow, STEPS - 1)
    find(process, WORKER)[victim].kill()
    ended = flow.wait(process, 110)
    if ended.status == 0:
        right(flow, STEPS)
    else:
        failed(flow, "lost with its worker, and cannot be sent again")


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=campaign)])
def test_one_of_two_workers_is_silent(coupled, victim):
    flow = coupled(workers=2, SILENCE_TIME_OUT=4, **SLOWLY)
    process = flow.start()
    at_step(flow, 5)
    find(process, WORKER)[victim].send_signal(signal.SIGSTOP)
    record = right(flow, STEPS)
    assert [fault["what"] for fault in record["faults"]] == ["silent", "lost"]


@campaign
def test_all_workers_are_killed(coupled):
    flow = coupled(workers=2, **SLOWLY)
    process = flow.start()
    at_step(flow, 5)
    for worker in find(process, WORKER):
        worker.kill()
    failed(flow, "the last Dask worker is gone")


@campaign
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=lambda s: s.name)
def test_a_nanny_dies(coupled, signum):
    """It takes its worker along, or it does not matter."""
    flow = coupled(workers=2, SILENCE_TIME_OUT=4, **SLOWLY)
    process = flow.start()
    at_step(flow, 5)
    find(process, "ips_components.external.forked_workers")[0].send_signal(signum)
    ended = flow.wait(process, 110)
    assert ended.status in (0, 1), ended.output
    if ended.status == 0:
        right(flow, STEPS)
    else:
        assert record_of(flow)["cause"]


@pytest.mark.parametrize("policy", ["abort", pytest.param("continue", marks=campaign)])
def test_the_scheduler_is_silent(coupled, policy):
    flow = coupled(pace=0.1, steps=STEPS, SILENCE_TIME_OUT=4, ON_ANALYTICS_LOSS=policy)
    process = flow.start()
    at_step(flow, 5)
    for each in find(process, "distributed.cli.dask_scheduler"):
        each.send_signal(signal.SIGSTOP)
    failed(flow, "the Dask scheduler has not answered for 4 s (SILENCE_TIME_OUT)")


@campaign
@pytest.mark.parametrize("moment", ["step:5", f"step:{STEPS - 1}", "end"])
def test_a_rank_is_silent(coupled, moment):
    flow = coupled(fault=f"1:stop@{moment}", steps=STEPS, SILENCE_TIME_OUT=3)
    failed(flow, "rank 1 lost: no sign of life for 3 s")


@campaign
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
def test_the_launcher_is_ended(coupled, signum):
    flow = coupled(pace=0.1, steps=STEPS)
    process = flow.start()
    at_step(flow, 5)
    processes = psutil.Process(process.pid).children(recursive=True)
    launchers = [each for each in processes if each.name().startswith("mpiexec")]
    launchers[0].send_signal(signum)
    failed(flow, "ended with", "lost")
