"""The benchmarks run: tiny sizes, one turn, everything they promise is in the results."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))  # last: the installed package is under test

from benchmarks import (
    _harness,
    external_tasks,
    heat_pca,
    ipca,
    launches,
    peers,
    scaling,
    scheduler,
    security,
    soak,
    step_reports,
)
from benchmarks.__main__ import main

needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None, reason="needs mpi4py and mpiexec"
)


def test_turns_alternate_and_a_failed_turn_is_left_out():
    order, said = [], []

    def turn(name):
        order.append(name)
        if order == ["a"]:
            raise ValueError("the first turn")
        return len(order)

    kept = []
    found = _harness.interleave(
        "ab", 2, turn, said.append, lambda results: kept.append(sum(map(len, results.values())))
    )
    assert order == ["a", "b", "b", "a"]
    assert kept == [1, 2, 3]
    assert found == {"a": [4], "b": [2, 3]}
    assert "ValueError: the first turn" in said[0]


@pytest.mark.parametrize("mode", ["none", "dask"])
def test_a_block_moves_with_and_without_certificates(mode):
    found = security.transfer(mode, 1 << 20)
    assert set(found) == {"start", "transfer"}
    assert set(security._summary({"none": [found], "dask": [found]})["modes"]) == {"none", "dask"}


def test_spread_and_ratio():
    assert _harness.spread(range(11)) == {"median": 5.0, "p10": 1.0, "p90": 9.0}
    assert _harness.ratio([1.0, 2.0], [10.0, 30.0]) == {"median": 12.5, "least": 10, "most": 15}


def test_a_slope_is_not_tilted_by_workers_that_die():
    grown = [(float(t), 500.0 + t / 360 - 200 * (t % 50 == 0), 100.0, 3.0) for t in range(3600)]
    found = soak.memory(grown)
    assert found["slope of the workers, MB per hour"] == pytest.approx(10, rel=0.05)
    assert found["slope of the scheduler, MB per hour"] == 0
    assert found["memory of the ranks, MB, quarter by quarter"] == [3, 3, 3, 3]
    assert soak.memory(grown[:5]) == {}


def test_results_are_json_and_plots_repeat_exactly(tmp_path):
    path = _harness.write("one", {"rows": [{"x": 1}]}, tmp_path)
    assert json.loads(path.read_text()) == {"rows": [{"x": 1}]}
    drawn = [
        _harness.figure("one", lambda axes: axes.plot([1, 2]), tmp_path).read_bytes()
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]


def test_an_unknown_benchmark_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "peers", "pears"])
    with pytest.raises(SystemExit):
        main()
    assert "no benchmark pears; there are peers" in capsys.readouterr().err


@needs_mpi
def test_peers_side_by_side(tmp_path, monkeypatch):
    monkeypatch.delenv("BENCHMARK_DEISA_PYTHON", raising=False)
    monkeypatch.setattr(peers, "SIZES", {4096: (3, 0.0, 3)})
    methods = ["shm", "mpi", "hdf5", "deisa-dask"]
    found = peers.run(
        ranks=2, repeat=1, sizes=[4096], methods=methods, folder=tmp_path, import_repeat=1
    )
    assert "deisa-dask: BENCHMARK_DEISA_PYTHON is not set" in found["not run"]
    assert {row["method"] for row in found["held"]} == set(methods[:-1])
    assert all(row["steps never analysed"] == 0 for row in found["cost"])
    assert json.loads((tmp_path / "peers.json").read_text()) == found
    assert (tmp_path / "peers_held.svg").exists()


def test_ways_of_the_incremental_pca(tmp_path):
    found = ipca.run(repeat=1, features=300, batches=3, chunks=(2,), folder=tmp_path)
    assert len(found["rows"]) == 4
    differences = [row["difference"] for row in found["rows"][1:]]
    assert max(differences[:2]) < 1e-9
    assert differences[2] < 1e-2


@pytest.mark.course
@pytest.mark.timeout(600)
def test_emulated_ranks_speak_the_real_protocol(tmp_path):
    found = scheduler.run(repeat=1, sizes=[3], steps=2, folder=tmp_path)
    assert [row["chunks"] for row in found["rows"]] == list(scheduler.WAYS)
    assert (tmp_path / "scheduler_cpu.svg").exists()


@needs_mpi
@pytest.mark.course
@pytest.mark.timeout(600)
def test_scaling_on_this_machine(tmp_path):
    found = scaling.run(repeat=1, sizes=[1, 2], steps=3, folder=tmp_path)
    assert [(row["scaling"], row["ranks"]) for row in found["rows"]] == [
        ("weak", 1), ("strong", 1), ("weak", 2), ("strong", 2)
    ]  # fmt: skip
    assert json.loads((tmp_path / "scaling.json").read_text()) == found


@needs_mpi
@pytest.mark.course
@pytest.mark.timeout(600)
def test_heat_and_pca_have_the_same_results_in_three_ways(tmp_path):
    found = heat_pca.run(quick=True, folder=tmp_path)
    (row,) = found["rows"]
    assert set(row["systems"]) == set(found["start"]) == set(heat_pca.SYSTEMS)
    assert json.loads((tmp_path / "heat_pca.json").read_text()) == found
    assert (tmp_path / "heat_pca_held.svg").exists()


@pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("make")), reason="needs make and a C compiler"
)
def test_blocking_of_ranks_in_c_beside_those_in_python(tmp_path, monkeypatch):
    from benchmarks import put_blocking

    methods = ("copies", "wake", "least", "shm", *put_blocking.C_METHODS)
    monkeypatch.setattr(put_blocking, "import_cost", dict)
    monkeypatch.setattr(put_blocking, "steps_of", lambda size, paced, repeat: 6)
    found = put_blocking.run(repeat=1, ranks=2, sizes=[4096], methods=methods, folder=tmp_path)
    assert [(row["method"], row["phase"]) for row in found["rows"]] == [
        (method, phase) for phase in ("paced", "flat out") for method in methods
    ]
    assert all(0 < row["held ms"]["p10"] <= row["held ms"]["median"] for row in found["rows"])
    assert (tmp_path / "put_blocking_held.svg").exists()


def test_ends_of_steps(tmp_path):
    found = step_reports.run(quick=True, repeat=1, folder=tmp_path)
    assert [row["workers"] for row in found["rows"]] == [1, 1, 16]


def test_the_bridge_in_a_later_launch(tmp_path, monkeypatch):
    monkeypatch.setattr(launches, "LAUNCHES", 3)
    found = launches.run(quick=True, repeat=1, folder=tmp_path)
    assert [row["receivers"] for row in found["rows"]] == [1, 4]
    assert all(row["ms, later launch"]["median"] > 0 for row in found["rows"])
    assert json.loads((tmp_path / "launches.json").read_text()) == found


def test_external_tasks_beside_plain_dask(tmp_path):
    found = external_tasks.run(repeat=1, sizes=[20], scattered=5, folder=tmp_path)
    whats = [row["what"] for row in found["rows"]]
    assert {"declare", "arrive", "plain Dask: persist", external_tasks.SCATTER} <= set(whats)
    assert set(external_tasks.PARTS["handling"].values()) <= set(whats)
    assert json.loads((tmp_path / "external_tasks.json").read_text()) == found
    assert found["ratios"][0]["scatter over arrival"]["median"] > 0
    assert (tmp_path / "external_tasks_cpu.svg").exists()
