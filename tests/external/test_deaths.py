"""Every death has an outcome: workers that die, retire or lose data, event by phase."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from distributed import Client, Nanny, Worker
from distributed.utils_test import gen_cluster
from distributed.worker_state_machine import FreeKeysEvent
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

from ips_components.errors import ExternalTaskError
from ips_components.external import provide
from ips_components.external.state import State


@gen_cluster(client=True)
async def test_worker_lost_between_arrival_and_consumption(c, s, a, b):
    """Dependents wait again, the chunk is asked for again, a re-delivery completes the graph."""
    await install(c)
    tasks, events = tasks_of(s), Events()
    tasks.declare(NAME, (4,), None, group="g", on_event=events)
    total = c.compute(lazy(4).sum())
    tasks.release_group("g", when_known=[total.key])
    await until(lambda: tasks.counts("g") == {"wanted": 4}, "the graph")
    await external_of(a).provide({key(0): chunk(0), key(1): chunk(1)})
    await a.close()
    await until(lambda: len(events.of("lost")) == 2, "the observer to be asked again")
    lost = next(info for info in events.infos if info["kind"] == "lost")
    assert lost["worker"] == a.address
    assert tasks.state(key(0)) is State.LOST
    s.validate_state()
    external_of(b).deliver({key(i): chunk(i) for i in range(4)})
    assert await total == 24


@gen_cluster(client=True)
async def test_worker_lost_with_consumed_chunks_whose_result_died_too(c, s, a, b):
    await install(c)
    tasks, events = tasks_of(s), Events()
    tasks.declare(NAME, (2,), None, group="g", on_event=events)
    result = c.compute(lazy(2).sum(), workers=[a.address], allow_other_workers=True)
    tasks.release_group("g", when_known=[result.key])
    await until(lambda: tasks.counts("g") == {"wanted": 2}, "the graph")
    await external_of(b).provide({key(0): chunk(1), key(1): chunk(1)})
    assert await result == 8
    await until(lambda: len(events.of("released")) == 2, "the chunks to be freed")
    await a.close()
    await until(lambda: len(events.of("wanted_again")) == 2, "the chunks to be wanted again")
    await external_of(b).provide({key(0): chunk(1), key(1): chunk(1)})
    assert await result == 8


@gen_cluster(client=True)
async def test_lost_chunk_that_cannot_be_had_again_errs(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)

    def cannot(kind, keys, info):
        if kind == "lost":
            tasks.fail(keys, lambda k: ExternalTaskError(f"array t, step {k[1]}: cannot be had"))

    tasks.declare(NAME, (2,), None, group="g", on_event=cannot)
    second = c.compute(lazy(2).blocks[1].sum())
    both = c.compute(lazy(2).rechunk(-1).sum())  # needs both chunks at once
    tasks.release_group("g", when_known=[f.key for f in (second, both)])
    await until(lambda: tasks.counts("g") == {"wanted": 2}, "the graph")
    await external_of(a).provide({key(0): chunk(0)})
    await until(lambda: tasks.state(key(0)) is State.MEMORY, "the sum of both to hold the chunk")
    await a.close()
    with pytest.raises(ExternalTaskError, match="array t, step 0: cannot be had"):
        await both
    await external_of(b).provide({key(1): chunk(1)})
    assert await second == 4


@gen_cluster(client=True)
async def test_chunks_lost_after_the_end_of_their_group_err(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (2,), None, group="g")
    total = c.compute(lazy(2).sum())
    tasks.release_group("g", when_known=[total.key])
    await until(lambda: tasks.counts("g") == {"wanted": 2}, "the graph")
    await external_of(a).provide({key(0): chunk(0)})
    tasks.declare("other", (1,), None, group="h")
    tasks.registry.groups["g"].ended = ExternalTaskError("simulation ended at step 2 of 2")
    await a.close()
    with pytest.raises(ExternalTaskError, match="ended at step 2 of 2"):
        await total
    assert tasks.counts("h") == {"declared": 1}


@gen_cluster(client=True)
async def test_announcement_of_a_worker_that_has_left_is_ignored(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (1,), None, group="g")
    await a.close()
    assert tasks.arrived(a.address, [(key(0), 32)], "late-message") == ["worker gone"]
    assert tasks.state(key(0)) is State.DECLARED


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)] * 3)
async def test_retiring_a_worker_moves_its_chunks(c, s, a, b, d):
    await install(c)
    tasks, events = tasks_of(s), Events()
    tasks.declare(NAME, (4,), None, group="g", on_event=events)
    total = c.compute(lazy(4).sum())
    tasks.release_group("g", when_known=[total.key])
    await until(lambda: tasks.counts("g") == {"wanted": 4}, "the graph")
    await external_of(a).provide({key(i): chunk(i) for i in range(3)})
    await c.retire_workers([a.address])
    assert not events.of("lost")
    await external_of(b).provide({key(3): chunk(3)})
    assert await total == 24


@gen_cluster(client=True)
async def test_rebalance_moves_chunks_that_wait_for_their_consumer(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (9,), None, group="g")
    total = c.compute(lazy(9).sum())
    tasks.release_group("g", when_known=[total.key])
    await until(lambda: tasks.counts("g") == {"wanted": 9}, "the graph")
    await external_of(a).provide({key(i): chunk(i) for i in range(8)})
    await c.rebalance()
    await external_of(b).provide({key(8): chunk(8)})
    assert await total == 4 * 36


@gen_cluster(client=True)
async def test_replica_elsewhere_survives_the_death_of_one_worker(c, s, a, b):
    await install(c)
    tasks, events = tasks_of(s), Events()
    tasks.declare(NAME, (2,), None, group="g", on_event=events)
    total = c.compute(lazy(2).sum())
    await until(lambda: tasks.counts("g") == {"wanted": 2}, "the graph")
    for worker in (a, b):
        await external_of(worker).provide({key(0): chunk(1)})
    await a.close()
    await external_of(b).provide({key(1): chunk(1)})
    assert await total == 8
    assert not events.of("lost")


@gen_cluster(client=True)
async def test_value_for_a_key_in_a_dying_transfer_is_kept_and_put_later(c, s, a, b):
    """Worker.update_data drops a value whose key is cancelled there: it must not be announced."""
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (1,), None, group="g")
    await external_of(a).provide({key(0): chunk(3)})
    # b fetches the chunk from a, which does not answer ...
    blocked = asyncio.Event()
    entered = asyncio.Event()
    stock = a.handlers["get_data"]

    async def get_data(*args, **kwargs):
        entered.set()
        await blocked.wait()
        return await stock(*args, **kwargs)

    a.handlers["get_data"] = get_data
    total = c.compute(lazy(1).sum(), workers=[b.address])
    await entered.wait()
    await until(lambda: b.state.tasks[key(0)].state == "flight", "the transfer")
    # ... and loses its copy; the transfer is cancelled but not over.
    a.handle_stimulus(FreeKeysEvent(keys=[key(0)], stimulus_id="test"))
    await until(lambda: tasks.state(key(0)) is State.LOST, "the loss")
    await until(lambda: b.state.tasks[key(0)].state != "flight", "the cancellation")
    assert b.state.tasks[key(0)].state == "cancelled"
    external_of(b).deliver({key(0): chunk(5)})
    await until(lambda: external_of(b)._kept, "the value to be kept")
    assert tasks.state(key(0)) is State.LOST  # not announced
    blocked.set()
    assert await total == 20


@gen_cluster(client=True)
async def test_copy_that_outlives_the_worker_it_came_from_is_the_data(c, s, a, b):
    """Stock Dask has such a copy removed, since the task is not in memory any more."""
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (2,), None, group="g")
    total = c.compute(lazy(2).rechunk(-1).sum())
    tasks.release_group("g", when_known=[total.key])
    await until(lambda: tasks.counts("g") == {"wanted": 2}, "the graph")
    await external_of(a).provide({key(0): chunk(3)})
    b.update_data({key(0): chunk(3)})  # the transfer has succeeded ...
    await s.remove_worker(a.address, stimulus_id="gone")
    assert tasks.state(key(0)) is State.LOST
    b.batched_send({"op": "add-keys", "keys": [key(0)], "stimulus_id": "copy"})  # ... late
    await until(lambda: tasks.state(key(0)) is State.MEMORY, "the copy to be taken in")
    await external_of(b).provide({key(1): chunk(0)})
    assert await total == 12


@gen_cluster(client=True)
async def test_value_removed_between_put_and_announcement_is_not_announced(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (1,), None, group="g")
    external = external_of(a)
    external._deliver({key(0): chunk(3)}, "s-1")
    # In the same tick, a message of before takes the value away.
    a.handle_stimulus(FreeKeysEvent(keys=[key(0)], stimulus_id="before"))
    assert key(0) not in a.data
    await until(lambda: tasks.state(key(0)) is State.MEMORY, "the value to be put in again")
    assert key(0) in a.data
    assert await c.compute(lazy(1).sum()) == 12


@gen_cluster(client=True)
async def test_value_that_is_never_accepted_is_reported_to_the_observer(c, s, a, b):
    await install(c)
    tasks, events = tasks_of(s), Events()
    tasks.declare(NAME, (1,), None, group="g", on_event=events)
    external = external_of(a)
    external.deadline = 0.1
    blocked = True
    accepts = "ips_components.external._compat.accepts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accepts, lambda worker, k: not blocked)
        external.deliver({key(0): chunk(1)}, "s-1")
        await until(lambda: events.of("lost"), "the report")
    assert not external._kept
    info = events.infos[-1]
    assert (info["worker"], info["stimulus"]) == (a.address, "s-1")


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)])
async def test_worker_that_joins_late_takes_data(c, s, a):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (10_000,), None, group="g")
    before = s.transition_counter
    async with Worker(s.address) as late:
        assert s.transition_counter - before < 10  # a join looks at the gate, not at every key
        await external_of(late).provide({key(0): chunk(1)})
        assert tasks.state(key(0)) is State.MEMORY
        assert len(s.unrunnable) == 1


@gen_cluster(client=True, nthreads=[])
async def test_declaring_without_any_worker(c, s):
    from ips_components.external import external_array

    x = await external_array(NAME, (8,), 4, client=c)
    total = c.compute(x.sum())
    async with Worker(s.address):
        await provide({key(i): chunk(i) for i in range(2)}, client=c)
        assert await total == 4


@pytest.mark.parametrize(
    "phase",
    [
        "waiting",
        pytest.param("before-graph", marks=pytest.mark.deaths),
        pytest.param("partly-consumed", marks=pytest.mark.deaths),
    ],
)
@gen_cluster(client=True, Worker=Nanny, nthreads=[("127.0.0.1", 1)] * 2, timeout=90)
async def test_worker_process_killed_with_arrived_chunks(c, s, a, b, phase):
    """kill -9 of a real process in every phase; the provider is informed, and it completes."""
    await install(c)
    tasks, events = tasks_of(s), Events()
    tasks.declare(NAME, (6,), None, group="g", on_event=events)
    victim, other = a.worker_address, b.worker_address
    futures = []
    if phase != "before-graph":
        futures = c.compute([lazy(6).rechunk(-1).sum(), lazy(6).blocks[0].sum()])
        tasks.release_group("g", when_known=[f.key for f in futures])
        await until(lambda: tasks.counts("g") == {"wanted": 6}, "the graph")
    await provide({key(i): chunk(i) for i in range(3)}, client=c, workers=victim)
    if phase == "partly-consumed":
        await futures[1]
    held = {key(i) for i in range(3)}
    os.kill(a.pid, signal.SIGKILL)
    await until(lambda: set(events.of("lost")) == held, f"{held} to be reported", 30)
    if phase == "before-graph":
        futures = c.compute([lazy(6).rechunk(-1).sum(), lazy(6).blocks[0].sum()])
        tasks.release_group("g", when_known=[f.key for f in futures])
        await until(lambda: "wanted" in tasks.counts("g"), "the graph")
    await provide({key(i): chunk(i) for i in range(6)}, client=c, workers=other)
    assert await futures[0] == 60
    assert await futures[1] == 0


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)])
async def test_client_that_dies_lets_its_declarations_go(c, s, a):
    await install(c)
    tasks = tasks_of(s)
    async with Client(s.address, asynchronous=True) as d:
        await d.scheduler.external_declare(name=NAME, numblocks=(4,), group="g", client=d.id)
        assert tasks.counts("g") == {"declared": 4}
    await until(lambda: not s.tasks, "the declared tasks to be forgotten")
