import math

import pytest

from ips_components.errors import AnalysisError
from ips_components.examples.monte_carlo import count_inside, monte_carlo_pi, pi_from_counts


def test_estimate_lies_within_its_error():
    estimate = monte_carlo_pi(200_000, chunks=50_000, seed=1)
    value, error = estimate.value.compute(), estimate.error.compute()
    assert 0.003 < error < 0.004
    assert abs(value - math.pi) < 4 * error


def test_reproducible_by_seed():
    def value(seed):
        return monte_carlo_pi(10_000, chunks=2_500, seed=seed).value.compute()

    assert value(1) == value(1) != value(2)


def test_tasks_of_a_pool():
    counts = [count_inside(20_000, seed) for seed in range(10)]
    assert len(set(counts)) > 1
    estimate = pi_from_counts(counts, 20_000)
    assert abs(estimate.value - math.pi) < 4 * estimate.error


def test_no_points():
    with pytest.raises(AnalysisError, match="points"):
        monte_carlo_pi(0)
