"""Deadlines: what is left, when they expire, and a loop that polls until then."""

import math
import threading

import pytest

from ips_components import deadlines
from ips_components.deadlines import Deadline, poll_until
from ips_components.errors import DeadlineExceeded


class Clock:
    """A clock that moves only during a sleep."""

    def __init__(self):
        self.now = 100.0
        self.pauses = []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(deadlines, "time", clock)
    return clock


def test_a_deadline_counts_down_to_zero_and_expires(clock):
    deadline = Deadline(2.0)
    assert (deadline.seconds, deadline.left, deadline.expired) == (2.0, 2.0, False)
    clock.now += 1.5
    assert (deadline.left, deadline.expired) == (0.5, False)
    deadline.raise_if_expired("too early")
    clock.now += 0.5
    assert (deadline.left, deadline.expired) == (0.0, True)
    clock.now += 5.0
    assert deadline.left == 0.0
    with pytest.raises(DeadlineExceeded, match="waited 2 s for the contract"):
        deadline.raise_if_expired(f"waited {deadline.seconds:g} s for the contract")


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_a_deadline_without_time_has_expired(clock, seconds):
    deadline = Deadline(seconds)
    assert deadline.expired
    assert deadline.left == 0.0


def test_an_infinite_deadline_never_expires(clock):
    deadline = Deadline(math.inf)
    clock.now += 1e9
    assert not deadline.expired
    assert deadline.left == math.inf


def test_a_deadline_shows_its_limit_and_what_is_left(clock):
    deadline = Deadline(3.0)
    clock.now += 1.0
    assert repr(deadline) == "<Deadline of 3 s, 2 s left>"


def test_polling_returns_the_first_true_value(clock):
    values = iter([0, "", "found", "never asked"])
    assert poll_until(lambda: next(values), Deadline(10.0), pause=0.25) == "found"
    assert clock.pauses == [0.25, 0.25]


def test_polling_asks_once_more_at_the_deadline_and_returns_what_it_got(clock):
    asked = []
    assert poll_until(lambda: asked.append(clock.now), Deadline(1.0), pause=0.4) is None
    assert asked == pytest.approx([100.0, 100.4, 100.8, 101.0])


def test_polling_asks_once_even_if_the_deadline_has_expired(clock):
    assert poll_until(lambda: "there", Deadline(0.0), pause=1.0) == "there"
    assert poll_until(lambda: [], Deadline(0.0), pause=1.0) == []
    assert clock.pauses == []


def test_pauses_grow_up_to_a_limit(clock):
    poll_until(lambda: False, Deadline(7.0), pause=0.5, growth=2.0, max_pause=2.0)
    assert clock.pauses == [0.5, 1.0, 2.0, 2.0, 1.5]


def test_a_pause_is_not_cut_by_the_limit_of_growth(clock):
    poll_until(lambda: False, Deadline(6.0), pause=3.0, max_pause=1.0)
    assert clock.pauses == [3.0, 3.0]


def test_what_the_condition_raises_ends_the_wait(clock):
    def condition():
        raise ConnectionError("the scheduler ended")

    with pytest.raises(ConnectionError, match="scheduler"):
        poll_until(condition, Deadline(5.0), pause=1.0)
    assert clock.pauses == []


def test_polling_sees_what_another_thread_does():
    done = threading.Event()
    thread = threading.Thread(target=done.set)
    thread.start()
    assert poll_until(done.is_set, Deadline(30.0), pause=0.001)
    thread.join()
