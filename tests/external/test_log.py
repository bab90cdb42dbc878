"""The scheduling log: structured, bounded, never in the way."""

from __future__ import annotations

import json

from ips_components.external.log import Record, SchedulingLog


def test_records_are_json_lines(tmp_path):
    log = SchedulingLog()
    path = tmp_path / "deep" / "external_tasks.jsonl"
    log.write_to(path, group="g")
    log.note("g", "memory", [("x", 0)], worker="tcp://w", stimulus="s", nbytes=[8])
    log.note("other", "memory", [("y", 0)])
    log.note("g", "erred", [("x", 1)], note="rank 3 died")
    log.flush()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["state"] for line in lines] == ["memory", "erred"]
    assert lines[0] | {"t": 0} == {
        "t": 0,
        "group": "g",
        "state": "memory",
        "worker": "tcp://w",
        "stimulus": "s",
        "keys": [["x", 0]],
        "bytes": [8],
    }
    assert lines[1]["note"] == "rank 3 died"
    log.close()


def test_memory_is_bounded_in_records_and_in_keys():
    log = SchedulingLog(max_records=10, max_keys=100)
    for i in range(50):
        log.note("g", "memory", [("x", i)])
    assert len(log) == 10
    log.note("g", "memory", [("y", i) for i in range(95)])
    assert sum(len(record.keys) for record in log) <= 100
    assert log.story(("y", 94))


def test_a_declared_range_concerns_its_keys_only():
    record = Record(0.0, "g", "declared", name="x", numblocks=(2, 5), ranges=((1, 3), (7, 8)))
    assert [k for k in range(10) if record.concerns(("x", k // 5, k % 5))] == [1, 2, 7]
    assert not record.concerns(("y", 0, 1))
    assert not record.concerns("x")
    assert not record.concerns(("x", 9, 9))
    assert json.loads(record.to_json())["ranges"] == [[1, 3], [7, 8]]


def test_a_file_that_cannot_be_written_ends_without_harm(tmp_path, caplog):
    log = SchedulingLog()
    log.write_to(tmp_path / "log")
    next(iter(log._files.values()))[0].close()
    log.note("g", "memory", ["x"])
    log.note("g", "memory", ["y"])
    assert caplog.text.count("Cannot write the scheduling log") == 1
    assert len(log) == 2
