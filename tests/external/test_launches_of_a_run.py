"""Launches as the coordinator counts them: tasks of pools, programs without a bridge, times."""

from __future__ import annotations

import asyncio
import math

import pytest
from coordinator_by_hand import Tasks, hello, open_receiver, sign

from ips_components.coordination.coordinator import RunCoordinator
from ips_components.coordination.settings import DEADLINES
from ips_components.errors import ContractError, DeadlineExceeded
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.model.step_times import StepTimes
from ips_components.wire.contact import Contact
from ips_components.wire.messages import ContractIs


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


def test_a_task_of_a_pool_waits_for_its_turn_while_those_before_it_make_progress(coordinator):
    async def work():
        await sign(coordinator)
        await (await begin(coordinator, group="pool"))
        second = await begin(coordinator, group="pool", timeout=0.2)
        run = coordinator.runs["r"]
        hello(coordinator, 0, size=1, asks=True)
        for step in range(8):
            await asyncio.sleep(0.05)
            run.state.step_end(0, step, 0.0, {})
        assert not second.done()
        with pytest.raises(DeadlineExceeded, match="a step or the end of the launch before"):
            await second

    asyncio.run(work())


def test_a_launch_of_a_simulation_that_goes_on_alone_ends_with_the_last_word_of_its_ranks(
    coordinator,
):
    """Its exit status is quicker than the goodbyes; the next launch began with the same steps."""

    async def work():
        run = coordinator.runs["r"]
        run.settings["on_analytics_loss"] = "continue"
        await sign(coordinator)
        coordinator.services.ending.fail(run, "analysis", "failed", "it gives up")
        for number in range(2):
            assert await (await begin(coordinator)) == (number, 4 * number)
            hello(coordinator, 0, size=1, asks=True)
            ending = asyncio.ensure_future(end(coordinator, number))
            await asyncio.sleep(0)
            leave(coordinator, 0, 4 * number + 3)
            assert await ending

    asyncio.run(work())


def test_a_launch_that_goes_on_alone_does_not_wait_for_ranks_that_nobody_hears(coordinator):
    async def work():
        run = coordinator.runs["r"]
        run.settings["on_analytics_loss"] = "continue"
        await sign(coordinator)
        coordinator.services.ending.fail(run, "analysis", "failed", "it gives up")
        await (await begin(coordinator))
        hello(coordinator, 0, size=1, asks=True)
        ending = asyncio.ensure_future(end(coordinator, 0))
        await asyncio.sleep(0)
        assert not ending.done()
        coordinator.remove_worker(coordinator.scheduler, "a", stimulus_id="test")
        assert await asyncio.wait_for(ending, 10)

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


@pytest.mark.parametrize("last", [2, 4])
def test_a_launch_of_another_number_of_steps_than_said_fails(coordinator, last):
    async def work():
        run = coordinator.runs["r"]
        run.settings = {**run.settings, "launches": {"many": True, "steps": 4}}
        await sign(coordinator)
        await (await begin(coordinator))
        hello(coordinator, 0, size=1, asks=True)
        leave(coordinator, 0, last)
        with pytest.raises(ContractError, match=rf"ended at step {last}, expected 3 \(STEPS_PER_"):
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


async def attach(coordinator):
    """A client attaches and opens a contract; the attached run."""
    run = coordinator.runs["r"]
    run.state.attempts, run.settings["token"], run.settings["arrays"] = 1, "t", [{"name": "t"}]
    await coordinator.call("attach", "r", token="t", name="me", client_id="c1")
    endpoint = {"ordinal": 0, "host": "127.0.0.1", "port": 1, "hostname": "node1"}
    coordinator.event("a", "open", "r~1", endpoint=endpoint)
    attached = coordinator.runs["r~1"]
    attached.settings = {"deadlines": DEADLINES, "launches": {"many": True, "renumber": False}}
    await coordinator.call(
        "amend", "r", name="me", contact=Contact("r~1", "ab" * 32, ()).to_bytes()
    )
    return attached


async def ask_for(coordinator, *steps):
    """Sign a contract of an attached run, over these steps."""
    spec = ArraySpec("t", "<f8", (8,), StepAxis(steps[0], 1, len(steps)))
    agreed = Contract("r~1", (ArrayContract.agree(spec, run="r~1", receivers=(0,)),))
    await coordinator.call("contract", "r~1", blob=agreed.to_bytes())
    await coordinator.call("committed", "r~1", keys=[], timeout=1.0)
    return agreed.arrays[0]


def sent_launches(coordinator, run):
    sent = coordinator.scheduler.stream_comms["a"].sent
    return [each for each in sent if each["action"] == "launch" and each["run"] == run]


def test_an_attached_run_goes_on_with_the_next_launch(coordinator):
    """From its first step on: ranks wait for it; what has passed errs, what is to come waits."""
    failed = []
    coordinator.tasks.fail = lambda keys, failure: failed.extend(
        (key, failure(key)) for key in keys
    )

    async def work():
        await sign(coordinator)
        await (await begin(coordinator))
        attached = await attach(coordinator)
        hello(coordinator, 0, size=1, asks=True)
        assert [each["launch"] for each in sent_launches(coordinator, "r~1")] == [0]
        leave(coordinator, 0, 1)
        await end(coordinator, 0)
        assert attached.launches[-1].ok
        coordinator.tasks.declared = set()  # those of the first contract
        array = await ask_for(coordinator, 1, 2, 3, 4)
        ranks = await coordinator.call("ranks", "r~1", timeout=1.0)
        assert ranks == {0: 1}  # between launches: the next one begins at step 2
        await (await begin(coordinator))
        (mine,) = sent_launches(coordinator, "r~1")[1:]
        assert (mine["launch"], mine["first_step"]) == (1, 2)
        own = sent_launches(coordinator, "r")[-1]
        assert own["flags"] >> ContractIs.AWAITED == 1
        sent = coordinator.scheduler.stream_comms["a"].sent
        assert sent.index(mine) < sent.index(own)
        assert [key for key, _ in failed] == [array.key(0)]
        assert "step 1" in str(failed[0][1])
        assert not attached.over
        await coordinator.call("end_simulation", "r")
        assert attached.closed

    asyncio.run(work())


def test_an_attached_run_that_cannot_go_on_ends_alone(coordinator):
    """An array by rows needs as many ranks in each launch."""

    async def work():
        await sign(coordinator)
        await (await begin(coordinator))
        attached = await attach(coordinator)
        spec = ArraySpec("t", "<f8", (-1, 2), StepAxis(0, 1, 9), ragged=True)
        agreed = Contract("r~1", (ArrayContract.agree(spec, run="r~1", receivers=(0,)),))
        hello(coordinator, 0, size=1, asks=True)
        leave(coordinator, 0, 1)
        await end(coordinator, 0)
        await coordinator.call("contract", "r~1", blob=agreed.to_bytes())
        assert await (await begin(coordinator, size=2)) == (1, 2)
        (amendment,) = coordinator.runs["r"].attached["me"].amendments.values()
        assert "every launch must have as many ranks" in amendment.why
        assert attached.over

    asyncio.run(work())
