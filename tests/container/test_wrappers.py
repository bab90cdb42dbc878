"""The documented wrappers: Shifter's command line becomes podman-hpc's and Apptainer's."""

from __future__ import annotations

import json
import os
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# Stands for the runtime: writes down its command line and the variables that must not get in.
RECORDER = """\
#!/usr/bin/env -S python3 -E
import json, os, sys
names = [name for name in ("PYTHONHOME",) if name in os.environ]
json.dump({"words": sys.argv[1:], "leaked": names}, open(os.environ["RECORD"], "w"))
sys.exit(7)
"""


@pytest.fixture(params=["podman-hpc", "apptainer"])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    program = tmp_path / request.param
    program.write_text(RECORDER)
    program.chmod(0o755)
    return request.param


def call(runtime: str, tmp_path: Path, *words: str, **environment: str):
    """Run the wrapper in `tmp_path`; return its exit status, its complaint and the record."""
    done = subprocess.run(
        [str(REPOSITORY / "examples/shifter" / runtime / "shifter"), *words],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "PWD": str(tmp_path),
            "RECORD": str(tmp_path / "record.json"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    record = tmp_path / "record.json"
    return done.returncode, done.stderr, json.loads(record.read_text()) if record.exists() else None


def test_command_and_image_come_last_and_the_status_comes_back(runtime, tmp_path):
    status, _, record = call(
        runtime, tmp_path, "--image=repo/name:1", "dask", "worker", "--x", "a b"
    )
    assert status == 7
    assert record["words"][-5:] == ["repo/name:1", "dask", "worker", "--x", "a b"]


def test_working_directory_and_volumes_are_mounted_without_shifters_flags(runtime, tmp_path):
    _, _, record = call(
        runtime, tmp_path, "--volume=/a:/b", "true",
        SHIFTER_IMAGE="image", SHIFTER_VOLUME="/c:/tmp:perNodeCache=size=1G",
    )  # fmt: skip
    words = record["words"]
    option = {"podman-hpc": "--volume", "apptainer": "--bind"}[runtime]
    mounts = [after for word, after in pairwise(words) if word == option]
    assert mounts == [f"{tmp_path}:{tmp_path}", "/c:/tmp", "/a:/b"]
    assert words[-2:] == ["image", "true"]


def test_python_of_the_host_stays_outside(runtime, tmp_path):
    _, _, record = call(runtime, tmp_path, "true", SHIFTER_IMAGE="image", PYTHONHOME="/host")
    if runtime == "podman-hpc":  # its environment stays outside; what is named goes in
        named = [after for word, after in pairwise(record["words"]) if word == "--env"]
        assert {"SHIFTER_IMAGE", "RECORD"} <= set(named)
        assert not {"PATH", "PYTHONHOME"} & set(named)
    else:
        assert record["leaked"] == []


@pytest.mark.parametrize(
    ("words", "complaint"), [(["true"], "no image"), (["--sideways", "true"], "unknown option")]
)
def test_says_what_is_wrong(runtime, tmp_path, words, complaint):
    status, stderr, record = call(runtime, tmp_path, *words)
    assert (status, record) == (2, None)
    assert complaint in stderr
