"""Runs of ``ips.py`` that are started from Python: their ends, their causes, and how they stop."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ips_components
from ips_components.deadlines import Deadline, poll_until
from ips_components.errors import ConfigError, RecordError, RunFailed

PARTS = Path(__file__).parent / "parts"
PATIENCE = 60


@pytest.fixture
def files(workflow):
    """Write the files of a workflow; return them with what a run from Python needs."""

    def make(**changes):
        made = workflow(**changes)
        made.write()
        return {
            "config": made.config_file.name,
            "platform": made.platform_file.name,
            "directory": made.directory,
            "environment": {"PYTHONPATH": str(PARTS)},
        }

    return make


def test_a_run_that_succeeds_and_has_no_analytics(files):
    started = ips_components.run(**files(), LOG_LEVEL="DEBUG")
    with pytest.raises(RecordError, match="no component of it is"):
        started.wait(PATIENCE)
    assert started.status == "succeeded"
    assert "worker STEP nothing" in started.output
    assert started.cause == ""


def test_a_run_whose_files_are_in_a_folder_with_spaces(files, tmp_path):
    """Paths are given to ips.py as a whole; IPS cut that of the platform file at its spaces."""
    given = files()
    folder = tmp_path / "my own runs"
    folder.mkdir()
    for name in ("config", "platform"):
        given[name] = shutil.copy(given["directory"] / given[name], folder / f"my {given[name]}")
    with pytest.raises(RecordError, match="no component of it is"):
        ips_components.run(**given).wait(PATIENCE)


def test_a_run_that_fails_raises_its_cause(files):
    started = ips_components.run(**files(worker="raise_error"))
    with pytest.raises(RunFailed, match="worker found a negative") as failed:
        started.wait(PATIENCE)
    assert failed.value.result is None
    assert started.status == "failed"
    assert "worker found a negative" in started._repr_html_()


def test_files_that_cannot_work_are_refused_with_all_that_is_wrong(files):
    started = ips_components.run(**files(), WORKER={"NAME": "Prat"})
    with pytest.raises(ConfigError, match="has no class 'Prat'"):
        started.wait(PATIENCE)


def test_mistakes_are_refused_before_anything_starts(files):
    given = files()
    with pytest.raises(ConfigError, match="there is no such parameter"):
        ips_components.run(**given, NSTPE=3)
    with pytest.raises(ConfigError, match="existing platform file"):
        ips_components.run(**{**given, "platform": "nothing.conf"})
    with pytest.raises(ConfigError, match="existing directory"):
        ips_components.run(**{**given, "directory": "/nowhere"})


def test_a_wait_that_takes_too_long_leaves_the_run_alone_and_stop_ends_it(files):
    started = ips_components.run(**files(worker="task", WORKER={"COMMAND": "/bin/sleep 300"}))
    assert poll_until(lambda: "STEP task" in started.output, Deadline(PATIENCE), pause=0.1)
    with pytest.raises(TimeoutError, match=r"has not ended within 0\.1 s; it goes on"):
        started.wait(0.1)
    assert started.status == "running"
    started.stop()
    assert started.status == "failed"
    with pytest.raises(RunFailed, match="stopped"):
        started.wait()
    started.stop()  # nothing any more


def test_a_run_ends_with_the_process_that_started_it(files, tmp_path):
    given = files(worker="task", WORKER={"COMMAND": "/bin/sleep 300"})
    code = (
        "import os, signal, time, ips_components\n"
        "from pathlib import Path\n"
        f"started = ips_components.run(**{ {**given, 'directory': str(given['directory'])}!r})\n"
        "while 'STEP task' not in started.output: time.sleep(0.1)\n"
        f"Path({str(tmp_path / 'pid')!r}).write_text(str(started._process.pid))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGKILL
    pid = int((tmp_path / "pid").read_text())
    assert poll_until(lambda: not _alive(pid), Deadline(PATIENCE), pause=0.1)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
