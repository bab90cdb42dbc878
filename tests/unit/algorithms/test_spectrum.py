import dask.array as da
import numpy as np
import pytest
import xarray as xr
from scipy import signal

from ips_components.algorithms import isotropic_spectrum, power_spectrum
from ips_components.errors import AnalysisError


@pytest.mark.parametrize("window", [None, "hann"])
@pytest.mark.parametrize("size", [16, 15])
def test_equals_the_periodogram_of_scipy(window, size):
    x = np.random.default_rng(0).normal(size=(3, size)) + 5
    found = power_spectrum(da.from_array(x, (1, 4)), 1, spacing=0.25, window=window)
    frequencies, power = signal.periodogram(
        x, fs=4.0, window=window or "boxcar", return_onesided=False
    )
    np.testing.assert_allclose(found.frequencies[0], np.fft.fftshift(frequencies))
    np.testing.assert_allclose(found.power, np.fft.fftshift(power, axes=1), atol=1e-14)
    assert (np.diff(found.frequencies[0]) > 0).all()


def test_integral_is_the_variance_in_two_dimensions():
    x = np.random.default_rng(1).normal(size=(2, 12, 20))
    lazy = da.from_array(x, (1, 6, 5))
    cell = 1 / (12 * 0.5) / (20 * 2.0)
    spectrum = power_spectrum(lazy, (1, 2), spacing=(0.5, 2.0))
    assert spectrum.power.shape == x.shape
    np.testing.assert_allclose(spectrum.power.sum(axis=(1, 2)) * cell, x.var(axis=(1, 2)))
    shells = isotropic_spectrum(lazy, (1, 2), spacing=(0.5, 2.0))
    assert shells.modes.sum() == 240
    np.testing.assert_allclose(shells.power.sum(axis=1) * shells.width, x.var(axis=(1, 2)))


@pytest.mark.parametrize("direction", [0, 1])
def test_a_wave_lies_in_its_shell(direction):
    line = np.cos(2 * np.pi * 5 * np.arange(64) / 64)
    x = np.broadcast_to(line if direction else line[:, None], (64, 64))
    found = isotropic_spectrum(xr.DataArray(x, dims=("x", "y")).chunk(x=32), ["x", "y"], 1 / 64)
    power = found.power.compute()
    assert found.frequencies[power.argmax()] == pytest.approx(5.0)
    np.testing.assert_allclose(power.sum() * found.width, 0.5)
    np.testing.assert_allclose(power.max() * found.width, 0.5)


def test_number_of_shells():
    found = isotropic_spectrum(da.random.default_rng(0).normal(size=(32, 32)), None, bins=8)
    assert found.power.shape == found.frequencies.shape == found.modes.shape
    assert abs(len(found.frequencies) - 8) <= 1


@pytest.mark.parametrize("options", [{"spacing": 0}, {"spacing": (1, 2, 3)}, {"window": "flat"}])
def test_wrong_options(options):
    with pytest.raises(AnalysisError):
        power_spectrum(da.zeros((4, 4)), (0, 1), **options)
