"""Example 17 under ips.py: programs that know ADIOS2 only, and Dask over their BP5 files."""

import importlib.util
import shutil

import dask
import dask.array as da
import numpy as np
import pytest
from example_runs import ROOT, Workspace

adios2 = pytest.importorskip("adios2", reason="needs the Python package adios2")
pytestmark = [
    pytest.mark.course,
    pytest.mark.timeout(500),
    pytest.mark.skipif(
        not (shutil.which("c++") and shutil.which("make")), reason="needs make and a C++ compiler"
    ),
]

FOLDER = "examples/17_adios2"
RANKS, STEPS, NY, NX = 4, 40, 48, 32
PROGRAMS = {"python": ["python", f"{FOLDER}/waves.py"], "cpp": [f"{FOLDER}/build/waves"]}


@pytest.fixture
def workspace(tmp_path, leaves_nothing):
    return Workspace(tmp_path)


@dask.delayed
def read(path, name, step):
    """What one rank has written of a variable at a step."""
    with adios2.FileReader(str(path)) as file:
        found = np.asarray(file.read(name, block_id=0, step_selection=[step, 1]))
    return found.reshape(NY // RANKS, NX)


def stored(folder, name, dtype):
    """A variable in the files of all ranks, over time."""
    block = (NY // RANKS, NX)
    steps = [
        da.concatenate(
            [
                da.from_delayed(read(folder / f"waves.bp.{rank}", name, step), block, dtype)
                for rank in range(RANKS)
            ]
        )
        for step in range(STEPS)
    ]
    return da.stack(steps)


def analysis():
    path = ROOT / FOLDER / "waves_analysis.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.energy


@pytest.mark.parametrize("language", PROGRAMS)
def test_17_the_numbers_are_those_of_dask_over_the_files(workspace, language):
    made = workspace.execute("make", "-C", FOLDER)
    assert made.returncode == 0, made.stderr
    written = workspace.execute(
        "mpiexec",
        "-n",
        str(RANKS),
        *PROGRAMS[language],
        f"{FOLDER}/bp5.xml",
        "waves.bp",
        str(STEPS),
    )
    assert written.returncode == 0, written.stderr
    arrays = {
        "height": stored(workspace.directory, "height", "f8"),
        "speed": stored(workspace.directory, "speed", "f4"),
        "time": da.arange(STEPS) * 0.05,
    }
    (expected,) = dask.compute(analysis()(arrays), scheduler="synchronous")

    (run,) = workspace.coupled(f"{FOLDER}/waves_{language}.config", timeout=400)
    found = run.results()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12, atol=1e-15, err_msg=name)
    assert run.record["ledger"]["closed"]
    account = run.account("height")
    assert account["delivered"] == account["produced"] == STEPS * NY * NX * 8
