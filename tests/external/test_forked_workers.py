"""Workers that are forked from one process: what they have read, and what they are like."""

import os
import subprocess
import sys
from contextlib import contextmanager

import psutil
import pytest
from distributed import Client, LocalCluster

from ips_components.deadlines import Deadline, poll_until
from ips_components.external.forked_workers import HASH_SEED

FORKS = {
    "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "forkserver",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture
def scheduler():
    with LocalCluster(n_workers=0, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


@contextmanager
def workers_of(scheduler, libraries, n=2, **environment):
    """A client of that many workers of one nanny command, and the command's process."""
    command = [sys.executable, "-m", "ips_components.external.forked_workers", libraries]
    options = ["--nworkers", str(n), "--nthreads", "1", "--no-dashboard"]
    process = subprocess.Popen(
        [*command, scheduler, *options], env={**os.environ, **FORKS, **environment}
    )
    try:
        with Client(scheduler) as client:
            client.wait_for_workers(n, timeout=60)
            yield client, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def test_workers_share_what_was_read_and_agree_on_hashes(scheduler):
    def about_itself():
        return {
            "parent": os.getppid(),
            "seed": os.environ["PYTHONHASHSEED"],
            "hash": hash("a key"),
            "has read": {name for name in ("colorsys", "wave") if name in sys.modules},
        }

    with workers_of(scheduler, "colorsys,no.such.module,wave") as (client, _):
        one, two = client.run(about_itself).values()
    assert one == two
    assert one["seed"] == HASH_SEED
    assert one["has read"] == {"colorsys", "wave"}


def test_hashes_are_those_of_workers_that_stock_dask_starts(scheduler):
    with workers_of(scheduler, "distributed", n=1) as (client, _):
        (forked,) = client.run(lambda: hash("a key")).values()
        with LocalCluster(n_workers=1, dashboard_address=":0") as stock, Client(stock) as other:
            assert set(other.run(lambda: hash("a key")).values()) == {forked}


def test_a_worker_that_dies_is_replaced(scheduler):
    with workers_of(scheduler, "distributed") as (client, _):
        before = client.run(os.getpid)
        killed = next(iter(before))
        psutil.Process(before[killed]).kill()
        found = poll_until(
            lambda: set(client.scheduler_info()["workers"]) - set(before), Deadline(60), pause=0.05
        )
        (new,) = found
        assert killed not in client.scheduler_info()["workers"]
        assert client.submit(os.getpid, workers=[new]).result(30) not in before.values()


def test_workers_end_with_their_command(scheduler):
    with workers_of(scheduler, "distributed") as (_, command):
        family = command.children(recursive=True)
        assert len(family) >= 3
        command.kill()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive


def test_without_room_for_a_socket_workers_are_started_as_by_stock_dask(scheduler, tmp_path):
    directory = tmp_path / ("x" * 90)
    directory.mkdir()
    with workers_of(scheduler, "wave", DASK_TEMPORARY_DIRECTORY=str(directory)) as (client, _):
        assert set(client.run(lambda: "wave" in sys.modules).values()) == {False}


def test_the_death_of_the_process_that_forks_is_noticed(scheduler):
    """Its workers are ended; Dask replaces them, or its command ends where both come at once."""
    with workers_of(scheduler, "distributed") as (client, command):
        before = set(client.run(os.getpid).values())
        (forking,) = {psutil.Process(pid).ppid() for pid in before}
        psutil.Process(forking).kill()
        _, alive = psutil.wait_procs([psutil.Process(pid) for pid in before], timeout=60)
        assert not alive
        assert poll_until(
            lambda: (
                len(client.scheduler_info()["workers"]) == 2
                or command.status() == psutil.STATUS_ZOMBIE
            ),
            Deadline(60),
            pause=0.1,
        )
