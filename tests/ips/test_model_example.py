"""Example 18 under ips.py: a model learned in a run takes the place of an expensive term."""

import re

import numpy as np
import pytest
from example_runs import Workspace

pytestmark = [pytest.mark.course, pytest.mark.timeout(400)]

CONFIG = "examples/18_model_talks_back/model_talks_back.config"
STEPS, TOLERANCE = 120, 1e-6


def last_temperatures(directory, *arguments):
    """Run the example with these arguments; return its rod, and the share of cells computed."""
    directory.mkdir()
    workspace = Workspace(directory)
    saved = directory / "rod.npy"
    workspace.change(
        CONFIG,
        ("NSTEP = 200", f"NSTEP = {STEPS}"),
        ("--steps {NSTEP}", " ".join(["--steps {NSTEP} --save", str(saved), *arguments])),
    )
    (run,) = workspace.coupled(CONFIG)
    assert run.record["ledger"]["closed"]
    (log,) = (directory / "run").rglob("simulation.log")
    share = re.search(r"computed in \d+ of \d+ cells \((.*)%\)", log.read_text())
    return np.load(saved), float(share[1])


def test_18_a_model_takes_the_place_of_a_term_within_its_tolerance(tmp_path, leaves_nothing):
    exact, all_cells = last_temperatures(tmp_path / "without", "--without-model")
    assert all_cells == 100
    found, share = last_temperatures(tmp_path / "with", f"--tolerance {TOLERANCE}")
    assert share < 60
    # Diffusion does not increase an error, and the term itself hardly does.
    assert 0 < np.abs(found - exact).max() < 1.2 * STEPS * TOLERANCE


def test_18_a_model_that_is_not_good_enough_is_not_used(tmp_path, leaves_nothing):
    exact, _ = last_temperatures(tmp_path / "without", "--without-model")
    found, share = last_temperatures(tmp_path / "with", "--tolerance 1e-15")
    assert share == 100
    np.testing.assert_array_equal(found, exact)
