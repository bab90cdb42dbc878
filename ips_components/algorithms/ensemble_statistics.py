"""Statistics over the members of an ensemble, per cell and step, in one pass.

Each member is read once and not stored: what is kept for a chunk of cells and steps has a fixed
size, whatever the number of members.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from ips_components.algorithms._fold import located
from ips_components.algorithms._graph import Chain, Task, TaskRef, lazy_array, refs
from ips_components.errors import AnalysisError

__all__ = ["EnsembleStatistics", "SobolIndices", "ensemble_statistics", "sobol_indices"]


@dataclass(frozen=True, slots=True)
class _Moments:
    """Of the members so far; all but `count` per cell."""

    count: int
    mean: np.ndarray
    squares: np.ndarray
    low: np.ndarray
    high: np.ndarray
    quantiles: np.ndarray  # (probabilities, ...)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Means and co-moments of two outputs over the members so far."""

    mean: tuple[np.ndarray, np.ndarray]
    squares: tuple[np.ndarray, np.ndarray]
    product: np.ndarray


@dataclass(frozen=True, slots=True)
class _Sobol:
    """What Martinez' estimators need of the rows so far."""

    count: int
    first: tuple[_Pair, ...]  # of B and each A_B^i
    total: tuple[_Pair, ...]  # of A and each A_B^i


@dataclass(frozen=True, slots=True)
class _Saltelli:
    """What Saltelli's and Jansen's estimators need; outputs are less A of the first row."""

    count: int
    origin: np.ndarray
    mean: np.ndarray  # of all outputs
    pooled: np.ndarray  # mean of A and B
    squares: np.ndarray  # sum of squared deviations of A and B from it
    change: np.ndarray  # (parameters, ...): mean of A_B^i - A
    product: np.ndarray  # (parameters, ...): mean of B (A_B^i - A)
    jansen: np.ndarray  # (parameters, ...): mean of (A - A_B^i)^2


class _PerCell:
    """Lazy arrays that are read from the last state of each chunk."""

    def __init__(
        self, chain: Chain, token: str, last: Mapping[tuple[int, ...], Hashable], chunks: Any
    ) -> None:
        self._chain, self._token, self._last, self._chunks = chain, token, last, chunks

    def _array(self, name: str, read: Any, *arguments: Any, leading: int | None = None) -> da.Array:
        name = f"ensemble-{name}-{tokenize(self._token, name, arguments)}"
        first = () if leading is None else (0,)
        tasks = {}
        for index, key in self._last.items():
            at = (name, *first, *index)
            tasks[at] = Task(at, read, TaskRef(key), *arguments)
        chunks = (*(() if leading is None else ((leading,),)), *self._chunks)
        return lazy_array(name, tasks, chunks, self._chain)


class EnsembleStatistics(_PerCell):
    """Lazy statistics over members; all are dask arrays of the shape of a member.

    Attributes
    ----------
    mean, variance, std, minimum, maximum : dask.array.Array
        The variance is that of a sample, divided by the members less one.
    quantiles : dask.array.Array
        Shape (len(q), ...); see the notes of `ensemble_statistics`.
    used : dask.array.Array
        Members that are in the statistics of each cell's chunk: those without any NaN there.
    """

    def __init__(self, n_quantiles: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._n_quantiles = n_quantiles

    @property
    def mean(self) -> da.Array:
        return self._array("mean", _statistic, "mean")

    @property
    def variance(self) -> da.Array:
        return self._array("variance", _statistic, "variance")

    @property
    def std(self) -> da.Array:
        return da.sqrt(self.variance)

    @property
    def minimum(self) -> da.Array:
        return self._array("minimum", _statistic, "low")

    @property
    def maximum(self) -> da.Array:
        return self._array("maximum", _statistic, "high")

    @property
    def quantiles(self) -> da.Array:
        return self._array("quantiles", _statistic, "quantiles", leading=self._n_quantiles)

    @property
    def used(self) -> da.Array:
        return self._array("used", _statistic, "used")


class SobolIndices(_PerCell):
    """Lazy Sobol' indices; dask arrays of shape (parameters, ...member).

    Attributes
    ----------
    first : dask.array.Array
        Share of the variance that each parameter causes by itself.
    total : dask.array.Array
        Share that it causes by itself and together with others.
    used : dask.array.Array
        Rows of the design that are in the indices of each cell's chunk: those without any NaN in
        any of their members there.
    """

    def __init__(self, n_parameters: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._n_parameters = n_parameters

    @property
    def first(self) -> da.Array:
        return self._array("sobol-first", _index, "first", leading=self._n_parameters)

    @property
    def total(self) -> da.Array:
        return self._array("sobol-total", _index, "total", leading=self._n_parameters)

    @property
    def used(self) -> da.Array:
        return self._array("sobol-used", _index, "used")


def ensemble_statistics(
    members: Any, q: Sequence[float] = (), *, gamma: float = 1.0, axis: int | str = 0
) -> EnsembleStatistics:
    """Reduce the members of an ensemble one after the other.

    Parameters
    ----------
    members : sequence of dask.array.Array or xarray.DataArray, or one array with an axis of members
        Of equal shapes; a member that has NaN in a chunk, or all of it, is left out there.
    q : sequence of float
        Probabilities of quantiles.
    gamma : float
        Exponent of the steps of the Robbins-Monro iteration, over 0.5 to 1.
    axis : int or str
        Axis of members, where `members` is one array.

    Returns
    -------
    EnsembleStatistics

    Raises
    ------
    AnalysisError
        If there are fewer than two members, or shapes, `q` or `gamma` do not fit.

    Notes
    -----
    Mean and variance by Welford. A quantile moves with each member by ``C n^-gamma (q - [y <= x])``
    (Robbins and Monro 1951; Ribes, Terraz, Fournier, Iooss, Raffin, Large scale in transit
    computation of quantiles for ensemble runs, arXiv:1905.04180), where ``C`` is the range of the
    members so far: an estimate, better the more members there are.

    Examples
    --------
    >>> import dask.array as da
    >>> statistics = ensemble_statistics([da.full(3, value) for value in (1.0, 2.0, 6.0)])
    >>> statistics.mean.compute().tolist(), statistics.variance.compute().tolist()
    ([3.0, 3.0, 3.0], [7.0, 7.0, 7.0])
    """
    arrays = _members(members, axis)
    probabilities = np.asarray(q, dtype=np.float64)
    if probabilities.ndim != 1 or not ((probabilities > 0) & (probabilities < 1)).all():
        raise AnalysisError(f"q must be probabilities between 0 and 1, got {q}")
    if not 0.5 < gamma <= 1:
        raise AnalysisError(f"gamma must be > 0.5 and <= 1, got {gamma}")
    parts = _chained("statistics", [[each] for each in arrays], _add, probabilities, float(gamma))
    return EnsembleStatistics(len(probabilities), *parts)


def sobol_indices(rows: Sequence[Sequence[Any]], *, estimator: str = "martinez") -> SobolIndices:
    """Estimate Sobol' indices of first order and total, row by row of a pick-freeze design.

    Parameters
    ----------
    rows : sequence of sequences of arrays
        For each pair of parameter sets ``A`` and ``B``, drawn independently: the outputs of the
        ``p + 2`` members ``A, B, A_B^1, ..., A_B^p``, where ``A_B^i`` has parameter `i` of ``B``
        and all others of ``A`` (Saltelli's design). A row with NaN, which is what a member that
        failed leaves, is left out where it has it.
    estimator : {"martinez", "saltelli"}
        See the notes. The second is what SALib's ``analyze.sobol`` computes.

    Returns
    -------
    SobolIndices

    Raises
    ------
    AnalysisError
        If there are fewer than two rows, rows or shapes differ, or there is no such estimator.

    Notes
    -----
    Martinez' estimators, the default: the first order is the correlation of ``B`` and ``A_B^i``,
    the total is one less that of ``A`` and ``A_B^i``, both from iterative co-moments (Baudin,
    Boumhaout, Delage, Iooss, Martinez, Numerical stability of Sobol' indices estimation formula,
    2016; Terraz, Ribes, Fournier, Iooss, Raffin, Melissa: large scale in transit sensitivity
    analysis, SC'17). NaN where the output does not vary.

    ``"saltelli"``: the first order is the mean of ``B (A_B^i - A)``, of outputs less their mean,
    the total half the mean of ``(A - A_B^i)^2``, both over the variance of ``A`` and ``B`` pooled
    (Saltelli et al., Variance based sensitivity analysis of model output, 2010, table 2 (b), (f)).
    """
    if estimator not in _ADD:
        raise AnalysisError(f"estimator must be one of {sorted(_ADD)}, got {estimator!r}")
    sizes = {len(row) for row in rows}
    if len(rows) < 2 or len(sizes) != 1 or min(sizes) < 3:
        raise AnalysisError(
            "Sobol' indices need two rows at least, each of the members A, B and one A_B for "
            f"every parameter; got {len(rows)} rows of {sorted(sizes)} members"
        )
    groups = [_members(row, 0) for row in rows]
    _agree([array for group in groups for array in group])
    parts = _chained(f"sobol-{estimator}", groups, _ADD[estimator])
    return SobolIndices(sizes.pop() - 2, *parts)


def _members(members: Any, axis: int | str) -> list[da.Array]:
    if isinstance(members, Sequence):
        arrays = [located(each, None)[0] for each in members]
    else:
        array, (at,) = located(members, [axis])
        arrays = [array[(*(slice(None),) * at, i)] for i in range(array.shape[at])]
    if len(arrays) < 2:
        raise AnalysisError(f"statistics of an ensemble need two members, got {len(arrays)}")
    _agree(arrays)
    return arrays


def _agree(arrays: Sequence[da.Array]) -> None:
    for i, array in enumerate(arrays):
        if array.chunks != arrays[0].chunks:
            raise AnalysisError(
                f"member {i} has shape {array.shape} in chunks {array.chunks}, member 0 "
                f"{arrays[0].shape} in {arrays[0].chunks}; all must agree"
            )


def _chained(name: str, groups: Sequence[Sequence[da.Array]], add: Any, *arguments: Any) -> Any:
    """Fold groups of members, for each chunk one chain over the groups."""
    arrays = [array for group in groups for array in group]
    token = tokenize(name, [array.name for array in arrays], arguments)
    tasks: dict[Hashable, Task] = {}
    last: dict[tuple[int, ...], Hashable] = {}
    for index in itertools.product(*(range(count) for count in arrays[0].numblocks)):
        key: Hashable = None
        for i, group in enumerate(groups):
            before = None if key is None else TaskRef(key)
            key = (f"ensemble-{name}-{token}", i, *index)
            blocks = refs((array.name, *index) for array in group)
            tasks[key] = Task(key, add, before, blocks, *arguments)
        last[index] = key
    chain = Chain.build(f"ensemble-{name}-{token}", tasks, *arrays)
    return chain, token, last, arrays[0].chunks


def _has_nan(blocks: Sequence[np.ndarray]) -> bool:
    return any(bool(np.isnan(block).any()) for block in blocks)


def _add(state: _Moments | None, blocks: list[np.ndarray], q: np.ndarray, gamma: float) -> _Moments:
    """Add a member to the statistics of a chunk."""
    value = np.asarray(blocks[0], dtype=np.float64)
    if state is None:
        unknown = np.full(value.shape, np.nan)
        each = np.full((len(q), *value.shape), np.nan)
        state = _Moments(0, unknown, np.zeros(value.shape), unknown, unknown, each)
    if _has_nan(blocks):
        return state
    if state.count == 0:
        each = np.repeat(value[None], len(q), axis=0)
        return _Moments(1, value, np.zeros(value.shape), value, value, each)
    n = state.count + 1
    delta = value - state.mean
    mean = state.mean + delta / n
    low, high = np.minimum(state.low, value), np.maximum(state.high, value)
    wanted = q.reshape(-1, *(1,) * value.ndim)
    step = (high - low) * (wanted - (value <= state.quantiles)) / n**gamma
    return _Moments(
        n, mean, state.squares + delta * (value - mean), low, high, state.quantiles + step
    )


def _add_row(state: _Sobol | None, blocks: list[np.ndarray]) -> _Sobol:
    """Add a row of the design to the co-moments of a chunk."""
    a, b, *mixed = (np.asarray(block, dtype=np.float64) for block in blocks)
    if state is None:
        zero = np.zeros(a.shape)
        pairs = (_Pair((zero, zero), (zero, zero), zero),) * len(mixed)
        state = _Sobol(0, pairs, pairs)
    if _has_nan(blocks):
        return state
    n = state.count + 1
    first = tuple(_paired(pair, b, each, n) for pair, each in zip(state.first, mixed, strict=True))
    total = tuple(_paired(pair, a, each, n) for pair, each in zip(state.total, mixed, strict=True))
    return replace(state, count=n, first=first, total=total)


def _add_row_saltelli(state: _Saltelli | None, blocks: list[np.ndarray]) -> _Saltelli:
    """Add a row of the design to the sums of a chunk, as running means."""
    outputs = np.stack([np.asarray(block, dtype=np.float64) for block in blocks])
    if state is None:
        zero, each = np.zeros(outputs.shape[1:]), np.zeros((len(blocks) - 2, *outputs.shape[1:]))
        state = _Saltelli(0, outputs[0], zero, zero, zero, each, each, each)
    if _has_nan(blocks):
        return state
    n = state.count + 1
    origin = outputs[0] if state.count == 0 else state.origin
    outputs = outputs - origin
    a, b, mixed = outputs[0], outputs[1], outputs[2:]
    pooled = state.pooled + (0.5 * (a + b) - state.pooled) / n
    # Welford's update holds for a batch as well: each value less the mean before, and after.
    squares = state.squares + sum((x - state.pooled) * (x - pooled) for x in (a, b))
    return _Saltelli(
        n,
        origin,
        state.mean + (outputs.mean(axis=0) - state.mean) / n,
        pooled,
        squares,
        state.change + (mixed - a - state.change) / n,
        state.product + (b * (mixed - a) - state.product) / n,
        state.jansen + ((a - mixed) ** 2 - state.jansen) / n,
    )


_ADD = {"martinez": _add_row, "saltelli": _add_row_saltelli}


def _paired(pair: _Pair, x: np.ndarray, y: np.ndarray, n: int) -> _Pair:
    """Add a pair of outputs to means, sums of squares, and the sum of products (Pebay 2008)."""
    dx, dy = x - pair.mean[0], y - pair.mean[1]
    mean = pair.mean[0] + dx / n, pair.mean[1] + dy / n
    squares = pair.squares[0] + dx * (x - mean[0]), pair.squares[1] + dy * (y - mean[1])
    return _Pair(mean, squares, pair.product + dx * (y - mean[1]))


def _statistic(state: _Moments, field: str) -> np.ndarray:
    if field == "used":
        return np.full(state.mean.shape, float(state.count))
    if field == "variance":
        return state.squares / (state.count - 1) if state.count > 1 else state.mean * np.nan
    return np.asarray(getattr(state, field), dtype=np.float64)


def _index(state: _Sobol | _Saltelli, field: str) -> np.ndarray:
    if isinstance(state, _Saltelli):
        return _saltelli_index(state, field)
    if field == "used":
        return np.full(state.first[0].product.shape, float(state.count))
    pairs = state.first if field == "first" else state.total
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [p.product / np.sqrt(p.squares[0] * p.squares[1]) for p in pairs]
    return np.stack(found) if field == "first" else 1.0 - np.stack(found)


def _saltelli_index(state: _Saltelli, field: str) -> np.ndarray:
    if field == "used":
        return np.full(state.mean.shape, float(state.count))
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = state.squares / (2 * state.count)
        if field == "first":
            return (state.product - state.mean * state.change) / variance
        return 0.5 * state.jansen / variance
