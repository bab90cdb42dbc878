"""What Dask does around external tasks: scaling, stealing, spilling, timeouts, memory manager."""

from __future__ import annotations

import asyncio
from time import monotonic

import dask
import numpy as np
import pytest
from dask.utils import parse_bytes
from distributed import Worker, get_worker
from distributed.diagnostics.task_stream import TaskStreamPlugin
from distributed.utils_test import gen_cluster, slowinc
from external_helpers import (
    NAME,
    Events,
    chunk,
    external_of,
    install,
    key,
    lazy,
    tasks_of,
    until,
)

from ips_components.coordination.settings import RunSettings
from ips_components.coordination.worker import WorkerSession
from ips_components.external import external_array, provide
from ips_components.external.state import State


@gen_cluster(client=True, config={"distributed.scheduler.no-workers-timeout": "200ms"})
async def test_no_workers_timeout_spares_external_tasks(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (2,), None, group="g")
    total = c.compute(lazy(2).sum())
    impossible = c.submit(abs, 1, resources={"nobody-has-it": 1})
    with pytest.raises(Exception, match="nobody-has-it"):
        await impossible  # the timeout works for ordinary tasks
    # A blocked event loop is what a timer of our own would not survive.
    gate = tasks._gate.get()
    s.unrunnable[gate] -= 1000
    s.periodic_callbacks["no-workers-timeout"].callback()
    assert gate.state == "no-worker"
    await external_of(a).provide({key(i): chunk(i) for i in range(2)})
    assert await total == 4


@gen_cluster(client=True, nthreads=[], config={"distributed.scheduler.no-workers-timeout": "100ms"})
async def test_no_workers_timeout_without_any_worker(c, s):
    async with Worker(s.address):
        await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (2,), None, group="g")
    checks = []
    callback = s.periodic_callbacks["no-workers-timeout"]
    callback.stop()
    for _ in range(3):
        await asyncio.sleep(0.12)  # longer than the timeout: time itself is under test
        callback.callback()
        checks.append(tasks.state(key(0)))
    assert checks == [State.DECLARED] * 3


@gen_cluster(client=True)
async def test_adaptive_target_does_not_grow_with_declared_keys(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (10_000,), None, group="g")
    assert s.adaptive_target() <= 2
    await a.close()
    await b.close()
    assert s.adaptive_target() == 1  # a worker must take the data


@gen_cluster(client=True, scheduler_kwargs={"idle_timeout": None})
async def test_idle_scheduler_is_idle_again_after_the_last_external_task(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (3,), None, group="g")
    s.check_idle()
    s.check_idle()
    assert s.idle_since is None  # waiting for a simulation is no idleness
    total = c.compute(lazy(3).sum())
    tasks.release_group("g", when_known=[total.key])
    await external_of(a).provide({key(i): chunk(i) for i in range(3)})
    await total
    s.check_idle()
    assert s.check_idle() is not None


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)] * 2)
async def test_idle_timeout_closes_the_scheduler_although_keys_were_declared(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (1000,), None, group="g")
    tasks.release_group("g")
    s.idle_timeout = 0.05
    s.check_idle()
    s.check_idle()
    await until(lambda: monotonic() and s.check_idle() is None, "the idle timeout")


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)])
async def test_ten_thousand_declared_keys_leave_a_join_cheap(c, s, a):
    await install(c)
    tasks = tasks_of(s)

    async def join() -> tuple[int, float]:
        before, start = s.transition_counter, monotonic()
        async with Worker(s.address):
            return s.transition_counter - before, monotonic() - start

    transitions, _ = await join()
    tasks.declare(NAME, (10_000,), None, group="g")
    loaded, _ = await join()
    assert loaded <= transitions + 2
    assert len(s.unrunnable) == 1


@gen_cluster(
    client=True,
    nthreads=[("127.0.0.1", 1)] * 2,
    config={"distributed.scheduler.work-stealing-interval": "10ms"},
)
async def test_stealing_takes_consumers_not_external_tasks(c, s, a, b):
    await install(c)
    tasks, events = tasks_of(s), Events()
    tasks.declare(NAME, (20,), None, group="g", on_event=events)
    totals = c.compute([lazy(20).blocks[i].map_blocks(slow_sum).sum() for i in range(20)])
    tasks.release_group("g", when_known=[t.key for t in totals])
    await until(lambda: tasks.counts("g") == {"wanted": 20}, "the graph")
    # All data on one worker: the other must steal.
    external_of(a).deliver({key(i): chunk(i) for i in range(20)})
    assert [float(x) for x in await c.gather(totals)] == [4.0 * i for i in range(20)]
    assert b.state.executed_count > 0
    assert not events.of("lost")


def slow_sum(block: np.ndarray) -> np.ndarray:
    """Long enough to be worth stealing."""
    slowinc(0, delay=0.05)
    return block


@gen_cluster(
    client=True,
    nthreads=[("127.0.0.1", 1)],
    worker_kwargs={"memory_limit": "40 MiB"},
    config={
        "distributed.worker.memory.target": 0.25,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
    },
)
async def test_external_data_spill_to_disk_and_come_back(c, s, a):
    await install(c)
    tasks = tasks_of(s)
    size = parse_bytes("2 MiB") // 8
    tasks.declare(NAME, (16,), None, group="g")
    field = lazy(16, shape=(size,))
    total = c.compute(field.rechunk(-1).sum())
    await until(lambda: tasks.counts("g") == {"wanted": 16}, "the graph")
    for i in range(15):
        await external_of(a).provide({key(i): chunk(i, (size,))})
    await until(lambda: len(a.data.slow) > 0, "something to be spilled")
    await external_of(a).provide({key(15): chunk(15, (size,))})
    assert await total == size * 120


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)], worker_kwargs={"memory_limit": "40 MiB"})
async def test_ranks_that_wait_for_memory_have_dask_spill_what_there_is(c, s, a):
    """Also when the worker holds nothing that could be spilled."""
    session = WorkerSession(RunSettings(run="r", token="5e" * 32, analysis="a:b"), a, external=None)
    session._spill(1 << 20)
    assert not a.data.slow
    held = c.submit(np.ones, 1 << 18, key="held")
    await held
    session._spill(1 << 20)
    assert list(a.data.slow) == ["held"]
    session._spill(1 << 20)


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)])
async def test_paused_worker_still_takes_data(c, s, a):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (1,), None, group="g")
    total = c.compute(lazy(1).sum())
    a.status = type(a.status).paused
    await until(lambda: not s.running, "the pause")
    await external_of(a).provide({key(0): chunk(1)})
    assert tasks.state(key(0)) is State.MEMORY
    a.status = type(a.status).running
    assert await total == 4


@gen_cluster(client=True)
async def test_replicating_and_asking_who_has_external_data(c, s, a, b):
    await install(c)
    from ips_components.external import external_future, provide

    future = await external_future("x", client=c)
    await provide({"x": np.ones(3)}, client=c, workers=a.address)
    await c.replicate([future])
    assert set((await c.who_has())["x"]) == {a.address, b.address}


@gen_cluster(client=True)
async def test_consumers_see_an_ordinary_worker(c, s, a, b):
    """A task that submits tasks from within a worker may consume external data."""
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (1,), None, group="g")
    await external_of(a).provide({key(0): chunk(3)})
    total = c.compute(lazy(1).map_blocks(lambda x: x * bool(get_worker()), dtype=float).sum())
    assert await total == 12


@gen_cluster(client=True)
async def test_what_differs_around_external_tasks_is_as_the_page_for_dask_users_says(c, s, a, b):
    stream = TaskStreamPlugin(s)
    s.add_plugin(stream)
    with dask.annotate(workers=["nowhere"], priority=5, retries=3, resources={"GPU": 1}):
        x = await external_array(NAME, (2,), chunks=1, client=c)
    total = c.compute(x.sum())
    await until(lambda: total.key in s.tasks, "the graph")
    # One gate stands for all of them; annotations have no effect on them.
    assert [ts.state for ts in s.tasks.values() if ts.prefix.name == "external-gate"] == [
        "no-worker"
    ]
    waiting = [s.tasks[NAME, i] for i in range(2)]
    assert {ts.state for ts in waiting} == {"waiting"}
    assert not any(ts.worker_restrictions or ts.resource_restrictions for ts in waiting)
    # Of clients there is one more than there are.
    assert set(s.clients) == {"fire-and-forget", c.id, f"external-array-{NAME}-{c.id}"}
    # Workers that only wait for data are not wanted by an adaptive cluster.
    assert s.adaptive_target() == 0
    await provide({(NAME, i): np.ones(1) for i in range(2)}, client=c)
    assert await total == 2
    # Nothing ran on a worker when they arrived.
    assert {entry["key"] for entry in stream.buffer}.isdisjoint({(NAME, 0), (NAME, 1)})
    assert total.key in {entry["key"] for entry in stream.buffer}
