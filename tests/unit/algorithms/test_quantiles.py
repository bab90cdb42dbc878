import sys

import dask.array as da
import numpy as np
import pytest

from ips_components.algorithms import quantile_sketch
from ips_components.errors import AnalysisError


@pytest.fixture
def crick():
    return pytest.importorskip("crick")


def test_close_to_the_exact_ranks(crick):
    x = np.random.default_rng(0).gamma(2.0, size=(40, 50, 20))
    q = np.array([0.0, 0.001, 0.1, 0.5, 0.9, 0.999, 1.0])
    found = quantile_sketch(da.from_array(x, (1, 25, 20)), q).compute()
    ranks = np.searchsorted(np.sort(x.ravel()), found) / x.size
    np.testing.assert_allclose(ranks, q, atol=0.01)
    assert found[0] == x.min()
    assert found[-1] == x.max()


def test_one_digest_for_each_remaining_element(crick):
    x = np.random.default_rng(0).normal(size=(3, 30, 40))
    found = quantile_sketch(da.from_array(x, (1, 10, 40)), 0.5, axis=(1, 2))
    assert found.shape == (3,)
    np.testing.assert_allclose(found, np.median(x, axis=(1, 2)), atol=0.02)


def test_input_states_are_left_as_they_were(crick):
    x = da.from_array(np.arange(30.0), 10)
    both = da.stack([quantile_sketch(x, 1.0), quantile_sketch(x[:20], 1.0)])
    assert both.compute().tolist() == [29.0, 19.0]
    assert both.compute().tolist() == [29.0, 19.0]


def test_nan_is_left_out(crick):
    x = np.array([[1.0, np.nan, 3.0], [np.nan] * 3])
    assert quantile_sketch(x, [1.0], axis=1).compute()[0].tolist()[0] == 3.0
    assert np.isnan(quantile_sketch(x, 0.5, axis=1).compute()[1])


@pytest.mark.parametrize("q", [-0.1, 1.1, [0.5, 2.0], [[0.5]]])
def test_wrong_probabilities(crick, q):
    with pytest.raises(AnalysisError, match="between 0 and 1"):
        quantile_sketch(da.zeros(3), q)


def test_without_the_library_the_message_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "crick", None)
    with pytest.raises(AnalysisError, match="pip install"):
        quantile_sketch(da.zeros(3), 0.5)
