import operator
import pickle
import warnings

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ips_components.algorithms import running_moments
from ips_components.algorithms.running_state import RunningState, Statistic, update
from ips_components.analysis.contract import contract_from_graph, optimize, optimize_as_trees
from ips_components.analysis.streaming import stream_reductions
from ips_components.errors import AnalysisError
from ips_components.model import ArraySpec, StepAxis

from .simulated import RUN, deliver, offer, spec

xr = pytest.importorskip("xarray")

REDUCTIONS = {
    "sum": lambda x: x.sum(axis=0),
    "prod": lambda x: x.prod(axis=0, keepdims=True),
    "mean": lambda x: x.mean(axis=0),
    "var": lambda x: x.var(axis=0),
    "std of a sample": lambda x: x.std(axis=0, ddof=1),
    "min": lambda x: x.min(axis=0),
    "max": lambda x: x.max(axis=0, keepdims=True),
    "any": lambda x: x.any(axis=0),
    "all": lambda x: x.all(axis=0),
    "nansum": lambda x: da.nansum(x, axis=0),
    "nanprod": lambda x: da.nanprod(x, axis=0),
    "nanmean": lambda x: da.nanmean(x, axis=0),
    "nanvar": lambda x: da.nanvar(x, axis=0),
    "nanstd of a sample": lambda x: da.nanstd(x, axis=0, ddof=1),
    "nanmin": lambda x: da.nanmin(x, axis=0),
    "nanmax": lambda x: da.nanmax(x, axis=0),
    "mean in single precision": lambda x: x.mean(axis=0, dtype="f4"),
    "xarray mean": lambda x: xr.DataArray(x, dims=("t", "y", "x")).mean("t").data,
    "xarray std": lambda x: xr.DataArray(x, dims=list("tyx")[: x.ndim]).std("t", ddof=1).data,
    "xarray max": lambda x: xr.DataArray(x, dims=("t", "y", "x")).max("t").data,
    "split": lambda x: x.mean(axis=0, split_every=2),
    "running moments": lambda x: running_moments(x).variance,
}


def compute(result, external, optimizer):
    seen = {}

    def get(graph, keys, **options):
        graph = pickle.loads(pickle.dumps(graph))
        tasks = dict(graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph)
        seen.update(tasks)
        return dask.get({**tasks, **external}, keys)

    with dask.config.set(array_optimize=optimizer), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = dask.compute(result, scheduler=get)[0]
    return value, seen


def is_streamed(tasks):
    return any(str(key[0]).startswith("running-") for key in tasks if isinstance(key, tuple))


def field(dtype, shape, missing, seed=0):
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        values = rng.normal(1, 2, shape).astype(dtype)
        if missing:
            values[rng.random(shape) < missing] = np.nan
        return values
    return rng.integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype)


def check(values, reductions, chunks, cut=np.s_[:]):
    array_spec = ArraySpec("t", values.dtype.str, values.shape[1:], StepAxis(count=len(values)))
    arrays = offer(array_spec, chunks=chunks)
    results = {name: REDUCTIONS[name](arrays["t"][cut]) for name in reductions}
    contract = contract_from_graph(results, arrays, run=RUN)
    external = deliver(contract["t"], values)
    streamed, tasks = compute(results, external, optimize)
    trees, _ = compute(results, external, optimize_as_trees)
    plain = da.from_array(values, chunks=chunks)
    rough = values.dtype == np.dtype("f4")
    for name, tree in trees.items():
        value = streamed[name]
        assert (value.shape, value.dtype) == (tree.shape, tree.dtype), name
        np.testing.assert_allclose(
            value, tree, rtol=3e-4 if rough or "single" in name else 1e-9, atol=1e-5, err_msg=name
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stock = REDUCTIONS[name](plain[cut]).compute(scheduler="sync")
        np.testing.assert_array_equal(np.isnan(value), np.isnan(stock), err_msg=name)
    return tasks


@pytest.mark.parametrize("missing", [0, 0.5])
@pytest.mark.parametrize("dtype", ["f8", "f4", ">f8", "i4", "u1", "?"])
def test_each_reduction_equals_dask(dtype, missing):
    if np.dtype(dtype).kind != "f" and missing:
        pytest.skip("has no NaN")
    values = field(dtype, (9, 5, 4), missing)
    for name in REDUCTIONS:
        tasks = check(values, [name], (2, 3, 4))
        assert is_streamed(tasks), name


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from(sorted(REDUCTIONS)), min_size=1, max_size=5, unique=True),
    st.integers(1, 7),
    st.integers(1, 6),
    st.sampled_from([0, 0.1, 0.9]),
    st.sampled_from([np.s_[:], np.s_[::2], np.s_[3:, 1:], np.s_[1:8:3, ::2, 1:3]]),
    st.integers(0, 1000),
)
def test_several_reductions_share_a_state(names, steps, width, missing, cut, seed):
    values = field("f8", (12, 6, 4), missing, seed)
    tasks = check(values, names, (steps, width, 4), cut)
    chains = {str(key[0]) for key in tasks if isinstance(key, tuple)}
    chains = {name for name in chains if name.startswith("running") and "aggregate" not in name}
    assert len(chains) == 1 or (not chains and is_streamed(tasks))


def test_a_chunk_is_used_by_one_task():
    values = field("f8", (12, 6, 4), 0)
    names = ["mean", "std of a sample", "max", "any"]
    tasks = check(values, names, (2, 3, 4))
    users = [key for key, task in tasks.items() if "external-t" in str(task.dependencies)]
    assert len(users) == 6 * 2


def test_large_offsets_keep_their_digits():
    values = field("f8", (50, 3, 2), 0) + 1e8
    check(values, ["var", "nanvar", "mean"], (5, 3, 2))


def test_infinity_as_dask_has_it():
    values = field("f8", (6, 3, 2), 0)
    values[2, 1, 0], values[3, 2, 1] = np.inf, -np.inf
    check(values, ["sum", "mean", "var", "min", "max", "nanmean", "nanmax"], (2, 3, 2))


@pytest.mark.parametrize("before", [[], [np.nan], [np.nan, np.nan, 1.0], [2.0]])
@pytest.mark.parametrize("after", [[], [np.nan], [3.0, np.nan], [np.inf], [-np.inf, 1.0]])
def test_the_variance_with_an_infinite_value_is_nan(before, after):
    values = np.array([*before, np.inf, *after])[:, None] * np.array([1.0, -1.0])
    for chunks in (1, 2, len(values)):
        check(values, ["var", "nanvar", "nanstd of a sample", "xarray std"], (chunks, 2))


@pytest.mark.parametrize("kind", ["sum", "nansum", "prod", "nanprod"])
@pytest.mark.parametrize("to", ["u8", "i8", "u1", "?"])
@pytest.mark.parametrize("dtype", ["i1", "i8", "u8", "f8"])
def test_sums_of_integers_cast_each_value_as_numpy_does(kind, to, dtype):
    small = np.array([[1.5, -1.5], [-1.5, -1.5], [1.5, 1.5], [-3.5, 2.5]])
    values = small.astype(dtype) + np.array(2**60 if dtype in ("i8", "u8") else 0, dtype)
    arrays = offer(ArraySpec("t", values.dtype.str, (2,), StepAxis(count=4)), chunks=(2, 2))
    result = getattr(da, kind)(arrays["t"], axis=0, dtype=to)
    contract = contract_from_graph(result, arrays, run=RUN)
    value, tasks = compute(result, deliver(contract["t"], values), optimize)
    assert is_streamed(tasks)
    plain = getattr(da, kind)(da.from_array(values, chunks=(2, 2)), axis=0, dtype=to)
    np.testing.assert_array_equal(value, plain.compute(scheduler="sync"), strict=True)


@pytest.mark.parametrize(
    "analysis",
    [
        lambda x: x.mean(),
        lambda x: x.mean(axis=(0, 1)),
        lambda x: x.sum(axis=1),
        lambda x: (x * 2).mean(axis=0),
        lambda x: da.moment(x, 4, axis=0),
        lambda x: da.median(x, axis=0),
        lambda x: x.argmax(axis=0),
        lambda x: x.cumsum(axis=0),
        lambda x: da.reduction(x, np.sum, np.max, axis=0, dtype="f8"),
        lambda x: x[:, 2, 3].mean(axis=0),
        lambda x: x.astype("c16").mean(axis=0),
        lambda x: x.sum(axis=0, dtype="f2"),
        lambda x: x.mean(axis=0, dtype="c16"),
    ],
)
def test_other_graphs_are_left_alone(analysis):
    graph = analysis(offer(spec())["t"]).dask
    assert stream_reductions(graph) is graph


def test_the_switch():
    result = offer(spec())["t"].mean(axis=0)
    assert not is_streamed(optimize_as_trees(result.dask, result.__dask_keys__()))


def test_a_chunk_of_the_tree_that_is_a_result_too_stays():
    x = offer(spec())["t"]
    graph = x.mean(axis=0).dask
    assert set(stream_reductions(graph).layers) < {*graph.layers} | {
        name for name in stream_reductions(graph).layers if name.startswith("running-")
    }


NEEDS = Statistic("var", False, "<f8").needs


def test_a_state_that_was_updated_twice_is_an_error():
    chunk = np.ones((1, 4))
    first = update(None, chunk, 0, NEEDS, "t")
    second = update(first, chunk, 1, NEEDS, "t")
    assert second is first
    with pytest.raises(AnalysisError, match="expected 1: its later value was lost"):
        update(first, chunk, 1, NEEDS, "t")


def test_an_update_that_fails_leaves_no_state_to_go_on_from():
    state = update(None, np.ones((1, 4)), 0, NEEDS, "t")
    with pytest.raises(ValueError):
        update(state, np.ones((1, 5)), 1, NEEDS, "t")
    with pytest.raises(AnalysisError, match="running state"):
        update(state, np.ones((1, 4)), 1, NEEDS, "t")


def test_a_state_from_another_worker_is_copied_when_it_is_read_only():
    state = update(None, np.ones((1, 4)), 0, NEEDS, "t")
    for array in state.accumulators.values():
        array.flags.writeable = False
    state = update(state, np.full((1, 4), 3.0), 1, NEEDS, "t")
    assert operator.eq(state.value(Statistic("var", False, "<f8")).tolist(), [1.0] * 4)
    assert isinstance(pickle.loads(pickle.dumps(state)), RunningState)
