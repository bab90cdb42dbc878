"""Task pools of IPS on the installed Dask."""

import ast
import os
import re
import shutil
from pathlib import Path

from workflows import BIN, Workflow

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_kind_of_task(workflow):
    ended = workflow(worker="pool_of_all_kinds").run()
    assert ended.status == 0, ended.output + ended.log
    results = ast.literal_eval(re.search(r"kinds (\{.*\})", ended.output)[1])
    assert results == {
        "binary": 0,
        "failing": 1,
        "slow": -1,
        "function": 0,
        "method": 0,
        "logged": 0,
    }
    assert "method_task worker here" in ended.output
    assert "files out spoken\n err" in ended.output


def test_hundreds_of_tasks_with_progress(workflow):
    ended = workflow(worker="pool_of_hundreds").run()
    assert ended.status == 0, ended.output + ended.log
    assert "hundreds 300 {0}" in ended.output
    assert "of 300 tasks done" in ended.log


def test_a_function_that_raises_fails_the_run(workflow):
    ended = workflow(worker="pool_raises").run()
    assert ended.status == 1
    assert "1 of 3 tasks failed, the first of them 'bad'" in ended.last_lines
    assert "ZeroDivisionError: the task divided by nothing" in ended.last_lines


def test_srun_outside_of_a_job_of_slurm_is_named(workflow, tmp_path):
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\nexit 1\n")
    srun.chmod(0o755)
    path = os.pathsep.join([str(srun.parent), str(BIN), os.environ["PATH"]])
    platform, environment = {"MPIRUN": "srun"}, {"PATH": path}
    flow = workflow(worker="pool_collects", platform=platform, environment=environment)
    ended = flow.run()
    assert ended.status == 1
    assert "MPIRUN = srun has started them, but this is no job of Slurm" in ended.last_lines


def test_results_and_failures_are_collected_per_task(workflow):
    ended = workflow(worker="pool_collects").run()
    assert ended.status == 0, ended.output
    assert "results {'good': 0, 'fine': 0}" in ended.output
    assert "failures {'bad': 'the task divided by nothing'}" in ended.output
    for word in ("distributed.", "Traceback", "WARNING  task", "CommClosed"):
        assert word not in ended.output, "Dask is not quiet"


def test_pools_one_after_another_while_one_is_never_gathered(workflow):
    ended = workflow(worker="pool_twice").run()
    assert ended.status == 0, ended.output + ended.log
    for name in ("first", "second", "third"):
        assert f"{name} {{'good': 0}}" in ended.output


def test_a_worker_that_still_starts_does_not_hold_up_the_end(workflow, tmp_path):
    flow = workflow(
        worker="pool_collects",
        WORKER={"DASK_WORKERS_PER_NODE": 2},
        environment={
            "DASK_DISTRIBUTED__WORKER__PRELOAD": "slow_second",
            "FIRST_WORKER": str(tmp_path / "first"),
        },
    )
    ended = flow.run()
    assert ended.status == 0, ended.output + ended.log
    assert "results {'good': 0, 'fine': 0}" in ended.output
    assert ended.seconds < 20.0


def test_tasks_are_in_the_log_of_ips(workflow):
    flow = workflow(worker="pool_of_all_kinds", top={"USE_PORTAL": True})
    ended = flow.run()
    assert ended.status == 0, ended.output
    (log,) = (flow.root / "simulation_log").glob("*.json")
    events = log.read_text()
    assert events.count("IPS_LAUNCH_DASK_TASK") == 6
    assert events.count('"IPS_TASK_END"') == 7  # and that of the workers themselves
    assert "task_name = slow, timed-out after 1.0s" in events


def test_a_worker_without_a_task_is_no_error(workflow):
    flow = workflow(
        worker="pool_of_one", top={"USE_PORTAL": True}, WORKER={"DASK_WORKERS_PER_NODE": 2}
    )
    ended = flow.run()
    assert ended.status == 0, ended.output
    assert "ERROR" not in ended.log, ended.log
    assert "results {'good': 0}" in ended.output


def test_example_of_the_manual(tmp_path, leaves_nothing):
    for name in ("components.py", "pool.config"):
        shutil.copy(EXAMPLES / "02_task_pool" / name, tmp_path)
    flow = Workflow(tmp_path, {})
    (tmp_path / "pool.config").rename(flow.config_file)
    shutil.copy(EXAMPLES.parent / "platform" / "workstation.conf", flow.platform_file)
    ended = flow.run()
    assert ended.status == 0, ended.output
    assert "exit_status = {'binary': 0, 'method': 0, 'function': 0}" in ended.output
