import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.highlevelgraph import HighLevelGraph

from ips_components.algorithms import time_derivative
from ips_components.errors import AnalysisError


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("chunks", [(1, 3), (4, 2), (11, 5), ((3, 1, 5, 2), 5)], ids=str)
def test_exact_for_polynomials_of_its_order(order, chunks):
    t = np.linspace(0.0, 2.0, 11)
    scale = np.arange(1.0, 6.0)
    x = da.from_array(t[:, None] ** order * scale, chunks)
    exact = order * t[:, None] ** (order - 1) * scale
    h, margin = t[1] - t[0], order // 2
    inner = time_derivative(x, h, order=order)
    np.testing.assert_allclose(inner, exact[margin:-margin], atol=1e-12)
    np.testing.assert_allclose(
        time_derivative(x, h, order=order, edges="one-sided"), exact, atol=1e-11
    )
    padded = time_derivative(x, h, order=order, edges="nan").compute()
    np.testing.assert_allclose(padded[margin:-margin], exact[margin:-margin], atol=1e-12)
    assert np.isnan(padded[:margin]).all()
    assert np.isnan(padded[-margin:]).all()


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("edges", ["drop", "one-sided"])
def test_error_falls_with_the_order(order, edges):
    def error(n):
        t = np.linspace(0, 1, n)
        margin = order // 2 if edges == "drop" else 0
        found = time_derivative(da.from_array(np.sin(3 * t)), t[1], order=order, edges=edges)
        return np.abs(found.compute() - 3 * np.cos(3 * t)[margin : n - margin]).max()

    assert np.log2(error(41) / error(81)) == pytest.approx(order, abs=0.35)


def test_second_order_equals_numpy():
    x = np.random.default_rng(0).normal(size=(9, 4))
    ours = time_derivative(da.from_array(x, (2, 4)), 0.1, order=2, edges="one-sided")
    np.testing.assert_allclose(ours, np.gradient(x, 0.1, axis=0, edge_order=2))


def test_axis_by_number_or_name_and_integers():
    x = np.arange(24).reshape(3, 8) ** 2
    expected = np.gradient(x, axis=1)[:, 2:-2]
    by_number = time_derivative(da.from_array(x), axis=-1)
    named = xr.DataArray(x, dims=("y", "time")).chunk(time=1)
    by_name = time_derivative(named, axis="time")
    np.testing.assert_allclose(by_number, expected)
    np.testing.assert_allclose(by_name, expected)


def test_a_step_needs_its_neighbours_only_and_one_task():
    chunks = ((1,) * 20, (4,))
    x = da.Array(HighLevelGraph({"outside": {}}, {"outside": set()}), "outside", chunks, "f8")
    derivative = time_derivative(x)
    (optimised,) = dask.optimize(derivative)
    graph = dict(optimised.__dask_graph__())
    assert len(graph) <= 16 * 5
    reached = set()
    stack = [(derivative.name, 7, 0)]
    while stack:
        key = stack.pop()
        if key[0] == "outside":
            reached.add(key[1])
        else:
            stack.extend(graph[key].dependencies)
    assert reached == {7, 8, 10, 11}


@pytest.mark.parametrize(
    "options",
    [{"order": 3}, {"edges": "wrap"}, {"spacing": 0}, {"axis": 2}, {"axis": "t"}],
    ids=str,
)
def test_wrong_options(options):
    with pytest.raises(AnalysisError):
        time_derivative(da.zeros((9, 2)), **options)


def test_too_few_steps():
    with pytest.raises(AnalysisError, match="at least 5 steps, got 4"):
        time_derivative(da.zeros(4))
