"""One graph over at most n steps: the numbers of the steps that came, or why they cannot be had."""

import dask
import dask.array as da
import numpy as np
import pytest
from distributed.protocol import pickle

from ips_components.algorithms import (
    InSituIncrementalPCA,
    InTransit,
    histogram,
    proper_modes,
    running_moments,
    time_derivative,
)
from ips_components.analysis.at_most import graph_at_most
from ips_components.analysis.contract import contract_from_graph
from ips_components.coordination.settings import RunSettings
from ips_components.errors import (
    ConfigError,
    ContractError,
    ExternalTaskError,
    GeometryError,
    IPSComponentsError,
    SelectionError,
)
from ips_components.model import ArraySpec, Contract, StepAxis
from ips_components.model.absent import ABSENT

from .simulated import RUN, deliver, field_of, offer

xr = pytest.importorskip("xarray")

BOUND = 11


def spec(name="u", shape=(6, 5), start=0, every=1, count=BOUND, at_most=True):
    steps = StepAxis(start, every, count, at_most)
    return ArraySpec(name, "f8", shape, steps, dims=("y", "x"))


def run(analysis, came, *specs, n_receivers=2, streaming=True):
    """Run an analysis of a simulation that has put its steps below `came`."""
    specs = specs or (spec(),)
    arrays = offer(*specs, n_receivers=n_receivers)
    results = analysis(arrays)
    contract = contract_from_graph(results, arrays, run=RUN)
    external = {}
    for array in contract.arrays:
        steps = array.spec.steps
        for key, value in deliver(array, field_of(array.spec)).items():
            gone = steps.at_most and steps.step(key[1]) >= came
            external[key] = ABSENT if gone else value
    sources = [array.source for array in arrays.values()]
    tasks, keys = graph_at_most(results, sources, streaming=streaming)
    tasks = pickle.loads(pickle.dumps(tasks))
    return {name: dask.get({**tasks, **external}, key) for name, key in keys.items()}


def components_of(features, field):
    """A result of the incremental PCA whose batches are steps, and the same of the steps that came.

    With the features y the features lie in two chunks, with x in one.
    """
    samples = {"x": "y", "y": "x"}[features]

    def fit(u):
        return InSituIncrementalPCA(2).fit(u, ["t", "y", "x"], [features], [samples])

    def of_numpy(u):
        return np.asarray(getattr(fit(da.from_array(u, chunks=(1, 3, 5))), field))

    return (lambda u: getattr(fit(u), field)), of_numpy


def training_of(field, **options):
    """A result of a training in transit, and the same of the steps that came."""
    from sklearn.linear_model import SGDRegressor

    def fit(u):
        learner = InTransit(SGDRegressor(random_state=0), reservoir=2, hold_out=4, **options)
        if options:
            training = learner.fit(u, u * 2, samples=(0, 1, 2))
            return training.attribute("coef_", (1,)) if field == "coef_" else training.curve[field]
        training = learner.fit(u, u[:, 3, 4])
        return training.attribute("coef_", (30,)) if field == "coef_" else training.curve[field]

    return fit, lambda u: np.asarray(fit(da.from_array(u, chunks=(1, 3, 5))))


LAND = np.arange(6)[:, None] < 3  # all cells of some chunks in space

RESULTS = {
    "sea": (lambda u: da.where(LAND, 1.0, u), lambda u: np.where(LAND, 1.0, u)),
    "sum of the sea": (
        lambda u: da.where(LAND, 1.0, u).sum(axis=0),
        lambda u: np.where(LAND, 1.0, u).sum(axis=0),
    ),
    "sum of the sea and of all": (
        lambda u: da.where(LAND, 1.0, u * 2).sum() + u.sum(),
        lambda u: np.where(LAND, 1.0, u * 2).sum() + u.sum(),
    ),
    "sum of land": (
        lambda u: da.where(LAND, 1.0, u)[:, :3].sum(axis=0),
        lambda u: np.where(LAND, 1.0, u)[:, :3].sum(axis=0),
    ),
    "trained model": training_of("coef_"),
    "learning curve": training_of("loss"),
    "model trained in parts": training_of("coef_", parallel=True),
    "curve of the training in parts": training_of("loss", parallel=True),
    **{
        f"{field} of PCA over {features}": components_of(features, field)
        for features in "xy"
        for field in (
            "singular_values_",
            "components_",
            "mean_",
            "var_",
            "n_samples_seen_",
            "explained_variance_ratio_history_",
        )
    },
    "sum": (lambda u: u.sum(axis=0), lambda u: u.sum(axis=0)),
    "mean": (lambda u: u.mean(axis=0), lambda u: u.mean(axis=0)),
    "mean of all": (lambda u: u.mean(), lambda u: u.mean()),
    "var": (lambda u: u.var(axis=0), lambda u: u.var(axis=0)),
    "std of a sample": (lambda u: u.std(axis=0, ddof=1), lambda u: u.std(axis=0, ddof=1)),
    "min": (lambda u: u.min(axis=0), lambda u: u.min(axis=0)),
    "max": (lambda u: u.max(axis=0, keepdims=True), lambda u: u.max(axis=0, keepdims=True)),
    "min of a product": (lambda u: (u * 2 - 1).min(axis=0), lambda u: (u * 2 - 1).min(axis=0)),
    "mean of squares": (lambda u: (u**2).mean(axis=0), lambda u: (u**2).mean(axis=0)),
    "var of squares": (lambda u: (u**2).var(axis=(0, 1)), lambda u: (u**2).var(axis=(0, 1))),
    "nanmean": (lambda u: da.nanmean(u, axis=0), lambda u: u.mean(axis=0)),
    "first": (lambda u: u[0], lambda u: u[0]),
    "last": (lambda u: u[-1], lambda u: u[-1]),
    "part of last": (lambda u: u[-1, 1:4, 2], lambda u: u[-1, 1:4, 2]),
    "last of a product": (lambda u: (u * 3)[-1], lambda u: (u * 3)[-1]),
    "last of the transposed": (lambda u: u.T[:, :, -1], lambda u: u.T[:, :, -1]),
    "change": (lambda u: u[-1] - u[0], lambda u: u[-1] - u[0]),
    "steps": (lambda u: u, lambda u: u),
    "strided": (lambda u: u[::3, 1:], lambda u: u[::3, 1:]),
    "some": (lambda u: u[1:4], lambda u: u[1:4]),
    "mean of strided": (lambda u: u[::2].mean(axis=0), lambda u: u[::2].mean(axis=0)),
    "per step": (lambda u: u.mean(axis=(1, 2)), lambda u: u.mean(axis=(1, 2))),
    "largest place per step": (lambda u: u.argmax(axis=2), lambda u: u.argmax(axis=2)),
    "anomaly": (lambda u: u - u.mean(axis=0), lambda u: u - u.mean(axis=0)),
    "std of the anomaly": (
        lambda u: (u - u.mean(axis=0)).std(axis=0),
        lambda u: (u - u.mean(axis=0)).std(axis=0),
    ),
    "differences": (lambda u: u[1:] - u[:10], lambda u: np.diff(u, axis=0)),
    "cumsum": (lambda u: u.cumsum(axis=0), lambda u: u.cumsum(axis=0)),
    "map": (
        lambda u: u.map_blocks(lambda block: block - block.max()),
        lambda u: np.concatenate(
            [
                np.concatenate([half - half.max() for half in np.split(step, 2)])[np.newaxis]
                for step in u
            ]
        ),
    ),
    "histogram": (
        lambda u: da.histogram(u, bins=4, range=(0, 1))[0],
        lambda u: np.histogram(u, bins=4, range=(0, 1))[0],
    ),
    "own histogram": (
        lambda u: histogram(u, 4, (0, 1)).counts,
        lambda u: np.histogram(u, bins=4, range=(0, 1))[0],
    ),
    "moments": (lambda u: running_moments(u).variance, lambda u: u.var(axis=0)),
    "products": (
        lambda u: da.tensordot(u, u, axes=((0,), (0,))),
        lambda u: np.tensordot(u, u, axes=((0,), (0,))),
    ),
    "transposed mean": (lambda u: u.T.mean(axis=2), lambda u: u.T.mean(axis=2)),
    "xarray mean": (
        lambda u: u.to_xarray().mean("time"),
        lambda u: u.mean(axis=0),
    ),
    "xarray std": (lambda u: u.to_xarray().std("time"), lambda u: u.std(axis=0)),
    "xarray sum of space": (lambda u: u.to_xarray().sum(("y", "x")), lambda u: u.sum(axis=(1, 2))),
    "xarray min": (
        lambda u: u.to_xarray().min("time", skipna=False),
        lambda u: u.min(axis=0),
    ),
    "xarray last": (lambda u: u.to_xarray().isel(time=-1), lambda u: u[-1]),
    "xarray first": (lambda u: u.to_xarray()[0], lambda u: u[0]),
    "xarray anomaly": (
        lambda u: u.to_xarray() - u.to_xarray().mean("time"),
        lambda u: u - u.mean(axis=0),
    ),
}


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("came", [2, 5, 10, BOUND])
@pytest.mark.parametrize("name", RESULTS)
def test_results_are_those_of_the_steps_that_came(name, came, streaming):
    lazy, plain = RESULTS[name]
    value = run(lambda arrays: {name: lazy(arrays["u"])}, came, streaming=streaming)[name]
    expected = plain(field_of(spec())[:came])
    assert np.shape(value) == np.shape(expected)
    np.testing.assert_allclose(np.asarray(value), expected, rtol=1e-12, atol=1e-14)


def test_all_results_together_share_a_graph():
    def analysis(arrays):
        return {name: lazy(arrays["u"]) for name, (lazy, _) in RESULTS.items()}

    values = run(analysis, 7)
    for name, (_, plain) in RESULTS.items():
        expected = plain(field_of(spec())[:7])
        np.testing.assert_allclose(np.asarray(values[name]), expected, rtol=1e-12, atol=1e-14)


def test_two_fields_are_related_over_the_steps_that_came():
    def analysis(arrays):
        u, p = arrays["u"], arrays["p"]
        return {"product": (u * p).mean(axis=0), "sparse": arrays["s"].mean(axis=0)}

    specs = spec("u"), spec("p"), spec("s", every=4, count=3)
    values = run(analysis, 6, *specs)
    u, p, s = (field_of(each) for each in specs)
    np.testing.assert_allclose(values["product"], (u * p)[:6].mean(axis=0))
    np.testing.assert_allclose(values["sparse"], s[:2].mean(axis=0))  # steps 0 and 4


def test_an_array_that_is_put_once_goes_with_them():
    def analysis(arrays):
        return {"weighted": (arrays["u"] * arrays["volume"][0]).sum(axis=(1, 2))}

    specs = spec("u"), spec("volume", count=1, at_most=False)
    u, volume = (field_of(each) for each in specs)
    value = run(analysis, 4, *specs)["weighted"]
    np.testing.assert_allclose(value, (u[:4] * volume[0]).sum(axis=(1, 2)))


def test_a_step_asked_for_by_its_number_must_come(caplog):
    with pytest.raises(ExternalTaskError, match="'u' has no step 8: the simulation ended before"):
        run(lambda arrays: {"late": arrays["u"][8].mean()}, 6)
    with pytest.raises(ExternalTaskError, match="'late': none of the steps that it needs came"):
        run(lambda arrays: {"late": arrays["u"][8:].mean(axis=0)}, 6)


def test_a_part_that_never_came_is_not_left_out_of_a_result():
    def analysis(arrays):
        u = arrays["u"]
        return {"halves": da.stack([u[:5].mean(axis=0), u[5:].mean(axis=0)])}

    halves = run(analysis, 8)["halves"]
    u = field_of(spec())
    np.testing.assert_allclose(halves, [u[:5].mean(axis=0), u[5:8].mean(axis=0)])
    with pytest.raises(ExternalTaskError, match="1 of its 2 parts need steps that never came"):
        run(analysis, 4)


REFUSED = {
    "from the end": lambda u: u[-3],
    "slice from the end": lambda u: u[:-1] - u[1:],
    "reversed": lambda u: u[::-1],
    "list": lambda u: u[[0, 3]],
    "mask": lambda u: u[np.arange(BOUND) > 3],
    "length": lambda u: u.sum(axis=0) / len(u),
    "diff": lambda u: da.diff(u, axis=0),
    "median": lambda u: da.median(u, axis=0),
    "weights": lambda u: da.average(u, axis=0, weights=np.ones(BOUND)),
    "known times": lambda u: (u * np.arange(BOUND)[:, None, None]).sum(axis=0),
    "argmax over time": lambda u: u.argmax(axis=0),
    "rechunk": lambda u: u.rechunk({0: 3}).mean(axis=0),
    "reshape": lambda u: u.reshape((-1, 30)),
    "overlap": lambda u: u.map_overlap(lambda a: a, depth={0: 1}, boundary="none"),
    "delayed": lambda u: dask.delayed(np.mean)(u),
    "delayed blocks": lambda u: dask.delayed(sum)(list(u.to_delayed().ravel())),
    "gufunc": lambda u: da.apply_gufunc(lambda a: a.mean(-1), "(t)->()", u, axes=[(0,), ()]),
    "svd": lambda u: da.linalg.svd(u[:, 0, :])[1],
    "a number of steps": lambda u: u.sum(axis=0) / u.shape[0],
    "a number of cells": lambda u: u.sum() / u.size,
    "a covariance": lambda u: da.cov(u[:, 0, :].T),
    "running sum of joined steps": lambda u: da.concatenate(
        [u, u], axis=0, allow_unknown_chunksizes=True
    ).cumsum(axis=0),
    "modes": lambda u: proper_modes(u, 2).energies,
    "derivative": lambda u: time_derivative(u),
    "joined reductions": lambda u: da.stack([u[:5].mean(0), u[5:].mean(0)]).mean(axis=0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_had_is_refused_before_step_0(name):
    with pytest.raises((IPSComponentsError, ValueError, AssertionError)) as error:
        run(lambda arrays: {name: REFUSED[name](arrays["u"])}, BOUND)
    assert not isinstance(error.value, ExternalTaskError)  # that is too late


def test_labelled_results_have_the_steps_that_came_as_coordinates():
    def analysis(arrays):
        u = arrays["u"].to_xarray()
        return {
            "all": u,
            "curve": u.sum(("y", "x")),
            "some": arrays["u"][::2, 1].to_xarray(),
            "anomaly": u - u.mean("time"),
            "transposed": u.transpose("x", "time", "y"),
            "mean": u.mean("time"),
        }

    values = run(analysis, 20, spec(start=10, every=3))  # steps 10, 13, 16, 19, 22, ...
    for name in ("all", "curve", "anomaly", "transposed"):
        assert values[name]["time"].values.tolist() == [10, 13, 16, 19], name
    assert values["some"]["time"].values.tolist() == [10, 16]
    assert values["transposed"].dims == ("x", "time", "y")
    assert "time" not in values["mean"].coords


def test_marking_cells_as_missing_is_no_arithmetic_with_an_unknown_length():
    value = run(lambda arrays: {"m": da.where(arrays["u"] > 0.5, arrays["u"], np.nan)}, 4)["m"]
    u = field_of(spec())[:4]
    np.testing.assert_array_equal(value, np.where(u > 0.5, u, np.nan))


def test_a_refusal_names_the_result_the_function_and_the_remedy():
    def total(blocks):
        return sum(block.sum() for block in blocks)

    def analysis(arrays):
        return {"all at once": dask.delayed(total)(list(arrays["u"].to_delayed().ravel()))}

    with pytest.raises(
        ContractError, match=r"'all at once': total needs all .* 0 to 10 .* run\.ro"
    ):
        run(analysis, BOUND)


def test_parts_with_other_steps_are_not_added_up():
    def analysis(arrays):
        joined = da.concatenate([arrays["u"], arrays["s"]], axis=1, allow_unknown_chunksizes=True)
        return {"sum": joined.sum(axis=1)}

    with pytest.raises(ContractError, match="end at different steps"):
        run(analysis, BOUND, spec("u"), spec("s", every=4))


def test_negative_numbers_of_steps_name_the_remedy():
    u = offer(spec())["u"]
    with pytest.raises(SelectionError, match=r"at most 11 steps: a slice .* got :-1; .* \[-1\]"):
        u[:-1]
    with pytest.raises(SelectionError, match=r"only the last one, \[-1\], can be had, got -2"):
        u[-2]
    with pytest.raises(SelectionError, match="a number or a slice"):
        u[[1, 2]]


def test_a_chunk_of_several_steps_is_refused():
    with pytest.raises(GeometryError, match="at most 11 steps, so that each chunk has one step"):
        offer(spec(), chunks={"u": (2, 6, 5)})


def test_a_bound_needs_a_number():
    with pytest.raises(ConfigError, match="'u': AT_MOST = True needs a number of steps"):
        of_config = RunSettings(run=RUN, token="t", analysis="a:b", at_most=("u",))
        of_config.bounded([ArraySpec("u", "f8", (6, 5), StepAxis())])


def test_the_bound_travels_with_the_contract():
    arrays = offer(spec())
    contract = contract_from_graph({"m": arrays["u"].mean()}, arrays, run=RUN)
    again = Contract.from_bytes(contract.to_bytes())
    assert again.arrays[0].spec.steps.at_most
    assert "of at most 11" in again.table()[0]["steps"]
    assert Contract.from_json(contract.to_json()).arrays[0].spec.steps.at_most


def test_only_what_is_needed_is_sent():
    arrays = offer(spec())
    contract = contract_from_graph(
        {"a": arrays["u"][-1, :2], "b": arrays["u"][::5]}, arrays, run=RUN
    )
    assert contract["u"].wanted_bytes == 8 * (BOUND * 2 * 5 + 3 * 4 * 5)


def test_absent_is_one_object():
    assert pickle.loads(pickle.dumps([ABSENT, ABSENT])) == [ABSENT, ABSENT]
    assert pickle.loads(pickle.dumps(ABSENT)) is ABSENT
