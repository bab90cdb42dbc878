"""Programs of DEISA3 with their import line changed, against real MPI ranks and a real cluster."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from example_runs import ROOT, Workspace
from sklearn.decomposition import IncrementalPCA

pytestmark = pytest.mark.course

EXAMPLE = ROOT / "examples" / "deisa"
BIN = Path(sys.executable).parent


def field():
    """What the example's simulation computes, all of it."""
    spec = importlib.util.spec_from_file_location("deisa_simulation", EXAMPLE / "simulation.py")
    simulation = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(simulation)
    x, y = np.arange(simulation.NX), np.arange(simulation.NY)
    return np.stack([simulation.waves(step, x, y) for step in range(simulation.STEPS)])


def expected_derivative():
    gt = field()
    rate = (gt[:-4] - 8 * gt[1:-3] + 8 * gt[3:-1] - gt[4:]) / 12
    return rate.mean()


def expected_pca():
    pca = IncrementalPCA(n_components=2)
    for step in field():
        pca.partial_fit(step.T)
    return pca


@pytest.fixture
def cluster(tmp_path, leaves_nothing, monkeypatch):
    """A scheduler with a scheduler file and two workers, each a process; their folder."""
    monkeypatch.setenv("DASK_TEMPORARY_DIRECTORY", str(tmp_path))
    for name in ("derivative.py", "pca.py", "simulation.py", "config.yml"):
        shutil.copy(EXAMPLE / name, tmp_path)
    with ExitStack() as stack:

        def start(*command, **options):
            log = stack.enter_context((tmp_path / f"{command[2].rpartition('.')[2]}.log").open("a"))
            process = subprocess.Popen(
                [sys.executable, *command], cwd=tmp_path, stdout=log, stderr=log, **options
            )
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
            return process

        scheduler_file = tmp_path / "scheduler.json"
        start(
            *("-m", "distributed.cli.dask_scheduler", "--scheduler-file", str(scheduler_file)),
            *("--port", "0", "--no-dashboard", "--host", "127.0.0.1"),
        )
        deadline = time.monotonic() + 60
        while not scheduler_file.exists():
            assert time.monotonic() < deadline, (tmp_path / "dask_scheduler.log").read_text()
            time.sleep(0.05)
        for _ in range(2):
            start(
                *("-m", "distributed.cli.dask_worker", "--scheduler-file", str(scheduler_file)),
                *("--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path)),
            )
        yield tmp_path


def couple(folder, program):
    """Run a program and the simulation side by side; what the program printed."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    simulation = subprocess.Popen(
        ["mpiexec", "-n", "4", sys.executable, "simulation.py"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        ended = subprocess.run(
            [sys.executable, program],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        said, _ = simulation.communicate(timeout=30)
        assert simulation.returncode == 0, said
    finally:
        simulation.kill()
        simulation.wait()
    return ended.stdout


def numbers(text, label):
    (line,) = re.findall(rf"^{label}: (.*)$", text, flags=re.MULTILINE)
    return [float(number) for number in line.split()]


def test_the_derivative_program(cluster):
    said = couple(cluster, "derivative.py")
    np.testing.assert_allclose(numbers(said, "mean derivative"), expected_derivative(), rtol=1e-10)
    assert not (cluster / "deisa_contact.json").exists()


def test_the_program_of_principal_components(cluster):
    said = couple(cluster, "pca.py")
    pca = expected_pca()
    np.testing.assert_allclose(
        numbers(said, "explained variance"), pca.explained_variance_, rtol=1e-6
    )
    np.testing.assert_allclose(numbers(said, "singular values"), pca.singular_values_, rtol=1e-6)


EVERY_STEP = """
from ips_components.deisa import Deisa
from ips_components.errors import ContractError

deisa = Deisa("scheduler.json", "config.yml")
client = deisa.get_client()
gt = deisa.get_deisa_arrays()["global_t"][...]
sums = [client.persist(gt[step].sum(), release=True) for step in range(gt.shape[0])]
print("sums:", *(client.compute(each).result() for each in sums))
try:
    client.persist(gt[3].mean())
except ContractError as error:
    print("refused:", error)
client.shutdown()
"""


def test_every_step_is_released_by_itself(cluster):
    (cluster / "every_step.py").write_text(EVERY_STEP)
    said = couple(cluster, "every_step.py")
    np.testing.assert_allclose(numbers(said, "sums"), field().sum(axis=(1, 2)), rtol=1e-10)
    assert "were released by an earlier persist" in said


@pytest.mark.timeout(300)
def test_the_same_program_under_ips(tmp_path, leaves_nothing):
    workspace = Workspace(tmp_path)
    (run,) = workspace.coupled("examples/deisa/deisa.config")
    found = run.results()
    np.testing.assert_allclose(
        found["explained_variance"], expected_pca().explained_variance_, rtol=1e-6
    )
    assert run.account("global_t")["delivered"] == field().nbytes
