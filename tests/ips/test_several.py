"""Several simulations, several analyses and several runs at once, under real ``ips.py``."""

import json
import os
import subprocess

import numpy as np
import pytest
import xarray as xr
from workflows import BIN, PARTS, Workflow

pytestmark = pytest.mark.course

STEPS = 6


def simulation(name, cells, scale, nproc=1, more="", **parameters):
    return {
        "NAME": "Simulation",
        "MODULE": "ips_components.simulation",
        "NPROC": nproc,
        "EXECUTABLE": BIN / "python",
        "ARGS": f"{PARTS}/named_field.py {name} {cells} {{NSTEP}} {scale} {more}",
        **parameters,
    }


def coupled(directory, analysis, simulations, arrays="", **parameters):
    """Make a run of some simulations and one analytics."""
    workflow = Workflow(
        directory,
        {
            "DRIVER": {"NAME": "Driver", "MODULE": "ips_components.driver"},
            **simulations,
            "ANALYTICS": {
                "NAME": "Analytics",
                "MODULE": "ips_components.analytics",
                "ANALYSIS": analysis,
                "DASK_PPW": 2,
                "CONNECT_TIME_OUT": 40,
                "DRAIN_TIME_OUT": 10,
                "FIGURE": False,
                **parameters,
            },
        },
        top={"SIM_NAME": directory.name, "LOG_FILE": directory / "run" / "test.log"},
        platform={"MPIRUN": "mpiexec", "CORES_PER_NODE": 16},
        time_loop={"MODE": "REGULAR", "START": 0, "FINISH": 1, "NSTEP": STEPS},
    )
    workflow.write()
    if arrays:
        with workflow.config_file.open("a") as file:
            file.write(arrays)
    return workflow


def two(**changes):
    """Two simulations with other numbers of ranks and cells."""
    return {
        "HOT": simulation("hot", 12, 1.0, nproc=2, **changes.get("hot", {})),
        "COLD": simulation("cold", 12, -3.0, nproc=3, **changes.get("cold", {})),
    }


def record_of(flow):
    (path,) = flow.root.glob("run_*/run.json")
    return json.loads(path.read_text())


def results_of(record):
    with xr.open_zarr(record["results"]["path"], consolidated=False) as results:
        return results.load()


def expected(scale, cells=12):
    return scale * (np.arange(cells) + np.arange(STEPS)[:, None])


def test_two_simulations_feed_one_analysis(tmp_path, leaves_nothing):
    flow = coupled(tmp_path, "several_analysis:both", two(), DASK_WORKERS_PER_NODE=2)
    ended = flow.run(100)
    assert ended.status == 0, ended.output + ended.log
    record = record_of(flow)
    results = results_of(record)
    hot, cold = expected(1.0), expected(-3.0)
    np.testing.assert_allclose(results["hot"], hot.sum(axis=1))
    np.testing.assert_allclose(results["cold"], cold.sum(axis=1))
    np.testing.assert_allclose(results["product"], (hot * cold).sum(axis=1))
    assert [each["port"] for each in record["simulations"]] == ["HOT", "COLD"]
    assert [each["exit_status"] for each in record["simulations"]] == [0, 0]
    assert [each["simulation"] for each in record["ranks"]] == ["HOT"] * 2 + ["COLD"] * 3
    assert [each["rank"] for each in record["ranks"]] == list(range(5))
    assert record["pool"]["analysis"] == "several_analysis:both"
    assert record["pool"]["scheduler"].startswith("tls://")
    assert record["ledger"]["closed"]
    for name in ("hot", "cold"):
        account = record["ledger"]["arrays"][name]["bytes"]
        assert account["produced"] == account["delivered"] == 12 * STEPS * 8
    assert all(step["complete"] and step["analysed"] for step in record["steps"])
    assert not list(flow.root.glob("run_*/contact*")), "a secret is left behind"


def test_nothing_is_needed_of_one_of_two_simulations(tmp_path, leaves_nothing):
    flow = coupled(tmp_path, "several_analysis:one_of_them", two())
    ended = flow.run(100)
    assert ended.status == 0, ended.output + ended.log
    record = record_of(flow)
    np.testing.assert_allclose(results_of(record)["hot"], expected(1.0).sum(axis=1))
    hot, cold = (record["ledger"]["arrays"][name] for name in ("hot", "cold"))
    assert hot["bytes"]["delivered"] == hot["bytes"]["produced"] == cold["bytes"]["produced"] > 0
    assert cold["bytes"]["delivered"] == 0


def test_the_config_tells_who_puts_what(tmp_path, leaves_nothing):
    simulations = {
        "HOT": simulation("hot", 12, 1.0, nproc=2, more="--undescribed"),
        "COLD": simulation("cold", 12, -3.0, nproc=3, more="--undescribed"),
    }
    arrays = "[[ARRAYS]]\n"
    for name in ("hot", "cold"):
        arrays += f"[[[{name}]]]\nSHAPE = 12,\nSIMULATION = {name.upper()}\nCHUNKS = 2, 12\n"
    flow = coupled(tmp_path, "several_analysis:both", simulations, arrays)
    ended = flow.run(100)
    assert ended.status == 0, ended.output + ended.log
    np.testing.assert_allclose(results_of(record_of(flow))["cold"], expected(-3.0).sum(axis=1))


@pytest.mark.parametrize("policy", ["continue", "abort"])
def test_one_of_two_simulations_fails(tmp_path, leaves_nothing, policy):
    """It is named; the other one finishes or is ended, by policy; its results are kept."""
    simulations = two(cold={"more": "--fail-at 2"})
    flow = coupled(tmp_path, "several_analysis:both", simulations, ON_ANALYTICS_LOSS=policy)
    simulations["HOT"]["ARGS"] += " --pace 0.3"
    flow.write()
    ended = flow.run(100)
    assert ended.status == 1
    assert "cold cannot go on" in ended.output
    record = record_of(flow)
    assert record["status"] == "failed"
    assert "COLD" in record["cause"] or "cold" in record["cause"]
    finished = list(flow.root.glob("work/*/finished"))
    assert len(finished) == (1 if policy == "continue" else 0)


def test_two_simulations_with_one_name_are_refused(tmp_path, leaves_nothing):
    simulations = {
        "HOT": simulation("hot", 12, 1.0),
        "COLD": simulation("hot", 12, 2.0),
    }
    flow = coupled(tmp_path, "several_analysis:sums", simulations, ON_ANALYTICS_LOSS="abort")
    ended = flow.run(100)
    assert ended.status == 1
    assert "HOT and COLD both offer an array 'hot'" in ended.last_lines, ended.output


def test_one_simulation_feeds_two_analyses(tmp_path, leaves_nothing):
    flow = coupled(
        tmp_path,
        "several_analysis:one_of_them, several_analysis:sums",
        {"HOT": simulation("hot", 12, 1.0, nproc=2)},
    )
    ended = flow.run(100)
    assert ended.status == 0, ended.output + ended.log
    results = results_of(record_of(flow))
    for name in ("one_of_them_hot", "sums_hot"):
        np.testing.assert_allclose(results[name], expected(1.0).sum(axis=1))


def test_two_runs_in_one_ips_do_not_mix(tmp_path, leaves_nothing):
    flows = [
        coupled(
            tmp_path / name,
            "several_analysis:sums",
            {"SIMULATION": simulation("field", 12, scale, nproc=2)},
        )
        for name, scale in (("one", 1.0), ("other", 5.0))
    ]
    configs = ",".join(str(flow.config_file) for flow in flows)
    command = [BIN / "ips.py", f"--config={configs}", f"--platform={flows[0].platform_file}"]
    path = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(PARTS)}
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, **path},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    records = [record_of(flow) for flow in flows]
    for record, scale in zip(records, (1.0, 5.0), strict=True):
        np.testing.assert_allclose(results_of(record)["field"], expected(scale).sum(axis=1))
        assert record["ledger"]["closed"]
        assert len(record["ranks"]) == 2
    assert records[0]["run"] != records[1]["run"]
    assert records[0]["pool"]["scheduler"] != records[1]["pool"]["scheduler"]
