"""The one sentence about a run that failed."""

import pytest

from ips_components.errors import RunFailed
from ips_components.ips_compat._failures import Failure, Failures, report


def failures(first, last):
    found = Failures()
    found.all.append(Failure("Simulation", "step", RunFailed(first)))
    found.add_fatal(RunFailed(last))
    return found


@pytest.mark.parametrize(
    ("last", "cause"),
    [
        ("rank 1 died", "component Simulation, method step: rank 1 died"),
        ("COLD: rank 1 died", "component Simulation, method step: COLD: rank 1 died"),
        ("step gave up (rank 1 died) after 3 s", "component Simulation, method step: rank 1 died"),
        ("the pool is lost", "the pool is lost"),
    ],
)
def test_the_first_failure_is_the_cause_with_what_the_driver_knows_of_it(last, cause):
    assert failures("rank 1 died", last).cause() == cause


def test_the_last_lines_have_the_place_of_the_error_in_a_line_of_its_own(capsys):
    report("task 'analysis' failed: ValueError: too hot; at a.py, line 3, in heat", ["run.log"])
    *_, log, cause, where = capsys.readouterr().err.splitlines()
    assert log.endswith("run.log")
    assert cause == "  cause: task 'analysis' failed: ValueError: too hot"
    assert where == "  where: a.py, line 3, in heat"
