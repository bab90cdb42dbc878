"""Programs in C, C++ and Fortran without an analysis; projects of `ips-components new`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from c_ranks import HERE, LIBRARY, WARNINGS, compiler

from ips_components.cli import main
from ips_components.cli.new import LANGUAGES

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def program(built, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "alone"
    flags = ["-std=c11", *WARNINGS.split(), f"-I{LIBRARY}"]
    subprocess.run(
        [compiler(), *flags, HERE / "alone.c", built / "libips_bridge.a", "-o", out],
        check=True,
        timeout=60,
    )
    return out


def ended(command, cwd=None, **environment):
    known = {k: v for k, v in os.environ.items() if not k.startswith("IPS_COMPONENTS_CONTACT")}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=cwd,
        env={**known, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.mark.parametrize("way", ["call", "environment"])
def test_all_calls_succeed_and_say_so_once(program, way):
    if way == "call":
        done = ended([program, "alone"])
    else:
        done = ended([program], IPS_COMPONENTS_ALONE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("this program runs alone") == 1
    assert not done.stdout


def test_the_error_names_the_remedy(program):
    done = ended([program], IPS_COMPONENTS_ALONE="0")
    assert done.returncode == 2
    assert "set IPS_COMPONENTS_ALONE=1 (or call ips_bridge_set_alone)" in done.stdout


def test_a_contact_file_that_is_named_is_used(program, tmp_path):
    done = ended(
        [program, "alone"],
        IPS_COMPONENTS_CONTACT=str(tmp_path / "none"),
        IPS_COMPONENTS_DEADLINE="0.05",
    )
    assert done.returncode == 2
    assert "no contact file at" in done.stdout


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_new_project_builds_and_runs_by_itself(language, tmp_path):
    """Its name has a hyphen, its folder a space."""
    if not (BIN / "mpiexec").exists() and shutil.which("mpiexec") is None:
        pytest.skip("needs mpiexec")
    if language == "fortran" and shutil.which("gfortran") is None:
        pytest.skip("needs gfortran")
    project = tmp_path / "my projects" / "a-wave"
    assert main(["new", "a-wave", "--language", language, "--directory", str(project)]) == 0
    if LANGUAGES[language].built:
        made = ended(["make"], project)
        assert made.returncode == 0, made.stdout + made.stderr
        assert "warning" not in made.stderr
    done = ended(LANGUAGES[language].alone.split(), project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("this program runs alone") == 1
