"""Proper orthogonal decomposition and dynamic mode decomposition of a field, step by step.

The field is taken as a matrix of snapshots, one column for each step. Its singular value
decomposition ``U S V'`` is carried from chunk to chunk of time with a fixed number of modes: the
chunk is free after its update, and only the time coefficients ``V`` grow, by one small row for each
step. Both decompositions are read off the final state.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize

from ips_components.algorithms._fold import located
from ips_components.algorithms._graph import Chain, Task, TaskRef, lazy_array, refs
from ips_components.errors import AnalysisError

__all__ = ["DynamicModes", "ProperModes", "proper_modes"]


class _Spectrum(NamedTuple):
    """What all chunks of space share: ``S``, ``V``, and how each chunk's basis turns into ``U``."""

    values: np.ndarray  # (k,)
    time: np.ndarray  # (steps so far, k)
    turns: tuple[np.ndarray, ...]  # for each chunk of space, from its factor's columns to modes


class _Whole(NamedTuple):
    """The state of a field whose space is one chunk."""

    modes: np.ndarray  # (features, k)
    spectrum: _Spectrum


class _Reduced(NamedTuple):
    """A dynamic mode decomposition in the coordinates of the proper modes."""

    eigenvalues: np.ndarray  # (r,), complex
    modes: np.ndarray  # (k, r), complex
    amplitudes: np.ndarray  # (r,), complex


@dataclass(frozen=True, slots=True)
class _State:
    """Keys of the final tasks, and what is known of the field without computing."""

    chain: Chain
    token: str
    n_modes: int
    n_steps: int
    space: tuple[tuple[int, ...], ...]  # chunks of the axes of space
    spectrum: Hashable
    modes: tuple[Hashable, ...]  # for each chunk of space in C order


class ProperModes:
    """Lazy proper orthogonal modes of a field; all results are dask arrays.

    Attributes
    ----------
    modes : dask.array.Array
        Orthonormal modes of shape (n_modes, ...space), by falling singular value.
    singular_values : dask.array.Array
        Shape (n_modes,).
    coefficients : dask.array.Array
        Time coefficients of shape (steps, n_modes): the field is ``coefficients @ modes`` within
        what the modes span. The entry of largest magnitude of each column is positive.
    energy : dask.array.Array
        Share of each mode in the sum of the squared singular values that are kept, (n_modes,).
    """

    def __init__(self, state: _State) -> None:
        self._state = state

    @property
    def modes(self) -> da.Array:
        return self._in_space("modes-proper", _signed, self._state.n_modes, self._state.spectrum)

    @property
    def singular_values(self) -> da.Array:
        return self._shared("modes-values", _values, (self._state.n_modes,))

    @property
    def coefficients(self) -> da.Array:
        shape = (self._state.n_steps, self._state.n_modes)
        return self._shared("modes-coefficients", _coefficients, shape)

    @property
    def energy(self) -> da.Array:
        square = self.singular_values**2
        return square / square.sum()

    def dynamic(self, rank: int | None = None, dt: float = 1.0) -> DynamicModes:
        """Return the dynamic mode decomposition of the same snapshots.

        Parameters
        ----------
        rank : int, optional
            Number of dynamic modes; by default as many as there are proper modes.
        dt : float
            Time between two snapshots, for growth rates and frequencies.

        Raises
        ------
        AnalysisError
            If the rank is not in ``1 .. min(n_modes, steps - 1)``, or `dt` is not positive.
        """
        state = self._state
        most = min(state.n_modes, state.n_steps - 1)
        rank = most if rank is None else int(rank)
        if not 1 <= rank <= most:
            raise AnalysisError(
                f"the rank of a dynamic mode decomposition must be 1 .. {most} for "
                f"{state.n_modes} proper modes of {state.n_steps} steps, got {rank}"
            )
        if not dt > 0:
            raise AnalysisError(f"dt must be > 0, got {dt}")
        key = f"modes-dynamic-{tokenize(state.token, rank)}"
        chain = Chain.build(
            key, {key: Task(key, _dynamic, TaskRef(state.spectrum), rank)}, state.chain
        )
        return DynamicModes(self, chain, key, rank, float(dt))

    def _shared(self, name: str, read: Any, shape: tuple[int, ...]) -> da.Array:
        """Make an array in one chunk from the spectrum."""
        state = self._state
        name = f"{name}-{state.token}"
        key = (name, *(0 for _ in shape))
        chunks = tuple((size,) for size in shape)
        task = Task(key, read, TaskRef(state.spectrum))
        return lazy_array(name, {key: task}, chunks, state.chain)

    def _in_space(
        self, name: str, read: Any, count: int, other: Hashable, *parents: Any, dtype: Any = float
    ) -> da.Array:
        """Make an array (count, ...space) from the modes of every chunk and one more value."""
        state = self._state
        name = f"{name}-{tokenize(state.token, name, str(other))}"
        grid = itertools.product(*(range(len(sizes)) for sizes in state.space))
        shapes = itertools.product(*state.space)
        tasks = {}
        for index, shape, modes in zip(grid, shapes, state.modes, strict=True):
            key = (name, 0, *index)
            tasks[key] = Task(key, read, TaskRef(modes), TaskRef(other), shape)
        chunks = ((count,), *state.space)
        return lazy_array(name, tasks, chunks, state.chain, *parents, dtype=dtype)


class DynamicModes:
    """Lazy dynamic modes: a field that evolves as ``sum_i b_i lambda_i**t mode_i``.

    Attributes
    ----------
    eigenvalues : dask.array.Array
        Complex eigenvalues of the linear map from a step to the next, (rank,), by falling
        magnitude of the amplitude.
    amplitudes : dask.array.Array
        Complex amplitudes ``b`` that fit the first step, (rank,).
    modes : dask.array.Array
        Complex modes, (rank, ...space).
    growth_rates, frequencies : dask.array.Array
        ``log|lambda| / dt`` and ``arg(lambda) / (2 pi dt)``, (rank,).
    """

    def __init__(
        self, proper: ProperModes, chain: Chain, key: Hashable, rank: int, dt: float
    ) -> None:
        self._proper, self._chain, self._key = proper, chain, key
        self.rank, self.dt = rank, dt

    @property
    def eigenvalues(self) -> da.Array:
        return self._read("eigenvalues")

    @property
    def amplitudes(self) -> da.Array:
        return self._read("amplitudes")

    @property
    def modes(self) -> da.Array:
        return self._proper._in_space(
            "modes-dynamic-in-space", _lifted, self.rank, self._key, self._chain, dtype=complex
        )

    @property
    def growth_rates(self) -> da.Array:
        return da.log(abs(self.eigenvalues)) / self.dt

    @property
    def frequencies(self) -> da.Array:
        return da.angle(self.eigenvalues) / (2 * np.pi * self.dt)

    def _read(self, field: str) -> da.Array:
        name = f"modes-{field}-{tokenize(self._key)}"
        task = Task((name, 0), getattr, TaskRef(self._key), field)
        return lazy_array(name, {(name, 0): task}, ((self.rank,),), self._chain, dtype=complex)


def proper_modes(x: Any, n_modes: int, axis: int | str = 0) -> ProperModes:
    """Decompose a field into orthogonal modes of space and their coefficients in time.

    Parameters
    ----------
    x : dask.array.Array or xarray.DataArray
        Real field; nothing is subtracted (subtract a mean that is known if fluctuations are meant).
    n_modes : int
        Modes that are kept, 1 to min(steps, cells).
    axis : int or str, optional
        The axis of time, by default the first.

    Returns
    -------
    ProperModes

    Raises
    ------
    AnalysisError
        If the field is not real, has no axis of space, or has fewer steps or cells than modes.

    Notes
    -----
    Update of a truncated singular value decomposition by blocks of columns: Brand, Fast low-rank
    modifications of the thin singular value decomposition, Linear Algebra Appl. 415 (2006) 20-30;
    chunks of space are factored apart and joined by their triangular factors (Demmel, Grigori,
    Hoemmen, Langou, SIAM J. Sci. Comput. 34 (2012) A206-A239). The result equals that of the whole
    matrix to rounding when the field has at most `n_modes` independent modes; otherwise what is
    left out of each update is lost to the later ones. Dynamic modes are those of Tu, Rowley,
    Luchtenburg, Brunton, Kutz, J. Comput. Dyn. 1 (2014) 391-421, in the coordinates of the modes.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> t, y = np.arange(12)[:, None], np.linspace(0, 1, 8)
    >>> field = da.from_array(0.9**t * np.sin(np.pi * y) + 0.5**t * y, chunks=(3, 4))
    >>> dynamic = proper_modes(field, 2).dynamic()
    >>> np.sort(dynamic.eigenvalues.compute().real).round(6).tolist()
    [0.5, 0.9]
    """
    array, (time,) = located(x, [axis])
    n_steps = array.shape[time]
    cells = int(np.prod([size for i, size in enumerate(array.shape) if i != time]))
    if array.ndim < 2 or np.iscomplexobj(array):
        raise AnalysisError(
            f"modes are of a real field over time and space, got {array.dtype} of shape "
            f"{array.shape}"
        )
    if not 1 <= n_modes <= min(n_steps, cells):
        raise AnalysisError(
            f"n_modes must be 1 .. {min(n_steps, cells)} for {n_steps} steps of {cells} cells, "
            f"got {n_modes}"
        )
    space = tuple(chunks for i, chunks in enumerate(array.chunks) if i != time)
    token = tokenize("modes", array.name, int(n_modes), time)
    places = list(itertools.product(*(range(len(sizes)) for sizes in space)))
    tasks: dict[Hashable, Task] = {}
    spectrum: Hashable = None
    modes: tuple[Hashable, ...] = (None,) * len(places)
    for step in range(array.numblocks[time]):
        blocks = [(array.name, *place[:time], step, *place[time:]) for place in places]
        spectrum, modes = _advance(tasks, token, step, blocks, spectrum, modes, n_modes, time)
    if len(places) == 1:
        whole = spectrum
        spectrum, modes = f"modes-spectrum-{token}", (f"modes-basis-{token}",)
        tasks[spectrum] = Task(spectrum, getattr, TaskRef(whole), "spectrum")
        tasks[modes[0]] = Task(modes[0], getattr, TaskRef(whole), "modes")
    chain = Chain.build(f"modes-{token}", tasks, array)
    return ProperModes(_State(chain, token, int(n_modes), n_steps, space, spectrum, modes))


def _advance(
    tasks: dict[Hashable, Task],
    token: str,
    step: int,
    blocks: list[Any],
    spectrum: Hashable,
    modes: tuple[Hashable, ...],
    n_modes: int,
    time: int,
) -> tuple[Hashable, tuple[Hashable, ...]]:
    """Add the tasks of one chunk of time; return the keys of the new spectrum and modes."""

    def ref(key: Hashable) -> Any:
        return None if key is None else TaskRef(key)

    if len(blocks) == 1:
        key = f"modes-whole-{token}-{step}"
        tasks[key] = Task(key, _update_whole, ref(spectrum), TaskRef(blocks[0]), n_modes, time)
        return key, (key,)
    factors = [(f"modes-factor-{token}", step, i) for i in range(len(blocks))]
    corners = [(f"modes-corner-{token}", step, i) for i in range(len(blocks))]
    for i, block in enumerate(blocks):
        tasks[factors[i]] = Task(
            factors[i], _factor, ref(modes[i]), ref(spectrum), TaskRef(block), time
        )
        tasks[corners[i]] = Task(corners[i], _corner, TaskRef(factors[i]))
    new = (f"modes-merge-{token}", step)
    tasks[new] = Task(new, _merge, ref(spectrum), refs(corners), n_modes)
    updated = tuple((f"modes-update-{token}", step, i) for i in range(len(blocks)))
    for i, key in enumerate(updated):
        tasks[key] = Task(key, _turn, TaskRef(factors[i]), TaskRef(new), i)
    return new, updated


def _snapshots(block: np.ndarray, time: int) -> np.ndarray:
    """Return a block as columns of snapshots, (features, steps)."""
    block = np.moveaxis(np.asarray(block, dtype=np.float64), time, 0)
    return block.reshape(block.shape[0], -1).T


def _factor(
    modes: np.ndarray | None, spectrum: _Spectrum | None, block: np.ndarray, time: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors ``Q, R`` of what is known of a chunk of space and its new snapshots."""
    columns = _snapshots(block, time)
    if modes is not None and spectrum is not None:
        columns = np.hstack([modes * spectrum.values, columns])
    orthonormal, corner = np.linalg.qr(columns)
    return orthonormal, corner


def _corner(factor: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return factor[1]


def _merge(spectrum: _Spectrum | None, corners: list[np.ndarray], n_modes: int) -> _Spectrum:
    """Join the triangular factors of all chunks of space, and keep the largest modes."""
    left, values, right = np.linalg.svd(np.vstack(corners), full_matrices=False)
    k = min(n_modes, len(values))
    left, values, right = left[:, :k], values[:k], right[:k].T
    if spectrum is None:
        time = right
    else:
        known = len(spectrum.values)
        time = np.vstack([spectrum.time @ right[:known], right[known:]])
    ends = np.cumsum([len(corner) for corner in corners])[:-1]
    return _Spectrum(values, time, tuple(np.split(left, ends)))


def _turn(factor: tuple[np.ndarray, np.ndarray], spectrum: _Spectrum, i: int) -> np.ndarray:
    """Return the modes of a chunk of space."""
    return factor[0] @ spectrum.turns[i]


def _update_whole(state: _Whole | None, block: np.ndarray, n_modes: int, time: int) -> _Whole:
    """Do the same for a field whose space is one chunk, in one task."""
    modes, spectrum = (None, None) if state is None else state
    factor = _factor(modes, spectrum, block, time)
    spectrum = _merge(spectrum, [factor[1]], n_modes)
    return _Whole(_turn(factor, spectrum, 0), spectrum)


def _signs(spectrum: _Spectrum) -> np.ndarray:
    """Return the sign by which the largest coefficient of each mode becomes positive."""
    largest = np.argmax(np.abs(spectrum.time), axis=0)
    return np.where(np.take_along_axis(spectrum.time, largest[None], 0)[0] < 0, -1.0, 1.0)


def _signed(modes: np.ndarray, spectrum: _Spectrum, shape: tuple[int, ...]) -> np.ndarray:
    return (modes * _signs(spectrum)).T.reshape(-1, *shape)


def _values(spectrum: _Spectrum) -> np.ndarray:
    return spectrum.values


def _coefficients(spectrum: _Spectrum) -> np.ndarray:
    return spectrum.time * spectrum.values * _signs(spectrum)


def _dynamic(spectrum: _Spectrum, rank: int) -> _Reduced:
    """Decompose the map from each step to the next, in the coordinates of the proper modes."""
    steps = (spectrum.time * spectrum.values).T
    before, after = steps[:, :-1], steps[:, 1:]
    left, values, right = np.linalg.svd(before, full_matrices=False)
    left, values, right = left[:, :rank], values[:rank], right[:rank].T
    inverse = np.zeros_like(values)
    kept = values > values[0] * np.finfo(float).eps * max(before.shape)
    inverse[kept] = 1 / values[kept]
    image = after @ right * inverse
    eigenvalues, vectors = np.linalg.eig(left.T @ image)
    modes = image @ vectors
    amplitudes = np.linalg.lstsq(modes, steps[:, 0].astype(complex), rcond=None)[0]
    order = np.argsort(-np.abs(amplitudes), kind="stable")
    eigenvalues = eigenvalues.astype(complex)
    return _Reduced(eigenvalues[order], modes[:, order].astype(complex), amplitudes[order])


def _lifted(modes: np.ndarray, reduced: _Reduced, shape: tuple[int, ...]) -> np.ndarray:
    """Return dynamic modes in space."""
    return (modes @ reduced.modes).T.reshape(-1, *shape)
