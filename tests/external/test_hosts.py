"""Chunks stay on the host of their blocks, and shared memory is for one host only.

The hosts are two names: processes in UTS namespaces of their own, on one machine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from coupled_processes import COLUMNS, STEPS, Coupled, fork_server, series

HOSTS = ("node-a", "node-b")


@pytest.fixture(scope="module", autouse=True)
def server():
    trial = "from coupled_processes import move_to; move_to('node-a')"
    here = Path(__file__).parent
    if subprocess.run([sys.executable, "-c", trial], cwd=here, capture_output=True).returncode:
        pytest.skip("may not give a process a host name of its own (unshare)")
    with fork_server():
        yield


def owners_of(name, dask_scheduler):
    """The receivers of an array's chunks, as the coordinator has placed them."""
    run = dask_scheduler.plugins["ips-components-runs"].runs[name]
    return list(run.contract.arrays[0].placement.owners)


def test_chunks_stay_on_the_host_of_their_blocks(tmp_path, server):
    run = Coupled(tmp_path, ranks=4, hosts=HOSTS)
    try:
        run.begin("held", chunks={"t": (1, -1, 2 * COLUMNS)})
        run.simulate(f"step:{STEPS - 1}")
        run.all_reach(f"step:{STEPS - 1}")
        run.delivered(2 * (STEPS - 1))
        has_what = run.client.has_what()
        record = run.record()
        by_host = {each["hostname"]: each for each in record["workers"]}
        assert by_host.keys() == set(HOSTS)
        for part, host in enumerate(HOSTS):
            # Tasks that need both parts may have had copies made.
            keys = [k for k in has_what[by_host[host]["address"]] if "external-t" in str(k)]
            assert {key[1] for key in keys if key[3] == part} == set(range(STEPS - 1)), (host, keys)
        owners = run.client.run_on_scheduler(owners_of, run.name)
        assert owners == [by_host[host]["receiver"] for host in HOSTS]
        run.all_go()
        ordinals = [by_host[host]["receiver"] for host in HOSTS]
        for rank, peer in enumerate(run.ranks):
            assert peer.hear() == ("lanes", {ordinals[rank // 2]: "shm"})
            assert peer.outcome() == ("done", None)
        run.future.result(30)
        t = series(ranks=4)
        expected = {"held": (t + t[-1:]).sum(axis=(1, 2)), "first": t[0].sum()}
        for name, value in run.dataset().items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-14)
        assert [each["host"] for each in run.end()["ranks"]] == ["node-a"] * 2 + ["node-b"] * 2
    finally:
        print(run.logs())
        run.close()


def test_a_block_that_two_hosts_share_crosses_by_tcp(tmp_path, server):
    """One chunk per step: ranks on the other host use TCP, those beside it shared memory."""
    run = Coupled(tmp_path, workers=1, ranks=2, hosts=HOSTS)
    try:
        run.begin("sums")
        run.simulate()
        assert run.ranks[0].hear() == ("lanes", {0: "shm"})
        assert run.ranks[1].hear() == ("lanes", {0: "tcp"})
        for peer in run.ranks:
            assert peer.outcome() == ("done", None)
        run.future.result(30)
        assert run.end()["ledger"]["closed"]
    finally:
        print(run.logs())
        run.close()
