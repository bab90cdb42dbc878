"""Steps that an attached client asks for."""

from __future__ import annotations

import pytest

from ips_components.errors import SelectionError
from ips_components.live.steps import first_to_come, restrict, specs_of
from ips_components.model.spec import ArraySpec, StepAxis


def spec(**axis) -> ArraySpec:
    return ArraySpec("t", "f8", (4,), StepAxis(**axis))


@pytest.mark.parametrize(
    ("axis", "wanted", "first", "steps"),
    [
        ({"count": 100}, 3, 17, [17, 18, 19]),
        ({"count": 20}, 5, 17, [17, 18, 19]),
        ({"count": 20}, None, 17, [17, 18, 19]),
        ({}, 2, 10**9, [10**9, 10**9 + 1]),
        ({"start": 3, "every": 10}, 2, 4, [13, 23]),
        ({"count": 100}, slice(20, 26, 2), 3, [20, 22, 24]),
        ({"count": 100, "every": 5}, slice(20, 41), 3, [20, 25, 30, 35, 40]),
        ({"count": 100, "every": 5}, slice(21, 60, 10), 3, [25, 35, 45, 55]),
        ({"count": 30}, slice(None, None, 10), 3, [3, 13, 23]),
        ({"count": 30}, range(28, 90), 3, [28, 29]),
    ],
)
def test_the_steps_that_are_wanted(axis, wanted, first, steps):
    found = restrict(spec(**axis), wanted, first).steps
    assert [found.step(i) for i in range(found.length)] == steps


@pytest.mark.parametrize(
    ("axis", "wanted", "said"),
    [
        ({"count": 9}, 2, "first that can be had is 50, the last one is 8"),
        ({}, None, "no number of steps"),
        ({}, slice(60, None), "no number of steps"),
        ({"count": 100}, slice(49, 60), "step 49 of array 't' has passed.* is 50"),
        ({"count": 100}, slice(60, 55), "none of the steps"),
        ({"count": 100}, 0, ">= 1, got 0"),
        ({"count": 100}, slice(70, 60, -1), "must rise"),
        ({"count": 100, "every": 4}, slice(60, 90, 6), "every 4th step"),
    ],
)
def test_what_cannot_be_had(axis, wanted, said):
    with pytest.raises(SelectionError, match=said):
        restrict(spec(**axis), wanted, first=50)


def test_arrays_without_any_of_the_steps_are_left_out():
    specs = [spec(count=10), spec(start=100, every=10, count=3)]
    assert [each.steps.start for each in specs_of(specs, 1, 50)] == [100]
    with pytest.raises(SelectionError):
        specs_of(specs[:1], 1, 50)


def test_the_slowest_rank_does_not_count():
    assert first_to_come({0: 4, 1: 7}, 2) == 10
    assert first_to_come({0: -1}, 0) == 0
