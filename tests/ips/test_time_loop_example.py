"""Example 15: two codes in a time loop, one analysis over all launches; its numbers are right."""

import numpy as np
import pytest
import xarray as xr
from example_runs import ROOT, Workspace

pytestmark = [pytest.mark.course, pytest.mark.timeout(300)]

STEPS, LAUNCHES, CELLS = 5, 6, 32


def expected():
    """Both codes in a few lines of NumPy."""
    temperature, peak = np.zeros(CELLS), 0.0
    fields, powers, peaks = [], [], []
    for _ in range(LAUNCHES):
        power = np.exp(-(((np.arange(CELLS) - 10.0) / 4.0) ** 2)) / (1.0 + temperature)
        conductivity = 0.2 if peak < 1.0 else 0.4
        for _ in range(STEPS):
            temperature[1:-1] += conductivity * np.diff(temperature, 2) + power[1:-1]
            fields.append(temperature.copy())
        peak = temperature.max()
        powers.append(power)
        peaks.append(peak)
    return np.array(fields), np.array(powers), peaks


def test_15_two_codes_one_graph(tmp_path, leaves_nothing, monkeypatch):
    workspace = Workspace(tmp_path)
    built = workspace.execute(
        "make", "-C", "examples/15_time_loop", f"BRIDGE={ROOT}/ips_components/bridge/c"
    )
    assert built.returncode == 0, built.stderr
    monkeypatch.setenv("PYTHONPATH", str(workspace.directory / "examples/15_time_loop"))
    (run,) = workspace.coupled("examples/15_time_loop/time_loop.config")
    fields, powers, peaks = expected()
    found = run.results()
    np.testing.assert_allclose(found["mean_temperature"], fields.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["deposited"], STEPS * powers[:, 1:-1].sum(), rtol=1e-12)
    for launch, peak in enumerate(peaks):
        np.testing.assert_allclose(found[f"peak_{launch}"], peak, rtol=1e-12)
        files = f"run/time_loop/simulation_results/{launch + 1}.0/components/*/monitor.nc"
        (file,) = workspace.directory.glob(files)
        with xr.open_dataset(file) as monitor:
            np.testing.assert_allclose(monitor["peak"], [peak], rtol=1e-12)
    assert [len(part["launches"]) for part in run.record["simulations"]] == [LAUNCHES, LAUNCHES]
    assert run.record["ledger"]["closed"]
