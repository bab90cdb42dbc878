"""Chunks stay on the host of their blocks, and shared memory is for one host only.

The hosts are names: processes in UTS namespaces of their own, on one machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from coupled_processes import COLUMNS, STEPS, Coupled, fork_server, series

HOSTS = ("node-a", "node-b")
HERE = Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def server():
    trial = [sys.executable, "-c", "from coupled_processes import move_to; move_to('node-a')"]
    if subprocess.run(trial, cwd=HERE, capture_output=True, check=False).returncode:
        pytest.skip("may not give a process a host name of its own (unshare)")
    with fork_server():
        yield


@pytest.fixture
def simulate():
    """Run MPI ranks on the hosts, in equal parts; how each reaches the receivers."""
    pytest.importorskip("mpi4py")
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        pytest.skip("needs mpiexec")

    def simulate(run, n_ranks):
        program = [sys.executable, str(HERE / "host_ranks.py"), str(run.contact), str(STEPS)]
        done = subprocess.run(
            [mpiexec, "-n", str(n_ranks), *program, *HOSTS],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": str(HERE)},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return simulate


def owners_of(name, dask_scheduler):
    """The receivers of an array's chunks, as the coordinator has placed them."""
    run = dask_scheduler.plugins["ips-components-runs"].runs[name]
    return list(run.contract.arrays[0].placement.owners)


@pytest.fixture
def coupled(tmp_path):
    made = []

    def make(**options):
        made.append(Coupled(tmp_path, hosts=HOSTS, **options))
        return made[-1]

    yield make
    for each in made:
        print(each.logs())
        each.close()


def test_chunks_stay_on_the_host_of_their_blocks(coupled, simulate):
    run = coupled()
    run.begin(deadlines={"connect": 30.0}, chunks={"t": (1, -1, 2 * COLUMNS)})
    lanes = simulate(run, 4)
    run.future.result(30)
    record = run.end()
    by_host = {each["hostname"]: str(each["receiver"]) for each in record["workers"]}
    assert by_host.keys() == set(HOSTS)
    assert lanes == [{by_host[HOSTS[rank // 2]]: "shm"} for rank in range(4)]
    owners = run.client.run_on_scheduler(owners_of, run.name)
    assert [str(owner) for owner in owners] == [by_host[host] for host in HOSTS]
    assert [each["host"] for each in record["ranks"]] == ["node-a"] * 2 + ["node-b"] * 2
    found = run.dataset()
    for k, value in enumerate(series(ranks=4).sum(axis=(1, 2))):
        np.testing.assert_allclose(found[f"sum_{k}"], value, rtol=1e-14)


def test_between_hosts_data_takes_tcp(coupled, simulate):
    run = coupled(workers=1)
    run.begin(
        deadlines={"connect": 30.0},
    )
    assert simulate(run, 2) == [{"0": "shm"}, {"0": "tcp"}]
    run.future.result(30)
    assert run.end()["ledger"]["closed"]
