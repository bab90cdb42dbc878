"""The exit status of ``ips.py`` tells whether the run went well, and its last lines why not."""

import pytest


def test_success_exits_0(workflow):
    ended = workflow().run()
    assert ended.status == 0, ended.output
    assert "failed" not in ended.output


def test_what_runs_at_the_exit_of_a_component_is_not_interrupted(workflow):
    """Python 3.13 runs more there than earlier ones, and reports each exception."""
    ended = workflow(worker="end_slowly").run()
    assert ended.status == 0, ended.output
    assert "SystemExit" not in ended.output


@pytest.mark.parametrize(
    ("worker", "cause"),
    [
        ("raise_error", "component Part, method step: ValueError: worker found a negative"),
        ("raise_unpicklable", "not to be pickled"),
        ("raise_unreadable", "a and b"),
        ("return_lock", "returned a lock which cannot be pickled"),
        ("kill_itself", "was ended by SIGKILL during step()"),
        ("exit_hard", "ended with exit status 3 during step()"),
        ("system_exit", "ended with exit status 4 during step()"),
        ("read_parameter", "AttributeError"),
        ("stage_missing", "No such file"),
        ("launch_twice", "every component that could give them back waits, too"),
    ],
)
def test_failure_of_a_component(workflow, worker, cause):
    ended = workflow(worker=worker).run()
    assert ended.status == 1, ended.output
    assert "the run failed" in ended.last_lines
    assert cause in ended.last_lines


def test_failure_of_the_driver(workflow):
    ended = workflow(driver="raise_error").run()
    assert ended.status == 1
    assert "ValueError: driver found a negative temperature" in ended.last_lines


@pytest.mark.parametrize("phase", ["INIT", "FINALIZE"])
def test_failure_in_other_phases(workflow, phase):
    ended = workflow(DRIVER={phase: "raise_error"}).run()
    assert ended.status == 1
    assert f"method {phase.lower()}: ValueError" in ended.last_lines


def test_task_exit_code(workflow):
    ended = workflow(worker="task", WORKER={"COMMAND": "/bin/false"}).run()
    assert ended.status == 1
    assert "the task ended with exit status 1" in ended.last_lines


def test_failure_that_the_driver_copes_with_is_none(workflow):
    ended = workflow(driver="call_worker_and_cope", worker="raise_error").run()
    assert ended.status == 0, ended.output
    assert "coped with: worker found a negative temperature" in ended.log


def test_failure_after_one_that_was_coped_with_is_the_cause(workflow):
    ended = workflow(
        driver="call_worker_and_cope", worker="raise_error", DRIVER={"FINALIZE": "kill_itself"}
    ).run()
    assert ended.status == 1
    assert "was ended by SIGKILL during finalize()" in ended.last_lines


def test_cores_that_come_free_are_waited_for(workflow):
    ended = workflow(
        driver="two_workers",
        worker="task",
        WORKER={"COMMAND": "/bin/sleep 1"},
        OTHER={"STEP": "task", "COMMAND": "/bin/sleep 0.1"},
        platform={"CORES_PER_NODE": 1},
    ).run()
    assert ended.status == 0, ended.output


def test_wait_first_has_a_deadline_and_finds_the_end(workflow):
    ended = workflow(driver="wait_first", worker="task", WORKER={"COMMAND": "/bin/sleep 1"}).run()
    assert ended.status == 0, ended.output
    assert "first None True None" in ended.output


def test_task_time_out_ends_the_whole_task(workflow):
    ended = workflow(worker="task_with_time_out", WORKER={"COMMAND": "/bin/sleep 100"}).run()
    assert ended.status == 0, ended.output
    assert "status -" in ended.output
    assert ended.seconds < 20


def test_failure_with_portal_log(workflow):
    ended = workflow(worker="raise_error", top={"USE_PORTAL": True}).run()
    assert ended.status == 1
    assert "negative temperature" in ended.last_lines
    assert "USER_W3_DIR" not in ended.output


def test_the_last_lines_of_a_component_are_in_the_log(workflow):
    """The framework ends right after them."""
    ended = workflow(worker="many_lines").run()
    assert ended.status == 0, ended.output
    assert [f"line {number} of 500" in ended.log for number in range(500)] == [True] * 500
