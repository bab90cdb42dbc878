"""Components of any kind feed an analysis by tasks of pools: real ``ips.py``, one line each."""

from __future__ import annotations

import numpy as np
import pytest
from loop_runs import ANALYTICS, CELLS, check, loop, record_of, results
from workflows import BIN, PARTS, Workflow

pytestmark = pytest.mark.course

SHAPE = "[[ARRAYS]]\n[[[field]]]\nSHAPE = 12,\nSTEPS = 0:6\nSIMULATION = CODE\n"


def pool(directory, tasks: str, launches: int, dask: bool, arrays: str = SHAPE, **more) -> Workflow:
    component = {
        "NAME": "PoolPhysics",
        "MODULE": "pool_physics",
        "SUB_CLASS": "code",
        "ARRAY": "field",
        "TASKS": tasks,
        "USE_DASK": dask,
        "COUPLED": True,
        **more,
    }
    flow = loop(directory, launches, {"CODE": component, "ANALYTICS": ANALYTICS})
    flow.write()
    with flow.config_file.open("a") as file:
        file.write(arrays)
    return flow


@pytest.mark.timeout(240)
def test_python_tasks_of_a_pool_are_launched_one_after_another(tmp_path, leaves_nothing):
    """Three tasks at each of two times; a fourth one puts nothing."""
    flow = pool(tmp_path, "members:3", 2, dask=True)
    ended = flow.run(200)
    assert ended.status == 0, ended.output + ended.log
    check(flow, "field", 6)
    record = record_of(flow)
    assert [each["first_step"] for each in record["launches"]] == list(range(6))
    assert record["ledger"]["closed"]
    assert [each["executable"] for each in record["simulation"]["launches"]] == [
        "task pool pool"
    ] * 2


@pytest.mark.timeout(240)
def test_python_tasks_of_a_pool_are_ranks_of_one_program(tmp_path, leaves_nothing):
    flow = pool(tmp_path, "ranks:3", 3, dask=True, arrays="")
    ended = flow.run(200)
    assert ended.status == 0, ended.output + ended.log
    check(flow, "field", 6)
    launches = record_of(flow)["launches"]
    assert [(each["first_step"], each["ranks"]) for each in launches] == [(0, 3), (2, 3), (4, 3)]


def check_members(flow):
    """Three members have put their parts of each step, all in one launch for each time."""
    ended = flow.run(200)
    assert ended.status == 0, ended.output + ended.log
    cells = 100.0 * np.arange(6)[:, None] + np.arange(CELLS)
    np.testing.assert_array_equal(results(flow)["field_series"], 3 * cells)
    launches = record_of(flow)["launches"]
    assert [(each["first_step"], each["ranks"]) for each in launches] == [(0, 3), (2, 3), (4, 3)]


@pytest.mark.timeout(240)
def test_members_of_a_parameter_study_put_side_by_side(tmp_path, leaves_nothing):
    """Each waits, with its bridge open, until all have theirs."""
    flow = pool(tmp_path, "study:3", 3, dask=True, arrays="")
    check_members(flow)


@pytest.mark.timeout(240)
def test_executables_that_are_members_put_side_by_side(tmp_path, leaves_nothing):
    """The bridges of these are in processes of their own; each waits until all are open."""
    program = f"{BIN / 'python'} {PARTS}/study.py field {{i}} {{count}}"
    flow = pool(
        tmp_path, "members of programs:3", 3, dask=True, arrays="", PROGRAM=program, TASK_NPROC=1
    )
    check_members(flow)


@pytest.mark.timeout(240)
def test_tasks_of_different_arrays_put_side_by_side(tmp_path, leaves_nothing):
    """They are ranks of one program, and describe the arrays of the others without a block."""
    flow = pool(tmp_path, "separate:2", 3, dask=True, arrays="", ARRAY="u+p")
    ended = flow.run(200)
    assert ended.status == 0, ended.output + ended.log
    check(flow, "u", 6)
    check(flow, "p", 6)
    launches = record_of(flow)["launches"]
    assert [(each["first_step"], each["ranks"]) for each in launches] == [(0, 2), (2, 2), (4, 2)]
    assert record_of(flow)["ledger"]["closed"]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("dask", "nproc", "program"),
    [
        (True, 1, f"one_step.py field {CELLS}"),
        (False, 2, f"counting.py field {CELLS} 1 --undescribed"),
    ],
    ids=["dask", "launched"],
)
def test_executables_of_a_pool(tmp_path, leaves_nothing, dask, nproc, program):
    """Without Dask they are MPI programs, which IPS would start at once."""
    program = f"{BIN / 'python'} {PARTS}/{program}"
    flow = pool(tmp_path, "programs:3", 2, dask, PROGRAM=program, TASK_NPROC=nproc)
    ended = flow.run(200)
    assert ended.status == 0, ended.output + ended.log
    check(flow, "field", 6)
    launches = record_of(flow)["launches"]
    assert [(each["first_step"], each["ranks"]) for each in launches] == [
        (step, nproc) for step in range(6)
    ]


@pytest.mark.timeout(240)
def test_tasks_that_open_no_bridge_are_no_launches(tmp_path, leaves_nothing):
    """A component prepares its input by a task, and looks at its output by one that fails."""
    component = {
        "NAME": "Prepared",
        "MODULE": "pool_physics",
        "SUB_CLASS": "code",
        "OPTIONS": f"{PARTS}/counting.py field {CELLS} 2 --total 6",
        "COUPLED": True,
        "STEPS_PER_LAUNCH": 2,
    }
    flow = loop(tmp_path, 3, {"CODE": component, "ANALYTICS": ANALYTICS})
    ended = flow.run(200)
    assert ended.status == 0, ended.output + ended.log
    check(flow, "field", 6)
    record = record_of(flow)
    assert [each["first_step"] for each in record["launches"]] == [0, 2, 4]
    assert [each["first_step"] for each in record["simulation"]["launches"]] == [0, 2, 4]
