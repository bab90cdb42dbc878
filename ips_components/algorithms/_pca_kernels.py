"""What the tasks of the incremental principal component analysis do, in NumPy.

The update of Ross, Lim, Lin and Yang (Incremental learning for robust visual tracking, IJCV 77,
2008) finds the singular values and right vectors of ::

    A = [ diag(S) V ; X - mean(X) ; sqrt(n m / (n + m)) (mean - mean(X)) ]

where ``S, V, mean`` come from the `n` samples seen so far and ``X`` holds `m` new samples. The
features are the long dimension. Where they are split into chunks, each chunk ``A_j`` is reduced by
its own QR factorisation, ``A_j' = Q_j R_j`` (direct tall-skinny QR: Demmel, Grigori, Hoemmen and
Langou, SIAM J. Sci. Comput. 34, 2012), and only the small ``R_j`` meet in one task. With
``[R_1; R_2; ...] = U S W'`` the new vectors are ``V_j = (Q_j U_j)'``, which the next task of the
same chunk forms for itself: vectors never leave their worker. Nothing squares the condition number
but the solver ``gram``, which sends ``A_j A_j'`` instead of ``R_j``.

Signs of singular vectors cancel out in the update, so they are fixed only in results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ips_components.algorithms._batches import as_matrix
from ips_components.errors import AnalysisError

__all__ = [
    "Factor",
    "Portion",
    "Rows",
    "Solver",
    "Spectrum",
    "State",
    "advance",
    "advance_block",
    "factor_of",
    "factorise",
    "field_of",
    "merge",
    "moment_of",
    "peaks_of",
    "restore_portion",
    "restore_spectrum",
    "restore_state",
    "rows_of",
    "signed_components",
    "summarise",
]


@dataclass(frozen=True, slots=True)
class Solver:
    """How the singular value decomposition of each batch is done."""

    method: str
    iterated_power: int | str = "auto"
    oversamples: int = 10
    entropy: int = 0

    def decompose(
        self, a: np.ndarray, k: int, batch: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give left vectors, singular values and right vectors of `a`, at least `k` of them."""
        if self.method == "randomized":
            rng = np.random.default_rng([self.entropy, batch])
            return _sketched_svd(a, k, self.oversamples, self.iterated_power, rng)
        return np.linalg.svd(a, full_matrices=False)


# Tuples and not dataclasses: Dask measures the size of tuples, and schedules by it.
class Portion(NamedTuple):
    """What one feature chunk of `f` features carries from batch to batch.

    Its part of the vectors is ``(basis @ rotation)'`` with the rotation of the `Spectrum` that
    belongs to the same batch; a basis of None stands for the identity.
    """

    basis: np.ndarray | None
    factor: np.ndarray | None
    mean: np.ndarray
    scatter: np.ndarray
    count: int
    """Samples that it is of."""


class Factor(NamedTuple):
    """What travels of a `Portion`: its small factor and its share of the total variance."""

    factor: np.ndarray
    scatter: float


class Spectrum(NamedTuple):
    """What all feature chunks share after a batch; vectors have `k` entries."""

    rotation: tuple[np.ndarray, ...]
    singular_values: np.ndarray
    explained_variance: np.ndarray
    explained_variance_ratio: np.ndarray
    noise_variance: float


class State(NamedTuple):
    """The whole state where features lie in a single chunk, after some batches of one block."""

    portion: Portion
    spectrum: Spectrum
    passed: tuple[Spectrum, ...]
    """The spectrum after each of these batches, the last one included."""


class Rows(NamedTuple):
    """Some samples of a batch over all features, reduced to their mean and a factor."""

    samples: int
    mean: np.ndarray
    scatter: np.ndarray
    factor: np.ndarray


def summarise(
    block: np.ndarray,
    takes: Sequence[tuple[Any, ...]],
    order: tuple[int, ...],
    samples: int,
    batch: int,
    reduce: bool,
) -> tuple[Rows, ...]:
    """Centre the samples of a part, batch by batch from number `batch` on.

    With `reduce`, more samples than features are replaced by their triangular factor.
    """
    found = []
    for number, take in enumerate(takes, batch):
        x = as_matrix(block, take, order, samples)
        centred = np.empty(x.shape)
        mean, scatter = _centre(x, centred, number)
        if reduce and samples > centred.shape[1]:
            centred = np.linalg.qr(centred, mode="r")
        found.append(Rows(samples, mean, scatter, centred))
    return tuple(found)


def factorise(
    block: np.ndarray,
    take: tuple[Any, ...],
    order: tuple[int, ...],
    samples: int,
    batch: int,
    seen: int,
    chunk: int,
    gram: bool,
    previous: Portion | None,
    spectrum: Spectrum | None,
) -> Portion:
    """Update the mean and variance of one feature chunk and factorise its part of ``A``."""
    x = as_matrix(block, take, order, samples)
    kept = 0 if spectrum is None else len(spectrum.singular_values)
    a = np.empty((samples + (kept + 1 if seen else 0), x.shape[1]))
    mean, scatter = _centre(x, a[kept : kept + samples], batch)
    if seen:
        a[:kept] = components_of(previous, spectrum, chunk)
        a[:kept] *= spectrum.singular_values[:, np.newaxis]
        a[-1] = np.sqrt(seen * samples / (seen + samples)) * (previous.mean - mean)
        scatter += previous.scatter + a[-1] ** 2
        mean = previous.mean + (mean - previous.mean) * (samples / (seen + samples))
    if gram:
        return Portion(a.T, a @ a.T, mean, scatter, seen + samples)
    if a.shape[1] <= a.shape[0]:
        return Portion(None, a.T, mean, scatter, seen + samples)
    basis, factor = np.linalg.qr(a.T)
    return Portion(basis, factor, mean, scatter, seen + samples)


def factor_of(portion: Portion) -> Factor:
    """Give the part of a portion that other workers need."""
    return Factor(portion.factor, float(portion.scatter.sum()))


def merge(
    first: Portion,
    others: Sequence[Factor],
    k: int,
    samples: int,
    seen: int,
    features: int,
    batch: int,
    solver: Solver,
) -> Spectrum:
    """Decompose the factors of all feature chunks; `first` is taken whole, since it is at hand."""
    factors = [factor_of(first), *others]
    scatter = sum(item.scatter for item in factors)
    if solver.method == "gram":
        weights, s, tail = _from_gram(sum(item.factor for item in factors), k)
        rotation = (weights,) * len(factors)
    else:
        stacked = np.vstack([item.factor for item in factors])
        u, s, _ = solver.decompose(stacked, k, batch)
        tail = _tail(stacked, s, k)
        edges = np.cumsum([len(item.factor) for item in factors])[:-1]
        rotation = tuple(np.ascontiguousarray(part) for part in np.split(u[:, :k], edges))
    return _spectrum(rotation, s[:k], tail, scatter, samples, seen, features)


def advance(
    parts: Sequence[Sequence[Rows]],
    k: int,
    seen: int,
    batch: int,
    solver: Solver,
    previous: State | None,
) -> State:
    """Do the whole updates of some batches, for features that lie in a single chunk.

    Parameters
    ----------
    parts
        For each part of the samples, its rows batch by batch.
    k, solver
        Number of components, and how they are found.
    seen, batch
        Samples before the first of these batches, and the number of that batch.
    previous
        The state before it; None at the beginning.

    Returns
    -------
    State
    """
    passed = []
    for number, rows in enumerate(zip(*parts, strict=True), batch):
        portion, spectrum = _advance(rows, k, seen, number, solver, previous)
        seen = portion.count
        passed.append(spectrum)
        previous = State(portion, spectrum, tuple(passed))
    return previous


def _advance(
    parts: Sequence[Rows],
    k: int,
    seen: int,
    batch: int,
    solver: Solver,
    previous: State | None,
) -> tuple[Portion, Spectrum]:
    """Do the whole update of one batch."""
    samples = sum(part.samples for part in parts)
    features = len(parts[0].mean)
    weights = np.array([part.samples for part in parts])
    means = np.stack([part.mean for part in parts])
    scatter = sum(part.scatter for part in parts)
    rows = [part.factor for part in parts]
    if previous is not None:
        portion, spectrum = previous.portion, previous.spectrum
        old = components_of(portion, spectrum, 0) * spectrum.singular_values[:, np.newaxis]
        rows.insert(0, old)
        weights = np.append(weights, seen)
        means = np.vstack([means, portion.mean])
        scatter = scatter + portion.scatter
    # Each group of samples was centred by its own mean; these rows put the difference back.
    mean = weights @ means / (seen + samples)
    if len(weights) == 2:
        shift = np.sqrt(weights.prod() / weights.sum()) * (means[1] - means[0])
        corrections = shift[np.newaxis]
    else:
        corrections = np.sqrt(weights)[:, np.newaxis] * (means - mean)
    if len(weights) > 1:
        rows.append(corrections)
        scatter = scatter + np.einsum("ij,ij->j", corrections, corrections)
    a = np.vstack(rows)
    if solver.method == "gram":
        weights, s, tail = _from_gram(a @ a.T, k)
        basis = a.T @ weights
    else:
        _, s, vt = solver.decompose(a, k, batch)
        tail = _tail(a, s, k)
        basis = np.ascontiguousarray(vt[:k].T)
    rotation = (np.eye(k),)
    spectrum = _spectrum(rotation, s[:k], tail, float(scatter.sum()), samples, seen, features)
    return Portion(basis, None, mean, scatter, seen + samples), spectrum


def advance_block(
    block: np.ndarray,
    takes: Sequence[tuple[Any, ...]],
    order: tuple[int, ...],
    samples: int,
    k: int,
    seen: int,
    batch: int,
    solver: Solver,
    previous: State | None,
) -> State:
    """Do the whole updates of batches that lie in one block."""
    rows = summarise(block, takes, order, samples, batch, False)
    return advance([rows], k, seen, batch, solver, previous)


def components_of(portion: Portion, spectrum: Spectrum, chunk: int) -> np.ndarray:
    """Give the part of the vectors that belongs to a feature chunk, shape (k, f), unsigned."""
    rotation = spectrum.rotation[chunk]
    return (rotation if portion.basis is None else portion.basis @ rotation).T


def peaks_of(portion: Portion, spectrum: Spectrum, chunk: int) -> np.ndarray:
    """Give, for each vector, the entry of largest magnitude within a feature chunk."""
    vectors = components_of(portion, spectrum, chunk)
    return np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, np.newaxis], axis=1)[:, 0]


def signed_components(
    portion: Portion,
    spectrum: Spectrum,
    chunk: int,
    peaks: Sequence[np.ndarray],
    shape: tuple[int, ...],
) -> np.ndarray:
    """Give the vectors of a feature chunk; the largest entry of each over all is positive."""
    candidates = np.stack(peaks)
    largest = np.abs(candidates).argmax(axis=0)[np.newaxis]
    signs = np.sign(np.take_along_axis(candidates, largest, axis=0)[0])
    vectors = components_of(portion, spectrum, chunk) * signs[:, np.newaxis]
    return vectors.reshape(len(vectors), *shape)


def count_of(portion: Portion) -> np.ndarray:
    """Give the number of samples."""
    return np.asarray(portion.count)


def moment_of(portion: Portion, field: str, shape: tuple[int, ...]) -> np.ndarray:
    """Give the mean or the population variance of a feature chunk."""
    values = portion.mean if field == "mean" else portion.scatter / portion.count
    return values.reshape(shape)


def field_of(state: Spectrum | State, field: str) -> np.ndarray:
    """Give one field of the shared part of a state."""
    spectrum = state if isinstance(state, Spectrum) else state.spectrum
    return np.asarray(getattr(spectrum, field))


def rows_of(state: Spectrum | State, field: str) -> np.ndarray:
    """Give one field of the shared part after each batch of a task, shape (batches, ...)."""
    spectra = (state,) if isinstance(state, Spectrum) else state.passed
    return np.stack([getattr(spectrum, field) for spectrum in spectra])


def restore_portion(
    components: np.ndarray, mean: np.ndarray, var: np.ndarray, seen: int
) -> Portion:
    """Make the portion of a feature chunk from saved results."""
    basis = components.reshape(len(components), -1).T
    return Portion(basis, None, mean.reshape(-1), var.reshape(-1) * seen, seen)


def restore_spectrum(
    singular_values: np.ndarray,
    explained_variance: np.ndarray,
    ratio: np.ndarray,
    noise: np.ndarray,
    chunks: int,
) -> Spectrum:
    """Make the shared part of the state from saved results."""
    rotation = (np.eye(len(singular_values)),) * chunks
    return Spectrum(rotation, singular_values, explained_variance, ratio, float(noise))


def restore_state(portion: Portion, spectrum: Spectrum) -> State:
    """Make the state of features that lie in a single chunk from its restored parts."""
    return State(portion, spectrum, ())


def _centre(x: np.ndarray, out: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Write `x` less its mean to `out`; give the mean and the corrected two-pass scatter."""
    mean = x.mean(axis=0, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        np.subtract(x, mean, out=out)
        scatter = np.einsum("ij,ij->j", out, out) - out.sum(axis=0) ** 2 / len(out)
    if not np.isfinite(scatter).all():
        raise AnalysisError(
            f"batch {batch} of the incremental PCA holds NaN, infinite or overflowing values; "
            "replace them before the fit, for instance with dask.array.nan_to_num"
        )
    return mean, scatter


def _spectrum(
    rotation: tuple[np.ndarray, ...],
    s: np.ndarray,
    tail: float,
    scatter: float,
    samples: int,
    seen: int,
    features: int,
) -> Spectrum:
    """Turn singular values into variances, with the conventions of scikit-learn."""
    k, n = len(s), seen + samples
    directions = min(samples + (k + 1 if seen else 0), features)
    variance = s**2 / (n - 1) if n > 1 else np.full(k, np.nan)
    ratio = s**2 / scatter if scatter > 0 else np.full(k, np.nan)
    noise = 0.0
    if k not in (samples, features) and directions > k:
        noise = tail / (n - 1) / (directions - k)
    return Spectrum(rotation, s, variance, ratio, noise)


def _tail(a: np.ndarray, s: np.ndarray, k: int) -> float:
    """Give the sum of the squared singular values of `a` beyond the first `k`."""
    if len(s) == min(a.shape):
        return float(s[k:] @ s[k:])
    return max(float(np.einsum("ij,ij->", a, a) - s[:k] @ s[:k]), 0.0)


def _from_gram(gram: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Decompose ``A A'``; give the weights `w` with ``V = w' A``, the values and the tail."""
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    s = np.sqrt(values[:k])
    # Below the rounding error of a Gram matrix a direction is noise and gets no vector.
    sure = s > s[0] * np.sqrt(np.finfo(float).eps)
    scale = np.divide(1.0, s, out=np.zeros(len(s)), where=sure)
    return vectors[:, :k] * scale, s, float(values[k:].sum())


def _sketched_svd(
    a: np.ndarray,
    k: int,
    oversamples: int,
    iterated_power: int | str,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Randomised SVD with normalised power iterations (Halko, Martinsson and Tropp, SIAM Rev. 53,
    2011, algorithms 4.4 and 5.1); exact where the sketch is as wide as the matrix.
    """
    width = min(k + oversamples, *a.shape)
    if width == min(a.shape):
        return np.linalg.svd(a, full_matrices=False)
    if a.shape[0] < a.shape[1]:
        u, s, vt = _sketched_svd(a.T, k, oversamples, iterated_power, rng)
        return vt.T, s, u.T
    if iterated_power == "auto":
        iterated_power = 7 if k < 0.1 * min(a.shape) else 4
    q, _ = np.linalg.qr(a @ rng.standard_normal((a.shape[1], width)))
    for _ in range(iterated_power):
        z, _ = np.linalg.qr(a.T @ q)
        q, _ = np.linalg.qr(a @ z)
    u, s, vt = np.linalg.svd(q.T @ a, full_matrices=False)
    return q @ u, s, vt
