"""Training in transit with estimators of scikit-learn, and with one of our own."""

import dask
import dask.array as da
import joblib
import numpy as np
import pytest
import xarray as xr
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import SGDClassifier, SGDRegressor

from ips_components.algorithms import InTransit
from ips_components.algorithms._learner import Scaler
from ips_components.analysis.result_values import name_results
from ips_components.errors import AnalysisError

STEPS, NY, NX = 60, 4, 6
TRUE = np.array([2.0, -1.0, 0.5])


class Recorder:
    """Keeps what it is trained with."""

    def __init__(self):
        self.seen = []

    def partial_fit(self, x, y=None):
        self.seen.append(x.copy())
        return self

    def predict(self, x):
        return np.zeros(len(x))


def linear(chunks=(1, 2, 3, 3), seed=0):
    """Cells with three features of different scales, and a linear function of them."""
    x = np.random.default_rng(seed).normal(size=(STEPS, NY, NX, 3)) * [1, 10, 0.1] + [0, 5, 0]
    y = x @ TRUE + 3
    return da.from_array(x, chunks), da.from_array(y, chunks[:3])


def regressor():
    return SGDRegressor(random_state=0, learning_rate="constant", eta0=0.01, alpha=0)


@pytest.mark.parametrize("chunks", [(1, 2, 3, 3), (7, 4, 6, 2), (STEPS, 1, 6, 3)])
@pytest.mark.parametrize("parallel", [False, True])
def test_a_linear_function_of_cells_is_learned(chunks, parallel):
    x, y = linear(chunks)
    learner = InTransit(regressor(), hold_out=5, reservoir=4, parallel=parallel)
    training = learner.fit(x, y, samples=(0, 1, 2), batch=16)
    curve, model = training.curve.compute(), training.model.compute()
    rows = np.random.default_rng(1).normal(size=(50, 3)) * [1, 10, 0.1] + [0, 5, 0]
    np.testing.assert_allclose(model.predict(rows), rows @ TRUE + 3, atol=1.5 if parallel else 0.05)
    assert curve.validation.shape == (x.numblocks[0],)
    if chunks[0] == 1 and not parallel:
        assert float(curve.validation[-1]) < 0.01 < 1 < float(curve.validation[5])
        assert curve.samples[-1] == (STEPS - STEPS // 5 - 4) * NY * NX


def test_equal_seeds_give_equal_models_for_any_chunks_of_space():
    models = [
        InTransit(regressor(), reservoir=3, seed=1)
        .fit(*linear(chunks), samples=(0, 1, 2))
        .attribute("coef_", (3,))
        .compute()
        for chunks in [(1, 2, 3, 3), (5, 4, 6, 1)]
    ]
    np.testing.assert_array_equal(*models)


def test_every_step_is_trained_once_in_shuffled_order_within_the_reservoir():
    x = da.arange(STEPS, chunks=4)[:, None]
    for reservoir, hold_out in [(0, 0), (5, 0), (5, 4)]:
        learner = InTransit(
            Recorder(), reservoir=reservoir, hold_out=hold_out, standardise=False,
            metric=lambda model, x, y: 0.0,
        )  # fmt: skip
        seen = np.concatenate(learner.fit(x).model.compute().estimator.seen).ravel()
        expected = [i for i in range(STEPS) if not hold_out or i % hold_out != hold_out - 1]
        assert sorted(seen) == expected
        assert (list(seen) == expected) == (reservoir == 0)
        # Nothing is trained before it has come: at most `reservoir` steps wait.
        assert all(expected.index(at) <= i + reservoir for i, at in enumerate(seen))


def test_standardisation_is_that_of_all_rows():
    rows = np.random.default_rng(2).normal(size=(100, 3)) * [1, 1e4, 0] + [1e6, 0, 7]
    joined = Scaler.of(rows[:10]).joined(Scaler.of(rows[10:11])).joined(Scaler.of(rows[11:]))
    np.testing.assert_allclose(joined.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(joined.scale[:2], rows.std(axis=0)[:2], rtol=1e-9)
    assert joined.scale[2] == 1


def test_a_restart_gives_the_model_of_one_run():
    x, y = linear()
    learner = InTransit(regressor(), reservoir=4, hold_out=5)
    whole = learner.fit(x, y, samples=(0, 1, 2)).model.compute()
    first = learner.fit(x[:23], y[:23], samples=(0, 1, 2)).checkpoint.compute()
    assert first.dtype == np.uint8
    again = learner.fit(x[23:], y[23:], samples=(0, 1, 2), start=first).model.compute()
    np.testing.assert_array_equal(again.estimator.coef_, whole.estimator.coef_)
    assert again.updates == whole.updates


def test_training_stops_when_validation_does_not_improve():
    x, y = linear()
    learner = InTransit(regressor(), hold_out=2, patience=3, tolerance=1e-3)
    training = learner.fit(x, y, samples=(0, 1, 2))
    stopped, curve = dask.compute(training.stopped_at, training.curve)
    assert 6 < stopped < STEPS - 1
    after = curve.samples[int(stopped) :]
    assert (after == after[0]).all()


def test_clusters_and_classes():
    rng = np.random.default_rng(3)
    kind = rng.integers(2, size=(STEPS, 20))
    points = da.from_array(rng.normal(size=(STEPS, 20, 2)) * 0.1 + kind[..., None], (1, 10, 2))
    kmeans = InTransit(MiniBatchKMeans(2, random_state=0, n_init=1), standardise=False)
    training = kmeans.fit(points, samples=[0, 1])
    centers = np.sort(training.attribute("cluster_centers_", (2, 2)).compute(), axis=0)
    np.testing.assert_allclose(centers, [[0, 0], [1, 1]], atol=0.05)
    assert training.curve.loss[-1].compute() == pytest.approx(0.02, abs=0.01)
    classifier = InTransit(SGDClassifier(random_state=0), classes=[0, 1])
    training = classifier.fit(points, da.from_array(kind, (1, 20)), samples=[0, 1])
    assert training.curve.loss[-1].compute() <= 0.05


@pytest.mark.parametrize("steps", [1, 3])
def test_one_sample_per_step_and_the_next_step_as_target(steps):
    u = np.sin(np.arange(200)[:, None] * 0.3 + np.arange(5))
    field = xr.DataArray(da.from_array(u, (steps, 5)), dims=("time", "x"))
    pair = field[:-1].data, field[1:].data[:, 2]
    learner = InTransit(regressor().set_params(eta0=0.1), scale_targets=True)
    assert learner.fit(*pair).curve.loss[-1].compute() < 1e-2


@pytest.mark.parametrize("form", ["skops", "joblib"])
def test_the_model_is_saved_with_what_is_installed(form, tmp_path, monkeypatch):
    if form == "skops":
        skops = pytest.importorskip("skops.io", reason="skops is not installed")
    else:
        found = __import__("importlib.util").util.find_spec
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name: None if name == "skops" else found(name)
        )
    x, y = linear()
    training = InTransit(regressor()).fit(x, y, samples=(0, 1, 2))
    size = training.save(tmp_path / "model").compute()
    path = tmp_path / f"model.{form}"
    assert path.stat().st_size == size and list(tmp_path.iterdir()) == [path]
    if form == "skops":
        model = skops.load(path, trusted=skops.get_untrusted_types(file=path))
    else:
        model = joblib.load(path)
    rows = np.ones((2, 3))
    np.testing.assert_array_equal(model.predict(rows), training.model.compute().predict(rows))


def test_curve_and_saving_are_results_of_an_analysis(tmp_path):
    training = InTransit(regressor()).fit(*linear(), samples=(0, 1, 2))
    named = name_results({"curve": training.curve, "model_bytes": training.save(tmp_path / "m")})
    assert set(named) == {"curve/loss", "curve/validation", "curve/samples", "model_bytes"}


@pytest.mark.parametrize(
    ("options", "fit", "message"),
    [
        ({"estimator": object()}, {}, "object has no partial_fit"),
        ({"hold_out": 1}, {}, "hold_out = 1 leaves no step"),
        ({"reservoir": -1}, {}, "reservoir must be >= 0, got -1"),
        ({"patience": 2}, {}, "patience needs steps for validation"),
        ({"scale_targets": True}, {}, "scale_targets needs targets"),
        ({"parallel": True}, {}, "parallel=True needs samples over time and space"),
        ({}, {"batch": 0}, "batch must be >= 1, got 0"),
        ({}, {"targets": da.ones((9,))}, "targets of \\[9\\]; they must agree"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_computed(options, fit, message):
    with pytest.raises(AnalysisError, match=message):
        InTransit(**{"estimator": regressor(), **options}).fit(
            da.ones((10, 3), chunks=(2, 3)), **fit
        )


def test_a_failing_estimator_is_named_with_its_step():
    x = da.ones((10, 3), chunks=(2, 3))
    with pytest.raises(AnalysisError, match=r"step 0: MiniBatchKMeans.partial_fit failed on 1"):
        InTransit(MiniBatchKMeans(4)).fit(x).model.compute()


def test_estimators_without_coefficients_are_not_averaged():
    x = da.ones((4, 6, 2), chunks=(1, 3, 2))
    learner = InTransit(MiniBatchKMeans(2, n_init=1), parallel=True)
    with pytest.raises(AnalysisError, match="MiniBatchKMeans has no coef_; use parallel=False"):
        learner.fit(x, samples=(0, 1)).model.compute()
