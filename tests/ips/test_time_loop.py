"""Coupled runs under drivers that know nothing of coupling: real ``ips.py``, MPI ranks, workers."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from loop_runs import ANALYTICS, CELLS, check, loop, record_of, results, simulation
from workflows import BIN, PARTS

pytestmark = pytest.mark.course


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("order", "how"),
    [
        ("simulation first", "call"),
        ("analytics first", "nonblocking"),
        ("analytics first", "together"),
    ],
)
def test_every_launch_puts_into_the_same_arrays(tmp_path, leaves_nothing, order, how):
    components = {"SIM": simulation("field", "4 --total 12"), "ANALYTICS": ANALYTICS}
    if order == "analytics first":
        components = dict(reversed(components.items()))
    flow = loop(tmp_path, 3, components, CALL=how)
    ended = flow.run(150)
    assert ended.status == 0, ended.output + ended.log
    check(flow, "field", 12)
    series = results(flow)["field_series"]
    np.testing.assert_allclose(series["time"], np.arange(1, 13) / 4)  # four steps per interval
    np.testing.assert_array_equal(series["step"], np.arange(12))
    record = record_of(flow)
    assert record["status"] == "ok"
    assert record["ledger"]["closed"]
    assert [launch["first_step"] for launch in record["launches"]] == [0, 4, 8]
    assert [launch["ok"] for launch in record["simulation"]["launches"]] == [True] * 3


@pytest.mark.timeout(200)
def test_several_simulations_are_launched_at_once(tmp_path, leaves_nothing):
    """Of one step each per launch and of three, all by calls that do not wait."""
    components = {
        "SIM": simulation("field", "1 --undescribed"),
        "HEAT": simulation("heat", "3 --undescribed"),
        "ANALYTICS": ANALYTICS,
    }
    flow = loop(tmp_path, 3, components, CALL="together")
    flow.write()
    with flow.config_file.open("a") as file:
        file.write("[[ARRAYS]]\n")
        for name, port, steps in (("field", "SIM", 3), ("heat", "HEAT", 9)):
            file.write(f"[[[{name}]]]\nSHAPE = {CELLS},\nSIMULATION = {port}\nSTEPS = 0:{steps}\n")
    ended = flow.run(150)
    assert ended.status == 0, ended.output + ended.log
    check(flow, "field", 3)
    check(flow, "heat", 9)


@pytest.mark.timeout(200)
def test_steps_that_contradict_those_of_a_launch_are_refused(tmp_path, leaves_nothing):
    """The simulation describes its array when it opens its bridge: nothing has been put then."""
    components = {
        "SIM": simulation("field", "4 --total 4", STEPS_PER_LAUNCH=3),
        "ANALYTICS": ANALYTICS,
    }
    flow = loop(tmp_path, 2, components)
    ended = flow.run(150)
    assert ended.status == 1, ended.output
    assert "'field' is described with 4 steps, which is neither STEPS_PER_LAUNCH = 3" in (
        ended.last_lines
    )
    assert record_of(flow)["status"] == "failed"


@pytest.mark.timeout(200)
def test_results_come_back_during_the_loop(tmp_path, leaves_nothing):
    """Each launch sees in the state what the analysis has found in the launches before it."""
    seen = "--read-state means.nc"
    components = {
        "INIT": {
            "NAME": "StateInit",
            "MODULE": "generic_driver",
            "INPUT_FILES": "means.nc",
            "INPUT_DIR": tmp_path,
        },
        "SIM": simulation("field", f"4 {seen}", STEPS_PER_LAUNCH=4),
        "ANALYTICS": {
            **ANALYTICS,
            "SUB_CLASS": "analytics",
            "ANALYSIS": "loop_analysis:windows",
            "WAIT": True,
            "OUTPUT_FILES": "means.nc",
            "STATE_FILES": "means.nc",
        },
    }
    flow = loop(tmp_path, 3, components)
    flow.top = {"STATE_FILES": "means.nc", "STATE_WORK_DIR": tmp_path / "run" / "state"}
    xr.Dataset({"mean": ("time", [0.0])}, {"step": ("time", [-1])}).to_netcdf(tmp_path / "means.nc")
    ended = flow.run(150)
    assert ended.status == 0, ended.output + ended.log
    (work,) = flow.root.glob("work/*field*")
    assert [(work / f"seen_{launch}").read_text().strip() for launch in range(3)] == [
        "-1 0.0",
        "3 305.5",
        "7 705.5",
    ]
    for time, steps in ((1.0, range(4)), (2.0, range(4, 8)), (3.0, range(8, 12))):
        (file,) = flow.root.glob(f"simulation_results/{time}/components/*Analytics*/means.nc")
        with xr.open_dataset(file) as found:
            np.testing.assert_array_equal(found["step"], list(steps))
            np.testing.assert_array_equal(found["mean"], 100.0 * np.array(steps) + 5.5)


@pytest.mark.timeout(200)
def test_a_code_that_counts_from_zero_runs_unchanged(tmp_path, leaves_nothing):
    """Its array is described with the steps of one launch; it says its own physical times."""
    components = {
        "SIM": simulation(
            "field",
            "4 --total 4 --from-zero --clock {TIME}",
            nproc=3,
            RENUMBER=True,
            STEPS_PER_LAUNCH=4,
        ),
        "ANALYTICS": ANALYTICS,
    }
    flow = loop(tmp_path, 3, components)
    ended = flow.run(150)
    assert ended.status == 0, ended.output + ended.log
    check(flow, "field", 12)
    times = [launch + 0.125 * step for launch in (1, 2, 3) for step in range(4)]
    np.testing.assert_array_equal(results(flow)["field_series"]["time"], times)


@pytest.mark.timeout(200)
def test_a_launch_that_dies_is_launched_again(tmp_path, leaves_nothing):
    """Rank 0 is killed in the second launch, when it has put two of four steps."""
    arguments = "4 --total 12 --launch {LAUNCH} --first {FIRST} --die 1:2"
    components = {
        "SIM": simulation("field", arguments, ON_LAUNCH_FAILURE="retry", RETRIES=2),
        "ANALYTICS": ANALYTICS,
    }
    flow = loop(tmp_path, 3, components)
    ended = flow.run(150)
    assert ended.status == 0, ended.output + ended.log
    check(flow, "field", 12)
    record = record_of(flow)
    launches = record["launches"]
    assert [(launch["launch"], launch["ok"]) for launch in launches] == [
        (0, True),
        (1, False),
        (1, True),
        (2, True),
    ]
    assert record["ledger"]["closed"]
    delivered = [launch["ledger"]["field"]["blocks"]["delivered"] for launch in launches]
    assert delivered[2:] == [8, 8]
    assert delivered[0] == 8


@pytest.mark.timeout(200)
def test_a_launch_that_dies_fails_the_run(tmp_path, leaves_nothing):
    components = {
        "SIM": simulation("field", "4 --total 12 --launch {LAUNCH} --die 1:2"),
        "ANALYTICS": ANALYTICS,
    }
    flow = loop(tmp_path, 3, components)
    ended = flow.run(150)
    assert ended.status == 1
    record = record_of(flow)
    assert record["status"] == "failed"
    assert "simulation" in record["cause"]


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("word", "cause"),
    [("dask_scheduler", "Dask scheduler"), ("ips_components.external.forked_workers", "worker")],
)
def test_a_pool_that_dies_in_a_launch_ends_the_run_soon(tmp_path, leaves_nothing, word, cause):
    """The deadlines of the run, 120 s and more, are not waited for."""
    components = {
        "SIM": simulation("field", f"4 --total 12 --launch {{LAUNCH}} --kill {word}:1:2"),
        "ANALYTICS": {**ANALYTICS, "ON_ANALYTICS_LOSS": "abort"},
    }
    flow = loop(tmp_path, 3, components)
    ended = flow.run(100)
    assert ended.status == 1
    assert cause in ended.last_lines


@pytest.mark.parametrize(
    ("skip", "cause"),
    [
        ("ANALYTICS.init", "SIM.step was called before ANALYTICS.init"),
        ("ANALYTICS.finalize", "finalize of ANALYTICS was never called"),
    ],
)
@pytest.mark.timeout(200)
def test_calls_that_the_driver_forgets(tmp_path, leaves_nothing, skip, cause):
    components = {"SIM": simulation("field", "4 --total 4"), "ANALYTICS": ANALYTICS}
    flow = loop(tmp_path, 1, components, SKIP=skip)
    ended = flow.run(150)
    assert ended.status == 1, ended.output
    assert cause in ended.last_lines


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ({"RAISE": 2}, "the driver gives up at 2.0"),
        ({"EXIT": 2}, "exit status 7"),
        ({"SKIP": "ANALYTICS.finalize"}, "finalize of ANALYTICS was never called"),
    ],
    ids=["raises", "dies", "forgets"],
)
def test_a_workflow_that_ends_before_finalize_has_a_record(tmp_path, leaves_nothing, how, cause):
    """The first launch is in it; the exit status and the last lines have the same cause."""
    components = {"SIM": simulation("field", "4 --total 12"), "ANALYTICS": ANALYTICS}
    flow = loop(tmp_path, 3 if "SKIP" not in how else 1, components, **how)
    ended = flow.run(150)
    assert ended.status == 1, ended.output
    assert cause in ended.last_lines
    record = record_of(flow)
    assert record["status"] == "failed"
    assert cause in record["cause"]
    assert [launch["ok"] for launch in record["launches"]] == [True]
    assert record["ledger"]["arrays"]["field"]["blocks"]["delivered"] == 8
    (run,) = flow.root.glob("run_*")
    assert (run / "report.html").exists()
    assert not (run / ".cause").exists()


@pytest.mark.timeout(300)
def test_one_call_runs_the_loop_for_several_sets_of_parameters(tmp_path, leaves_nothing):
    """Three workflows of one ``ips.py``, each with a pool, launches and results of its own."""
    flows = []
    for number, cells in enumerate((12, 8, 10)):
        arguments = f"{PARTS}/counting.py field {cells} 2 --total 6"
        components = {
            "SIM": {**simulation("field", ""), "ARGS": arguments},
            "ANALYTICS": {**ANALYTICS, "DASK_WORKERS_PER_NODE": 1},
        }
        flow = loop(tmp_path / f"set_{number}", 3, components)
        flow.top = {"SIM_NAME": f"set_{number}"}
        flows.append(flow)
    first = flows[0]
    first.platform = {"MPIRUN": "mpiexec", "CORES_PER_NODE": 16}
    first.beside = flows[1:]
    ended = first.run(250)
    assert ended.status == 0, ended.output + ended.log
    for flow, cells in zip(flows, (12, 8, 10), strict=True):
        expected = 100.0 * cells * np.arange(6) + np.arange(cells).sum()
        np.testing.assert_array_equal(results(flow)["field_series"], expected)
        record = record_of(flow)
        assert [launch["first_step"] for launch in record["launches"]] == [0, 2, 4]
        assert record["ledger"]["closed"]


@pytest.mark.timeout(200)
def test_ranks_and_decomposition_change_from_launch_to_launch(tmp_path, leaves_nothing):
    """A component chooses its NPROC by the time of the loop; the array's blocks follow."""
    component = {
        "NAME": "Growing",
        "MODULE": "generic_driver",
        "SUB_CLASS": "field",
        "RANKS": "1 3 2",
        "PROGRAM": BIN / "python",
        "COUPLED": True,
        "OPTIONS": f"{PARTS}/counting.py field {CELLS} 4 --total 12",
    }
    flow = loop(tmp_path, 3, {"SIM": component, "ANALYTICS": ANALYTICS})
    ended = flow.run(150)
    assert ended.status == 0, ended.output + ended.log
    check(flow, "field", 12)
    launches = record_of(flow)["launches"]
    assert [launch["ranks"] for launch in launches] == [1, 3, 2]
    delivered = [launch["ledger"]["field"]["blocks"]["delivered"] for launch in launches]
    assert delivered == [4, 12, 8]


@pytest.mark.timeout(200)
def test_components_that_call_each_other_as_often_as_they_like(tmp_path, leaves_nothing):
    """The driver calls neither the simulation nor ``step`` of the analytics; another one does."""
    components = {
        "ANALYTICS": ANALYTICS,
        "OUTER": {"NAME": "Nesting", "MODULE": "generic_driver", "INNER": "SIM"},
        "SIM": simulation("field", "4 --total 16"),
    }
    forgotten = ["SIM.init", "SIM.step", "SIM.finalize", "ANALYTICS.step"]
    flow = loop(tmp_path, 2, components, SKIP=" ".join(forgotten))
    ended = flow.run(150)
    assert ended.status == 0, ended.output + ended.log
    check(flow, "field", 16)
    np.testing.assert_allclose(results(flow)["field_series"]["time"], np.arange(1, 17) / 8)
    launches = record_of(flow)["simulation"]["launches"]
    assert [(each["launch"], each["time"]) for each in launches] == [
        (0, 1.0),
        (1, 1.0),
        (2, 2.0),
        (3, 2.0),
    ]


@pytest.mark.timeout(200)
def test_a_foreign_component_takes_part_with_one_line(tmp_path, leaves_nothing):
    """Two of them, one launched at every time and one at every third, feed one analysis."""

    def own(name: str, steps: int, **more) -> dict:
        return {
            "NAME": "OwnPhysics",
            "MODULE": "generic_driver",
            "SUB_CLASS": name,
            "NPROC": 2,
            "PROGRAM": BIN / "python",
            "COUPLED": True,
            "OPTIONS": f"{PARTS}/counting.py {name} {CELLS} {steps} --undescribed",
            **more,
        }

    components = {
        "TRANSPORT": own("field", 1),
        "HEATING": own("heat", 3, EVERY=3),
        "ANALYTICS": ANALYTICS,
    }
    flow = loop(tmp_path, 6, components)
    flow.write()
    with flow.config_file.open("a") as file:
        file.write("[[ARRAYS]]\n")
        for name, port in (("field", "TRANSPORT"), ("heat", "HEATING")):
            file.write(f"[[[{name}]]]\nSHAPE = {CELLS},\nSIMULATION = {port}\nSTEPS = 0:6\n")
    ended = flow.run(150)
    assert ended.status == 0, ended.output + ended.log
    check(flow, "field", 6)
    check(flow, "heat", 6)
    counts = [len(part["launches"]) for part in record_of(flow)["simulations"]]
    assert counts == [6, 2]


@pytest.mark.timeout(200)
def test_a_field_that_is_no_number_is_said_once(tmp_path, leaves_nothing):
    """One line on the terminal, however many results it is in, and one in a worker's log."""
    components = {
        "SIM": simulation("field", "8 --total 8 --nan-from 2"),
        "ANALYTICS": {**ANALYTICS, "ANALYSIS": "loop_analysis:over_time"},
    }
    flow = loop(tmp_path, 1, components)
    ended = flow.run(150)
    assert ended.status == 0, ended.output + ended.log
    assert [line for line in ended.output.splitlines() if "not a number" in line] == [
        f"  not a number         {CELLS} of {CELLS} in mean, {CELLS} of {CELLS} in spread, "
        "1 of 1 in largest, and 3 more results"
    ]
    assert "nan" not in ended.output.lower().split()
    logs = [path.read_text() for path in flow.root.glob("work/**/*.log")]
    assert sum(text.count("not a number (NaN)") for text in logs) == 1
