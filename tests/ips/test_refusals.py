"""What cannot work is refused before anything is launched: by ``ips.py`` and by the command."""

import os
import subprocess
from pathlib import Path

import pytest
from workflows import BIN, PARTS

from ips_components.cli import main

ROOT = Path(__file__).parents[2]
PLATFORM = ROOT / "platform" / "workstation.conf"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[[WORKER]]", "[[WROKER]]", "did you mean WROKER?"),
        ("[WORKER]\nCLASS", "[WROKER]\nCLASS", "names section [WORKER], which does not exist"),
        ("NAMES = DRIVER WORKER", "NAMES = DRIVER WORKER OTHER", "OTHER"),
        ("MODULE = parts\nNAME = Part\nROLE = worker", "NAME = Part", "MODULE"),
        ("INPUT_FILES = ", "INPUT_FILES = missing.dat", "there is no file 'missing.dat'"),
        ("LOG_LEVEL = INFO", "LOG_LEVEL = info", "in capital letters, got 'info'"),
    ],
)
def test_ips_refuses_at_once(workflow, old, new, said):
    flow = workflow()
    flow.write()
    text = flow.config_file.read_text()
    assert old in text
    flow.config_file.write_text(text.replace(old, new, 1))
    ended = flow.run(30)
    assert ended.status == 2, ended.output
    assert said in ended.output
    assert "found before anything was launched" in ended.output
    assert "Traceback" not in ended.output
    assert "STEP" not in ended.output


OURS = {"MODULE": "ips_components.simulation", "NAME": "Simulation", "EXECUTABLE": "/bin/true"}


def test_a_truly_unset_pwd_is_named_with_the_remedy(workflow):
    """By the command; IPS reads the whole file before it loads any component, and says PWD."""
    flow = workflow(WORKER={"INPUT_DIR": "$PWD"})
    flow.write()
    unset = {name: value for name, value in os.environ.items() if name != "PWD"}

    def run(*command):
        return subprocess.run(
            [BIN / command[0], *command[1:], "--config", "test.config", "--platform", "test.conf"],
            cwd=flow.directory,
            env={**unset, "PYTHONPATH": str(PARTS)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )

    checked = run("ips-components", "check")
    assert checked.returncode == 1, checked.stdout
    for part in ("test.config", "[WORKER] INPUT_DIR", '"PWD"', "export PWD"):
        assert part in checked.stdout
    assert "Traceback" not in checked.stdout
    started = run("ips.py")
    assert started.returncode == 1
    assert 'missing option "PWD"' in started.stdout


def test_all_problems_are_told_at_once(workflow):
    ours = {**OURS, "NPROC": "one", "INPUT_FILES": "missing.dat"}
    ended = workflow(OTHER=ours, top={"SIM_ROOT": "run"}).run(30)
    assert ended.status == 2
    for word in ("problems found", "SIM_ROOT", "NPROC", "INPUT_FILES"):
        assert word in ended.output


def test_what_stock_ips_runs_is_run_with_warnings(workflow):
    """Oddities of foreign components are no reason to refuse a run."""
    flow = workflow(
        WORKER={"NPROC": "{{ranks}}"},
        top={"SIM_ROOT": "run", "LOG_LEVEL": "WARN", "SIMULATION_MODE": "ANY"},
        time_loop={"MODE": "REGULAR", "FINISH": "10", "NSTEP": "5"},
    )
    flow.write()
    more = "[[INIT]]\nIMPLEMENTATION =\n[[MONITOR]]\nIMPLEMENTATION = MONITOR\n[TIME_LOOP]"
    text = flow.config_file.read_text()
    flow.config_file.write_text(text.replace("[TIME_LOOP]", more))
    ended = flow.run(60)
    assert ended.status == 0, ended.output
    for name in ("NPROC", "SIM_ROOT", "SIMULATION_MODE", "START", "INIT", "MONITOR"):
        assert name in ended.output
    assert "it may stay, or remove [[INIT]]: it has no IMPLEMENTATION" in ended.output
    assert "remove [[MONITOR]], or add MONITOR to NAMES if it is to take part" in ended.output
    assert ended.output.count("WARNING  ips_components: ") == 6


def test_the_command_says_the_same(workflow, capsys, monkeypatch):
    flow = workflow(OTHER={**OURS, "NPROC": "one"})
    flow.write()
    monkeypatch.syspath_prepend(str(PARTS))
    options = ["--config", str(flow.config_file), "--platform", str(flow.platform_file)]
    assert main(["check", *options]) == 1
    assert "expected a whole number >= 1, got 'one'" in capsys.readouterr().err
    good = workflow()
    good.write()
    assert main(["check", *options]) == 0
    assert "nothing wrong" in capsys.readouterr().out


def test_check_without_files_is_not_understood(capsys, monkeypatch):
    monkeypatch.delenv("IPS_PLATFORM_FILE", raising=False)
    assert main(["check"]) == 2
    assert "give --config and --platform" in capsys.readouterr().err


def test_the_reference_is_printed(capsys):
    assert main(["check", "--reference"]) == 0
    assert "| `ANALYSIS` |" in capsys.readouterr().out


def test_versions_are_told(capsys):
    assert main(["version"]) == 0
    assert "ipsframework 0.8" in capsys.readouterr().out


@pytest.mark.parametrize(
    "config", sorted((ROOT / "configs").glob("*.config")), ids=lambda p: p.stem
)
def test_configs_of_the_repository_have_nothing_wrong(config):
    done = subprocess.run(
        [BIN / "ips-components", "check", "--config", config, "--platform", PLATFORM],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PWD": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.course
@pytest.mark.timeout(300)
@pytest.mark.parametrize("language", ["python", "c", "cxx", "fortran"])
def test_a_new_run_runs(tmp_path, leaves_nothing, capsys, language):
    """Its name has a hyphen, its folder a space."""
    project = tmp_path / "my projects"
    new = ["new", "a-wave", "--directory", str(project), "--language", language]
    assert main(new) == 0
    assert main(new) == 1
    assert "has a-wave.config" in capsys.readouterr().err
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    here = {"cwd": project, "env": {**os.environ, "PATH": path, "PWD": str(project)}}
    if language != "python":
        subprocess.run(["make"], check=True, timeout=100, **here)
    done = subprocess.run(
        ["ips.py", "--config", "a-wave.config", "--platform", "workstation.conf"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        **here,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert "skipped by contract" in done.stdout


@pytest.mark.parametrize("name", ["1st", "-a", "a/b", "a b", ""])
def test_names_of_new_runs(name, capsys):
    assert main(["new", "--", name]) == 2
    assert "a name begins with a letter" in capsys.readouterr().err


def test_the_language_is_asked_for_on_a_terminal(tmp_path):
    """As a user who does not know the names at first."""
    master, slave = os.openpty()
    try:
        asking = subprocess.Popen(
            [BIN / "ips-components", "new", "wave"],
            cwd=tmp_path, stdin=slave, stdout=slave, stderr=slave,
        )  # fmt: skip
        os.write(master, b"cobol\nC++\n")
        assert asking.wait(60) == 0
    finally:
        os.close(slave)
        os.close(master)
    assert (tmp_path / "wave" / "simulation.cpp").exists()
