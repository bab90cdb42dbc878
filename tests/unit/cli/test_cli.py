"""The command line: every subcommand is there, whatever way it is started."""

import subprocess
import sys
from pathlib import Path

import pytest

from ips_components.cli import main


@pytest.mark.parametrize(
    "command",
    [[str(Path(sys.executable).with_name("ips-components"))],
     [sys.executable, "-m", "ips_components.cli"]],
)  # fmt: skip
def test_the_command_lists_its_subcommands(command):
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    for name in ("check", "new", "replay", "version", "report"):
        assert name in done.stdout


def test_an_unknown_subcommand_is_not_understood(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["chekc"])
    assert ended.value.code == 2
    assert "invalid choice: 'chekc'" in capsys.readouterr().err


def test_the_former_place_of_container_still_works():
    code = (
        "import warnings; warnings.simplefilter('error', DeprecationWarning)\n"
        "try:\n    import ips_components.container\n"
        "except DeprecationWarning as warning:\n    print(warning)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "import ips_components.ips_compat.container" in done.stdout


@pytest.mark.parametrize("spaces", [True, False])
def test_new_says_when_the_compiler_of_the_environment_cannot_compile(
    tmp_path, monkeypatch, capsys, spaces
):
    """mpicc of the mpich package from PyPI does not quote the path that it is at."""
    environment = tmp_path / ("my env" if spaces else "env")
    compiler = environment / "bin" / "mpicc"
    compiler.parent.mkdir(parents=True)
    compiler.touch(0o755)
    monkeypatch.setattr(sys, "prefix", str(environment))
    monkeypatch.setenv("PATH", str(compiler.parent))
    for language in ("c", "python"):
        where = ["--directory", str(tmp_path / language)]
        assert main(["new", "wave", "--language", language, *where]) == 0
        said = f"{compiler} cannot compile" in capsys.readouterr().out
        assert said is (spaces and language == "c")
