"""Platform files and batch scripts: complete, commented, and fitting each other."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from configobj import ConfigObj

REPOSITORY = Path(__file__).resolve().parents[3]
PLATFORM = REPOSITORY / "platform"
FILES = sorted(PLATFORM.glob("*.conf"))
SCRIPTS = sorted([*PLATFORM.glob("*.sbatch"), *REPOSITORY.glob("examples/*/*.sbatch")])
REQUIRED = {
    "HOST",
    "MPIRUN",
    "NODE_DETECTION",
    "CORES_PER_NODE",
    "SOCKETS_PER_NODE",
    "NODE_ALLOCATION_MODE",
}


def name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", FILES, ids=name)
def test_platform_file_says_what_ips_requires(path):
    values = ConfigObj(str(path), file_error=True)
    assert set(values) >= REQUIRED
    cores, sockets = int(values["CORES_PER_NODE"]), int(values["SOCKETS_PER_NODE"])
    assert sockets >= 1
    assert cores % sockets == 0
    # IPS never starts more processes on a node than it has cores.
    assert int(values.get("PROCS_PER_NODE", 0)) <= cores or cores == 0


@pytest.mark.parametrize(
    "path", [path for path in FILES if not path.name.startswith("workstation")], ids=name
)
def test_every_line_of_a_machines_file_is_commented(path):
    lines = path.read_text().splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if line and not line.startswith("#"):
            assert before.startswith("#"), line


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_batch_script_hands_over_to_ips(path):
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=10)
    text = path.read_text()
    assert text.startswith("#!/bin/bash\n")
    assert "\n#SBATCH --ntasks-per-node=" in text
    assert text.rstrip().splitlines()[-1].startswith("exec ips.py --config=")


def test_each_slurm_machine_has_its_batch_script():
    machines = {
        path.stem for path in FILES if ConfigObj(str(path))["NODE_DETECTION"] == "slurm_env"
    }
    assert machines == {path.stem for path in PLATFORM.glob("*.sbatch")}
    for machine in machines:
        assert f"platform/{machine}.conf" in (PLATFORM / f"{machine}.sbatch").read_text()
