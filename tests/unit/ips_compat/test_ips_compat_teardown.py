"""How long closing workers are waited for."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from distributed import Nanny, Scheduler
from distributed.protocol.pickle import dumps

from ips_components.ips_compat import _teardown
from ips_components.ips_compat._close_reporter import prepare_prompt_end
from ips_components.ips_compat._teardown import ClosingWorkers, reporter


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(_teardown.time, "monotonic", lambda: now.time)
    return now


def _report(directory, worker, text):
    Path(directory, f"closing-{worker}").write_text(str(text))


def test_progress_is_waited_for_far_beyond_the_stall_limit(tmp_path, clock):
    closing = ClosingWorkers(tmp_path, 1, [], 3600.0)
    for i in range(20):
        _report(tmp_path, "w", i + 1)
        assert closing.verdict() is None
        clock.time += 100.0
    _report(tmp_path, "w", "closed")
    assert closing.verdict() is None  # its process needs a moment to end
    clock.time += 6.0
    assert closing.verdict() == ""


def test_directories_that_cannot_be_seen_from_here_say_nothing(tmp_path, clock):
    """In a container the worker's directory is elsewhere; that is not the end of its teardown."""
    closing = ClosingWorkers(tmp_path, 1, [tmp_path / "inside" / "worker"], 3600.0)
    _report(tmp_path, "w", 1)
    clock.time += 60.0
    assert closing.verdict() is None


def test_workers_that_have_removed_their_directories_are_done(tmp_path, clock):
    scratch = tmp_path / "worker"
    scratch.mkdir()
    closing = ClosingWorkers(tmp_path, 1, [scratch], 3600.0)
    assert closing.verdict() is None
    scratch.rmdir()
    assert closing.verdict() is None
    clock.time += 1.5
    assert closing.verdict() == ""


@pytest.mark.parametrize(
    ("reported", "later", "said"),
    [
        ([], 21.0, "2 Dask worker(s) was cut since it did not begin within 20 s"),
        ([("a", 1), ("b", 5)], 121.0, "2 Dask worker(s) was cut since it made no progress for 120"),
        ([("a", "closed"), ("b", 5)], 121.0, "1 Dask worker(s) was cut since it made no progress"),
        ([("a", 1)], 3601.0, "1 Dask worker(s) was cut after 3600 s (TEARDOWN_TIME_OUT)"),
    ],
)
def test_what_is_cut_is_said(tmp_path, clock, reported, later, said):
    closing = ClosingWorkers(tmp_path, 2, [], 3600.0)
    for worker, text in reported:
        _report(tmp_path, worker, text)
    assert closing.verdict() is None
    clock.time += later
    assert said in closing.verdict()


def test_the_reporter_travels_without_this_package(tmp_path):
    code = (
        "import sys; sys.modules['ips_components'] = None; import pickle, types\n"
        "plugin = pickle.load(sys.stdin.buffer)\n"
        "plugin.report(types.SimpleNamespace(id='w', status='closed'))\n"
        "assert list(plugin.__module__) == list('__main__')\n"
    )
    subprocess.run([sys.executable, "-c", code], input=dumps(reporter(tmp_path)), check=True)
    assert (tmp_path / "closing-w").read_text() == "closed"


def test_a_worker_reports_until_it_is_closed(tmp_path):
    worker = SimpleNamespace(id="w-1", status="closing")
    reporter(tmp_path).teardown(worker)
    path = tmp_path / "closing-w_1"
    deadline = time.monotonic() + 20
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert path.read_text() == "1"
    worker.status = "closed"
    while path.read_text() != "closed":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_that_closes_by_itself_gets_the_word_that_its_process_waits_for():
    """Else the process sits out two seconds after the worker has closed."""

    async def closes():
        async with (
            Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as scheduler,
            Nanny(scheduler.address, nthreads=1) as nanny,
        ):
            prepare_prompt_end(nanny)
            nanny.handlers["close_gracefully"]()  # as the worker calls it; it ends by the word
            await asyncio.wait_for(nanny.finished(), 60)

    asyncio.run(closes())
