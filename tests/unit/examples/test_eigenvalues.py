import dask
import dask.array as da
import numpy as np
import pytest

from ips_components.errors import AnalysisError
from ips_components.examples.eigenvalues import (
    delayed_eigenvalues,
    eigenvalues,
    ensemble_eigenvalues,
    member_eigenvalues,
    random_matrix,
)


@pytest.mark.parametrize("symmetric", [False, True])
def test_pool_tasks_delayed_and_arrays_agree(symmetric):
    matrices = np.stack([random_matrix(12, 5 + i, symmetric) for i in range(4)])
    expected = eigenvalues(matrices, symmetric)
    tasks = [member_eigenvalues(12, 5 + i, symmetric) for i in range(4)]
    delayed = dask.compute(*delayed_eigenvalues(4, 12, seed=5, symmetric=symmetric))
    lazy = ensemble_eigenvalues(da.from_array(matrices, (3, 6, 12)), symmetric)
    assert lazy.dtype == expected.dtype
    assert lazy.shape == (4, 12)
    for found in (tasks, delayed, lazy):
        np.testing.assert_allclose(np.asarray(found), expected, atol=1e-12)


def test_eigenvalues_satisfy_their_invariants():
    matrix = random_matrix(30, 0)
    values = eigenvalues(matrix)
    assert values.sum() == pytest.approx(np.trace(matrix))
    assert values.prod() == pytest.approx(np.linalg.det(matrix))
    assert (np.diff(values.real) >= 0).all()


def test_spectra_have_radius_one():
    assert np.abs(member_eigenvalues(300, 1)).max() == pytest.approx(1.0, abs=0.1)
    semicircle = member_eigenvalues(300, 1, symmetric=True)
    assert np.abs(semicircle).max() == pytest.approx(1.0, abs=0.1)
    assert (semicircle**2).mean() == pytest.approx(0.25, abs=0.02)


def test_a_single_lazy_matrix():
    matrix = random_matrix(9, 0, symmetric=True)
    found = ensemble_eigenvalues(da.from_array(matrix, 4), symmetric=True)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(matrix), atol=1e-12)


def test_matrices_must_be_square():
    with pytest.raises(AnalysisError, match="square"):
        ensemble_eigenvalues(da.zeros((3, 4, 5)))
