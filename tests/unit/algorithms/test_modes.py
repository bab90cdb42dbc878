"""Streaming modes against the decompositions of the whole matrix of snapshots."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

from ips_components.algorithms import proper_modes
from ips_components.errors import AnalysisError

STEPS, NY, NX = 17, 6, 9


def low_rank(rank, seed=0):
    """A field with so many independent modes of clearly different size."""
    rng = np.random.default_rng(seed)
    time = rng.normal(size=(STEPS, rank)) * 3.0 ** -np.arange(rank)
    return np.tensordot(time, rng.normal(size=(rank, NY, NX)), 1)


@pytest.mark.parametrize("chunks", [(STEPS, NY, NX), (1, NY, NX), (4, 3, 4), (5, 1, 9), (2, 2, 2)])
def test_modes_are_those_of_the_whole_matrix(chunks):
    field = low_rank(4)
    found = proper_modes(da.from_array(field, chunks), 4)
    modes, values, coefficients = dask.compute(
        found.modes, found.singular_values, found.coefficients
    )
    _, expected, right = np.linalg.svd(field.reshape(STEPS, -1), full_matrices=False)
    np.testing.assert_allclose(values, expected[:4], rtol=1e-10)
    overlap = modes.reshape(4, -1) @ right[:4].T
    np.testing.assert_allclose(np.abs(overlap), np.eye(4), atol=1e-9)
    np.testing.assert_allclose(np.tensordot(coefficients, modes, 1), field, atol=1e-9)
    assert (coefficients[np.abs(coefficients).argmax(0), range(4)] > 0).all()


def test_all_modes_give_the_field_back():
    field = np.random.default_rng(1).normal(size=(STEPS, 20))
    found = proper_modes(da.from_array(field, (3, 7)), STEPS)
    modes, coefficients, energy = dask.compute(found.modes, found.coefficients, found.energy)
    np.testing.assert_allclose(coefficients @ modes, field, atol=1e-12)
    assert energy.sum() == pytest.approx(1)


@pytest.mark.parametrize("chunks", [(1, 40), (5, 13)])
def test_dynamic_modes_of_a_linear_system(chunks):
    eigenvalues = np.array([0.95 * np.exp(0.4j), 0.95 * np.exp(-0.4j), 0.8, 0.99])
    x = np.linspace(0, 1, 40)
    shapes = [np.exp(1j * 3 * x), np.exp(-1j * 3 * x), x, np.cos(9 * x)]
    t = np.arange(30)[:, None]
    terms = zip(eigenvalues, shapes, strict=True)
    field = sum(value**t * shape for value, shape in terms).real
    dynamic = proper_modes(da.from_array(field, chunks), 4).dynamic(dt=0.5)
    values, modes, amplitudes, growth, frequencies = dask.compute(
        dynamic.eigenvalues,
        dynamic.modes,
        dynamic.amplitudes,
        dynamic.growth_rates,
        dynamic.frequencies,
    )
    np.testing.assert_allclose(np.sort_complex(values), np.sort_complex(eigenvalues), atol=1e-9)
    again = (values**t * amplitudes) @ modes
    np.testing.assert_allclose(again, field, atol=1e-9)
    np.testing.assert_allclose(np.sort(growth), np.sort(np.log(np.abs(eigenvalues)) / 0.5))
    assert np.max(frequencies) == pytest.approx(0.4 / (2 * np.pi * 0.5))


def test_dynamic_modes_are_those_of_the_batch_algorithm():
    field = low_rank(5, seed=3)
    values = proper_modes(da.from_array(field, (2, 3, 9)), 5).dynamic(rank=3).eigenvalues.compute()
    snapshots = field.reshape(STEPS, -1).T
    u, s, vh = np.linalg.svd(snapshots[:, :-1], full_matrices=False)
    u, s, v = u[:, :3], s[:3], vh[:3].T
    expected = np.linalg.eigvals(u.T @ snapshots[:, 1:] @ v / s)
    np.testing.assert_allclose(np.sort_complex(values), np.sort_complex(expected), atol=1e-9)


def test_time_may_be_any_axis_and_has_a_name():
    field = low_rank(3)
    moved = xr.DataArray(
        da.from_array(np.moveaxis(field, 0, 1), (6, 4, 3)), dims=("y", "time", "x")
    )
    found = proper_modes(moved, 3, axis="time")
    np.testing.assert_allclose(
        np.tensordot(found.coefficients.compute(), found.modes.compute(), 1), field, atol=1e-9
    )


@pytest.mark.parametrize(
    ("shape", "n_modes", "message"),
    [
        ((5, 4), 5, r"n_modes must be 1 \.\. 4"),
        ((5, 4), 0, r"n_modes must be 1 \.\. 4"),
        ((5,), 1, "over time and space"),
    ],
)
def test_what_cannot_be_decomposed(shape, n_modes, message):
    with pytest.raises(AnalysisError, match=message):
        proper_modes(da.ones(shape), n_modes)


def test_ranks_that_cannot_be():
    found = proper_modes(da.ones((3, 4), chunks=1), 3)
    with pytest.raises(AnalysisError, match=r"must be 1 \.\. 2"):
        found.dynamic(rank=3)
    with pytest.raises(AnalysisError, match="dt must be > 0"):
        found.dynamic(dt=0)
