"""What an attached client can ask for."""

import dask
import dask.array as da
import pytest

from ips_components.live.requests import Request


@pytest.mark.parametrize(
    ("results", "steps", "is_function", "can_move"),
    [
        (lambda arrays: arrays, None, True, True),
        (lambda arrays: arrays, 3, True, True),
        (lambda arrays: arrays, slice(3, 9), True, False),
        (lambda arrays: arrays, range(3, 9), True, False),
        (dask.delayed(len)([1]), None, False, False),  # which can be called
        (da.zeros(3), None, False, False),
        ({"a": da.zeros(3)}, 3, False, False),
    ],
)
def test_functions_of_the_next_steps_can_move(results, steps, is_function, can_move):
    request = Request(results, steps)
    assert request.is_function == is_function
    assert request.can_move == can_move
