"""The heat example in Python: its physics, its parallelism, its command line."""

import sys

import numpy as np
import pytest
from heat2d_runs import HEAT2D, field, posthoc, run

COLD = ("--boundary", 0, 0, 0, 0)
INSULATED = ("--boundary", *["insulated"] * 4)


def sine_error(tmp_path, n, steps):
    """Largest error at t = 100 s of a mode that decays with D = 1e-3 m2/s on n x n cells."""
    diffusivity, end = 1e-3, 100.0
    T = posthoc(
        tmp_path, 1, "--nx", n, "--ny", n, "--steps", steps + 1, "--every", steps,
        "--dt", end / steps, "--diffusivity", diffusivity, "--initial", "sine",
        "--source", "none", *COLD,
    )  # fmt: skip
    s = np.sin(np.pi * (np.arange(n) + 0.5) / n)
    exact = np.exp(-2 * diffusivity * np.pi**2 * end) * np.outer(s, s)
    np.testing.assert_allclose(T[0], np.outer(s, s), rtol=1e-14)
    return np.abs(T[1] - exact).max()


def test_sine_mode_decays_as_known_with_second_order(tmp_path):
    errors = [sine_error(tmp_path, n, steps) for n, steps in ((8, 100), (16, 400), (32, 1600))]
    assert errors[-1] < 2e-4  # of an amplitude of 0.14 K that is left
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 2.0, atol=0.1)


def test_equals_serial_reference(tmp_path):
    options = {"nx": 23, "ny": 17, "steps": 40, "every": 3, "boundary": (4.0, -1.0, None, 2.0)}
    T = posthoc(
        tmp_path, 4, "--nx", 23, "--ny", 17, "--steps", 40, "--every", 3,
        "--boundary", 4, -1, "insulated", 2, "--initial", "gaussian",
    )  # fmt: skip
    assert T.shape == (14, 17, 23)
    np.testing.assert_allclose(T, field(**options, initial="gaussian"), rtol=1e-11, atol=1e-12)


def test_defaults_equal_serial_reference(tmp_path):
    np.testing.assert_allclose(posthoc(tmp_path, 2), field(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("nproc", "grid"),
    [(2, ()), (4, ()), (4, ("--px", 4)), (3, ("--py", 3)), (4, ("--px", 1, "--py", 4))],
)
def test_same_bits_on_any_grid_of_ranks(tmp_path, once, nproc, grid):
    options = ("--nx", 33, "--ny", 10, "--steps", 30)
    alone = once("heat2d-alone", lambda place: posthoc(place, 1, *options)) / "field.npy"
    posthoc(tmp_path, nproc, *options, *grid)
    assert (tmp_path / "field.npy").read_bytes() == alone.read_bytes()


def test_insulated_plate_keeps_its_energy(tmp_path):
    options = ("--nx", 20, "--ny", 30, "--initial", "gaussian", *INSULATED)
    energy = posthoc(tmp_path, 4, *options, "--steps", 60, "--source", "none").mean(axis=(1, 2))
    np.testing.assert_allclose(energy, energy[0], rtol=1e-13)


def test_insulated_plate_gains_what_the_source_gives(tmp_path):
    n, steps, dt, period = 24, 60, 0.2, 30.0
    T = posthoc(
        tmp_path, 4, "--nx", n, "--ny", n, "--steps", steps, "--dt", dt, "--period", period,
        "--source", "pulse", "--power", 3, *INSULATED,
    )  # fmt: skip
    x = (np.arange(n) + 0.5) / n
    profile = np.exp(-0.5 * ((x - 0.75) / 0.08) ** 2)
    strength = 3 * np.sin(4 * 2 * np.pi * np.arange(steps - 1) * dt / period)
    given = dt * np.cumsum(strength) * profile.mean() ** 2
    np.testing.assert_allclose(T[1:].mean(axis=(1, 2)), given, rtol=1e-11, atol=1e-15)


def test_hot_wall_gives_linear_profile_in_the_end(tmp_path):
    T = posthoc(
        tmp_path, 1, "--nx", 10, "--ny", 4, "--steps", 3001, "--every", 3000,
        "--source", "none", "--diffusivity", 1e-3,
    )  # fmt: skip
    x = (np.arange(10) + 0.5) / 10
    np.testing.assert_allclose(T[1], np.broadcast_to(2 * (1 - x), (4, 10)), rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--dt", 1), "--dt must be > 0 and <= 0.554865 s to be stable, got 1"),
        (("--nx", 0), "--nx must be positive, got 0"),
        (("--px", -1), "--px -1 x --py -2 must make 2 ranks"),
        (("--px", 3), "--px 3 x --py 0 must make 2 ranks"),
        (("--boundary", 1, 2, 3, "warm"), "--boundary takes numbers or insulated, got 1 2 3 warm"),
        (("--source", "sun"), "--source takes eight, sweep, pulse or none, got sun"),
    ],
)
def test_wrong_option_is_refused_once(options, complaint):
    done = run(2, "--no-coupling", *options)
    assert done.returncode != 0
    assert done.stderr.count(complaint) == 1


def test_an_error_ends_all_ranks(tmp_path):
    nowhere = tmp_path / "no" / "field.npy"
    done = run(2, "--no-coupling", "--posthoc", nowhere)
    assert done.returncode != 0
    assert str(nowhere) in done.stderr


def test_without_coupling_neither_bridge_nor_dask_is_loaded():
    script = (
        "import runpy, sys; sys.argv = ['heat2d.py', '--no-coupling', '--steps', '3'];"
        f"runpy.run_path({str(HEAT2D / 'heat2d.py')!r}, run_name='__main__');"
        "sys.exit(not {'ips_components', 'dask'}.isdisjoint(sys.modules))"
    )
    assert run(1, program=[sys.executable, "-c", script]).returncode == 0
