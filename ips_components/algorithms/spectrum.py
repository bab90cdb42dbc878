"""Power spectra over space or time, also averaged over directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np

from ips_components.algorithms._fold import located
from ips_components.errors import AnalysisError

__all__ = ["IsotropicSpectrum", "PowerSpectrum", "isotropic_spectrum", "power_spectrum"]


@dataclass(frozen=True, slots=True)
class PowerSpectrum:
    """Spectral density over one or more axes.

    Attributes
    ----------
    frequencies : tuple of numpy.ndarray
        For each transformed axis, in cycles per unit of `spacing`, in ascending order.
    power : dask.array.Array
        Density, with the axes of the data: its integral over the frequencies is the variance.
    """

    frequencies: tuple[np.ndarray, ...]
    power: da.Array


@dataclass(frozen=True, slots=True)
class IsotropicSpectrum:
    """Spectral density over the absolute value of the wave vector.

    Attributes
    ----------
    frequencies : numpy.ndarray, shape (n,)
        Middle of each shell, in cycles per unit of `spacing`.
    width : float
        Width of the shells.
    power : dask.array.Array, shape (..., n)
        Power in each shell, divided by `width`: ``power.sum(-1) * width`` is the variance.
    modes : numpy.ndarray, shape (n,)
        Number of Fourier modes in each shell.
    """

    frequencies: np.ndarray
    width: float
    power: da.Array
    modes: np.ndarray


def power_spectrum(
    x: Any,
    axis: int | str | Sequence[int | str],
    spacing: float | Sequence[float] = 1.0,
    window: str | None = None,
) -> PowerSpectrum:
    """Estimate the power spectral density by a periodogram over `axis`.

    Parameters
    ----------
    x : dask.array.Array or xarray.DataArray
        Chunks along `axis` are merged, for a transform needs all of a line: with the space axes
        here, one task per time step gathers that step.
    axis : int, str or several
        Axes to transform.
    spacing : float or one per axis
        Distance between samples.
    window : {None, 'hann'}
        Taper along each axis; the loss of power is made up for.

    Returns
    -------
    PowerSpectrum
        Two-sided: positive and negative frequencies. The mean is removed before the transform.

    Notes
    -----
    ``|FFT(w (x - mean))|^2 prod(spacing) / sum(w^2)``; see Press et al., Numerical Recipes, 13.4.
    """
    array, axes, steps = _prepared(x, axis, spacing)
    power = da.fft.fftshift(_density(array, axes, steps, window), axes=axes)
    frequencies = tuple(np.fft.fftshift(line) for line in _frequencies(array, axes, steps))
    return PowerSpectrum(frequencies, power.rechunk(dict.fromkeys(axes, -1)))


def isotropic_spectrum(
    x: Any,
    axis: int | str | Sequence[int | str],
    spacing: float | Sequence[float] = 1.0,
    window: str | None = None,
    bins: int | None = None,
) -> IsotropicSpectrum:
    """Sum the power spectrum over shells of equal distance from the origin of wave vectors.

    Parameters
    ----------
    x, axis, spacing, window
        As for `power_spectrum`.
    bins : int, optional
        Number of shells up to the largest wave vector; by default shells are as wide as the
        coarsest resolution of the transformed axes.

    Returns
    -------
    IsotropicSpectrum
    """
    array, axes, steps = _prepared(x, axis, spacing)
    grid = np.meshgrid(*_frequencies(array, axes, steps), indexing="ij")
    distance = np.sqrt(sum(line**2 for line in grid))
    resolutions = [1 / (array.shape[a] * step) for a, step in zip(axes, steps, strict=True)]
    width = max(resolutions) if bins is None else distance.max() / (bins - 0.5)
    # Shell i lies around i * width, so that shell 0 holds the origin only.
    shells = np.rint(distance / width).astype(int).ravel()
    count = int(shells.max()) + 1
    power = _density(array, axes, steps, window)
    power = da.moveaxis(power, axes, range(array.ndim - len(axes), array.ndim))
    outer = power.chunks[: array.ndim - len(axes)]
    cell = float(np.prod(resolutions))
    summed = da.map_blocks(
        _sum_shells,
        power,
        shells=shells,
        count=count,
        scale=cell / width,
        inner=len(axes),
        dtype=np.float64,
        chunks=(*outer, (count,)),
        drop_axis=list(range(len(outer), array.ndim)),
        new_axis=[len(outer)],
        meta=np.empty((0,) * (len(outer) + 1)),
    )
    modes = np.bincount(shells, minlength=count)
    return IsotropicSpectrum(np.arange(count) * width, float(width), summed, modes)


def _prepared(
    x: Any, axis: Any, spacing: float | Sequence[float]
) -> tuple[da.Array, tuple[int, ...], list[float]]:
    array, axes = located(x, axis)
    steps = [float(spacing)] * len(axes) if np.ndim(spacing) == 0 else [float(s) for s in spacing]
    if len(steps) != len(axes) or not all(step > 0 for step in steps):
        raise AnalysisError(
            f"spacing must be positive, one number or one per axis of {axes}, got {spacing}"
        )
    return array.rechunk(dict.fromkeys(axes, -1)), axes, steps


def _frequencies(array: da.Array, axes: tuple[int, ...], steps: list[float]) -> list[np.ndarray]:
    return [np.fft.fftfreq(array.shape[a], step) for a, step in zip(axes, steps, strict=True)]


def _density(
    array: da.Array, axes: tuple[int, ...], steps: list[float], window: str | None
) -> da.Array:
    """Give the periodogram, in the order of the frequencies of the FFT."""
    tapers = [_taper(window, array.shape[a]) for a in axes]
    norm = np.prod([step / (taper**2).sum() for step, taper in zip(steps, tapers, strict=True)])
    data = array - array.mean(axis=axes, keepdims=True)
    if window is not None:
        for a, taper in zip(axes, tapers, strict=True):
            data = data * taper.reshape([-1 if i == a else 1 for i in range(array.ndim)])
    transform = da.fft.fftn(data, axes=axes)
    return (transform.real**2 + transform.imag**2) * norm


def _taper(window: str | None, size: int) -> np.ndarray:
    if window is None:
        return np.ones(size)
    if window == "hann":
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    raise AnalysisError(f"window must be None or 'hann', got {window!r}")


def _sum_shells(
    block: np.ndarray, shells: np.ndarray, count: int, scale: float, inner: int
) -> np.ndarray:
    kept = block.shape[: block.ndim - inner]
    rows = block.reshape(-1, shells.size)
    slots = shells + np.arange(len(rows))[:, np.newaxis] * count
    sums = np.bincount(slots.ravel(), rows.ravel(), minlength=len(rows) * count)
    return sums.reshape(*kept, count) * scale
