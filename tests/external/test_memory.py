"""Bounded memory: a field twenty times the workers' memory goes through it, and it stays flat."""

from __future__ import annotations

import asyncio

import numpy as np
import psutil
from distributed.utils_test import gen_cluster
from external_helpers import NAME, Events, external_of, install, lazy, tasks_of, until

MIB = 1 << 20
LIMIT = 16 * MIB  # of each of two workers
CHUNK = MIB // 8  # doubles in a chunk of 1 MiB
N = 20 * 2 * LIMIT // MIB
IN_FLIGHT = 6


@gen_cluster(
    client=True,
    timeout=110,
    worker_kwargs={"memory_limit": LIMIT},
    config={
        # Both workers live in this process, whose size must not pause them.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
    },
)
async def test_field_of_twenty_times_the_workers_memory(c, s, a, b):
    await install(c)
    tasks, events = tasks_of(s), Events()
    tasks.declare(NAME, (N,), None, group="g", on_event=events)
    field = lazy(N, shape=(CHUNK,))
    future = c.compute((field * 2).sum(split_every=8))
    tasks.release_group("g", when_known=[future.key])
    await until(lambda: tasks.counts("g") == {"wanted": N}, "the graph")
    await until(lambda: not s.tasks[NAME, 0].who_wants, "the hold to be dropped")
    assert not any(s.tasks[NAME, i].who_wants for i in range(N))

    process = psutil.Process()
    held, resident = [], []
    for i in range(N):
        # What credits do in a run: no more in flight than the workers have room for.
        await until(lambda i=i: i - len(events.of("released")) < IN_FLIGHT, "a chunk to be freed")
        external_of((a, b)[i % 2]).deliver({(NAME, i): np.full(CHUNK, float(i % 7))})
        held.append(a.state.nbytes + b.state.nbytes)
        resident.append(process.memory_info().rss)
    assert await future == 2 * CHUNK * sum(i % 7 for i in range(N))
    assert max(held) <= 2 * LIMIT
    # Flat: the last quarter of the run needs no more than the first.
    quarter = N // 4
    assert max(resident[-quarter:]) - max(resident[:quarter]) < 3 * LIMIT
    await until(lambda: len(events.of("released")) == N, "the last chunk to be freed")
    await asyncio.sleep(0)
    assert not any(key[0] == NAME for w in (a, b) for key in w.data if isinstance(key, tuple))
