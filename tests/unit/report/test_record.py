"""The run record: complete after any ending, checked on the way in and out, written whole."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import run_records

from ips_components.errors import RecordError
from ips_components.report.record import check_record, make_record, read_record, write_record


@pytest.mark.parametrize("name", run_records.RECORDS)
def test_records_survive_the_way_through_the_file(name, tmp_path):
    record = run_records.RECORDS[name]()
    write_record(record, tmp_path / "run")
    assert read_record(tmp_path / "run") == record


def test_every_field_has_a_default():
    record = check_record({})
    assert record["status"] == "failed"
    assert record["steps"] == []
    assert record["simulation"]["exit_status"] is None
    assert check_record(record) == record


def test_unknown_fields_are_kept():
    assert check_record({"from_the_future": [1]})["from_the_future"] == [1]


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"status": "splendid"}, "run.json.status: expected 'ok' or 'failed', got 'splendid'"),
        ({"steps": [{"step": "one"}]}, r"steps\[0\].step: expected a whole number, got 'one'"),
        ({"steps": {}}, "steps: expected a list"),
        ({"workers": [3]}, r"workers\[0\]: expected an object, got 3"),
        ({"simulation": {"nproc": True}}, "simulation.nproc: expected a whole number, got True"),
        ({"version": 2}, "newer than this package"),
        ({"format": "cookbook"}, "expected 'ips-components-run'"),
    ],
)
def test_a_broken_field_is_named(broken, says):
    with pytest.raises(RecordError, match=says):
        check_record(broken)


def test_numpy_paths_and_nan_become_plain_json():
    record = make_record(
        "r",
        status="ok",
        n_steps=np.int64(3),
        figures=[Path("a.png")],
        results={"variables": {"x": {"shape": (2,), "min": np.nan, "max": np.float32(1.5)}}},
        started=math.inf,
    )
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["n_steps"] == 3
    assert record["started"] is None
    assert record["results"]["variables"]["x"]["min"] is None


def test_the_first_fault_is_the_cause_unless_one_is_given():
    faults = [
        {"t": 1.0, "who": "rank 3", "what": "lost", "cause": "a\nConnectionResetError: peer\n"},
        {"t": 2.0, "who": "analysis", "what": "raised", "cause": "later"},
    ]
    assert check_record({"faults": faults})["cause"] == "rank 3 lost: ConnectionResetError: peer"
    assert check_record({"faults": faults, "cause": "mine"})["cause"] == "mine"
    assert check_record({"faults": faults, "status": "ok"})["cause"] is None


def test_secrets_of_the_config_are_hidden():
    config = {"PORTAL_API_KEY": "k", "token": "t", "NPROC": "4"}
    record = make_record("r", status="ok", config=config)
    assert record["config"] == {"PORTAL_API_KEY": "(hidden)", "token": "(hidden)", "NPROC": "4"}


def test_writing_a_broken_record_leaves_the_old_one(tmp_path):
    write_record({"run": "a"}, tmp_path)
    with pytest.raises(RecordError):
        write_record({"run": 7}, tmp_path)
    assert read_record(tmp_path)["run"] == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file or directory; give the directory of a run"),
        (b"{", "is not JSON"),
        (b"[]", "expected an object, got list"),
        (b"\xff\xfe", "is not text"),
    ],
)
def test_reading_says_what_is_wrong(content, says, tmp_path):
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RecordError, match=says):
        read_record(tmp_path)
