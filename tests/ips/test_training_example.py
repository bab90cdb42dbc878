"""Example 16 under ips.py; skipped where PyTorch is not installed."""

import numpy as np
import pytest
import xarray as xr
from example_runs import Workspace

pytestmark = [pytest.mark.course, pytest.mark.timeout(300)]


@pytest.mark.parametrize("name", ["surrogate", "autoencoder"])
def test_16_networks_are_trained_while_the_simulation_runs(
    name, tmp_path, leaves_nothing, monkeypatch
):
    pytest.importorskip("torch", reason="PyTorch (extra torch) is not installed")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))  # PyTorch's own cache
    (run,) = Workspace(tmp_path).coupled(f"examples/16_train_in_transit/{name}.config")
    curve = xr.open_zarr(run.record["results"]["path"], group="curve", consolidated=False)[
        "validation"
    ].values
    known = curve[~np.isnan(curve)]
    assert known[-1] < known.max()
    assert run.record["ledger"]["closed"]
    assert (run.directory / "results.png").stat().st_size > 10_000
