"""Attached runs that end while only some of the ranks have joined, fed with events by hand."""

from __future__ import annotations

import asyncio

import pytest
from coordinator_by_hand import Tasks, contract, hello, open_receiver, say_goodbye, sign

from ips_components.coordination.coordinator import RunCoordinator
from ips_components.coordination.settings import DEADLINES
from ips_components.wire.contact import Contact

RANKS = range(2)


@pytest.fixture
def coordinator():
    """A run of two ranks, which put, with one worker."""
    made = RunCoordinator(Tasks())
    made.watch = lambda: None
    del made.scheduler.stream_comms["b"]
    made.tasks.scheduler.remove_client = None
    open_receiver(made, "a", "node1")
    made.runs["r"].settings = {"deadlines": DEADLINES, "token": "t", "arrays": [{"name": "t"}]}
    made.runs["r"].state.attempts = 1
    yield made
    made._watchdog.stop()


async def begin(coordinator):
    """Begin the run itself."""
    await sign(coordinator)
    for rank in RANKS:
        hello(coordinator, rank, size=len(RANKS), asks=not rank)
    coordinator.tasks.declared.clear()  # all that it waits for has come


async def attach(coordinator, name="me", of="r~1", asks=RANKS):
    """A client attaches, and the ranks ask for the contract that it will sign."""
    await coordinator.call("attach", "r", token="t", name=name, client_id=name)
    open_receiver(coordinator, "a", "node1", of=of)
    settings = {"deadlines": DEADLINES, "launches": coordinator.runs["r"].settings.get("launches")}
    coordinator.runs[of].settings = {k: v for k, v in settings.items() if v}
    blob = Contact(of, "ab" * 32, ()).to_bytes()
    await coordinator.call("amend", "r", name=name, contact=blob)
    for rank in asks:
        hello(coordinator, rank, size=len(RANKS), asks=True, of=of)


def join(coordinator, *ranks, of="r~1"):
    for rank in ranks:
        hello(coordinator, rank, size=len(RANKS), of=of)


def leave(coordinator, *ranks, of="r~1"):
    """Ranks close a bridge, and the worker answers where all have."""
    say_goodbye(coordinator, *ranks, of=of)
    flush(coordinator, of)


def flush(coordinator, of="r~1"):
    if of in coordinator.runs and coordinator.runs[of].flushing:
        coordinator.event("a", "flushed", of)


async def contract_of(coordinator, client=0):
    """Return the account of a client's contract, as the record has it."""
    record = await coordinator.call("record", "r")
    (found,) = record["attached"][client]["contracts"]
    return found


@pytest.mark.parametrize("joined", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("first", ["client", "ranks"])
def test_a_client_leaves_while_ranks_join(coordinator, joined, first):
    """Those that have not joined owe no goodbye, whether the client or the simulation ends."""

    async def work():
        await begin(coordinator)
        await attach(coordinator)
        await sign(coordinator, of="r~1")
        join(coordinator, *joined)
        if first == "client":
            await coordinator.call("detach", "r", name="me")
            flush(coordinator)
            assert (await contract_of(coordinator))["ledger"]["closed"] is not joined
        leave(coordinator, *joined)
        leave(coordinator, *RANKS, of="r")
        flush(coordinator)
        found = await contract_of(coordinator)
        assert found["ledger"]["closed"], found
        assert found["phase"] == "ended"
        assert coordinator.runs["r"].state.phase == "ended"
        assert not found["notes"]
        await coordinator.call("detach", "r", name="me")
        assert (await contract_of(coordinator))["ledger"]["closed"]

    asyncio.run(work())


def test_a_client_leaves_before_its_contract_goes_to_the_ranks(coordinator):
    async def work():
        await begin(coordinator)
        await attach(coordinator)
        await coordinator.call("contract", "r~1", blob=contract(of="r~1").to_bytes())
        await coordinator.call("detach", "r", name="me")
        leave(coordinator, *RANKS, of="r")
        found = await contract_of(coordinator)
        assert (found["phase"], found["ledger"]["closed"]) == ("failed", True)

    asyncio.run(work())


def test_the_simulation_ends_before_a_contract_goes_to_its_ranks(coordinator):
    """What the client has asked for errs, and what it signs later is refused."""

    async def work():
        await begin(coordinator)
        await attach(coordinator)
        leave(coordinator, *RANKS, of="r")
        attached = coordinator.runs["r~1"].state
        assert (attached.phase, attached.fatal.who) == ("failed", "simulation")
        assert "before the ranks had the contract" in attached.fatal.cause

    asyncio.run(work())


@pytest.mark.parametrize("first", ["client", "rank"])
def test_a_rank_that_has_joined_and_vanishes_owes_its_goodbye(coordinator, first):
    async def work():
        await begin(coordinator)
        await attach(coordinator)
        await sign(coordinator, of="r~1")
        join(coordinator, 0)
        if first == "client":
            await coordinator.call("detach", "r", name="me")
        coordinator.event("a", "lost", "r~1", rank=0, why="cut off")
        if first == "rank":
            await coordinator.call("detach", "r", name="me")
        leave(coordinator, *RANKS, of="r")
        flush(coordinator)
        found = await contract_of(coordinator)
        assert not found["ledger"]["closed"]
        note = found["notes"][0]
        assert (note["who"], note["cause"]) == ("rank 0", "cut off")
        assert coordinator.runs["r"].state.phase == "ended"
        assert not coordinator.runs["r"].state.faults

    asyncio.run(work())


def test_a_rank_that_joins_after_the_client_has_left_is_awaited(coordinator):
    """It is sent the stop and says goodbye; one that asks only, and is gone, is no loss."""

    async def work():
        await begin(coordinator)
        await attach(coordinator)
        await sign(coordinator, of="r~1")
        await coordinator.call("detach", "r", name="me")
        flush(coordinator)
        assert (await contract_of(coordinator))["phase"] == "ended"
        join(coordinator, 0)
        assert not (await contract_of(coordinator))["ledger"]["closed"]
        leave(coordinator, 0)
        coordinator.event("a", "lost", "r~1", rank=1, why="not back")
        found = await contract_of(coordinator)
        assert (found["phase"], found["ledger"]["closed"]) == ("ended", True)

    asyncio.run(work())


def test_a_rank_dies_before_it_joins(coordinator):
    """The contract has failed with the simulation, and its account is closed."""

    async def work():
        await begin(coordinator)
        await attach(coordinator, asks=[0])
        await sign(coordinator, of="r~1")
        join(coordinator, 0)
        coordinator.tasks.count_waiting = True
        coordinator.event("a", "lost", "r", rank=1, why="killed")
        leave(coordinator, 0, of="r~1")
        leave(coordinator, 0, of="r")
        flush(coordinator)
        found = await contract_of(coordinator)
        assert (found["phase"], found["ledger"]["closed"]) == ("failed", True)
        assert "chunks never came" in found["notes"][0]["cause"]

    asyncio.run(work())


def test_of_two_clients_one_leaves(coordinator):
    """The contract of the other still awaits all ranks."""

    async def work():
        await begin(coordinator)
        for name, of in (("one", "r~1"), ("two", "r~2")):
            await attach(coordinator, name, of)
            await sign(coordinator, of=of)
            join(coordinator, 0, of=of)
        await coordinator.call("detach", "r", name="one")
        leave(coordinator, 0, of="r~1")
        assert (await contract_of(coordinator, 0))["ledger"]["closed"]
        leave(coordinator, 0, of="r~2")
        found = await contract_of(coordinator, 1)
        assert (found["phase"], found["ledger"]["closed"]) == ("running", False)
        join(coordinator, 1, of="r~2")
        leave(coordinator, 1, of="r~2")
        leave(coordinator, *RANKS, of="r")
        for client in (0, 1):
            found = await contract_of(coordinator, client)
            assert (found["phase"], found["ledger"]["closed"]) == ("ended", True)

    asyncio.run(work())


async def launch(coordinator, joins, leaves=None):
    """A launch of the run, some ranks of which join what is attached, and end it."""
    call = coordinator.call("begin_launch", "r", size=len(RANKS), timeout=5.0)
    began = asyncio.ensure_future(call)
    await asyncio.sleep(0)
    record = coordinator.runs["r"].launches[-1]
    coordinator.event("a", "launch_expected", "r", launch=record.number)
    await began
    for rank in RANKS:
        hello(coordinator, rank, size=len(RANKS), asks=not rank)
        if "r~1" in coordinator.runs:
            hello(coordinator, rank, size=len(RANKS), asks=True, of="r~1")
    join(coordinator, *joins)
    if leaves is not None:
        await coordinator.call("detach", "r", name="me")
    leave(coordinator, *joins)
    leave(coordinator, *RANKS, of="r")
    await coordinator.call("end_launch", "r", launch=record.number, ok=True)


@pytest.mark.parametrize("joined", [(), (0,), (0, 1)])
@pytest.mark.parametrize("leaves", ["between", "during", "after"])
def test_a_launch_begins_meanwhile(coordinator, joined, leaves):
    """Each launch has ranks of its own: those that never joined owe nothing to the contract."""

    async def work():
        coordinator.runs["r"].settings["launches"] = {"many": True}
        await sign(coordinator)
        coordinator.tasks.declared.clear()
        await launch(coordinator, ())
        await attach(coordinator, asks=())
        await sign(coordinator, of="r~1")
        await launch(coordinator, (1,))
        if leaves == "between":
            await coordinator.call("detach", "r", name="me")
            flush(coordinator)
        await launch(coordinator, joined, leaves if leaves == "during" else None)
        await coordinator.call("end_simulation", "r")
        flush(coordinator)
        flush(coordinator, "r")
        await coordinator.call("detach", "r", name="me")
        found = await contract_of(coordinator)
        assert found["ledger"]["closed"], found
        assert coordinator.runs["r"].state.phase == "ended"

    asyncio.run(work())
