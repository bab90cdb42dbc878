"""Arrivals, and the tasks that they release, on Dask's streams."""

from __future__ import annotations

import threading

from distributed.metrics import time
from distributed.utils_test import gen_cluster
from external_helpers import NAME, chunk, external_of, install, key, lazy, tasks_of, until

from ips_components.external import _compat

STARTED = threading.Event()


def note_start(block):
    STARTED.set()
    return block


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)])
async def test_arrivals_and_what_they_release_do_not_wait_for_the_interval_of_a_stream(c, s, a):
    """A stream of Dask holds back a message that follows another one: here, for an hour."""
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (1,), None, group="g")
    result = c.compute(lazy(1).map_blocks(note_start, dtype=float))
    STARTED.clear()  # map_blocks has tried the function
    await until(lambda: tasks.counts("g") == {"wanted": 1}, "the graph")
    streams = {s.stream_comms[a.address]: {"op": "free-keys", "keys": [], "stimulus_id": "test"}}
    streams[a.batched_stream] = {"op": "keep-alive"}
    intervals = {stream: stream.interval for stream in streams}
    for stream, message in streams.items():
        stream.interval = 3600
        # One that was sent a moment ago may have a short interval that is not over.
        await until(lambda stream=stream: stream.next_deadline is None, "the interval before")
        stream.send(message)
        await until(lambda stream=stream: (stream.next_deadline or 0) > time() + 1000, "an hour")
    external_of(a).deliver({key(0): chunk(1)})
    await until(lambda: tasks.counts("g") == {"memory": 1}, "the arrival")
    await until(STARTED.is_set, "the task")
    for stream, interval in intervals.items():
        stream.interval, stream.next_deadline = interval, None  # Dask's own messages go on
        stream.waker.set()
    assert (await result).sum() == 4


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)])
async def test_what_a_stream_holds_back_goes_in_its_order(c, s, a):
    order = []
    s.stream_handlers["note"] = lambda worker, number: order.append(number)
    stream = a.batched_stream
    await until(lambda: stream.next_deadline is None, "the interval before")
    stream.interval = 3600
    for number in range(3):
        stream.send({"op": "note", "number": number})
        await until(lambda: stream.next_deadline, "an interval")
    assert stream.buffer
    _compat.send_now(stream)
    stream.send({"op": "note", "number": 3})
    await until(lambda: len(order) == 4, "all")
    assert order == [0, 1, 2, 3]
    stream.interval = 0.002
    stream.next_deadline = None
