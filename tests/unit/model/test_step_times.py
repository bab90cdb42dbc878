"""Physical times of steps."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ips_components.model.step_times import Span, StepTimes, of_launches, of_time_loop


def test_a_time_loop_of_equal_steps_has_the_times_of_ips():
    """IPS's ``get_time_loop`` without START: step k is what the k-th interval has reached."""
    start, finish, n = 0.3, 1.7, 7
    width = (finish - start) / n
    expected = [start + width * i for i in range(1, n)] + [finish]
    assert of_time_loop((), start, finish, n).of(range(n)).tolist() == expected


def test_listed_times_are_those_of_the_steps():
    assert of_time_loop((0.0, 0.5, 2.0), 0.0, None, None).of([0, 2]).tolist() == [0.0, 2.0]


def test_without_a_time_loop_nothing_is_known():
    assert np.isnan(of_time_loop((), 0.0, None, 4).of(range(4))).all()
    assert np.isnan(of_time_loop((), 0.0, 1.0, None).of(range(4))).all()


def test_launches_of_any_number_of_steps_share_the_intervals_of_the_loop():
    """Three at the first time, two of one step each at the second, none at the third."""
    times = of_launches([(0, 2, 1.0), (3, 3, 2.0), (4, 4, 2.0), (5, 6, 4.0)], 0.0, {6: 9.0})
    found = times.of(range(8))
    np.testing.assert_allclose(found[:6], [1 / 3, 2 / 3, 1.0, 1.5, 2.0, 3.0])
    assert found[6] == 9.0 and np.isnan(found[7])


def test_launches_without_a_beginning_have_the_time_of_the_call():
    assert of_launches([(0, 1, 1.0)], None, {}).of([0, 1]).tolist() == [1.0, 1.0]


@given(
    st.dictionaries(st.integers(-5, 50), st.floats(allow_nan=False), max_size=5),
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 9), st.floats(0, 1e3), st.floats(0, 1e3)),
        max_size=3,
    ),
)
def test_plain_values_and_back(put, spans):
    times = StepTimes(put, [Span(f, f + n - 1, b, e) for f, n, b, e in spans])
    again = StepTimes.from_plain(times.to_plain())
    np.testing.assert_array_equal(again.of(range(60)), times.of(range(60)))
