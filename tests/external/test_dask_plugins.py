"""One plugin to register: it installs the other half, once, however often it is registered."""

from __future__ import annotations

import asyncio
import pickle
import socket
import subprocess
import sys
from unittest.mock import patch

import pytest
from distributed import Worker
from distributed.comm import CommClosedError
from distributed.utils_test import gen_cluster
from external_helpers import NAME, chunk, external_of, install, key, lazy, tasks_of, until

from ips_components.errors import ExternalTaskError
from ips_components.external import worker_plugin as _worker_plugin
from ips_components.external.scheduler_plugin import ExternalTasksPlugin
from ips_components.external.tasks import EXTENSION
from ips_components.external.worker_plugin import ExternalDataPlugin

EVENTS: list[str] = []


class Companion:
    """Remembers what happens to it."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def setup(self, worker, external):
        EVENTS.append(f"{self.name} up")
        self.external = external

    async def teardown(self):
        EVENTS.append(f"{self.name} down")


class Broken:
    """A companion that cannot start."""

    async def setup(self, worker, external):
        raise RuntimeError("no port left")

    async def teardown(self):
        EVENTS.append("broken down")


class SchedulerCompanion:
    """Lives beside the external tasks."""

    def __init__(self, tasks) -> None:
        self.tasks = tasks


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)] * 3)
async def test_one_registration_installs_both_halves_on_all_workers(c, s, *workers):
    await install(c)
    assert EXTENSION in s.extensions
    assert all(EXTENSION in w.extensions for w in workers)
    async with Worker(s.address) as late:
        assert EXTENSION in late.extensions


@gen_cluster(client=True)
async def test_registering_again_and_again_changes_nothing(c, s, a, b):
    await install(c)
    tasks, table, external = tasks_of(s), s._TRANSITIONS_TABLE, external_of(a)
    tasks.declare(NAME, (1,), None, group="g")
    await asyncio.gather(*(install(c) for _ in range(3)))
    await c.register_plugin(ExternalTasksPlugin())
    assert tasks_of(s) is tasks
    assert s._TRANSITIONS_TABLE is table
    assert external_of(a) is external
    await external.provide({key(0): chunk(1)})
    assert await c.compute(lazy(1).sum()) == 4


@gen_cluster(client=True)
async def test_replacing_the_scheduler_plugin_keeps_the_tasks(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    await s.register_scheduler_plugin(ExternalTasksPlugin(), name="another", idempotent=False)
    assert tasks_of(s) is tasks


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)])
async def test_a_task_that_gathers_from_a_worker_that_has_left_does_not_wait_for_it(c, s, a):
    stock = a.stream_handlers["remove-worker"]
    await install(c)
    with socket.socket() as silent:  # bound, but not listening
        silent.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        pool = a._get_client().rpc
        attempt = asyncio.create_task(pool.connect(address))
        await until(lambda: address in pool._connecting, "the attempt to connect")
        a.stream_handlers["remove-worker"](worker=address, stimulus_id="test")
        with pytest.raises(CommClosedError):
            await asyncio.wait_for(attempt, 10)
    await c.unregister_worker_plugin("external-data")
    assert a.stream_handlers["remove-worker"] == stock


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)])
async def test_two_plugins_share_one_external_worker(c, s, a):
    EVENTS.clear()
    await install(c)
    external = external_of(a)
    await install(c, companions=[Companion("one"), Companion("two")])
    assert external_of(a) is external
    assert EVENTS == ["one up", "two up"]
    await c.unregister_worker_plugin("external-data-Companion-Companion")
    assert EVENTS == ["one up", "two up", "two down", "one down"]
    assert external_of(a) is external
    await c.unregister_worker_plugin("external-data")
    assert EXTENSION not in a.extensions
    assert "external_provide" not in a.handlers


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)])
async def test_companion_that_cannot_start_says_so_and_the_others_go_down(c, s, a):
    EVENTS.clear()
    with pytest.raises(RuntimeError, match="no port left"):
        await install(c, companions=[Companion("one"), Broken()])
    await c.unregister_worker_plugin("external-data-Companion-Broken")
    assert EVENTS == ["one up", "one down"]


@gen_cluster(client=True)
async def test_scheduler_companions_are_added_once(c, s, a, b):
    name = f"{__name__}:SchedulerCompanion"
    await install(c)
    for _ in range(2):
        await install(c, scheduler_companions=[name])
    assert isinstance(tasks_of(s).companions[name], SchedulerCompanion)
    assert tasks_of(s).companions[name].tasks is tasks_of(s)


@gen_cluster(client=True)
async def test_scheduler_companion_that_cannot_be_loaded(c, s, a, b):
    with pytest.raises(ExternalTaskError, match=r"cannot load the companion 'nowhere:X'"):
        await install(c, scheduler_companions=["nowhere:X"])


@gen_cluster(client=True)
async def test_plugin_survives_pickling(c, s, a, b):
    plugin = pickle.loads(pickle.dumps(ExternalDataPlugin(name="again")))
    await c.register_plugin(plugin)
    assert EXTENSION in a.extensions


def test_importing_the_package_is_light():
    code = "import sys, ips_components.external; sys.exit('distributed' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@gen_cluster(client=True)
async def test_announcements_are_gathered_while_dask_holds_its_messages_back(c, s, a, b):
    await install(c)
    tasks, external = tasks_of(s), external_of(a)
    tasks.declare(NAME, (40,), None, group="g")
    messages = []
    taken = s.stream_handlers["external-arrived"]

    def arrived(**message):
        messages.append([item[0] for item in message["items"]])
        return taken(**message)

    s.stream_handlers["external-arrived"] = arrived
    with patch.object(_worker_plugin, "ANNOUNCE_INTERVAL", 1.0):
        for i in range(40):
            external.deliver({key(i): chunk(i)})
            await until(lambda i=i: key(i) in a.data, "the value")
        await until(lambda: tasks.counts("g").get("memory") == 40, "all chunks")
    # The first comes alone and does not wait; what comes meanwhile travels together.
    assert messages[0] == [key(0)]
    assert sorted(each for message in messages for each in message) == [key(i) for i in range(40)]
    assert len(messages) < 20
    assert external.pending == 0


@gen_cluster(client=True)
async def test_what_is_held_back_is_announced_when_the_plugin_goes(c, s, a, b):
    await install(c)
    tasks, external = tasks_of(s), external_of(a)
    tasks.declare(NAME, (2,), None, group="g")
    for i in range(2):
        external.deliver({key(i): chunk(i)})
        await until(lambda i=i: key(i) in a.data, "the value")
    external.close()
    await until(lambda: tasks.counts("g").get("memory") == 2, "both chunks")
    assert external.pending == 0
