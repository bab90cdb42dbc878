"""The low-level pair of scripts: external_future and provide; and external_array."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from distributed.utils_test import gen_cluster
from external_helpers import external_of, tasks_of, until

from ips_components.errors import DeadlineExceeded, ExternalTaskError
from ips_components.external import external_array, external_future, provide

EXAMPLE = Path(__file__).parents[2] / "examples" / "01_external_task.py"


def test_the_well_known_demonstration_as_an_example():
    run = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=100, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "the sum is pending, the data are pending" in run.stdout
    assert "provided by another process: the sum is 4950.0" in run.stdout


def test_synchronous_clients_on_a_cluster_of_processes():
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as one,
        Client(cluster.scheduler_address) as two,
    ):
        future = external_future("x", client=one)
        total = one.submit(np.sum, future)
        assert provide({"x": np.arange(5)}, client=two) == {"x": "memory"}
        assert total.result(timeout=30) == 10


@gen_cluster(client=True)
async def test_plugins_are_registered_when_first_needed(c, s, a, b):
    assert "external-tasks" not in s.plugins
    future = await external_future("x", client=c)
    assert "external-tasks" in s.plugins
    assert future.status == "pending"
    await provide({"x": 5}, client=c)
    assert await future == 5


@gen_cluster(client=True)
async def test_provide_before_the_future_is_made(c, s, a, b):
    assert await provide({"x": 5}, client=c) == {"x": "early"}
    assert await (await external_future("x", client=c)) == 5


@gen_cluster(client=True)
async def test_future_of_a_value_that_is_there_already(c, s, a, b):
    first = await external_future("x", client=c)
    await provide({"x": 5}, client=c)
    await first
    async with Client(s.address, asynchronous=True) as d:
        assert await (await external_future("x", client=d)) == 5


@gen_cluster(client=True)
async def test_key_lives_as_long_as_a_future_of_any_client(c, s, a, b):
    mine = await external_future("x", client=c)
    async with Client(s.address, asynchronous=True) as d:
        theirs = await external_future("x", client=d)
        mine.release()
        await provide({"x": 5}, client=c)
        assert await theirs == 5
        del theirs
    await until(lambda: not s.tasks, "the key to be forgotten")
    assert await provide({"x": 5}, client=c) == {"x": "late"}


@gen_cluster(client=True)
async def test_key_is_forgotten_when_its_client_dies_before_it_claims_the_key(c, s, a, b):
    await provide({"warm-up": 1}, client=c)
    async with Client(s.address, asynchronous=True) as d:
        await d.scheduler.external_declare_keys(keys=["x"], group="futures", client=d.id)
        assert "x" in s.tasks
    await until(lambda: "x" not in s.tasks, "the key to be forgotten")


@gen_cluster(client=True)
async def test_cancelling_an_external_future(c, s, a, b):
    future = await external_future("x", client=c)
    await c.cancel(future)
    assert future.cancelled()
    await until(lambda: "x" not in s.tasks, "the key to be forgotten")
    assert await provide({"x": 1}, client=c) == {"x": "late"}


@gen_cluster(client=True)
async def test_future_of_an_ordinary_task_is_refused(c, s, a, b):
    ordinary = c.submit(abs, -1, key="mine")
    assert await ordinary == 1
    with pytest.raises(ExternalTaskError, match="ordinary task"):
        await external_future("mine", client=c)


@gen_cluster(client=True)
async def test_value_and_key_of_any_kind(c, s, a, b):
    items = {"text": "hello", ("table", 3): {"a": 1}, "none": None, "array": np.ones(3)}
    futures = {key: await external_future(key, client=c) for key in items}
    outcome = await provide(items, client=c)
    assert set(outcome.values()) == {"memory"}
    assert await futures["text"] == "hello"
    assert await futures["none"] is None
    assert await futures["table", 3] == {"a": 1}


@gen_cluster(client=True)
async def test_provide_to_chosen_workers(c, s, a, b):
    keys = [("x", i) for i in range(4)]
    futures = [await external_future(k, client=c) for k in keys]
    await provide(dict.fromkeys(keys, 1.0), client=c, workers=b.address)
    assert not a.data
    assert len(b.data) == 4
    assert await c.submit(sum, futures) == 4


@gen_cluster(client=True, nthreads=[])
async def test_provide_without_a_worker_gives_up_in_time(c, s):
    with pytest.raises(DeadlineExceeded, match=r"no running worker within 0\.2 s"):
        await provide({"x": 1}, client=c, timeout=0.2)


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)])
async def test_provide_gives_up_on_a_worker_that_cannot_take_the_value(c, s, a):
    future = await external_future("x", client=c)
    external_of(a).deadline = 0.1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ips_components.external._compat.accepts", lambda worker, k: False)
        with pytest.raises(DeadlineExceeded, match=r"did not take in 'x' within 0\.1 s"):
            await provide({"x": 1}, client=c)
    assert future.status == "pending"


@gen_cluster(client=True)
async def test_external_array_is_held_while_it_lives(c, s, a, b):
    x = await external_array("external-x", (6, 4), (2, 4), client=c)
    assert tasks_of(s).counts("array-external-x") == {"declared": 3}
    total = c.compute(x.sum())
    for i in range(3):
        await provide({("external-x", i, 0): np.full((2, 4), i * 1.0)}, client=c)
    assert await total == 24
    assert await c.compute(x.max()) == 2  # still there
    del x, total
    await until(lambda: not s.tasks, "the chunks to be freed")


@gen_cluster(client=True)
async def test_external_array_dropped_after_submission_is_freed_chunk_by_chunk(c, s, a, b):
    x = await external_array("external-x", (6,), 2, client=c)
    total = c.compute(x.sum())
    del x
    await until(lambda: not s.tasks["external-x", 0].who_wants, "the hold to be dropped")
    for i in range(3):
        await provide({("external-x", i): np.full(2, i * 1.0)}, client=c)
    assert await total == 6
    await until(lambda: ("external-x", 0) not in {**a.data, **b.data}, "chunks to be freed")


@gen_cluster(client=True)
async def test_external_array_refuses_another_shape_or_dtype(c, s, a, b):
    x = await external_array("external-x", (4,), 2, "f4", client=c)
    sums = c.compute([x.blocks[0].sum(), x.blocks[1].sum()])
    with pytest.raises(ExternalTaskError, match=r"shape \(3,\), declared was \(2,\)"):
        await provide({("external-x", 0): np.ones(3, "f4")}, client=c)
    with pytest.raises(ExternalTaskError, match=r"dtype '<f8', declared was '<f4'"):
        await provide({("external-x", 1): np.ones(2)}, client=c)
    for future in sums:
        with pytest.raises(ExternalTaskError, match="declared was"):
            await future


@gen_cluster(client=True)
async def test_two_clients_share_an_external_array(c, s, a, b):
    async with Client(s.address, asynchronous=True) as d:
        mine = await external_array("external-x", (4,), 2, client=c)
        theirs = await external_array("external-x", (4,), 2, client=d)
        del mine
        total = d.compute(theirs.sum())
        await provide({("external-x", i): np.ones(2) for i in range(2)}, client=c)
        assert await total == 4
        del theirs, total
    await until(lambda: not s.tasks, "the chunks to be freed")


@gen_cluster(client=True)
async def test_from_delayed_and_external_array_in_one_graph(c, s, a, b):
    future = await external_future("scalar", client=c)
    x = await external_array("external-x", (4,), 2, client=c)
    scale = da.from_delayed(dask.delayed(future), shape=(), dtype=float)
    total = c.compute((x * scale).sum())
    await provide({("external-x", i): np.ones(2) for i in range(2)}, client=c)
    await provide({"scalar": np.float64(3)}, client=c)
    assert await total == 12


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)])
async def test_worker_that_is_still_starting_is_waited_for(c, s, a):
    await external_future("x", client=c)
    handler = a.handlers.pop("external_provide")
    calls = []

    async def later(comm=None, **kwargs):
        calls.append(1)
        a.handlers["external_provide"] = handler

    a.handlers["external_provide"] = later  # answers None, as an unknown handler does
    assert (await provide({"x": 1}, client=c))["x"] in ("memory", "late")
    assert calls
