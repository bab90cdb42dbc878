"""Rates that neither jump with bursts of reports nor hide that a run stands still."""

import itertools

import pytest

from ips_components.coordination.coordinated_run import CoordinatedRun
from ips_components.coordination.live_page import _throughput
from ips_components.coordination.pace import Growth, curve
from ips_components.coordination.progress import _rates
from ips_components.coordination.run_state import RunState

STEP = 0.05  # seconds of a step in the tests below, with 1000 bytes


def seen_every_second(growth, reports, until, **kw):
    """Rates as a page shows them that asks once a second, of reports of (time, total)."""
    reports, found = list(reports), []
    for second in range(until):
        while reports and reports[0][0] <= second:
            growth.note(*reports.pop(0))
        found.append(growth.rate(second, **kw))
    return found


def bursts(of, steps, pause=0.0, after=None):
    """Reports of the ends of `of` steps at once, 3 ms apart, as after a chunk of so many steps."""
    for step in range(steps):
        late = pause if after is not None and step >= after else 0.0
        yield (step // of + 1) * of * STEP + 0.003 * (step % of) + late, 1000 * (step + 1)


@pytest.mark.parametrize("of", [1, 12, 64, 200])
def test_rate_is_the_same_however_many_steps_are_reported_at_once(of):
    rates = seen_every_second(Growth(), bursts(of, 2000), 100)
    known = [rate for rate in rates if rate is not None]
    assert len(known) > 65
    assert known == pytest.approx([1000 / STEP] * len(known), rel=0.04)


def test_a_burst_by_itself_has_no_rate():
    growth = Growth()
    for step in range(12):
        growth.note(0.003 * step, 1000 * step)
    assert growth.rate(0.1) is None


def test_rate_falls_to_nothing_when_a_run_stands_still_and_recovers():
    pause = bursts(20, 2000, pause=60.0, after=1000)
    rates = seen_every_second(Growth(), pause, 160)
    assert rates[49] == pytest.approx(20_000, rel=0.04)
    falling = rates[51:70]
    assert all(after <= before for before, after in itertools.pairwise(falling))
    assert rates[70] == 0
    assert rates[125] == pytest.approx(20_000, rel=0.04)


def test_time_left_goes_down_by_a_second_each_second():
    growth, reports = Growth(), list(bursts(100, 2000))
    left = {}
    for second in range(99):
        while reports and reports[0][0] <= second:
            growth.note(*reports.pop(0))
        left[second] = growth.left(second, 2_000_000)
    assert left[5] is None
    assert left[20] is not None
    late = {t: each for t, each in left.items() if t > 20}
    assert late == pytest.approx({t: 100 - t for t in late}, abs=5)
    ends = [each + t for t, each in late.items()]  # as they are foreseen
    assert all(abs(after - before) < 2 for before, after in itertools.pairwise(ends))


def test_nothing_is_left_of_a_total_that_is_reached_and_nothing_known_without_growth():
    growth = Growth()
    assert growth.left(0.0, None) == 0
    assert growth.left(0.0, 7) is None
    growth.note(0.0, 7)
    assert growth.left(9.0, 7) == 0


def test_clock_that_is_set_back_does_no_harm():
    growth = Growth()
    for t, total in [(0.0, 1), (5.0, 6), (2.0, 8), (6.0, 12)]:
        growth.note(t, total)
    assert growth.rate(7.0) == pytest.approx(11 / 6)


def test_the_curve_of_the_page_has_no_peaks_where_steps_end_together():
    """The ends of a chunk's steps reach the scheduler at the same moment."""
    points = [(t - t % 0.6, total) for t, total in bursts(12, 600)]
    drawn = curve(points, 120)
    assert len(drawn) == 120
    assert [rate for _, rate in drawn] == pytest.approx([1000 / STEP] * 120, rel=0.06)
    assert curve([(1.0, 5), (1.0, 9)], 120) == curve([], 120) == []


def test_terminal_and_page_have_the_rates_from_the_ranks_and_the_time_of_the_slower_side():
    now = [0.0]
    run = CoordinatedRun("r1")
    run.state = state = RunState("r1", clock=lambda: now[0])
    run.settings = {"n_steps": 400}
    assert set(_rates(run, {"done": 0, "total": 1}).values()) == {None}
    state.phase = "running"
    state.hello(0, {"size": 1})
    for step in range(198):  # two steps a second, of which 6 at a time are reported
        now[0] = 0.5 * (step - step % 6) + 0.001 * (step % 6)
        delivered = {"bytes": {"produced": 1000 * (step + 1), "delivered": 1000 * (step + 1)}}
        state.step_end(0, step, 0.0, {"plate": delivered})
        if step % 10 == 0:
            found = _rates(run, {"done": step // 5, "total": 200})
    assert found["rate"] == pytest.approx(2000, rel=0.1)
    assert found["step_rate"] == pytest.approx(2, rel=0.1)
    assert found["left"] == pytest.approx((200 - 38) / 0.4, rel=0.1)  # of the tasks
    drawn = [rate for _, rate in _throughput(state.steps)]
    assert drawn == pytest.approx([2000] * 120, rel=0.1)
    state.end()
    after = _rates(run, {"done": 150, "total": 200})
    assert after["rate"] is after["step_rate"] is None
    assert after["left"] > 0
