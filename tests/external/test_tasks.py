"""Semantics of external tasks on a validating scheduler, one test per event and phase."""

from __future__ import annotations

import asyncio
import gc
import json

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, Nanny, wait
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.utils_test import gen_cluster, inc
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
from ips_components.external.futures import provide
from ips_components.external.state import State


@gen_cluster(client=True)
async def test_declared_tasks_wait_behind_one_gate(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    assert tasks.declare(NAME, (10, 3), None, group="g") == 30
    assert tasks.counts("g") == {"declared": 30}
    assert tasks.state((NAME, 9, 2)) is State.DECLARED
    assert len(s.unrunnable) == 1
    assert s.tasks[NAME, 0, 0].state == "waiting"
    s.validate_state()
    tasks.release_group("g")
    await until(lambda: not s.tasks, "everything to be forgotten")
    assert not s.unrunnable


@gen_cluster(client=True)
async def test_only_the_needed_chunks_become_tasks(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    assert tasks.declare(NAME, (2, 5), [(1, 3), (7, 10)], group="g") == 5
    assert {k[1:] for k in tasks.registry.groups["g"].states} == {
        (0, 1),
        (0, 2),
        (1, 2),
        (1, 3),
        (1, 4),
    }


@gen_cluster(client=True)
async def test_graph_submitted_before_the_data_exist(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    events = Events()
    tasks.declare(NAME, (6,), None, group="g", on_event=events)
    total = c.compute(lazy(6).sum())
    tasks.release_group("g", when_known=[total.key])
    await until(lambda: tasks.counts("g") == {"wanted": 6}, "the graph")
    await until(lambda: not s.tasks[key(0)].who_wants, "the hold to be dropped")
    for i in range(6):
        external_of(a if i % 2 else b).deliver({key(i): chunk(i)})
    assert await total == 4 * 15
    assert len(events.of("in_memory")) == 6
    await until(lambda: len(events.of("released")) == 6, "chunks to be freed")
    assert not any(k[0] == NAME for w in (a, b) for k in w.data if isinstance(k, tuple))


@gen_cluster(client=True)
async def test_chunks_are_freed_one_by_one_after_their_last_consumer(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (3,), None, group="g")
    totals = c.compute([lazy(3).blocks[i].sum() for i in range(3)])
    tasks.release_group("g", when_known=[t.key for t in totals])
    external_of(a).deliver({key(0): chunk(1)})
    assert await totals[0] == 4
    await until(lambda: key(0) not in a.data, "chunk 0 to be freed")
    assert tasks.state(key(1)) is State.WANTED


@gen_cluster(client=True)
async def test_data_before_declaration_is_kept_and_matched_later(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    external_of(a).deliver({key(0): chunk(7)})
    await until(lambda: key(0) in tasks._arrivals.early, "early data")
    assert tasks.state(key(0)) is State.ARRIVED
    tasks.declare(NAME, (1,), None, group="g")
    assert tasks.state(key(0)) is State.MEMORY
    assert await c.compute(lazy(1).sum()) == 28
    assert tasks._arrivals.early.nbytes == 0


@gen_cluster(client=True, config={"ips-components.external.early-limit": "1 kB"})
async def test_data_before_declaration_is_bounded(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    outcome = await external_of(a).provide({key(0): np.zeros(100), key(1): np.zeros(100)})
    assert outcome[key(0)] == "early"
    assert "used up" in outcome[key(1)]
    await until(lambda: key(1) not in a.data, "refused data to be dropped")
    assert key(0) in a.data
    assert tasks._arrivals.early.nbytes <= 1000


@gen_cluster(client=True)
async def test_early_data_die_with_their_worker(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    external_of(a).deliver({key(0): chunk(7)})
    external_of(b).deliver({key(0): chunk(7)})
    await until(lambda: tasks._arrivals.early.nbytes > 40, "early data of both")
    await a.close()
    await until(lambda: tasks._arrivals.early.nbytes < 40, "the dead worker's data to be forgotten")
    tasks.declare(NAME, (1,), None, group="g")
    assert s.tasks[key(0)].who_has == {s.workers[b.address]}


@gen_cluster(client=True)
async def test_data_twice_on_one_worker(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (1,), None, group="g")
    assert await external_of(a).provide({key(0): chunk(1)}) == {key(0): "memory"}
    assert await external_of(a).provide({key(0): chunk(2)}) == {key(0): "replica"}
    assert await c.compute(lazy(1).sum()) == 4


@gen_cluster(client=True)
async def test_data_twice_in_one_message(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (1,), None, group="g")
    assert (await external_of(a).provide({key(0): chunk(1)})) == {key(0): "memory"}
    tasks.declare("x", (1,), None, group="h")
    await external_of(a).provide({("x", 0): chunk(1)})
    assert tasks.arrived(a.address, [(("x", 0), 32), (("x", 0), 32)], "twice") == ["replica"] * 2


@gen_cluster(
    client=True,
    config={
        "distributed.scheduler.active-memory-manager.start": True,
        "distributed.scheduler.active-memory-manager.interval": "50ms",
    },
)
async def test_data_on_two_workers_is_a_replica_that_the_memory_manager_removes(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (1,), None, group="g")
    assert (await external_of(a).provide({key(0): chunk(1)}))[key(0)] == "memory"
    assert (await external_of(b).provide({key(0): chunk(1)}))[key(0)] == "replica"
    await until(lambda: len(s.tasks[key(0)].who_has) == 1, "the replica to go")
    await until(lambda: (key(0) in a.data) != (key(0) in b.data), "one copy")
    assert await c.compute(lazy(1).sum()) == 4


@gen_cluster(client=True)
async def test_data_after_release_are_dropped(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (2,), None, group="g")
    total = c.compute(lazy(2).blocks[0].sum())
    both = c.compute(lazy(2).sum())
    tasks.release_group("g", when_known=[total.key, both.key])
    await external_of(a).provide({key(0): chunk(1)})
    await total
    # Chunk 0 is held by the sum of both; chunk 1 still waits.
    await external_of(a).provide({key(1): chunk(1)})
    assert await both == 8
    await until(lambda: tasks.state(key(0)) is State.RELEASED, "release")
    assert (await external_of(b).provide({key(0): chunk(1)})) == {key(0): "late"}
    await until(lambda: key(0) not in b.data, "late data to be dropped")


@gen_cluster(client=True)
async def test_data_after_the_group_is_forgotten_are_late_not_early(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (1,), None, group="g")
    tasks.release_group("g")
    assert tasks.state(key(0)) is State.FORGOTTEN
    assert (await external_of(b).provide({key(0): chunk(1)})) == {key(0): "late"}
    await until(lambda: key(0) not in b.data, "late data to be dropped")


@gen_cluster(client=True)
async def test_data_for_a_chunk_outside_the_declared_array_are_refused(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (3,), [(0, 2)], group="g")
    for bad in (key(2), key(5), (NAME, 0, 0)):
        assert "no task" in (await external_of(a).provide({bad: chunk(1)}))[bad]
        await until(lambda k=bad: k not in a.data, "refused data to be dropped")


@gen_cluster(client=True)
async def test_data_for_an_ordinary_task_are_refused(c, s, a, b):
    await install(c)
    future = c.submit(inc, 1, key="ordinary", workers=[a.address])
    await future
    outcome = await external_of(b).provide({"ordinary": 5})
    assert "ordinary task" in outcome["ordinary"]
    assert await future == 2
    with pytest.raises(ExternalTaskError, match="ordinary task"):
        tasks_of(s).declare_keys(["ordinary"], group="g")


@gen_cluster(client=True)
async def test_data_of_the_wrong_shape_or_dtype_err_the_task(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (3,), None, group="g", chunks=((4, 4, 4),), dtype="<f8")
    totals = c.compute([lazy(3).blocks[i].sum() for i in range(3)])
    tasks.release_group("g", when_known=[t.key for t in totals])
    outcome = await external_of(a).provide({key(0): np.zeros(5), key(1): np.zeros(4, "i4")})
    assert "shape (5,), declared was (4,)" in outcome[key(0)]
    assert "dtype '<i4', declared was '<f8'" in outcome[key(1)]
    with pytest.raises(ExternalTaskError, match="shape"):
        await totals[0]
    with pytest.raises(ExternalTaskError, match="dtype"):
        await totals[1]
    await external_of(a).provide({key(2): chunk(1)})
    assert await totals[2] == 4
    await until(lambda: key(0) not in a.data and key(1) not in a.data, "refused data to go")


@gen_cluster(client=True)
async def test_several_clients_on_the_same_keys(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    async with Client(s.address, asynchronous=True) as d:
        tasks.declare(NAME, (4,), None, group="g")
        one, two = c.compute(lazy(4).sum()), d.compute(lazy(4).max())
        tasks.release_group("g", when_known=[one.key, two.key])
        for i in range(4):
            external_of(b).deliver({key(i): chunk(i)})
        assert await one == 24
        assert await two == 3


@gen_cluster(client=True)
async def test_cancelling_the_only_consumer_releases_the_tasks(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    events = Events()
    tasks.declare(NAME, (4,), None, group="g", on_event=events)
    total = c.compute(lazy(4).sum())
    tasks.release_group("g", when_known=[total.key])
    await external_of(a).provide({key(0): chunk(1)})
    await c.cancel(total)
    await until(lambda: not s.tasks, "everything to be forgotten")
    await until(lambda: len(events.of("forgotten")) == 4, "the observer to hear it")
    await until(lambda: not a.data, "the data to be freed")
    assert (await external_of(a).provide({key(1): chunk(1)}))[key(1)] == "late"


@gen_cluster(client=True)
async def test_releasing_one_of_two_consumers_keeps_the_tasks(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (4,), None, group="g")
    total, largest = c.compute([lazy(4).sum(), lazy(4).max()])
    tasks.release_group("g", when_known=[total.key, largest.key])
    await until(lambda: tasks.counts("g") == {"wanted": 4}, "the graph")
    total.release()
    del total
    for i in range(4):
        external_of(a).deliver({key(i): chunk(i)})
    assert await largest == 3


@gen_cluster(client=True, Worker=Nanny, timeout=60)
async def test_client_restart_forgets_everything_and_works_again(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (4,), None, group="g")
    total = c.compute(lazy(4).sum())
    await until(lambda: tasks.counts("g") == {"wanted": 4}, "the graph")
    await c.restart()
    assert not s.tasks
    assert total.status == "cancelled"
    assert tasks.state(key(0)) is State.FORGOTTEN
    tasks.declare(NAME, (4,), None, group="g2")
    total = c.compute(lazy(4).sum())
    for i in range(4):
        await provide({key(i): chunk(i)}, client=c)
    assert await total == 24


@gen_cluster(client=True)
async def test_failure_names_its_cause_and_poisons_no_other(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    events = Events()
    tasks.declare(NAME, (3,), None, group="g", on_event=events)
    totals = c.compute([lazy(3).blocks[i].sum() for i in range(3)])
    tasks.release_group("g", when_known=[t.key for t in totals])
    await until(lambda: tasks.counts("g") == {"wanted": 3}, "the graph")
    assert tasks.fail([key(1)], ExternalTaskError("array t, step 1: rank 3 died")) == 1
    with pytest.raises(ExternalTaskError, match="array t, step 1: rank 3 died"):
        await totals[1]
    external_of(a).deliver({key(0): chunk(1), key(2): chunk(2)})
    assert await totals[0] == 4
    assert await totals[2] == 8
    assert events.of("erred") == [key(1)]


@gen_cluster(client=True)
async def test_failing_ranges_with_an_exception_for_each_key(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (4,), None, group="g")
    totals = c.compute([lazy(4).blocks[i].sum() for i in range(4)])
    await external_of(a).provide({key(1): chunk(1)})
    await until(lambda: tasks.counts("g").get("wanted") == 3, "the graph")
    assert tasks.fail((NAME, [(1, 3)]), lambda k: ExternalTaskError(f"step {k[1]}")) == 1
    with pytest.raises(ExternalTaskError, match="step 2"):
        await totals[2]
    assert await totals[1] == 4


@gen_cluster(client=True)
async def test_end_of_the_group_before_its_last_chunk(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (4,), None, group="g")
    steps = [lazy(4).blocks[i].sum() for i in range(4)]
    *totals, all_of_it = c.compute([*steps, lazy(4).sum()])
    tasks.release_group("g", when_known=[f.key for f in (*totals, all_of_it)])
    for i in range(2):
        await external_of(b).provide({key(i): chunk(i)})
    assert tasks.fail_remaining("g", ExternalTaskError("simulation ended at step 2 of 4")) == 2
    assert await totals[0] == 0
    assert await totals[1] == 4
    for failed in (totals[2], totals[3], all_of_it):
        with pytest.raises(ExternalTaskError, match="ended at step 2 of 4"):
            await failed
    assert (await external_of(a).provide({key(3): chunk(1)}))[key(3)] == "late"
    with pytest.raises(ExternalTaskError, match="has ended"):
        tasks.declare("other", (1,), None, group="g")


@gen_cluster(client=True)
async def test_a_graph_over_a_failed_task_errs_at_once(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (1,), None, group="g")
    tasks.fail([key(0)], ExternalTaskError("gone"))
    with pytest.raises(ExternalTaskError, match="gone"):
        await c.compute(lazy(1).sum())


@gen_cluster(client=True)
async def test_retry_of_a_failed_task_waits_for_data_again(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    events = Events()
    tasks.declare(NAME, (1,), None, group="g", on_event=events)
    total = c.compute(lazy(1).sum())
    await until(lambda: tasks.state(key(0)) is State.WANTED, "the graph")
    tasks.fail([key(0)], ExternalTaskError("gone"))
    await wait(total)
    assert total.status == "error"
    # Client.retry itself stumbles over any failed dependency that it holds no Future of.
    await c.scheduler.retry(keys=[total.key], client=c.id)
    c.futures[total.key].retry()
    await until(lambda: events.of("wanted_again"), "the observer to hear it")
    assert (await external_of(a).provide({key(0): chunk(1)}))[key(0)] == "memory"
    assert await total == 4


@gen_cluster(client=True)
async def test_a_release_before_the_graph_is_registered_waits_for_it(c, s, a, b):
    """update_graph is asynchronous: without when_known this ends in a cancelled Future."""
    await install(c)
    tasks = tasks_of(s)
    for i in range(5):
        name = f"{NAME}-{i}"
        tasks.declare(name, (4,), None, group=f"g{i}")
        total = c.compute(lazy(4, name).sum())
        tasks.release_group(f"g{i}", when_known=[total.key])
        external_of(a).deliver({(name, j): chunk(1) for j in range(4)})
        assert await total == 16


@gen_cluster(client=True)
async def test_declaring_the_same_again_changes_nothing(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    assert tasks.declare(NAME, (4,), None, group="g") == 4
    assert tasks.declare(NAME, (4,), None, group="g") == 0
    with pytest.raises(ExternalTaskError, match="already declared"):
        tasks.declare(NAME, (5,), None, group="g")
    with pytest.raises(ExternalTaskError, match="already declared"):
        tasks.declare(NAME, (4,), None, group="h")


@gen_cluster(client=True)
async def test_the_gate_goes_when_nothing_waits_and_comes_back(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (1,), None, group="g")
    await external_of(a).provide({key(0): chunk(1)})
    assert not s.unrunnable  # all arrived: nothing to wait for
    tasks.declare("more", (1,), None, group="h")
    assert len(s.unrunnable) == 1
    s.validate_state()
    await external_of(a).provide({("more", 0): chunk(1)})
    assert not s.unrunnable


@gen_cluster(client=True)
async def test_story_and_log_tell_every_change(c, s, a, b, tmp_path):
    await install(c)
    tasks = tasks_of(s)
    path = tmp_path / "run" / "external_tasks.jsonl"
    tasks.log.write_to(path, group="g")
    tasks.declare(NAME, (2,), None, group="g")
    total = c.compute(lazy(2).sum())
    tasks.release_group("g", when_known=[total.key])
    await until(lambda: tasks.counts("g") == {"wanted": 2}, "the graph")
    for i in range(2):
        await external_of(a).provide({key(i): chunk(i)})
    await total
    await until(lambda: tasks.state(key(0)) is State.RELEASED, "release")
    story = await c.scheduler.external_story(key=key(0))
    assert story["state"] == "released"
    states = [json.loads(line)["state"] for line in story["records"]]
    assert states == ["declared", "wanted", "memory", "released"]
    tasks.log.close(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    arrival = next(line for line in lines if line["state"] == "memory")
    assert arrival["worker"] == a.address
    assert arrival["bytes"] == [32]
    assert arrival["stimulus"]


@gen_cluster(client=True)
async def test_an_observer_that_raises_harms_nobody(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)

    def broken(kind, keys, info):
        raise RuntimeError("observer")

    events = Events()
    tasks.declare(NAME, (1,), None, group="g", on_event=broken)
    tasks.declare("more", (1,), None, group="g", on_event=events)
    await external_of(a).provide({key(0): chunk(1)})
    await until(lambda: events.of("in_memory"), "the other observer")


@gen_cluster(client=True)
async def test_observers_are_never_called_inside_a_transition(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    heard = asyncio.Event()

    def observer(kind, keys, info):
        if kind == "in_memory":
            # Acting on the scheduler from here must be allowed.
            tasks.fail_remaining("g", ExternalTaskError("observer ended it"))
            heard.set()

    tasks.declare(NAME, (2,), None, group="g", on_event=observer)
    total = c.compute(lazy(2).sum())
    await external_of(a).provide({key(0): chunk(1)})
    await asyncio.wait_for(heard.wait(), 10)
    with pytest.raises(ExternalTaskError, match="observer ended it"):
        await total


@gen_cluster(client=True)
async def test_the_cluster_is_as_before_when_the_scheduler_plugin_closes(c, s, a, b):
    stock = s._TRANSITIONS_TABLE
    callback = s.periodic_callbacks["no-workers-timeout"].callback
    handlers = {op: s.stream_handlers[op] for op in ("add-keys", "update-graph")}
    await install(c)
    assert s._TRANSITIONS_TABLE is not stock
    await s.plugins["external-tasks"].close()
    assert s._TRANSITIONS_TABLE is stock
    assert s.periodic_callbacks["no-workers-timeout"].callback == callback
    assert handlers == {op: s.stream_handlers[op] for op in handlers}


@gen_cluster(client=True)
async def test_the_garbage_collector_rests_while_a_graph_is_registered(c, s, a, b):
    await install(c)
    seen = []

    class Look(SchedulerPlugin):
        def update_graph(self, scheduler, **kwargs):
            seen.append(gc.isenabled())

    s.add_plugin(Look(), name="look")
    assert await c.compute(da.ones(4, chunks=1).sum()) == 4
    assert seen == [False]
    assert gc.isenabled()
    # Nor does a graph that cannot be registered leave it off.
    with pytest.raises(RuntimeError, match="deserialization of the task graph"):
        await c.compute(dask.delayed(Unreadable())())
    assert gc.isenabled()


class Unreadable:
    """Cannot be unpickled, which the scheduler tries."""

    def __call__(self):
        return None

    def __reduce__(self):
        return _raise, ()


def _raise():
    raise RuntimeError("on purpose")
