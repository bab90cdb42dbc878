"""Example 20: a mesh of triangles and an adaptive mesh under real IPS; their numbers are right."""

import importlib.util

import numpy as np
import pytest
from example_runs import ROOT, Workspace

pytestmark = [pytest.mark.course, pytest.mark.timeout(300)]
FOLDER = "examples/20_unstructured"


@pytest.fixture
def workspace(tmp_path, leaves_nothing):
    return Workspace(tmp_path)


def program(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / FOLDER / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_20_points_of_a_mesh_come_in_the_order_of_their_ids(workspace):
    (run,) = workspace.coupled(f"{FOLDER}/mesh.config")
    whole = []
    for ids, values in program("mesh").states(40):
        field = np.empty(len(ids))
        field[ids] = values
        whole.append(field)
    whole, found = np.array(whole), run.results()
    np.testing.assert_allclose(found["heat"], whole[::5].mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(found["probes"], whole[:, 10:400:40], rtol=1e-10, atol=1e-14)
    assert run.record["ledger"]["closed"]
    account = run.record["ledger"]["arrays"]["u"]["bytes"]
    assert account["delivered"] < account["produced"] / 3


def test_20_only_the_finest_blocks_in_the_box_leave_the_ranks(workspace):
    (run,) = workspace.coupled(f"{FOLDER}/amr.config")
    amr, found = program("amr"), run.results()
    sent = 0
    for step in range(12):
        kept = []
        for rank in range(2):
            for cells, level, place in zip(*amr.blocks(step, rank, 2), strict=True):
                if level == amr.LEVELS - 1 and (place < 16 * 2**level).all():
                    kept.append(cells.sum())
        assert found["blocks"][step] == len(kept)
        np.testing.assert_allclose(found["total"][step], sum(kept), rtol=1e-12)
        sent += len(kept) * amr.CELLS**2 * 8
    for i, step in enumerate(range(0, 12, 2)):
        atoms = []
        for rank in range(2):
            room, counts = amr.particles(step, rank, 2)
            atoms += [cell[:n] for cell, n in zip(room, counts, strict=True)]
        np.testing.assert_allclose(found["centre"][i], np.concatenate(atoms).sum(axis=0))
    account = run.record["ledger"]["arrays"]["front"]["bytes"]
    assert account["delivered"] == sent < account["produced"] / 2
