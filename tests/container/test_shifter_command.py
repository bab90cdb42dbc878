"""The `shifter` of these tests is a container: own root, own processes, the host's network."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from container_image import PYTHON, WITNESS


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_has_a_root_of_its_own(shifter):
    assert not Path(WITNESS).exists()
    assert run("shifter", "cat", WITNESS).returncode == 0
    assert run("shifter", "test", "-e", str(shifter)).returncode == 1
    assert run("shifter", "touch", "/etc/new").returncode != 0


def test_has_processes_of_its_own(shifter):
    code = "import os; print(len([p for p in os.listdir('/proc') if p.isdigit()]))"
    assert int(run("shifter", "python", "-c", code).stdout) <= 2


def test_has_the_same_versions_inside(shifter):
    code = (
        "import sys, dask, distributed, ips_components.container as c; "
        "print(sys.executable, dask.__version__, distributed.__version__, c.__file__)"
    )
    executable, dask, distributed, module = run("shifter", "python", "-c", code).stdout.split()
    assert executable == PYTHON != sys.executable
    assert (dask, distributed) == (metadata.version("dask"), metadata.version("distributed"))
    assert module.startswith("/opt/venv/")


def test_shares_what_the_site_shares(shifter, tmp_path):
    (tmp_path / "shared.txt").write_text("both see it")
    assert run("shifter", "cat", str(tmp_path / "shared.txt")).stdout == "both see it"


def test_mounts_a_volume(shifter, tmp_path):
    (tmp_path / "inner").mkdir()
    volume = f"{tmp_path}/inner:/data:perNodeCache=size=1G"
    assert run("shifter", f"--volume={volume}", "touch", "/data/made").returncode == 0
    assert (tmp_path / "inner/made").exists()
    assert run("shifter", "touch", "/data/again", SHIFTER_VOLUME=volume).returncode == 0
    assert (tmp_path / "inner/again").exists()


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["--image=none", "true"], "image none not found"),
        (["--sideways", "true"], "unknown option --sideways"),
        ([], "no command"),
    ],
)
def test_says_what_is_wrong(shifter, command, complaint):
    done = run("shifter", *command)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_passes_on_the_exit_status(shifter):
    assert run("shifter", "sh", "-c", "exit 7").returncode == 7
