"""Worker plugins in pools under real ``ips.py``: the examples, and the death of a worker."""

import contextlib
import shutil
import signal
import tarfile
import time
from pathlib import Path

import psutil
import pytest
from workflows import Workflow

ROOT = Path(__file__).parents[2]
OUTPUTS = {f"output_{i}.txt" for i in range(4)}


@pytest.fixture
def example(tmp_path, leaves_nothing):
    """Copy the example with some changes of its config."""
    made = []

    def make(name, **changes):
        shutil.copy(ROOT / "examples" / "ips_plugins" / "components.py", tmp_path)
        made.append(Workflow(tmp_path, {}))
        text = (ROOT / "examples" / "ips_plugins" / f"{name}.config").read_text()
        lines = [
            f"    {key} = {changes[key]}"
            if (key := line.partition("=")[0].strip()) in changes
            else line
            for line in text.splitlines()
        ]
        made[-1].config_file.write_text("\n".join(lines) + "\n")
        shutil.copy(ROOT / "platform" / "workstation.conf", made[-1].platform_file)
        return made[-1]

    yield make
    for each in made:
        each.close()


def _names_in(archive):
    with tarfile.open(archive) as tar:
        return {Path(name).name for name in tar.getnames()}


def test_copy_and_archive_beside_each_other(example, tmp_path):
    ended = example("copy", PLUGINS="copy archive").run()
    assert ended.status == 0, ended.output
    work = tmp_path / "run" / "copy" / "work"
    assert {path.name for path in work.glob("*/copied/*")} == OUTPUTS
    (archive,) = work.glob("*/archived/*.tar.gz")
    assert _names_in(archive) == OUTPUTS


def test_a_slow_teardown_is_waited_for(workflow):
    flow = workflow(worker="pool_with_slow_teardown", WORKER={"PAUSE": 1.0})
    ended = flow.run()
    assert ended.status == 0, ended.output + ended.log
    assert len(list(flow.root.glob("work/*/copied_*"))) == 3


def test_a_teardown_that_is_cut_fails_the_run(workflow):
    flow = workflow(
        worker="pool_with_slow_teardown", WORKER={"PAUSE": 2.0, "TEARDOWN_TIME_OUT": 3.0}
    )
    ended = flow.run()
    assert ended.status == 1
    assert "was cut after 3 s (TEARDOWN_TIME_OUT)" in ended.last_lines
    assert "(TEARDOWN_TIME_OUT)" in ended.log
    assert len(list(flow.root.glob("work/*/copied_*"))) < 3


def test_last_good_archive_survives_kill_9_of_the_worker(example, tmp_path):
    flow = example("archive", INTERVAL=0.2, NTASKS=4)
    components = tmp_path / "components.py"
    components.write_text(
        components.read_text().replace("    return 0\n", "    __import__('time').sleep(100)\n", 1)
    )
    process = flow.start()
    deadline = time.monotonic() + 60
    while True:
        archives = list(tmp_path.glob("run/archive/work/*/archived/*.tar.gz"))
        if archives and _names_in(archives[0]):
            break
        assert time.monotonic() < deadline and process.poll() is None, flow.output()
        time.sleep(0.1)
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # some live only for a moment
            command = " ".join(child.cmdline())
            if "ips_components.external.forked_workers" in command or "forkserver" in command:
                child.send_signal(signal.SIGKILL)
    ended = flow.wait(process, 60)
    assert ended.status == 1
    assert _names_in(archives[0]) <= OUTPUTS
    assert _names_in(archives[0])
