"""The file in which a run says how far it is."""

import json

import pytest

from ips_components.report.progress import Progress
from ips_components.report.progress_file import ENVIRONMENT, ProgressFile, read_progress


def test_what_was_known_stays(tmp_path):
    path = tmp_path / "p.json"
    assert read_progress(path) == {}
    ProgressFile(path).note(run="r1", doing="starting")
    ProgressFile(path).note(doing="running")  # as another process of the run does
    known = read_progress(path)
    assert (known["run"], known["doing"]) == ("r1", "running")
    assert [each.name for each in tmp_path.iterdir()] == ["p.json"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_progress_is_written_also_where_nothing_is_shown(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "p.json"))
    with Progress(quiet=True) as progress:
        progress.update({"phase": "running", "steps": 3})
    known = read_progress(tmp_path / "p.json")
    assert known["state"] == {"phase": "running", "steps": 3}
    assert known["doing"] == "running"


def test_a_file_that_cannot_be_written_is_no_reason_to_fail(tmp_path):
    ProgressFile(tmp_path / "gone" / "p.json").note(run="r1")
    ProgressFile(None).note(run="r1")
    (tmp_path / "half.json").write_text(json.dumps({"run": "r1"})[:-3])
    assert read_progress(tmp_path / "half.json") == {}


@pytest.mark.parametrize("text", ["", "[]"])
def test_a_damaged_file_says_nothing(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    assert read_progress(tmp_path / "p.json") == {}
