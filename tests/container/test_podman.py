"""The wrapper for podman-hpc, with podman itself: a pool of IPS runs inside a real image."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_image import WITNESS
from container_runs import processes_of, run_ips

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGE = "localhost/ips-components:test"


@pytest.fixture(scope="module")
def podman(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment in which podman knows the image, in a storage of its own."""
    if shutil.which("podman") is None:
        pytest.skip("podman not found: install podman and runc")
    home = tmp_path_factory.mktemp("podman")
    runtime = "runc" if shutil.which("runc") else "crun"
    # Asks for less than this process may have, and for no systemd.
    (home / "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n'
        f'[engine]\nruntime = "{runtime}"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    )
    (home / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{home}/graph"\nrunroot = "{home}/run"\n'
    )
    environment = {
        "CONTAINERS_CONF": str(home / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(home / "storage.conf"),
        "SHIFTER_RUNTIME": "podman",
        "SHIFTER_IMAGE": IMAGE,
    }
    path = "ENV PATH=/opt/venv/bin:/usr/bin:/bin"
    try:
        with subprocess.Popen(
            ["tar", "-C", str((images / "ips").resolve()), "-c", "."], stdout=subprocess.PIPE
        ) as tar:
            podman_command(environment, "import", "--change", path, "-", IMAGE, stdin=tar.stdout)
        try:
            podman_command(environment, "run", "--rm", "--network=host", IMAGE, "true")
        except RuntimeError as error:
            pytest.skip(f"podman cannot run a container here: {error}")
        yield environment
    finally:
        podman_command(environment, "system", "reset", "--force")


def podman_command(environment: dict[str, str], *words: str, stdin=subprocess.DEVNULL) -> str:
    done = subprocess.run(
        ["podman", *words],
        env={**os.environ, **environment},
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"podman {words[0]} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def test_pool_runs_inside_through_the_podman_wrapper(podman, workspace, monkeypatch):
    wrapper = REPOSITORY / "examples/shifter/podman-hpc"
    path = [str(wrapper), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    for name, value in podman.items():
        monkeypatch.setenv(name, value)
    status, output = run_ips(workspace, WITNESS=WITNESS)
    assert status == 0, output
    (found,) = workspace.glob("runs/inside/work/*/where.txt")
    function, binary, outside = found.read_text().splitlines()
    assert function.split()[1].startswith("/opt/venv/")
    assert function.endswith("found")
    assert binary == "binary 0"
    assert outside.endswith("missing")
    assert podman_command(podman, "ps", "-a", "-q") == ""
    assert processes_of(workspace) == []
