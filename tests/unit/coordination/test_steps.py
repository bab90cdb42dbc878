"""The steps of a run: exact counts, and a bounded choice of them."""

from __future__ import annotations

import numpy as np
import pytest

from ips_components.coordination.steps import Steps

LIMIT = 64
BOTH = np.array([0, 1])


def put(steps: Steps, step: int, ranks=BOTH):
    ranks = np.asarray(ranks)
    return steps.put(step, ranks, np.full(len(ranks), 0.5), 2, float(step))


def test_few_steps_are_all_kept():
    steps = Steps(LIMIT)
    for step in range(LIMIT):
        assert put(steps, step) is steps[step]
    assert list(steps) == list(range(LIMIT))
    assert [each["step"] for each in steps.to_json()] == list(range(LIMIT))


def test_of_many_steps_the_newest_are_kept_and_every_so_manyth_of_the_others():
    steps = Steps(LIMIT)
    for step in range(0, 10 * 1000, 10):
        put(steps, step)
        steps.note_analysed(step, step + 5.0)
        assert len(steps) <= LIMIT
    assert steps.counts() == {"begun": 1000, "complete": 1000, "analysed": 1000}
    kept = list(steps)
    assert kept[0] == 0
    assert kept[-LIMIT // 4 :] == list(range(10 * (1000 - LIMIT // 4), 10 * 1000, 10))
    older = np.diff(kept[: LIMIT // 4])
    assert len(set(older)) == 1 and older[0] > 10
    assert len(kept) >= LIMIT // 2


def test_memory_does_not_grow_when_nothing_is_ever_analysed_or_complete():
    steps = Steps(LIMIT)
    for step in range(20 * LIMIT):
        put(steps, step, [0] if step % 2 else [0, 1])
        steps.note_analysed(step + 10**6, 0.0)
    assert len(steps) <= 1.5 * LIMIT
    assert steps.counts() == {"begun": 20 * LIMIT, "complete": 10 * LIMIT, "analysed": 0}
    assert max(len(steps._unanalysed), len(steps._early)) <= LIMIT


def test_a_rank_that_lags_behind_completes_steps_that_are_kept_for_it():
    steps = Steps(LIMIT)
    lag = LIMIT // 2
    for step in range(5 * LIMIT):
        put(steps, step, [0])
        if step >= lag:
            assert put(steps, step - lag, [1]) is not None
    assert steps.complete == 5 * LIMIT - lag


@pytest.mark.parametrize("delay", [-3, 0, 20, LIMIT])
def test_consumers_may_be_done_long_before_or_after_ranks_tell_of_a_step(delay):
    steps = Steps(LIMIT)
    for step in range(-3, 6 * LIMIT):
        if step >= 0:
            put(steps, step)
        if step - delay >= 0:
            steps.note_analysed(step - delay, 1.0)
            steps.note_analysed(step - delay, 2.0)  # a step has several chunks
    told = sum(0 <= step - delay < 6 * LIMIT for step in range(-3, 6 * LIMIT))
    assert steps.analysed == min(told, 6 * LIMIT)


def test_what_comes_of_a_step_that_was_left_out_changes_nothing():
    steps = Steps(LIMIT)
    for step in range(4 * LIMIT):
        put(steps, step)
    gone = next(step for step in range(4 * LIMIT) if step not in steps)
    assert put(steps, gone) is None
    assert gone not in steps and steps.begun == 4 * LIMIT
