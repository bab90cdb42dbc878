"""A task pool of IPS in the container: one config word moves Dask inside, IPS stays outside."""

from __future__ import annotations

import signal
import sys
from importlib import metadata

import pytest
from container_image import OTHER, WITNESS, image_with
from container_runs import processes_of, run_ips, start_ips, wait_for


def test_scheduler_workers_and_tasks_run_inside(workspace):
    status, output = run_ips(workspace, WITNESS=WITNESS)
    assert status == 0, output
    (found,) = workspace.glob("runs/inside/work/*/where.txt")
    function, binary, outside = found.read_text().splitlines()
    assert function.split()[1].startswith("/opt/venv/")
    assert function.endswith("found")
    assert binary == "binary 0"
    assert outside.split()[1] == sys.executable
    assert outside.endswith("missing")
    assert processes_of(workspace) == []


def test_other_versions_inside_end_the_run_with_both_named(workspace, base, images, monkeypatch):
    with image_with(base, f"dask=={OTHER}", f"distributed=={OTHER}") as root:
        (images / "other").symlink_to(root)
        monkeypatch.setenv("SHIFTER_IMAGE", "other")
        status, output = run_ips(workspace, WITNESS=WITNESS)
        (images / "other").unlink()
    assert status == 1, output
    both = f"dask is {metadata.version('dask')} outside, but {OTHER} inside (scheduler"
    assert both in output.split("the run failed")[1]
    assert processes_of(workspace) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_ending_ips_in_a_task_ends_what_runs_inside(workspace, signum):
    components = workspace / "examples/shifter/inside.py"
    busy = 'Path("started").touch()\n    __import__("time").sleep(600)\n    found ='
    components.write_text(components.read_text().replace("found =", busy))
    ips = start_ips(workspace)
    try:
        wait_for(lambda: any(workspace.glob("runs/*/work/*/started")), "the task to start", 60)
        assert any("bwrap" in words[0] for words in processes_of(workspace))
        ips.send_signal(signum)
        ips.communicate(timeout=30)
        wait_for(lambda: not processes_of(workspace), "everything to be gone", 15)
    finally:
        ips.kill()
    assert ips.returncode != 0
