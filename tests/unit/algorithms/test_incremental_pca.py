"""The numbers of InSituIncrementalPCA, against scikit-learn and against linear algebra."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from sklearn.base import clone
from sklearn.decomposition import PCA, IncrementalPCA

from ips_components.algorithms import InSituIncrementalPCA
from ips_components.errors import AnalysisError, NotFittedError

RESULTS = (
    "components_",
    "explained_variance_",
    "explained_variance_ratio_",
    "singular_values_",
    "mean_",
    "var_",
    "noise_variance_",
    "n_samples_seen_",
)
LABELS = (["t", "X", "Y"], ["X"], ["Y"])


def field(steps=6, nx=20, ny=15, rank=5, noise=0.1, seed=0):
    """A field over (t, X, Y) with a few strong modes, a trend and some noise."""
    rng = np.random.default_rng(seed)
    modes = rng.normal(size=(rank, nx)) * 2.0 ** -np.arange(rank)[:, None]
    amplitudes = rng.normal(size=(steps, ny, rank))
    clean = (amplitudes @ modes).transpose(0, 2, 1)
    trend = np.linspace(0, 3, steps)[:, None, None] + np.arange(nx)[:, None]
    return clean + trend + noise * rng.normal(size=clean.shape)


def reference(batches, n_components, **parameters):
    pca = IncrementalPCA(n_components, **parameters)
    for batch in batches:
        pca.partial_fit(batch)
    return pca


def assert_same(ours, theirs, rtol=1e-10):
    for name in RESULTS:
        lazy = getattr(ours, name)
        assert isinstance(lazy, da.Array), name
        value = lazy.compute()
        assert value.shape == lazy.shape
        expected = np.asarray(getattr(theirs, name))
        scale = max(np.abs(expected).max(), 1e-300)
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=rtol * scale, err_msg=name)


@pytest.mark.parametrize("k", [1, 3, 15])
@pytest.mark.parametrize(
    "chunks",
    [(1, 20, 15), (1, 10, 15), (2, 7, 15), (6, 20, 15), (1, 20, 4), (3, 10, 8), (1, 1, 15)],
    ids=str,
)
def test_equals_scikit_learn_for_any_chunks(chunks, k):
    x = field()
    ours = InSituIncrementalPCA(k, svd_solver="full").fit(da.from_array(x, chunks), *LABELS)
    assert_same(ours, reference((step.T for step in x), k))
    assert (ours.n_components_, ours.n_features_in_, ours.n_batches_seen_) == (k, 20, 6)


@pytest.mark.parametrize("chunks", [(1, 6, 50), (1, 3, 50), (1, 6, 11)], ids=str)
def test_equals_scikit_learn_with_more_samples_than_features(chunks):
    x = field(nx=6, ny=50)
    ours = InSituIncrementalPCA(4).fit(da.from_array(x, chunks), *LABELS)
    assert_same(ours, reference((step.T for step in x), 4))


@pytest.mark.parametrize("features", [40, 19])
def test_rows_in_chunks_are_batches(features):
    x = field(steps=8, nx=40, ny=10).transpose(0, 2, 1).reshape(80, 40)
    lazy = da.from_array(x, ((30, 5, 25, 1, 19), features))
    ours = InSituIncrementalPCA(4).fit(lazy)
    assert_same(ours, reference(np.split(x, [30, 35, 60, 61]), 4))


def test_batch_size_makes_the_batches():
    x = field().reshape(60, 30)
    ours = InSituIncrementalPCA(3, batch_size=20).fit(x)
    assert_same(ours, reference(np.split(x, 3), 3))


def test_partial_fit_takes_all_rows_as_one_batch():
    x = field().reshape(60, 30)
    ours = InSituIncrementalPCA(3)
    for part in np.split(x, 3):
        assert ours.partial_fit(da.from_array(part, (7, 30))) is ours
    assert_same(ours, reference(np.split(x, 3), 3))


def test_partial_fit_remembers_labels_and_feature_chunks():
    x = field()
    ours = InSituIncrementalPCA(3).fit(da.from_array(x[:4], (1, 10, 15)), *LABELS)
    ours.partial_fit(da.from_array(x[4:], (1, 20, 5)))
    assert_same(ours, reference((step.T for step in x), 3))


def test_fit_forgets_what_was_before():
    x = field()
    ours = InSituIncrementalPCA(3).fit(da.from_array(10 - x), *LABELS)
    assert_same(ours.fit(da.from_array(x), *LABELS), reference((step.T for step in x), 3))


def test_features_and_samples_of_several_dimensions():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 4, 3, 5, 6)) * np.arange(1, 7)
    labels = ["a", "X", "m", "s", "Y"]
    lazy = da.from_array(x, (1, 2, 3, 2, 3))
    ours = InSituIncrementalPCA(4).fit(lazy, labels, ["Y", "X"], ["s", "m"])
    # One batch per index of a; rows over (s, m), columns over (Y, X).
    batches = [x[i].transpose(2, 1, 3, 0).reshape(15, 24) for i in range(2)]
    theirs = reference(batches, 4)
    assert_same(ours, theirs)
    scores = ours.transform(lazy)
    assert scores.shape == (2, 3, 5, 4)
    expected = theirs.transform(batches[1]).reshape(5, 3, 4).transpose(1, 0, 2)
    np.testing.assert_allclose(scores[1], expected, atol=1e-10)
    back = ours.inverse_transform(scores)
    assert back.shape == x.shape
    np.testing.assert_allclose(ours.transform(back), scores, atol=1e-10)


def test_two_batch_dimensions_in_the_order_of_the_array():
    x = field(steps=12)
    lazy = da.from_array(x.reshape(3, 4, 20, 15), (2, 1, 10, 15))
    ours = InSituIncrementalPCA(2).fit(lazy, ["run", "t", "X", "Y"], ["X"], ["Y"])
    assert_same(ours, reference((step.T for step in x), 2))


def test_snapshots_as_samples():
    x = field(steps=12)
    lazy = da.from_array(x, (4, 10, 15))
    ours = InSituIncrementalPCA(2).fit(lazy, ["t", "X", "Y"], ["X", "Y"], ["t"])
    assert_same(ours, reference(np.split(x.reshape(12, 300), 3), 2))


def test_data_array_by_the_names_of_its_dimensions():
    x = xr.DataArray(field(), dims=("t", "X", "Y")).chunk(t=1, X=10)
    theirs = reference((step.T for step in x.values), 3)
    assert_same(InSituIncrementalPCA(3).fit(x, features=["X"], samples=["Y"]), theirs)
    assert_same(InSituIncrementalPCA(3).fit(x, ["Y", "X", "t"], ["X"], ["Y"]), theirs)
    with pytest.raises(AnalysisError, match="dimensions"):
        InSituIncrementalPCA(3).fit(x, ["t", "X", "Z"], ["X"], ["Z"])


@pytest.mark.parametrize("dtype", ["float32", "int16", ">f8"])
def test_other_types_are_computed_in_double(dtype):
    x = (100 * field()).astype(dtype)
    ours = InSituIncrementalPCA(3).fit(da.from_array(x, (1, 10, 15)), *LABELS)
    assert ours.components_.compute().dtype == np.float64
    assert_same(ours, reference((step.T.astype(float) for step in x), 3))


def test_input_is_never_written_to():
    x = np.asfortranarray(field())
    x.flags.writeable = False
    before = x.copy()
    InSituIncrementalPCA(3, copy=False).fit(da.from_array(x), *LABELS).components_.compute()
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("chunks", [(40, 6), (40, 2)], ids=str)
def test_all_components_give_the_whole_variance(chunks):
    x = field(nx=6, ny=20).transpose(0, 2, 1).reshape(120, 6)
    ours = InSituIncrementalPCA().fit(da.from_array(x, chunks))
    theirs = PCA().fit(x)
    np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_)
    np.testing.assert_allclose(ours.explained_variance_ratio_.sum(), 1.0)
    np.testing.assert_allclose(np.abs(ours.components_), np.abs(theirs.components_), atol=1e-9)
    np.testing.assert_allclose(ours.get_covariance(), np.cov(x.T), atol=1e-12)
    identity = ours.get_covariance() @ ours.get_precision()
    np.testing.assert_allclose(identity, np.eye(6), atol=1e-10)
    np.testing.assert_allclose(ours.inverse_transform(ours.transform(x)), x, atol=1e-10)


def test_covariance_of_a_truncated_model_equals_scikit_learn():
    x = field(nx=6, ny=20).transpose(0, 2, 1).reshape(120, 6)
    ours = InSituIncrementalPCA(2).fit(da.from_array(x, (40, 3)))
    theirs = reference(np.split(x, 3), 2)
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance(), rtol=1e-9)
    np.testing.assert_allclose(ours.get_precision(), theirs.get_precision(), rtol=1e-9)


@pytest.mark.parametrize("whiten", [False, True])
def test_transform_there_and_back(whiten):
    x = field().transpose(0, 2, 1).reshape(90, 20)
    ours = InSituIncrementalPCA(5, whiten=whiten).fit(da.from_array(x, (30, 10)))
    theirs = reference(np.split(x, 3), 5, whiten=whiten)
    scores = ours.transform(da.from_array(x, (45, 5)))
    np.testing.assert_allclose(scores, theirs.transform(x), rtol=1e-9, atol=1e-10)
    back = ours.inverse_transform(scores)
    np.testing.assert_allclose(back, theirs.inverse_transform(theirs.transform(x)), atol=1e-9)
    np.testing.assert_allclose(ours.transform(back), scores, atol=1e-9)
    if whiten:
        np.testing.assert_allclose(scores.var(axis=0, ddof=1), 1.0, rtol=0.05)


def test_fit_transform():
    x = da.from_array(field(), (1, 10, 15))
    pca = InSituIncrementalPCA(2)
    scores = pca.fit_transform(x, *LABELS)
    assert scores.shape == (6, 15, 2)
    np.testing.assert_allclose(scores, pca.transform(x))


def test_components_are_orthonormal_and_signed():
    ours = InSituIncrementalPCA(5).fit(da.from_array(field(), (1, 7, 15)), *LABELS)
    vectors = ours.components_.compute()
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(5), atol=1e-13)
    assert (np.take_along_axis(vectors, np.abs(vectors).argmax(1)[:, None], 1) > 0).all()


@pytest.mark.parametrize("chunks", [(1, 60, 10), (1, 30, 10)], ids=str)
def test_small_singular_values_survive(chunks):
    """A Gram matrix would lose everything below 1e-8 of the largest singular value."""
    rng = np.random.default_rng(5)
    u, _ = np.linalg.qr(rng.normal(size=(10, 4)))
    u -= u.mean(axis=0)
    u, _ = np.linalg.qr(u)
    v, _ = np.linalg.qr(rng.normal(size=(60, 4)))
    s = np.array([1.0, 1e-4, 1e-8, 1e-12])
    x = ((u * s) @ v.T).T[np.newaxis]
    ours = InSituIncrementalPCA(4).fit(da.from_array(x, chunks), *LABELS)
    np.testing.assert_allclose(ours.singular_values_, s, rtol=1e-3)
    np.testing.assert_allclose(ours.components_[2] @ v[:, 2], 1.0 if v[:, 2].max() > 0 else -1.0)
    gram = InSituIncrementalPCA(4, svd_solver="gram").fit(da.from_array(x, chunks), *LABELS)
    np.testing.assert_allclose(gram.singular_values_[:2], s[:2], rtol=1e-6)
    assert np.isfinite(gram.components_.compute()).all()


@pytest.mark.parametrize("shift", [0.0, 1e8])
def test_variance_is_stable_far_from_zero(shift):
    x = field() + shift
    ours = InSituIncrementalPCA(2).fit(da.from_array(x, (1, 10, 15)), *LABELS)
    flat = x.transpose(0, 2, 1).reshape(-1, 20)
    np.testing.assert_allclose(ours.mean_, flat.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(ours.var_, (flat - flat.mean(axis=0)).var(axis=0), rtol=1e-7)


@pytest.mark.parametrize("solver", ["full", "randomized", "gram"])
@pytest.mark.parametrize("nx", [20, 10], ids=["whole", "split"])
def test_constant_data_have_no_variance(solver, nx):
    x = da.full((3, 20, 15), 7.0, chunks=(1, nx, 15))
    ours = InSituIncrementalPCA(2, svd_solver=solver, random_state=0).fit(x, *LABELS)
    assert (ours.singular_values_.compute() == 0).all()
    assert (ours.mean_.compute() == 7).all()
    assert np.isnan(ours.explained_variance_ratio_.compute()).all()


@pytest.mark.parametrize("nx", [60, 20], ids=["whole", "split"])
def test_fewer_directions_than_components(nx):
    """Rank two and five components: what is beyond the rank has no variance."""
    x = field(nx=60, rank=2, noise=0.0)
    ours = InSituIncrementalPCA(5).fit(da.from_array(x, (1, nx, 15)), *LABELS)
    flat = x.transpose(0, 2, 1).reshape(-1, 60)
    s = np.linalg.svd(flat - flat.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(ours.singular_values_, s[:5], atol=1e-10 * s[0])
    assert ours.noise_variance_.compute() < 1e-20 * s[0] ** 2


@pytest.mark.parametrize("solver", ["randomized", "gram"])
@pytest.mark.parametrize("chunks", [(1, 80, 40), (1, 27, 40), (1, 80, 13)], ids=str)
def test_other_solvers_agree_on_separated_modes(solver, chunks):
    x = field(nx=80, ny=40, noise=1e-6)
    pca = InSituIncrementalPCA(3, svd_solver=solver, random_state=1)
    assert_same(pca.fit(da.from_array(x, chunks), *LABELS), reference((s.T for s in x), 3), 1e-6)


@pytest.mark.parametrize("nx", [80, 40], ids=["whole", "split"])
def test_randomized_depends_on_random_state_alone(nx):
    x = da.from_array(field(nx=80, ny=40, noise=3.0), (1, nx, 40))

    def values(state, power=0):
        pca = InSituIncrementalPCA(
            2, svd_solver="randomized", random_state=state, iterated_power=power, n_oversamples=2
        )
        return pca.fit(x, *LABELS).singular_values_.compute()

    np.testing.assert_array_equal(values(3), values(3))
    assert (values(3) != values(4)).any()
    assert (values(None) != values(None)).any()
    generators = [np.random.default_rng(3), np.random.RandomState(3)]
    assert all(np.isfinite(values(generator)).all() for generator in generators)
    exact = InSituIncrementalPCA(2).fit(x, *LABELS).singular_values_.compute()
    sketchy, better = (np.abs(values(0, power) - exact).max() for power in (0, 8))
    assert better < sketchy


def test_history_holds_the_results_after_every_batch():
    x = field()
    for nx in (20, 10):
        ours = InSituIncrementalPCA(3).fit(da.from_array(x, (1, nx, 15)), *LABELS)
        variances, ratios, values = dask.compute(
            ours.explained_variance_history_,
            ours.explained_variance_ratio_history_,
            ours.singular_values_history_,
        )
        for t in range(6):
            theirs = reference((step.T for step in x[: t + 1]), 3)
            np.testing.assert_allclose(variances[t], theirs.explained_variance_)
            np.testing.assert_allclose(ratios[t], theirs.explained_variance_ratio_)
            np.testing.assert_allclose(values[t], theirs.singular_values_)


@pytest.mark.parametrize("solver", ["full", "randomized"])
@pytest.mark.parametrize(("before", "after"), [(20, 20), (10, 10), (20, 10), (10, 20), (7, 4)])
def test_restart_from_a_state_continues_the_run(before, after, solver):
    x = field()
    parameters = {"svd_solver": solver, "random_state": 2}
    first = InSituIncrementalPCA(3, **parameters)
    first.fit(da.from_array(x[:3], (1, before, 15)), *LABELS)
    (state,) = dask.compute(first.state())
    assert all(isinstance(value, int | np.ndarray | np.generic) for value in state.values())
    second = InSituIncrementalPCA.from_state(state, **parameters)
    np.testing.assert_allclose(second.components_, first.components_)
    again = InSituIncrementalPCA.from_state(state, **parameters)
    again.partial_fit(da.from_array(x[3:], (1, after, 15)), *LABELS)
    whole = InSituIncrementalPCA(3, **parameters)
    whole.fit(da.from_array(x, (1, after, 15)), *LABELS)
    assert_same(again, whole, 1e-10 if solver == "full" else 1e-3)
    assert again.n_batches_seen_ == 6


def test_state_that_does_not_fit_is_refused():
    state = InSituIncrementalPCA(2).fit(da.from_array(field()), *LABELS).state()
    with pytest.raises(AnalysisError, match=r"lacks.*mean"):
        InSituIncrementalPCA.from_state({k: v for k, v in state.items() if k != "mean"})
    with pytest.raises(AnalysisError, match="2 components"):
        InSituIncrementalPCA.from_state(state, n_components=3).partial_fit(field(), *LABELS)
    with pytest.raises(AnalysisError, match="features of shape"):
        InSituIncrementalPCA.from_state(state).partial_fit(field(nx=9), *LABELS)


def test_first_batch_needs_as_many_samples_as_components():
    x = da.from_array(field().reshape(60, 30), ((3, 57), 30))
    with pytest.raises(AnalysisError, match="first batch, 3"):
        InSituIncrementalPCA(4).fit(x)
    assert InSituIncrementalPCA().fit(x).n_components_ == 3


def test_later_batches_may_be_small():
    x = field().reshape(60, 30)
    ours = InSituIncrementalPCA(5).fit(da.from_array(x, ((40, 1, 2, 17), 30)))
    assert_same(ours, reference(np.split(x, [40, 41, 43]), 5))


def test_a_single_sample():
    ours = InSituIncrementalPCA(1).fit(np.ones((1, 4)))
    assert ours.mean_.compute().tolist() == [1] * 4
    assert np.isnan(ours.explained_variance_.compute()).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("nx", [20, 10], ids=["whole", "split"])
def test_values_that_are_not_finite_name_their_batch(bad, nx):
    x = field()
    x[4, 3, 2] = bad
    pca = InSituIncrementalPCA(2).fit(da.from_array(x, (1, nx, 15)), *LABELS)
    with pytest.raises(AnalysisError, match="batch 4"):
        pca.singular_values_.compute()


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"n_components": 0}, "n_components"),
        ({"n_components": 2.5}, "n_components"),
        ({"n_components": 21}, "more than the number of features, 20"),
        ({"n_components": 16}, "first batch, 15"),
        ({"svd_solver": "arpack"}, "svd_solver"),
        ({"iterated_power": -1}, "iterated_power"),
        ({"n_oversamples": -1}, "n_oversamples"),
    ],
)
def test_wrong_parameters(parameters, match):
    with pytest.raises(AnalysisError, match=match):
        InSituIncrementalPCA(**parameters).fit(da.from_array(field()), *LABELS)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ((), "2-D array"),
        ((["t", "X"], ["X"], ["t"]), "3 different labels"),
        ((["t", "X", "X"], ["X"], ["t"]), "3 different labels"),
        ((["t", "X", "Y"], ["Z"], ["Y"]), "must be different names"),
        ((["t", "X", "Y"], ["X"], ["X"]), "must be different names"),
        ((["t", "X", "Y"], [], ["Y"]), "none may be empty"),
        ((["t", "X", "Y"], ["X"], None), "none may be empty"),
        ((None, ["X"], ["Y"]), "belong together"),
    ],
)
def test_wrong_labels(labels, match):
    with pytest.raises(AnalysisError, match=match):
        InSituIncrementalPCA(2).fit(da.from_array(field()), *labels)


def test_wrong_data():
    pca = InSituIncrementalPCA(2)
    with pytest.raises(NotFittedError, match="seen no data"):
        pca.components_  # noqa: B018
    with pytest.raises(AnalysisError, match="at least one sample"):
        pca.fit(np.empty((0, 4)))
    rows = da.from_array(np.arange(40.0).reshape(10, 4))
    with pytest.raises(AnalysisError, match="unknown size"):
        pca.fit(rows[rows[:, 0] > 3])
    pca.fit(rows)
    with pytest.raises(AnalysisError, match="features have changed"):
        pca.partial_fit(np.zeros((10, 5)))
    with pytest.raises(AnalysisError, match="expected features"):
        pca.transform(np.zeros((10, 5)))


def test_parameters_by_name():
    pca = InSituIncrementalPCA(3, whiten=True, random_state=4)
    copy = clone(pca)
    assert copy.get_params() == pca.get_params()
    assert copy is not pca
    assert copy.set_params(n_components=2).n_components == 2
    assert "n_components=2" in repr(copy)
    with pytest.raises(AnalysisError, match="unknown parameters"):
        pca.set_params(components=2)
