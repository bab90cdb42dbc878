"""Example 19 under ips.py: its indices are those of stored members."""

import sys

import numpy as np
import pytest
from example_runs import ROOT, Workspace

pytestmark = [pytest.mark.course, pytest.mark.timeout(300)]

CONFIG = "examples/19_sensitivity/sensitivity.config"
ROWS, STEPS, CELLS = 12, 8, 48


def stored_members(monkeypatch):
    """Advance the rods of the example without MPI, shape (steps, rows, members, cells)."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "examples/19_sensitivity"), *sys.path])
    from design import members

    diffusion, heater, left = np.moveaxis(members(ROWS)[..., None], 2, 0)
    monkeypatch.delitem(sys.modules, "design")
    x = (np.arange(CELLS) + 0.5) / CELLS
    rods = np.zeros((ROWS, diffusion.shape[1], CELLS + 2))
    steps = []
    for _ in range(STEPS):
        for _ in range(20):
            rods[..., :1], rods[..., -1] = left, rods[..., -2]
            change = rods[..., :-2] - 2 * rods[..., 1:-1] + rods[..., 2:]
            rods[..., 1:-1] += diffusion * change + heater * (abs(x - 0.6) < 0.1)
        steps.append(rods[..., 1:-1].copy())
    return np.stack(steps)


def test_19_indices_are_those_of_stored_members(tmp_path, leaves_nothing, monkeypatch):
    workspace = Workspace(tmp_path)
    workspace.change(CONFIG, ("NSTEP = 40", f"NSTEP = {STEPS}"), ("--rows 128", f"--rows {ROWS}"))
    (run,) = workspace.coupled(CONFIG)
    found = run.results()
    a, b, *mixed = np.moveaxis(stored_members(monkeypatch), 2, 0)
    for name, ab in zip(("diffusion", "heater", "left wall"), mixed, strict=True):
        for kind, other in (("first", b), ("total", a)):
            values = found[f"{kind} of {name}"].values
            for cell in [(0, 0), (3, 10), (STEPS - 1, 28), (STEPS - 1, CELLS - 1)]:
                at = (cell[0], slice(None), cell[1])
                correlation = np.corrcoef(other[at], ab[at])[0, 1]
                expected = correlation if kind == "first" else 1 - correlation
                assert values[cell] == pytest.approx(expected, abs=1e-9, nan_ok=True)
    np.testing.assert_allclose(
        found["mean"], np.concatenate([a, b], axis=1).mean(axis=1), rtol=1e-12, atol=1e-15
    )
