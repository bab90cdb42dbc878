"""Every config of the folder configs runs under ips.py, and its numbers are right."""

import json
import math

import numpy as np
import pytest
from example_runs import ROOT, Workspace

ANALYSES = ("derivative", "moments", "histogram", "quantiles", "spectrum", "correlation")
STEPS = 40

pytestmark = [pytest.mark.course, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="module")
def field(workspace):
    """The field that all of these simulations compute, from a run without coupling."""
    program = "examples/heat2d/heat2d.py"
    options = ["--nx", "32", "--ny", "32", "--steps", str(STEPS), "--no-coupling"]
    ended = workspace.execute(
        "mpiexec", "-n", "2", "python", program, *options, "--posthoc", "field.npy"
    )
    assert ended.returncode == 0, ended.stderr
    return np.load(workspace.directory / "field.npy")


@pytest.fixture(scope="module")
def runs(workspace):
    """All analyses, each with a simulation of its own, under one ips.py."""
    configs = [f"configs/heat2d_{name}.config" for name in ANALYSES]
    for config in configs:
        workspace.change(config, ("    DASK_PPW = 2\n", "    DASK_PPW = 2\n    FIGURE = False\n"))
    return dict(zip(ANALYSES, workspace.coupled(*configs), strict=True))


def test_every_config_is_checked_and_listed_here():
    tested = {f"heat2d_{name}" for name in ANALYSES} | {"monte_carlo_pi", "eigenvalues"}
    elsewhere = {"heat2d_ipca"}
    assert {path.stem for path in (ROOT / "configs").glob("*.config")} == tested | elsewhere


@pytest.mark.parametrize("name", ANALYSES)
def test_the_ledger_of_every_run_closes(runs, name):
    record = runs[name].record
    assert record["status"] == "ok"
    assert record["ledger"]["closed"]
    assert len(record["steps"]) == STEPS // (2 if name == "spectrum" else 1)
    assert (runs[name].directory / "report.html").exists()


def test_derivative(runs, field):
    found = runs["derivative"].results()
    rate = (field[:-4] - 8 * field[1:-3] + 8 * field[3:-1] - field[4:]) / 12
    np.testing.assert_allclose(found["rate_rms"], np.sqrt((rate**2).mean(axis=(1, 2))), rtol=1e-10)
    np.testing.assert_allclose(found["rate_max"], abs(rate).max(axis=(1, 2)), rtol=1e-10)
    np.testing.assert_array_equal(found["rate_rms"]["time"], np.arange(2, STEPS - 2))
    np.testing.assert_allclose(found["rate"][-1], rate[-1], atol=1e-12)


def test_moments(runs, field):
    found = runs["moments"].results()
    np.testing.assert_allclose(found["mean"], field.mean(axis=0), atol=1e-13)
    np.testing.assert_allclose(found["std"], field.std(axis=0), atol=1e-12)
    centred = field - field.mean(axis=0)
    with np.errstate(invalid="ignore"):
        skewness = (centred**3).mean(axis=0) / field.std(axis=0) ** 3
    np.testing.assert_allclose(found["skewness"], skewness, atol=1e-7)
    np.testing.assert_array_equal(found["maximum"], field.max(axis=0))
    np.testing.assert_allclose(found["mean_over_space"], field.mean(axis=(1, 2)), atol=1e-13)


def test_histogram(runs, field):
    found = runs["histogram"].results()
    counts = [np.histogram(step, 40, (-2.0, 4.0))[0] for step in field]
    np.testing.assert_array_equal(found["counts"], counts)
    inside = (field >= -2) & (field <= 4)
    np.testing.assert_array_equal(found["outside"], (~inside).sum(axis=(1, 2)))


def test_quantiles(runs, field):
    pytest.importorskip("crick")
    found = runs["quantiles"].results()
    exact = np.quantile(field.reshape(STEPS, -1), [0.05, 0.5, 0.95], axis=1).T
    spread = np.ptp(field, axis=(1, 2))[:, None]
    assert (abs(found["quantiles"] - exact) <= 0.01 * spread + 1e-12).all()


def test_spectrum_is_of_every_second_step_and_the_others_are_not_sent(runs, field):
    found = runs["spectrum"].results()
    np.testing.assert_array_equal(found["spectrum"]["time"], np.arange(0, STEPS, 2))
    assert runs["spectrum"].account()["delivered"] == field[::2].nbytes
    assert runs["spectrum"].account()["skipped"] == field[1::2].nbytes
    taper = np.hanning(33)[:-1]
    weights = (taper[:, None] * taper) ** 2
    variance = ((field[-2] - field[-2].mean()) ** 2 * weights).sum() / weights.sum()
    assert float(found["spectrum"][-1].sum()) == pytest.approx(variance, rel=1e-10)  # Parseval


def test_correlation(runs, field):
    found = runs["correlation"].results()
    for lag in (1, 5, 10):
        early, late = (part - part.mean(axis=0) for part in (field[:-lag], field[lag:]))
        norm = np.sqrt((early**2).sum(axis=0) * (late**2).sum(axis=0))
        expected = (early * late).sum(axis=0) / norm
        np.testing.assert_allclose(found["correlation"].sel(lag=lag), expected, atol=1e-9)
    mean = field.mean(axis=(1, 2))
    moving = np.convolve(mean, np.ones(5) / 5, "valid")
    np.testing.assert_allclose(found["moving_average"], moving, atol=1e-13)


def test_ensembles_as_tasks_of_pools(workspace):
    ended = workspace.ips("configs/monte_carlo_pi.config", "configs/eigenvalues.config")
    assert ended.returncode == 0, ended.stdout + ended.stderr

    def result(name):
        (staged,) = (workspace.directory / "run" / name).glob("simulation_results/**/results.json")
        return json.loads(staged.read_text())

    pi = result("monte_carlo_pi")
    assert abs(pi["value"] - math.pi) < 5 * pi["error"]
    assert pi["error"] == pytest.approx(
        4 * math.sqrt(math.pi / 4 * (1 - math.pi / 4) / 1.6e6), rel=0.01
    )
    spectrum = result("eigenvalues")
    values = np.array(spectrum["eigenvalues"]["real"])
    assert values.shape == (8, 100)
    for member, ascending in enumerate(values):
        matrix = np.random.default_rng(1 + member).standard_normal((100, 100)) / 10
        expected = np.linalg.eigvalsh((matrix + matrix.T) / np.sqrt(8))
        np.testing.assert_allclose(ascending, expected, atol=1e-12)
    assert spectrum["moment"] == pytest.approx(0.25, abs=0.02)
