"""Launches as the coordinator counts them: tasks of pools, programs without a bridge, times."""

from __future__ import annotations

import asyncio
import math

import pytest
from test_coordinator import Tasks, hello, open_receiver, sign

from ips_components.coordination.coordinator import RunCoordinator
from ips_components.coordination.settings import DEADLINES
from ips_components.errors import ContractError, DeadlineExceeded
from ips_components.model.step_times import StepTimes


@pytest.fixture
def coordinator():
    """A run whose simulation is launched many times, with one worker."""
    made = RunCoordinator(Tasks())
    del made.scheduler.stream_comms["b"]
    open_receiver(made, "a", "node1")
    run = made.runs["r"]
    run.settings = {"deadlines": DEADLINES, "launches": {"many": True, "begin": 0.0}}
    return made


async def begin(coordinator, **arguments):
    """Begin a launch; the worker expects it at once."""
    call = asyncio.ensure_future(
        coordinator.call("begin_launch", "r", **{"size": 1, "timeout": 5.0, **arguments})
    )
    await asyncio.sleep(0)
    for _ in range(3):
        run = coordinator.runs["r"]
        if run.expecting:
            coordinator.event("a", "launch_expected", "r", launch=run.launches[-1].number)
        await asyncio.sleep(0)
    return call


async def end(coordinator, launch, **arguments):
    return await coordinator.call("end_launch", "r", launch=launch, **{"ok": True, **arguments})


def leave(coordinator, rank, last):
    """A rank closes its bridge, and all it has put is there."""
    coordinator.event(
        "a", "bye", "r", rank=rank, status="ok", reason="", counters={}, last_step=last
    )
    run = coordinator.runs["r"]
    if run.state.simulation_over:
        coordinator.event("a", "flushed", "r")


def test_tasks_of_a_pool_are_launched_in_turn(coordinator):
    async def work():
        await sign(coordinator)
        first = await (await begin(coordinator, group="pool"))
        second = await begin(coordinator, group="pool")
        assert not second.done()
        hello(coordinator, 0, size=1, asks=True)
        leave(coordinator, 0, 1)
        assert await end(coordinator, 0, group="pool")
        coordinator.event("a", "launch_expected", "r", launch=1)
        for _ in range(3):
            await asyncio.sleep(0)
            if coordinator.runs["r"].expecting:
                coordinator.event("a", "launch_expected", "r", launch=1)
        assert (first, await second) == ((0, 0), (1, 2))

    asyncio.run(work())


def test_tasks_that_are_ranks_of_one_program_are_one_launch(coordinator):
    async def work():
        await sign(coordinator)
        begun = [await (await begin(coordinator, size=2, group="pool")) for _ in range(2)]
        assert begun == [(0, 0), (0, 0)]
        third = await begin(coordinator, size=2, group="pool", timeout=0.05)
        with pytest.raises(DeadlineExceeded, match="one after another"):
            await third
        for rank in (0, 1):
            hello(coordinator, rank, size=2, asks=rank == 0)
        leave(coordinator, 0, 0)
        await end(coordinator, 0, group="pool")
        assert coordinator.runs["r"].launches[0].ok is None
        leave(coordinator, 1, 0)
        await end(coordinator, 0, group="pool")
        assert coordinator.runs["r"].launches[0].ok

    asyncio.run(work())


@pytest.mark.parametrize("ok", [True, False])
def test_a_program_that_opens_no_bridge_was_no_launch(coordinator, ok):
    async def work():
        await sign(coordinator)
        await (await begin(coordinator))
        assert not await end(coordinator, 0, ok=ok, silent=True)
        assert await (await begin(coordinator)) == (0, 0)
        assert not coordinator.runs["r"].over

    asyncio.run(work())


def test_a_simulation_that_opens_no_bridge_fails(coordinator):
    async def work():
        await sign(coordinator)
        await (await begin(coordinator))
        with pytest.raises(ContractError, match="does its program open a bridge"):
            await end(coordinator, 0)

    asyncio.run(work())


def test_published_values_and_results_have_the_times_of_the_loop(coordinator):
    async def work():
        await sign(coordinator)
        await (await begin(coordinator, time=0.5))
        hello(coordinator, 0, size=1, asks=True)
        leave(coordinator, 0, 1)
        await end(coordinator, 0)
        for step in (0, 1, 7):
            await coordinator.call("publish", "r", step=step, values=b"")
        taken = await coordinator.call("published", "r")
        assert [time for _, _, time in taken[:2]] == [0.25, 0.5]
        assert math.isnan(taken[2][2])
        times = StepTimes.from_plain(await coordinator.call("times", "r"))
        assert times.of([1]).tolist() == [0.5]

    asyncio.run(work())


def test_a_driver_that_leaves_its_loop_early_is_named_the_remedy(coordinator):
    async def work():
        coordinator.runs["r"].settings |= {"n_steps": 4}
        coordinator.tasks.count_waiting = True
        await sign(coordinator)
        await (await begin(coordinator))
        hello(coordinator, 0, size=1, asks=True)
        leave(coordinator, 0, 1)
        await end(coordinator, 0)
        await coordinator.call("end_simulation", "r")
        coordinator.event("a", "flushed", "r")
        cause = coordinator.runs["r"].state.fatal.cause
        assert ", in launch 0, and was then finalized" in cause
        assert "AT_MOST = True" in cause

    asyncio.run(work())
