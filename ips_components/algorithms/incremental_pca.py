"""Incremental principal component analysis of labelled, chunked arrays, as one lazy graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from ips_components.algorithms import _pca_graph as graph
from ips_components.algorithms._batches import Batch, Roles, as_labelled, batches_of
from ips_components.algorithms._estimator import Estimator
from ips_components.algorithms._pca_kernels import Solver
from ips_components.errors import AnalysisError, NotFittedError

__all__ = ["InSituIncrementalPCA"]

_SOLVERS = ("auto", "full", "tsqr", "randomized", "gram")


class InSituIncrementalPCA(Estimator):
    """Principal component analysis batch by batch, lazily, with features split over workers.

    The whole sequence of batches becomes one Dask graph: a chain of updates of a state of fixed
    size. Update `k` runs as soon as batch `k` is there, and the batch is free afterwards, so memory
    does not grow with the number of batches. All results are lazy dask arrays.

    Features in a single chunk cost one task per batch (plus one per chunk of the samples where
    these are split). Features in `p` chunks stay where they are and cost `2 p` tasks per batch: one
    factorisation per chunk, one merge of the small triangular factors, and `p - 1` tasks that cut
    those factors out for the journey.

    Parameters
    ----------
    n_components : int, optional
        Number of components; by default min(samples of the first batch, features).
    copy : bool, default False
        Accepted for the sake of the interface. Blocks of a Dask graph are shared between tasks, so
        they are never overwritten, whatever the value.
    svd_solver : {'auto', 'full', 'tsqr', 'randomized', 'gram'}, default 'auto'
        'full' ('auto' and 'tsqr' mean the same): exact, by QR and SVD. 'randomized': the SVD of
        each batch is sketched; where features are split, the sketch is of the exact triangular
        factors, so it saves much work for features in one chunk only. 'gram': works with
        ``A A'`` and is several times faster than 'full', but singular values below 1e-8 of the
        largest are lost.
    whiten : bool, default False
        Scale transformed data to unit variance.
    iterated_power : int or 'auto', default 'auto'
        Power iterations of 'randomized'; 'auto' is 7 for few components, else 4.
    n_oversamples : int, default 10
        Additional columns of the sketch of 'randomized'.
    random_state : int, numpy.random.Generator, numpy.random.RandomState or None
        Source of the sketches. A batch's sketch depends on this and on the batch's number only.
    batch_size : int, optional
        Rechunk the samples to batches of this size, where chunks of the samples are the batches.

    Attributes
    ----------
    components_ : (n_components, n_features) right singular vectors of the centred data; the entry
        of largest magnitude of each is positive
    explained_variance_, explained_variance_ratio_, singular_values_ : (n_components,)
    mean_, var_ : (n_features,) mean and (population) variance of each feature
    noise_variance_ : () mean variance of the directions left out, as of the last batch
    n_samples_seen_ : ()
    explained_variance_history_, explained_variance_ratio_history_, singular_values_history_ :
        (n_batches, n_components) the same after every batch of this object's fit
    n_components_, n_features_in_ : int, known at once

    Notes
    -----
    With ``svd_solver='full'`` the results equal those of scikit-learn's ``IncrementalPCA`` on the
    same batches to rounding. Algorithm: Ross, Lim, Lin, Yang, IJCV 77 (2008) 125-141; features
    that are split: tall-skinny QR of Demmel, Grigori, Hoemmen, Langou, SIAM J. Sci. Comput. 34
    (2012) A206-A239; variances: Chan, Golub, LeVeque, The American Statistician 37 (1983) 242-247.
    What meets in one task is, per feature chunk, ``min(f, m) x m`` numbers, with `f` features in
    the chunk and ``m = n_components + samples + 1``: little where features are the long dimension.
    Features in several chunks need all samples of a batch in one chunk: other chunks are merged.
    Computation is in float64.

    Examples
    --------
    >>> import dask.array as da
    >>> gt = da.random.default_rng(0).normal(size=(5, 6, 8), chunks=(1, 3, 8))
    >>> pca = InSituIncrementalPCA(n_components=2, svd_solver="full")
    >>> pca = pca.fit(gt, ["t", "X", "Y"], ["X"], ["Y"])
    >>> pca.components_.compute().shape
    (2, 6)
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        copy: bool = False,
        svd_solver: str = "auto",
        whiten: bool = False,
        iterated_power: int | str = "auto",
        n_oversamples: int = 10,
        random_state: Any = None,
        batch_size: int | None = None,
    ) -> None:
        self.n_components = n_components
        self.copy = copy
        self.svd_solver = svd_solver
        self.whiten = whiten
        self.iterated_power = iterated_power
        self.n_oversamples = n_oversamples
        self.random_state = random_state
        self.batch_size = batch_size
        self._model: graph.Model | None = None
        self._restored: Mapping[str, Any] | None = None
        self._roles: Roles | None = None

    # -- fitting ---------------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        labels: Sequence[str] | None = None,
        features: Sequence[str] | None = None,
        samples: Sequence[str] | None = None,
    ) -> InSituIncrementalPCA:
        """Build the chain of updates over all batches of `x`; computes nothing.

        Parameters
        ----------
        x : dask.array.Array, xarray.DataArray or array_like
            Two-dimensional (samples, features) without labels: its row chunks are the batches.
        labels : sequence of str
            Names of all axes of `x`; a DataArray brings its own.
        features, samples : sequence of str
            Axes that span the features and the samples. What remains enumerates the batches, in
            order. If nothing remains, chunks along the first sample axis are the batches.

        Returns
        -------
        InSituIncrementalPCA
            The object itself. What it learnt before is forgotten.

        Raises
        ------
        AnalysisError
            If labels, parameters and data do not fit together.
        """
        self._model = self._restored = self._roles = None
        return self._extend(x, labels, features, samples, single=False)

    def partial_fit(
        self,
        x: Any,
        labels: Sequence[str] | None = None,
        features: Sequence[str] | None = None,
        samples: Sequence[str] | None = None,
    ) -> InSituIncrementalPCA:
        """Go on with more data.

        Parameters are those of `fit`; the labels of the last call hold where none are given.
        Without batch axes all of `x` is one batch.
        """
        if labels is None and features is None and self._roles is not None:
            labels = self._roles.labels
            features, samples = self._roles.feature_labels, self._roles.sample_labels
        return self._extend(x, labels, features, samples, single=True)

    def fit_transform(self, x: Any, *labels: Sequence[str] | None) -> da.Array:
        """Fit to `x` and transform it, which holds all of `x` in memory until the fit has ended."""
        return self.fit(x, *labels).transform(x)

    def _extend(
        self,
        x: Any,
        labels: Sequence[str] | None,
        features: Sequence[str] | None,
        samples: Sequence[str] | None,
        *,
        single: bool,
    ) -> InSituIncrementalPCA:
        self._check_parameters()
        array, roles = as_labelled(x, labels, features, samples)
        array = self._rechunked(array, roles, single)
        batches = list(batches_of(array, roles, single=single))
        model = self._model or self._start(array, roles, batches[0])
        at_most = any(np.isnan(array.shape[axis]) for axis in roles.batches)
        model = replace(model, at_most=model.at_most or at_most)
        self._model = graph.extend(model, array, roles, batches)
        self._roles = roles
        return self

    def _rechunked(self, array: da.Array, roles: Roles, single: bool) -> da.Array:
        """Bring chunks to what the updates can use; in the usual case this changes nothing."""
        chunks: dict[int, Any] = {}
        if self._model is not None:
            have = tuple(array.shape[axis] for axis in roles.features)
            if have != self._model.feature_shape:
                raise AnalysisError(
                    f"the features have changed: expected {self._model.feature_shape}, got {have}"
                )
            chunks |= dict(zip(roles.features, self._model.chunks, strict=True))
        by_chunks = not roles.batches and not single
        if by_chunks and self.batch_size is not None:
            chunks[roles.samples[0]] = self.batch_size
        features = [chunks.get(axis, array.chunks[axis]) for axis in roles.features]
        if any(len(sizes) > 1 for sizes in features):
            whole = roles.samples[1:] if by_chunks else roles.samples
            chunks |= dict.fromkeys(whole, -1)
        return array.rechunk(chunks) if chunks else array

    def _start(self, array: da.Array, roles: Roles, first: Batch) -> graph.Model:
        """Make the state before the first batch, from nothing or from a restored state."""
        chunks = tuple(array.chunks[axis] for axis in roles.features)
        if self._restored is not None:
            return self._restore(chunks)
        features = int(np.prod([array.shape[axis] for axis in roles.features]))
        k = self.n_components
        if k is None:
            k = min(first.samples, features)
        elif k > features:
            raise AnalysisError(f"n_components={k} is more than the number of features, {features}")
        elif k > first.samples:
            raise AnalysisError(
                f"n_components={k} is more than the number of samples in the first batch, "
                f"{first.samples}; ask for fewer components or make the batches larger"
            )
        solver = self._solver()
        return graph.Model(solver, int(k), chunks, tokenize(solver, k))

    def _restore(self, chunks: tuple[tuple[int, ...], ...]) -> graph.Model:
        shape = np.shape(self._restored["components"])
        if shape[1:] != tuple(sum(sizes) for sizes in chunks):
            raise AnalysisError(
                f"the restored state has features of shape {shape[1:]}, the data have "
                f"{tuple(sum(sizes) for sizes in chunks)}"
            )
        if self.n_components not in (None, shape[0]):
            raise AnalysisError(
                f"the restored state has {shape[0]} components, n_components={self.n_components}"
            )
        solver = self._solver()
        blank = graph.Model(solver, shape[0], chunks, tokenize(solver, shape[0]))
        return graph.restore(blank, self._restored)

    def _check_parameters(self) -> None:
        k, power = self.n_components, self.iterated_power
        if k is not None and (not isinstance(k, int | np.integer) or k < 1):
            raise AnalysisError(f"n_components must be an integer >= 1 or None, got {k!r}")
        if self.svd_solver not in _SOLVERS:
            raise AnalysisError(f"svd_solver must be one of {_SOLVERS}, got {self.svd_solver!r}")
        if power != "auto" and (not isinstance(power, int | np.integer) or power < 0):
            raise AnalysisError(f"iterated_power must be 'auto' or an integer >= 0, got {power!r}")
        if self.n_oversamples < 0:
            raise AnalysisError(f"n_oversamples must be >= 0, got {self.n_oversamples}")

    def _solver(self) -> Solver:
        method = {"auto": "full", "tsqr": "full"}.get(self.svd_solver, self.svd_solver)
        if method != "randomized":
            return Solver(method)
        entropy = _entropy(self.random_state)
        return Solver(method, self.iterated_power, self.n_oversamples, entropy)

    # -- results ---------------------------------------------------------------------------------

    def _fitted(self) -> graph.Model:
        if self._model is None and self._restored is not None:
            features = da.asarray(self._restored["mean"])
            self._model = self._restore(features.chunks)
        if self._model is None:
            raise NotFittedError(
                "this InSituIncrementalPCA has seen no data; call fit or partial_fit first"
            )
        return self._model

    @property
    def n_components_(self) -> int:
        return self._fitted().k

    @property
    def n_features_in_(self) -> int:
        return self._fitted().features

    @property
    def n_batches_seen_(self) -> int:
        return self._fitted().batches

    @property
    def n_samples_seen_(self) -> da.Array:
        model = self._fitted()
        return graph.counted(model) if model.at_most else da.asarray(model.seen)

    @property
    def components_(self) -> da.Array:
        model = self._fitted()
        return _flat(graph.components(model), len(model.chunks))

    @property
    def mean_(self) -> da.Array:
        model = self._fitted()
        return _flat(graph.moment(model, "mean"), len(model.chunks))

    @property
    def var_(self) -> da.Array:
        model = self._fitted()
        return _flat(graph.moment(model, "var"), len(model.chunks))

    @property
    def explained_variance_(self) -> da.Array:
        return graph.shared(self._fitted(), "explained_variance")

    @property
    def explained_variance_ratio_(self) -> da.Array:
        return graph.shared(self._fitted(), "explained_variance_ratio")

    @property
    def singular_values_(self) -> da.Array:
        return graph.shared(self._fitted(), "singular_values")

    @property
    def noise_variance_(self) -> da.Array:
        return graph.shared(self._fitted(), "noise_variance")

    @property
    def explained_variance_history_(self) -> da.Array:
        return graph.history(self._fitted(), "explained_variance")

    @property
    def explained_variance_ratio_history_(self) -> da.Array:
        return graph.history(self._fitted(), "explained_variance_ratio")

    @property
    def singular_values_history_(self) -> da.Array:
        return graph.history(self._fitted(), "singular_values")

    def transform(self, x: Any) -> da.Array:
        """Project data on the components.

        Parameters
        ----------
        x : array with the axes of the data that were fitted, or two-dimensional

        Returns
        -------
        dask.array.Array
            The axes of `x` other than the features, in their order, then (n_components,).
        """
        array, features = self._located(x)
        model = self._fitted()
        vectors, mean = graph.components(model), graph.moment(model, "mean")
        order = range(len(features))
        scores = da.tensordot(array, vectors, axes=(features, [axis + 1 for axis in order]))
        scores = scores - da.tensordot(vectors, mean, axes=([axis + 1 for axis in order], order))
        return scores / self._scale() if self.whiten else scores

    def inverse_transform(self, scores: Any) -> da.Array:
        """Go back from scores ``(..., n_components)`` to data, with the axes in their old order."""
        model = self._fitted()
        scores = da.asarray(scores)
        if self.whiten:
            scores = scores * self._scale()
        data = da.tensordot(scores, graph.components(model), axes=([scores.ndim - 1], [0]))
        data = data + graph.moment(model, "mean")
        roles, outer = self._roles, scores.ndim - 1
        if roles is None or data.ndim != len(roles.labels):
            return data
        return da.moveaxis(data, range(outer, data.ndim), roles.features)

    def get_covariance(self) -> da.Array:
        """Give the covariance of the model, (n_features, n_features): meant for few features.

        ``V' diag(explained - noise) V + noise I`` (Tipping and Bishop, JRSS B 61, 1999).
        """
        vectors, noise = self.components_, self.noise_variance_
        excess = da.maximum(self.explained_variance_ - noise, 0.0)
        return (vectors.T * excess) @ vectors + noise * da.eye(self.n_features_in_)

    def get_precision(self) -> da.Array:
        """Give the inverse of `get_covariance`."""
        return da.linalg.inv(self.get_covariance().rechunk(-1))

    def _located(self, x: Any) -> tuple[da.Array, tuple[int, ...]]:
        """Find the feature axes of data to be transformed."""
        array = x.data if hasattr(x, "dims") and hasattr(x, "data") else x
        array = array if isinstance(array, da.Array) else da.from_array(np.asarray(array))
        shape, roles = self._fitted().feature_shape, self._roles
        features = tuple(range(array.ndim - len(shape), array.ndim))
        if roles is not None and array.ndim == len(roles.labels):
            features = roles.features
        if array.ndim < len(shape) or tuple(array.shape[axis] for axis in features) != shape:
            raise AnalysisError(f"expected features of shape {shape}, got data {array.shape}")
        return array, features

    def _scale(self) -> da.Array:
        return da.maximum(da.sqrt(self.explained_variance_), np.finfo(float).eps)

    # -- saving -----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Give what a later run needs to go on: lazy arrays by name, and two counters.

        The arrays of features keep their axes. Compute the dictionary with ``dask.compute`` and
        write it in any way; `from_state` takes arrays of NumPy or of Dask.
        """
        model = self._fitted()
        arrays = {
            "components": graph.components(model),
            "mean": graph.moment(model, "mean"),
            "var": graph.moment(model, "var"),
        }
        vectors = [name for name in graph.STATE_ARRAYS if name not in arrays]
        arrays |= {name: graph.shared(model, name) for name in vectors}
        seen = graph.counted(model) if model.at_most else model.seen
        return arrays | {"n_samples_seen": seen, "n_batches_seen": model.batches}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], **parameters: Any) -> InSituIncrementalPCA:
        """Make an estimator that goes on from a saved `state` at its next `partial_fit`.

        Parameters
        ----------
        state : mapping
            What `state` gave, computed or not.
        **parameters
            As for the class; the number of components is that of the state.
        """
        names = {*graph.STATE_ARRAYS, "n_samples_seen", "n_batches_seen"}
        if missing := names - set(state):
            raise AnalysisError(f"the state of an incremental PCA lacks {sorted(missing)}")
        self = cls(**{"n_components": int(np.shape(state["components"])[0])} | parameters)
        self._restored = dict(state)
        return self


def _flat(array: da.Array, feature_axes: int) -> da.Array:
    """Bring the feature axes, which are the last ones, to one."""
    if feature_axes == 1:
        return array
    outer = array.shape[: array.ndim - feature_axes]
    return array.reshape(*outer, -1)


def _entropy(random_state: Any) -> int:
    """Draw the number that all sketches of a fit come from."""
    if random_state is None:
        return int(np.random.SeedSequence().entropy)
    if hasattr(random_state, "integers"):
        return int(random_state.integers(2**63))
    if hasattr(random_state, "randint"):
        return int(random_state.randint(2**31))
    return int(random_state)
