"""The one sentence about a run that failed."""

import pytest

from ips_components.errors import RunFailed
from ips_components.ips_compat._failures import Failure, Failures


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
