"""Randomised stress: whatever happens in whatever order, no hang, and right numbers or an error.

Each seed is one small coupled run on a validating scheduler in which workers die, retire and
join, data arrive twice, early, late and from dying transfers, tasks fail, results are cancelled,
and Dask steals, rebalances and drops replicas all the while.  ``-m campaign`` runs hundreds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, Scheduler, Worker
from distributed.client import CancelledError
from external_helpers import external_of, lazy, tasks_of, until

from ips_components.errors import ExternalTaskError
from ips_components.external.worker_plugin import EXTENSION, ExternalDataPlugin

CONFIG = {
    "distributed.scheduler.validate": True,
    "distributed.worker.validate": True,
    "distributed.scheduler.work-stealing-interval": "20ms",
    "distributed.scheduler.active-memory-manager.start": True,
    "distributed.scheduler.active-memory-manager.interval": "50ms",
    "distributed.scheduler.allowed-failures": 100,
    "distributed.comm.timeouts.connect": "1s",
    "distributed.admin.tick.interval": "500ms",
    "distributed.scheduler.no-workers-timeout": "500ms",
}
NAMES = ("external-a-00000000", "external-b-00000000")
N = 12
DEADLINE = 40


def value(key: tuple) -> np.ndarray:
    """The one true value of a chunk."""
    return np.full(4, float(key[1] + 1) * (1 if key[0] == NAMES[0] else 100))


def analyses() -> dict[str, tuple[da.Array, float, set[tuple]]]:
    """Results by name, with the right number and the chunks that each needs."""
    a, b = lazy(N, NAMES[0]), lazy(N, NAMES[1])
    keys_a, keys_b = ([(name, i) for i in range(N)] for name in NAMES)
    va = np.concatenate([value(k) for k in keys_a])
    vb = np.concatenate([value(k) for k in keys_b])
    results = {
        "sum": (a.sum(), va.sum(), set(keys_a)),
        "both": ((a * 2 + b).sum(), (va * 2 + vb).sum(), {*keys_a, *keys_b}),
        "whole": (a.rechunk(-1).max(), va.max(), set(keys_a)),
        "windows": (da.overlap.overlap(b, 1, "reflect").mean(), None, set(keys_b)),
    }
    for i in range(0, N, 3):
        results[f"chunk-{i}"] = (b.blocks[i].sum(), value(keys_b[i]).sum(), {keys_b[i]})
    return results


class World:
    """The outside of one run: it owns the data, and answers when Dask has lost some."""

    def __init__(self, seed: int, scheduler: Scheduler, client: Client) -> None:
        self.random = random.Random(seed)
        self.scheduler, self.client = scheduler, client
        self.tasks = tasks_of(scheduler)
        self.workers: list[Worker] = []
        self.failed: set[tuple] = set()
        self.story: list[str] = []
        self.background: set[asyncio.Task] = set()
        #: On its way: handed to a worker, not yet in memory.  Dies with the worker.
        self.sent: dict[tuple, Worker] = {}

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(coroutine)
        self.background.add(task)

    def on_event(self, kind: str, keys: list[tuple], info: Any) -> None:
        if kind != "wanted":
            for key in keys:
                self.sent.pop(key, None)
        if kind in ("lost", "wanted_again"):
            again = [key for key in keys if key not in self.failed]
            self.spawn(self.deliver(again))
            # The data of a failed chunk cannot be had again.
            self.tasks.fail([k for k in keys if k in self.failed], ExternalTaskError("told you"))

    async def deliver(self, keys: list[tuple]) -> None:
        for key in keys:
            await asyncio.sleep(self.random.random() * 0.02)
            while not (alive := [w for w in self.workers if EXTENSION in w.extensions]):
                await asyncio.sleep(0.01)
            worker = self.random.choice(alive)
            self.sent[key] = worker
            external_of(worker).deliver({key: value(key)}, f"world-{len(self.story)}")
            self.story.append(f"deliver {key} to {worker.address}")

    async def join(self) -> None:
        worker = await Worker(self.scheduler.address, nthreads=1, host="127.0.0.1")
        self.workers.append(worker)
        self.story.append(f"join {worker.address}")

    async def leave(self, how: str) -> None:
        if len(self.workers) < 2 and how == "retire":
            return
        worker = self.workers.pop(self.random.randrange(len(self.workers)))
        self.story.append(f"{how} {worker.address}")
        if how == "die":
            worker.batched_stream.comm.abort()
            await worker.close(executor_wait=False, timeout=0)
        elif how == "close":
            await worker.close(executor_wait=False)
        else:
            await self.client.retire_workers([worker.address])
            await worker.close(executor_wait=False)
        if len(self.workers) < 2:
            await self.join()
        again = [key for key, at in self.sent.items() if at is worker and key not in self.failed]
        self.spawn(self.deliver(again))

    async def fail(self, pending: list[tuple]) -> None:
        if pending and self.random.random() < 0.5:
            key = pending.pop(self.random.randrange(len(pending)))
            self.failed.add(key)
            self.story.append(f"fail {key}")
            self.tasks.fail([key], ExternalTaskError(f"{key} will not come"))

    async def rebalance(self) -> None:
        try:
            await self.client.rebalance()
        except KeyError:  # stock: a worker left meanwhile
            self.story.append("rebalance failed")


def describe(scheduler: Scheduler, workers: list[Worker]) -> None:
    """Print who waits for whom, on the scheduler and on the workers."""
    for ts in scheduler.tasks.values():
        if ts.state not in ("memory", "released"):
            print("  ", ts, ts.waiting_on, ts.processing_on, ts.who_has)
            for dependency in ts.dependencies if ts.processing_on else ():
                print("      needs", dependency, dependency.who_has)
    for worker in workers:
        print(worker.address, worker.status)
        for task in worker.state.tasks.values():
            if task.state != "memory":
                print("  ", task, [d for d in task.dependencies if d.state != "memory"])
                print("      ", *worker.state.story(task.key), sep="\n      ")


async def one_run(seed: int) -> None:
    dice = random.Random(seed)
    async with (
        Scheduler(host="127.0.0.1", port=0, dashboard_address=":0") as scheduler,
        Client(scheduler.address, asynchronous=True) as client,
    ):
        await client.register_plugin(ExternalDataPlugin())
        workers = [await Worker(scheduler.address, nthreads=1, host="127.0.0.1") for _ in range(3)]
        world = World(seed, scheduler, client)
        world.workers = workers
        try:
            await scenario(world, dice)
        except BaseException:
            print(f"seed {seed}:", *world.story, sep="\n  ")
            describe(scheduler, world.workers)
            raise
        finally:
            for task in world.background:
                task.cancel()
            await asyncio.gather(*world.background, return_exceptions=True)
            for worker in world.workers:
                await worker.close(executor_wait=False)


async def scenario(world: World, dice: random.Random) -> None:
    tasks = world.tasks
    early = [(name, i) for name in NAMES for i in range(N) if dice.random() < 0.1]
    await world.deliver(early)
    for name in NAMES:
        tasks.declare(name, (N,), None, group="run", on_event=world.on_event)
    wanted = analyses()
    futures = dict(zip(wanted, world.client.compute([r[0] for r in wanted.values()]), strict=True))
    tasks.release_group("run", when_known=[f.key for f in futures.values()])
    pending = [(name, i) for name in NAMES for i in range(N)]
    dice.shuffle(pending)
    cancelled: set[str] = set()

    async def cancel() -> None:
        name = dice.choice(list(futures))
        if dice.random() < 0.3:
            cancelled.add(name)
            world.story.append(f"cancel {name}")
            futures[name].release()

    actions: list[tuple[float, Callable[[], Coroutine[Any, Any, None]]]] = [
        (0.10, lambda: world.leave("die")),
        (0.05, lambda: world.leave("close")),
        (0.05, lambda: world.leave("retire")),
        (0.10, world.join),
        (0.05, lambda: world.fail(pending)),
        (0.10, world.rebalance),
        (0.05, cancel),
    ]
    while pending:
        batch = [pending.pop() for _ in range(min(len(pending), dice.randint(1, 4)))]
        doubled = [key for key in batch if dice.random() < 0.2]
        await world.deliver(batch + doubled)
        for probability, action in actions:
            if dice.random() < probability and len(world.workers) < 6:
                await action()
    await check(world, wanted, {n: f for n, f in futures.items() if n not in cancelled})
    world.story.append("over")
    futures.clear()
    await until(lambda: not world.scheduler.tasks, "all tasks to be forgotten", DEADLINE)
    assert not world.scheduler.unrunnable
    world.scheduler.validate_state()
    assert not any(name.startswith("external-run") for name in world.scheduler.clients)


async def check(world: World, wanted: dict[str, Any], futures: dict[str, Any]) -> None:
    for name in futures:
        _, right, needs = wanted[name]
        try:
            number = await asyncio.wait_for(futures[name], DEADLINE)
        except ExternalTaskError:
            assert needs & world.failed, f"{name} failed without a cause"
        except CancelledError:
            pytest.fail(f"{name} was cancelled")
        else:
            if right is not None:
                assert number == pytest.approx(right), name
        # Not left to the garbage collector: the traceback of an error refers to the Future.
        futures[name].release()


def run(seed: int) -> None:
    with dask.config.set(CONFIG):
        asyncio.run(asyncio.wait_for(one_run(seed), 4 * DEADLINE))


@pytest.mark.parametrize("seed", range(24))
def test_random_run(seed):
    run(seed)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("block", range(20))
def test_random_campaign(block):
    for seed in range(1000 + 20 * block, 1020 + 20 * block):
        run(seed)
