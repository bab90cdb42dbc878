"""Statistics of ensembles in one pass against those of stored members."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

from ips_components.algorithms import ensemble_statistics, sobol_indices
from ips_components.algorithms.ensemble_statistics import _add, _add_row, _index
from ips_components.errors import AnalysisError

STEPS, CELLS, CHUNKS = 5, 6, (2, 4)


def lazily(values):
    return [da.from_array(each, CHUNKS) for each in values]


def test_moments_equal_those_of_stored_members():
    members = np.random.default_rng(0).normal(size=(40, STEPS, CELLS)) * 3 + 1e5
    whole = da.from_array(members, (1, *CHUNKS))
    labelled = xr.DataArray(whole, dims=("member", "time", "x"))
    for found in (
        ensemble_statistics(lazily(members)),
        ensemble_statistics(whole),
        ensemble_statistics(labelled.transpose("time", "member", "x"), axis="member"),
    ):
        parts = dask.compute(found.mean, found.variance, found.minimum, found.maximum, found.used)
        np.testing.assert_allclose(parts[0], members.mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(parts[1], members.var(axis=0, ddof=1), rtol=1e-10)
        np.testing.assert_array_equal(parts[2], members.min(axis=0))
        np.testing.assert_array_equal(parts[3], members.max(axis=0))
        assert (parts[4] == 40).all()


@pytest.mark.parametrize("gamma", [0.7, 1.0])
def test_quantiles_come_near_those_of_the_distribution(gamma):
    members = np.random.default_rng(1).random((2000, 2, 3))
    q = [0.1, 0.5, 0.9]
    state = None
    for member in members:
        state = _add(state, [member], np.array(q), gamma)
    np.testing.assert_allclose(state.quantiles, np.quantile(members, q, axis=0), atol=0.08)


def test_quantiles_are_those_of_the_iteration():
    found = ensemble_statistics(lazily(np.array([1.0, 3.0, 2.0])[:, None, None]), [0.25])
    # 1, then 1 + 2 * (0.25 - 0) / 2, then 1.25 + 2 * (0.25 - 0) / 3
    np.testing.assert_allclose(found.quantiles.compute().ravel(), 1.25 + 0.5 / 3)


def test_members_that_failed_are_left_out_and_counted():
    members = np.random.default_rng(2).normal(size=(12, STEPS, CELLS))
    members[3] = np.nan  # failed before its first step
    members[7, 2:] = np.nan  # failed after two steps
    found = ensemble_statistics(lazily(members), [0.5])
    mean, variance, used, quantiles = dask.compute(
        found.mean, found.variance, found.used, found.quantiles
    )
    np.testing.assert_allclose(mean, np.nanmean(members, axis=0), rtol=1e-12)
    np.testing.assert_allclose(variance, np.nanvar(members, axis=0, ddof=1), rtol=1e-10)
    assert used[:, 0].tolist() == [11, 11, 10, 10, 10]
    assert np.isfinite(quantiles).all()


def ishigami(x):
    """Ishigami's function, whose indices are known, with a factor per cell and step."""
    value = (
        np.sin(x[..., 0]) + 7 * np.sin(x[..., 1]) ** 2 + 0.1 * x[..., 2] ** 4 * np.sin(x[..., 0])
    )
    factors = np.linspace(1, 2, STEPS * CELLS).reshape(STEPS, CELLS)
    return value[..., None, None] * factors + 4 * factors**2


def design(n, seed=3):
    """Rows of Saltelli's design of three parameters, shape (n, 5, 3)."""
    a, b = np.random.default_rng(seed).uniform(-np.pi, np.pi, size=(2, n, 3))
    mixed = [np.where(np.arange(3) == i, b, a) for i in range(3)]
    return np.stack([a, b, *mixed], axis=1)


def test_sobol_indices_are_martinez_correlations_of_stored_members():
    outputs = ishigami(design(20))
    found = sobol_indices([lazily(row) for row in outputs])
    first, total, used = dask.compute(found.first, found.total, found.used)
    assert first.shape == total.shape == (3, STEPS, CELLS)
    assert (used == 20).all()
    for i in range(3):
        for cell in np.ndindex(STEPS, CELLS):
            a, b, mixed = (outputs[(slice(None), k, *cell)] for k in (0, 1, 2 + i))
            assert first[(i, *cell)] == pytest.approx(np.corrcoef(b, mixed)[0, 1], abs=1e-10)
            assert total[(i, *cell)] == pytest.approx(1 - np.corrcoef(a, mixed)[0, 1], abs=1e-10)


def test_sobol_indices_come_near_the_analytic_ones_and_those_of_salib():
    analyze = pytest.importorskip("SALib.analyze.sobol", reason="SALib is not installed").analyze
    n = 2048
    outputs = ishigami(design(n))[..., :1, :1]
    state = None
    for row in outputs:
        state = _add_row(state, list(row))
    first, total = (_index(state, field).ravel() for field in ("first", "total"))
    problem = {"num_vars": 3, "names": ["a", "b", "c"], "bounds": [[-np.pi, np.pi]] * 3}
    y = outputs[:, [0, 2, 3, 4, 1], 0, 0].ravel()  # SALib's order: A, A_B, B
    known = analyze(problem, y, calc_second_order=False, num_resamples=2, seed=0)
    np.testing.assert_allclose(first, [0.3139, 0.4424, 0], atol=0.06)
    np.testing.assert_allclose(total, [0.5576, 0.4424, 0.2437], atol=0.06)
    # Other estimators of the same quantities (Saltelli 2010 and Jansen).
    np.testing.assert_allclose(first, known["S1"], atol=0.08)
    np.testing.assert_allclose(total, known["ST"], atol=0.08)


def test_saltelli_indices_are_those_of_salib_on_stored_data():
    analyze = pytest.importorskip("SALib.analyze.sobol", reason="SALib is not installed").analyze
    outputs = ishigami(design(64)) + 1e3  # an offset that a naive sum of squares would not survive
    found = sobol_indices([lazily(row) for row in outputs], estimator="saltelli")
    first, total, used = dask.compute(found.first, found.total, found.used)
    assert (used == 64).all()
    problem = {"num_vars": 3, "names": ["a", "b", "c"], "bounds": [[-np.pi, np.pi]] * 3}
    for cell in np.ndindex(STEPS, CELLS):
        y = outputs[(slice(None), [0, 2, 3, 4, 1], *cell)].ravel()  # SALib's order: A, A_B, B
        known = analyze(problem, y, calc_second_order=False, num_resamples=2, seed=0)
        np.testing.assert_allclose(first[(slice(None), *cell)], known["S1"], atol=1e-10)
        np.testing.assert_allclose(total[(slice(None), *cell)], known["ST"], atol=1e-10)


@pytest.mark.parametrize("estimator", ["martinez", "saltelli"])
@pytest.mark.parametrize("failed", [0, 7])
def test_rows_with_a_failed_member_are_left_out(estimator, failed):
    outputs = ishigami(design(12))
    outputs[failed, 3] = np.nan
    found = sobol_indices([lazily(row) for row in outputs], estimator=estimator)
    others = [lazily(row) for i, row in enumerate(outputs) if i != failed]
    expected = sobol_indices(others, estimator=estimator)
    np.testing.assert_allclose(found.first.compute(), expected.first.compute(), rtol=1e-12)
    assert (found.used.compute() == 11).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ensemble_statistics([da.ones(3)]), "need two members, got 1"),
        (lambda: ensemble_statistics([da.ones(3), da.ones(4)]), r"member 1 has shape \(4,\)"),
        (lambda: ensemble_statistics(da.ones((2, 3)), [1.5]), "q must be probabilities"),
        (lambda: ensemble_statistics(da.ones((2, 3)), gamma=0.2), "gamma must be > 0.5"),
        (lambda: sobol_indices([[da.ones(3)] * 2] * 4), r"got 4 rows of \[2\] members"),
        (lambda: sobol_indices([[da.ones(3)] * 3]), "got 1 rows"),
        (
            lambda: sobol_indices([[da.ones(3)] * 3] * 2, estimator="s"),
            r"\['martinez', 'saltelli'\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(AnalysisError, match=message):
        call()
