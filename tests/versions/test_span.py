"""The oldest and the newest supported Dask, each in an environment of its own.

Builds a virtual environment per version in a temporary folder, installs that version from the
package index, and runs the tests of the external tasks in it.  The version that these tests run
with themselves is left out: the default tests have tried it already.
"""

from __future__ import annotations

import os
import re
import subprocess
import venv
from pathlib import Path

import distributed
import pytest

pytestmark = [pytest.mark.versions, pytest.mark.timeout(1700)]

ROOT = Path(__file__).parents[2]
#: Both ends of the span that external/_compat_versions.py names, each with a NumPy that it knows:
#: Dask of 2025 calls NumPy in ways that later ones deprecate, and a warning is an error here.
VERSIONS = {"2025.5.1": "numpy<2.4", "2026.8.0": "numpy"}
#: What those tests need beside; neither IPS nor MPI.
PACKAGES = ("xarray", "pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "psutil")
TESTS = (
    "test_collections.py",
    "test_compat.py",
    "test_dask_features.py",
    "test_deaths.py",
    "test_futures.py",
    "test_log.py",
    "test_memory.py",
    "test_names.py",
    "test_dask_plugins.py",
    "test_security.py",
    "test_state.py",
    "test_stress.py",
    "test_tasks.py",
)


def test_both_ends_of_the_span_are_those_of_the_package():
    from ips_components.external import _compat_versions

    ends = (_compat_versions.OLDEST, _compat_versions.NEWEST)
    assert tuple(_compat_versions.parse_version(version) for version in VERSIONS) == ends


@pytest.mark.parametrize("version", VERSIONS)
def test_external_tasks_on(version, tmp_path, capsys):
    if version == distributed.__version__:
        pytest.skip(f"the default tests run with distributed {version}")
    python = environment(tmp_path / "venv", version)
    tests = [str(ROOT / "tests" / "external" / name) for name in TESTS]
    run = subprocess.run(
        [python, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    summary = re.findall(r"^.*\d+ passed.*$|^no tests ran.*$", run.stdout, re.M)
    with capsys.disabled():
        print(f"\ndistributed {installed(python)}: {len(tests)} test modules: {summary}")
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2000:]
    assert installed(python) == version


def environment(path: Path, version: str) -> str:
    """Make a virtual environment with one version of Dask; return its Python."""
    venv.create(path, with_pip=True)
    python = str(path / "bin" / "python")
    dask = [f"dask[array,dataframe]=={version}", f"distributed=={version}"]
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*install, *dask, VERSIONS[version], *PACKAGES], check=True, timeout=900)
    return python


def installed(python: str) -> str:
    """Return the version of distributed that `python` imports."""
    code = "import distributed; print(distributed.__version__)"
    run = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.strip()
