"""A task pool of IPS in the container: one config word moves Dask inside, IPS stays outside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import psutil
import pytest
from container_image import OTHER, WITNESS, image_with

REPOSITORY = Path(__file__).resolve().parents[2]
PLATFORM = """\
HOST = here
MPIRUN = mpiexec
NODE_DETECTION = manual
NODES = 1
PROCS_PER_NODE = 4
CORES_PER_NODE = 4
SOCKETS_PER_NODE = 1
NODE_ALLOCATION_MODE = SHARED
"""


@pytest.fixture
def workspace(shifter: Path, tmp_path: Path) -> Path:
    """A user's directory: the example, and a platform of one node."""
    shutil.copytree(REPOSITORY / "examples/shifter", tmp_path / "examples/shifter")
    (tmp_path / "platform.conf").write_text(PLATFORM)
    return tmp_path


def run_ips(workspace: Path, config: str, **changed: str) -> subprocess.CompletedProcess[str]:
    """Run one config in the workspace, with some of its lines changed."""
    path = workspace / config
    lines = path.read_text().splitlines()
    for name, value in changed.items():
        (at,) = (i for i, line in enumerate(lines) if line.strip().startswith(f"{name} ="))
        lines[at] = f"{name} = {value}"
    path.write_text("\n".join(lines) + "\n")
    ips = str(Path(sys.executable).with_name("ips.py"))
    return subprocess.run(
        [ips, f"--config={config}", "--platform=platform.conf"],
        cwd=workspace,
        env={**os.environ, "PWD": str(workspace)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
        check=False,
    )


def test_scheduler_workers_and_tasks_run_inside(workspace):
    done = run_ips(workspace, "examples/shifter/inside.config", WITNESS=WITNESS)
    assert done.returncode == 0, done.stdout
    (found,) = workspace.glob("runs/inside/work/*/where.txt")
    function, binary, outside = found.read_text().splitlines()
    assert function.split()[1].startswith("/opt/venv/")
    assert function.endswith("found")
    assert binary == "binary 0"
    assert outside.split()[1] == sys.executable
    assert outside.endswith("missing")
    assert no_process_of(workspace)


def test_other_versions_inside_end_the_run_with_both_named(workspace, base, images, monkeypatch):
    with image_with(base, f"dask=={OTHER}", f"distributed=={OTHER}") as root:
        (images / "other").symlink_to(root)
        monkeypatch.setenv("SHIFTER_IMAGE", "other")
        done = run_ips(workspace, "examples/shifter/inside.config", WITNESS=WITNESS)
        (images / "other").unlink()
    assert done.returncode == 1, done.stdout
    both = f"dask is {metadata.version('dask')} outside, but {OTHER} inside (scheduler"
    assert both in done.stdout.split("the run failed")[1]
    assert no_process_of(workspace)


def no_process_of(workspace: Path) -> bool:
    """Whether no process has the workspace in its command line."""
    found = []
    for process in psutil.process_iter():
        try:
            found += [process for word in process.cmdline() if str(workspace) in word]
        except psutil.NoSuchProcess:
            continue
    return not found
