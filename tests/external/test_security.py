"""What clients and workers may send: checked before it reaches the scheduler's state."""

from __future__ import annotations

import pytest
from distributed.utils_test import gen_cluster
from external_helpers import NAME, chunk, external_of, install, key, tasks_of, until

from ips_components.errors import ExternalTaskError
from ips_components.external import provide

BAD = [
    {"name": NAME, "numblocks": (0,), "group": "g"},
    {"name": NAME, "numblocks": "8", "group": "g"},
    {"name": NAME, "numblocks": (10**6, 10**6), "group": "g"},
    {"name": 5, "numblocks": (1,), "group": "g"},
    {"name": NAME, "numblocks": (4,), "group": ""},
    {"name": NAME, "numblocks": (4,), "group": "g" * 1000},
    {"name": NAME, "numblocks": (4,), "group": "g", "needed": [(3, 1)]},
    {"name": NAME, "numblocks": (4,), "group": "g", "needed": ["x"]},
    {"name": NAME, "numblocks": (4,), "group": "g", "needed": 7},
    {"name": NAME, "numblocks": (4,), "group": "g", "chunks": ((1, 1),)},
    {"name": NAME, "numblocks": (4,), "group": "g", "dtype": 3},
    {"name": NAME, "numblocks": (4,), "group": "g", "client": 3},
]


@gen_cluster(client=True)
async def test_declarations_that_make_no_sense_change_nothing(c, s, a, b):
    await install(c)
    for arguments in BAD:
        with pytest.raises((ExternalTaskError, TypeError)):
            await c.scheduler.external_declare(**arguments)
    for keys in ("abc", [()], [("x",)], [b"x"], [{}], 5):
        with pytest.raises((ExternalTaskError, TypeError)):
            await c.scheduler.external_declare_keys(keys=keys, group="g")
    assert not s.tasks


@gen_cluster(client=True)
async def test_bad_messages_do_not_cut_the_worker_off(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (1,), None, group="g")
    for items in (
        None,
        [None],
        [(key(0),)],
        [(key(0), -1)],
        [(key(0), "many")],
        [([], 1)],
        [({}, 1)],
        [(key(0), 1, 2)],
        [(b"x", 8)],
        "x",
    ):
        a.batched_send({"op": "external-arrived", "items": items, "stimulus_id": "bad"})
    a.batched_send({"op": "external-undeliverable", "keys": 5, "why": 3, "stimulus_id": "bad"})
    external_of(a).deliver({key(0): chunk(1)})
    await until(lambda: tasks.counts("g") == {"memory": 1}, "the good message after the bad ones")
    assert a.address in s.workers


@gen_cluster(client=True)
async def test_bad_messages_do_not_cut_the_client_off(c, s, a, b):
    await install(c)
    for message in ({"keys": 5}, {"group": {}}, {"keys": [()]}, {"group": "nobody"}):
        c._send_to_scheduler({"op": "external-release", **message})
    assert await c.submit(sum, [1, 2]) == 3


@gen_cluster(client=True)
async def test_failing_over_rpc_takes_text_only(c, s, a, b):
    await install(c)
    tasks_of(s).declare(NAME, (2,), None, group="g")
    assert await c.scheduler.external_fail(keys=[key(0)], why="rank 3 died") == 1
    assert s.tasks[key(0)].exception_text == "rank 3 died"
    with pytest.raises(ExternalTaskError, match="not an external task"):
        await c.scheduler.external_fail(keys=["nobody"], why="x")
    assert await c.scheduler.external_fail(group="g", why="over") == 1
    assert (await c.scheduler.external_counts(group="g")) == {"erred": 2}


@gen_cluster(client=True)
async def test_providing_a_key_that_is_none_is_refused(c, s, a, b):
    await install(c)
    with pytest.raises(ExternalTaskError, match="key of an external task"):
        await provide({("x", -1): 1}, client=c)
    async with c.rpc(a.address) as worker:
        with pytest.raises(ExternalTaskError, match="key of an external task"):
            await worker.external_provide(data={b"x": 1})
