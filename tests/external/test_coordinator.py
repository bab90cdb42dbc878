"""The run coordinator fed with events by hand: no workers, no sockets."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace

import pytest
from coordinator_by_hand import (
    Stream,
    Tasks,
    contract,
    hello,
    open_receiver,
    run,
    say_goodbye,
    sign,
    sign_with,
    told,
)

from ips_components.coordination import coordinator as coordinator_module
from ips_components.coordination.coordinator import RunCoordinator
from ips_components.coordination.ending import FLUSH_INTERVAL
from ips_components.coordination.settings import DEADLINES
from ips_components.coordination.step_report import StepTally
from ips_components.errors import ContractError, DeadlineExceeded, ProtocolError
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.receiver.sink import StepInfo


@pytest.fixture
def coordinator():
    return RunCoordinator(Tasks())


def test_the_contract_is_told_when_it_is_made_and_asked_for(coordinator):
    open_receiver(coordinator, "a", "node1")
    open_receiver(coordinator, "b", "node1")
    run(sign(coordinator))
    assert not told(coordinator, "a", "contract")
    hello(coordinator, 0, asks=True)
    assert [m["ordinal"] for m in told(coordinator, "b", "contract")] == [1]
    assert len(told(coordinator, "a", "contract")[0]["endpoints"]) == 2


@pytest.mark.parametrize("rank", [0, 1])
def test_arrays_that_nobody_describes_are_missed_at_once(coordinator, rank):
    """Where every rank asks by itself, the one that describes may come later."""
    open_receiver(coordinator, "a", "node1")
    hello(coordinator, rank, asks=True)
    error = ContractError if rank == 0 else DeadlineExceeded
    text = "no array is described: rank 0" if rank == 0 else "rank 0 of the simulation to describe"
    with pytest.raises(error, match=text):
        run(coordinator.call("described", "r", timeout=0.2 if rank else 60.0))
    coordinator.event("a", "described", "r", arrays=[{"name": "t"}])
    hello(coordinator, 0, asks=True)
    assert run(coordinator.call("described", "r", timeout=60.0)) == [{"name": "t"}]


def test_asked_for_before_it_is_made(coordinator):
    open_receiver(coordinator, "a", "node1")
    open_receiver(coordinator, "b", "node1")
    hello(coordinator, 0, asks=True)
    assert not told(coordinator, "a", "contract")
    run(sign(coordinator))
    assert told(coordinator, "a", "contract")
    assert coordinator.tasks.released_groups == ["r"]


def test_chunks_go_to_receivers_on_the_host_of_their_blocks(coordinator):
    """Two hosts; the ranks of the lower half of the plate run on the host of receiver 1."""
    open_receiver(coordinator, "a", "node1")
    open_receiver(coordinator, "b", "node2")
    run(sign(coordinator))
    hosts = [
        ("node2", {"t": [[[0, 0], [4, 3]]]}),
        ("node2", {"t": [[[0, 3], [4, 3]]]}),
        ("node1", {"t": [[[4, 0], [4, 3]]]}),
        ("node1", {"t": [[[4, 3], [4, 3]]]}),
    ]
    hello(coordinator, 0, asks=True, hosts=hosts)
    placed = Contract.from_bytes(told(coordinator, "a", "contract")[0]["blob"])
    assert [placed.arrays[0].placement.owner(chunk) for chunk in (0, 1)] == [1, 0]
    assert placed.digest() == contract().digest()


def test_a_receiver_that_leaves_hands_its_chunks_to_the_others(coordinator):
    open_receiver(coordinator, "a", "node1")
    open_receiver(coordinator, "b", "node2")
    run(sign(coordinator))
    hello(coordinator, 0, asks=True)
    coordinator.remove_worker(coordinator.scheduler, "b")
    (message,) = told(coordinator, "a", "placement")
    placed = Contract.from_bytes(message["blob"])
    assert set(placed.arrays[0].placement.owners) == {0}
    assert [e["ordinal"] for e in message["endpoints"]] == [0]
    # No rank has told of a step, but one may have sent something of the first ones.
    assert [list(each) for each in message["resend"]] == [[0, 1], [0, 3], [0, 5], [0, 7]]


def test_a_receiver_that_joins_gets_its_share_of_steps_that_nobody_has_begun(coordinator):
    coordinator.scheduler.stream_comms["c"] = Stream()
    open_receiver(coordinator, "a", "node1")
    open_receiver(coordinator, "b", "node1")
    run(sign(coordinator))
    hello(coordinator, 0, asks=True)
    before = contract().arrays[0].placement
    open_receiver(coordinator, "c", "node1")
    (message,) = told(coordinator, "c", "placement")
    assert [m["ordinal"] for m in told(coordinator, "c", "contract")] == [2]
    now = Contract.from_bytes(message["blob"]).arrays[0].placement
    # No rank has told of a step: one may have begun the first two.
    assert [now.owner(chunk) for chunk in range(4)] == [before.owner(chunk) for chunk in range(4)]
    assert {now.owner(chunk) for chunk in range(4, 8)} == {0, 1, 2}
    moved = [c for c in range(4, 8) if now.owner(c) == 2]
    assert [tuple(each) for each in message["resend"]] == [(0, chunk) for chunk in moved]
    assert message["rows"] == [(0, 2, 4)]
    (other,) = told(coordinator, "a", "placement")
    assert other["rows"] == [(0, 0, 4)]
    assert other["epoch"] == message["epoch"] == 1
    assert len(other["endpoints"]) == 3


def test_what_was_to_come_again_to_a_receiver_that_leaves_is_asked_of_the_others(coordinator):
    """All had arrived; one chunk died with a worker, and the one asked for it dies as well."""
    open_receiver(coordinator, "a", "node1")
    open_receiver(coordinator, "b", "node1")
    run(sign(coordinator))
    hello(coordinator, 0, asks=True)
    coordinator.tasks.there = True
    array = coordinator.runs["r"].contract.arrays[0]
    lost, fine = [chunk for chunk in range(8) if array.placement.owner(chunk) == 1][:2]
    coordinator.tasks.lost = {array.key(lost)}
    coordinator.remove_worker(coordinator.scheduler, "b")
    (message,) = told(coordinator, "a", "placement")
    assert message["resend"] == [(0, lost)]
    assert (0, fine) in message["skip"]
    assert (0, lost) not in message["skip"]


def test_a_receiver_that_leaves_an_open_ended_run_has_none_of_what_is_not_declared(coordinator):
    """Chunks that are declared later are neither there nor forgotten."""
    spec = ArraySpec("t", "<f8", (8, 6), StepAxis(), ("y", "x"))
    agreed = Contract("r", (ArrayContract.agree(spec, run="r", receivers=range(2)),))
    open_receiver(coordinator, "a", "node1")
    open_receiver(coordinator, "b", "node1")
    run(sign_with(coordinator, agreed, ahead=True))
    hello(coordinator, 0, asks=True)
    run(coordinator.call("declare_ahead", "r", array=0, first=0, stop=16))
    coordinator.tasks.there = True
    array = coordinator.runs["r"].contract.arrays[0]
    lost = next(chunk for chunk in (20, 21) if array.placement.owner(chunk) == 1)
    coordinator.tasks.lost = {array.key(lost)}
    coordinator.remove_worker(coordinator.scheduler, "b")
    (message,) = told(coordinator, "a", "placement")
    assert message["resend"] == [(0, lost)]
    assert {chunk // 2 for _, chunk in message["skip"]} == set(range(11, 16))
    assert message["rows"] == [(0, 10, 16)]


def test_what_is_to_come_again_stays_where_it_is_when_a_receiver_joins(coordinator):
    """A worker that was asked for it forgets what is another's: no worker would take it."""
    spec = ArraySpec("t", "<f8", (8, 6), StepAxis(count=400), ("y", "x"))
    agreed = Contract("r", (ArrayContract.agree(spec, run="r", receivers=range(1)),))
    open_receiver(coordinator, "a", "node1")
    run(sign_with(coordinator, agreed))
    hello(coordinator, 0, asks=True)
    tally = StepTally()
    tally.add(0, StepInfo(100, 0.0, ()))
    coordinator.event("a", "steps", "r", report=tally.take(["t"]).to_message())
    coordinator.tasks.there = True
    array = coordinator.runs["r"].contract.arrays[0]
    coordinator.tasks.lost = {array.key(chunk) for chunk in range(60, 100)}
    open_receiver(coordinator, "b", "node1")
    (message,) = told(coordinator, "b", "placement")
    now = Contract.from_bytes(message["blob"]).arrays[0].placement
    assert {now.owner(chunk) for chunk in range(60, 100)} == {0}
    assert {now.owner(chunk) for chunk in range(200, 400)} == {0, 1}


def test_a_receiver_that_leaves_before_the_contract_is_asked_for(coordinator):
    open_receiver(coordinator, "a", "node1")
    open_receiver(coordinator, "b", "node1")
    run(sign(coordinator))
    coordinator.remove_worker(coordinator.scheduler, "b")
    assert not told(coordinator, "a", "placement")
    hello(coordinator, 0, asks=True)
    placed = Contract.from_bytes(told(coordinator, "a", "contract")[0]["blob"])
    assert set(placed.arrays[0].placement.owners) == {0}


def test_the_last_receiver_that_leaves_fails_the_run(coordinator):
    open_receiver(coordinator, "a", "node1")
    run(sign(coordinator))
    coordinator.remove_worker(coordinator.scheduler, "a")
    assert coordinator.runs["r"].state.phase == "failed"


def test_ranks_leave_when_all_have_said_goodbye_and_nothing_is_on_its_way(coordinator):
    open_receiver(coordinator, "a", "node1")
    run(sign(coordinator))
    hello(coordinator, 0, size=2, asks=True)
    hello(coordinator, 1, size=2)
    say_goodbye(coordinator, 0)
    assert not told(coordinator, "a", "flush")
    say_goodbye(coordinator, 1)
    assert told(coordinator, "a", "flush")
    assert not told(coordinator, "a", "release_ranks")
    coordinator.event("a", "flushed", "r")
    assert told(coordinator, "a", "release_ranks")
    assert coordinator.runs["r"].state.phase == "ended"


@pytest.mark.parametrize("in_time", [True, False])
def test_ranks_stay_until_they_have_sent_again_what_died_with_a_worker(coordinator, in_time):
    open_receiver(coordinator, "a", "node1")
    open_receiver(coordinator, "b", "node1")
    run(sign(coordinator))
    hello(coordinator, 0, size=1, asks=True)
    say_goodbye(coordinator, 0)
    coordinator.event("a", "flushed", "r")
    coordinator.remove_worker(coordinator.scheduler, "b")  # it never answers
    assert told(coordinator, "a", "placement")[0]["resend"]
    assert not told(coordinator, "a", "release_ranks")
    if in_time:
        coordinator.tasks.there = True
        keys = list(coordinator.runs["r"].again)
        coordinator.chunk_events.observe("in_memory", keys, {"group": "r"})
    else:
        _, conclude, *arguments = coordinator.tasks.later[0]
        conclude(*arguments)
    assert told(coordinator, "a", "release_ranks")


@pytest.mark.parametrize("bad", ["", "x" * 300, 3])
def test_run_ids_are_checked(coordinator, bad):
    with pytest.raises(ValueError, match="run id"):
        run(coordinator.call("record", bad))


def test_unknown_methods_are_refused(coordinator):
    with pytest.raises(ValueError, match="no method 'explode'"):
        run(coordinator.call("explode", "r"))


def test_messages_of_another_release_are_refused_with_their_fields(coordinator):
    with pytest.raises(ProtocolError, match=r"'stop' has the fields reason; got why"):
        run(coordinator.call("stop", "r", why="x"))


def test_messages_of_unknown_runs_and_of_closed_receivers_change_nothing(coordinator):
    """They are stale: a run that is forgotten does not come back by them."""
    hello(coordinator, 0)
    assert not coordinator.runs
    open_receiver(coordinator, "a", "node1")
    open_receiver(coordinator, "b", "node1")
    coordinator.remove_worker(coordinator.scheduler, "a")
    hello(coordinator, 0)
    assert not coordinator.runs["r"].state.ranks


def test_a_second_process_of_a_rank_fails_the_run_with_the_remedy(coordinator):
    open_receiver(coordinator, "a", "node1")
    run(sign(coordinator))
    for pid in (10, 11):
        info = {"rank": 0, "size": 1, "host": "h", "pid": pid, "asks": True}
        coordinator.event("a", "hello", "r", **info)
    fatal = coordinator.runs["r"].state.fatal
    assert "2 programs of 1 rank:" in fatal.cause
    assert "is mpiexec of another MPI" in fatal.cause


def test_a_chunk_that_was_put_is_awaited_though_the_workers_have_flushed(coordinator):
    """The announcement may come after the answer; the run ends by counts, not by their order."""
    open_receiver(coordinator, "a", "node1")
    run(sign(coordinator))
    hello(coordinator, 0, size=1, asks=True)
    blocks = {"produced": 4, "delivered": 4}
    counters = {"t": {"blocks": blocks, "bytes": {k: 8 * n for k, n in blocks.items()}}}
    coordinator.tasks.count_waiting = True
    say_goodbye(coordinator, 0, counters=counters)
    coordinator.event("a", "flushed", "r")
    assert coordinator.runs["r"].state.phase == "running"
    _, flush, *arguments = coordinator.tasks.later[-1]
    flush(*arguments)
    coordinator.tasks.there = True  # the announcement has come
    coordinator.event("a", "flushed", "r")
    assert coordinator.runs["r"].state.phase == "ended"


def faults_at_step_0(coordinator, **limits):
    """Sign a contract of 8 x 6 cells of 8 bytes in 8 ranks, which keep two steps."""
    open_receiver(coordinator, "a", "node1")
    settings = {"deadlines": DEADLINES, "replay_steps": 2, **limits}
    run(coordinator.call("open", "r", settings=settings))
    run(sign(coordinator))
    hello(coordinator, 0, size=8, asks=True)
    return coordinator.runs["r"].state.faults


@pytest.mark.parametrize(("limit", "noted"), [(95, True), (96, False)])
def test_what_replay_allows_is_said_before_step_0(coordinator, limit, noted):
    """Two steps of 8 x 6 cells of 8 bytes in 8 ranks are 96 bytes in each."""
    faults = faults_at_step_0(coordinator, replay_bytes=limit, slot_bytes=1 << 20)
    assert bool(faults) == noted
    if noted:
        assert "REPLAY_BYTES = 95 (95 B) is less than the 96 B that a rank needs" in faults[0].cause
        assert "array 't' 2 steps of 48 B" in faults[0].cause
        assert "set REPLAY_BYTES = 96" in faults[0].cause
    coordinator._watchdog.stop()


@pytest.mark.parametrize(("limit", "noted"), [(143, True), (144, False)])
def test_slots_that_are_too_few_to_send_again_are_said_before_step_0(coordinator, limit, noted):
    """Two steps of 48 bytes, and one more that is written."""
    faults = faults_at_step_0(coordinator, replay_bytes=1 << 20, slot_bytes=limit)
    assert bool(faults) == noted
    if noted:
        assert (
            "SLOT_BYTES = 143 (143 B) is less than the 144 B that a rank needs" in faults[0].cause
        )
        assert "array 't' 2 steps of 48 B, and one more that is written" in faults[0].cause
        assert "set SLOT_BYTES = 144" in faults[0].cause
    coordinator._watchdog.stop()


def test_ranks_are_compared_with_nproc(coordinator):
    """One rank may speak for all of them; the second one of a wrong mpiexec may not."""
    open_receiver(coordinator, "a", "node1")
    run(coordinator.call("open", "r", settings={"deadlines": DEADLINES, "n_ranks": 4}))
    run(sign(coordinator))
    state = coordinator.runs["r"].state
    for pid in (10, 11):
        assert state.phase != "failed"
        info = {"rank": 0, "size": 1, "host": "h", "pid": pid, "asks": True}
        coordinator.event("a", "hello", "r", **info)
    assert "NPROC is 4, and the communicator of its bridge has 1 rank;" in state.faults[0].cause
    assert "2 programs of 1 rank, where NPROC is 4: process 11" in state.fatal.cause
    assert "is mpiexec of another MPI" in state.fatal.cause
    coordinator._watchdog.stop()


def orders_of(*events):
    """Return all orders of some events in which those of one first letter keep theirs."""
    for order in sorted(set(permutations(event[0] for event in events))):
        queues = {letter: [e for e in events if e[0] == letter] for letter in set(order)}
        yield tuple(queues[letter].pop(0) for letter in order)


def test_goodbyes_announcements_and_answers_come_in_any_order():
    """No order of what healthy workers send ends a run before its last chunk has come."""
    orders = list(orders_of("bye 0", "bye 1", "chunks 0", "chunks 1", "a", "z"))
    assert len(orders) == 180
    for order in orders:
        state = end_in_order(RunCoordinator(Tasks()), order)
        assert (state.phase, state.fatal) == ("ended", None), order


def test_what_is_lost_after_the_end_is_said_to_be_lost(coordinator):
    """All had come; the run may be forgotten by the time a worker dies with a chunk."""
    end_in_order(coordinator, ["chunks 0", "chunks 1", "bye 0", "bye 1", "a", "z"])
    key = coordinator.runs["r"].agreed.arrays[0].key(0)
    cause = str(coordinator.tasks.afterwards(key))
    assert "'t'" in cause
    assert "lost with its worker, and cannot be sent again: simulation ended at step" in cause


def end_in_order(coordinator, order):
    """Let a run of two ranks and the workers "a" and "b" end; return its state.

    An event is the goodbye of a rank, the announcement of half of the chunks, or the answer of a
    worker ("z" is "b") if it was asked to flush.
    """
    for worker in "ab":
        open_receiver(coordinator, worker, "node1")
    run(sign(coordinator))
    for rank in range(2):
        hello(coordinator, rank, size=2, asks=not rank)
    tasks, state = coordinator.tasks, coordinator.runs["r"].state
    tasks.count_waiting = True
    keys = sorted(tasks.declared)
    blocks = {"produced": 4, "delivered": 4}
    counters = {"t": {"blocks": blocks, "bytes": {k: 8 * n for k, n in blocks.items()}}}
    answered = {"a": 0, "b": 0}

    def answer(worker):
        if answered[worker] < len(told(coordinator, worker, "flush")):
            answered[worker] += 1
            coordinator.event(worker, "flushed", "r")

    for event in order:
        if event.startswith("bye"):
            say_goodbye(coordinator, int(event[-1]), counters=counters)
        elif event.startswith("chunks"):
            half = keys[:3] if event[-1] == "0" else keys[3:]
            tasks.declared.difference_update(half)
            coordinator.chunk_events.observe("in_memory", half, {"group": "r"})
        else:
            answer("b" if event == "z" else event)
        assert state.phase == "running" or not tasks.declared, order
    for _ in range(4):
        later, tasks.later[:] = list(tasks.later), []
        for delay, function, *arguments in later:
            if delay == FLUSH_INTERVAL:
                function(*arguments)
        for worker in "ab":
            answer(worker)
    return state


def test_a_chunk_that_was_put_is_not_awaited_for_ever(coordinator):
    open_receiver(coordinator, "a", "node1")
    run(sign(coordinator))
    hello(coordinator, 0, size=1, asks=True)
    blocks = {"produced": 4, "delivered": 4}
    counters = {"t": {"blocks": blocks, "bytes": {k: 8 * n for k, n in blocks.items()}}}
    coordinator.tasks.count_waiting = True
    say_goodbye(coordinator, 0, counters=counters)
    coordinator.runs["r"].flush_until = 0.0
    coordinator.event("a", "flushed", "r")
    assert "8 chunks never came" in coordinator.runs["r"].state.fatal.cause


def test_ranks_that_cannot_speak_before_the_contract_are_not_missing(coordinator):
    """An analysis may take longer than the deadline for connections to give its contract."""
    open_receiver(coordinator, "a", "node1")
    hello(coordinator, 0, size=2, asks=True)
    record = coordinator.runs["r"]
    record.settings = {"deadlines": {**DEADLINES, "connect": 0.0}}
    run(coordinator._check_liveness())
    assert record.state.phase != "failed"
    run(sign(coordinator))
    run(coordinator._check_liveness())
    assert record.state.fatal.who == "rank 1"


def test_an_analysis_that_gives_no_contract_is_named(coordinator):
    open_receiver(coordinator, "a", "node1")
    run(coordinator.call("open", "r", settings={"deadlines": {**DEADLINES, "contract": 0.0}}))
    hello(coordinator, 0, size=2, asks=True)
    run(coordinator._check_liveness())
    fatal = coordinator.runs["r"].state.fatal
    assert fatal.who == "analysis"
    assert "function has neither returned its results nor committed them 0 s (CON" in fatal.cause
    assert "CONTRACT_TIME_OUT" in fatal.cause
    coordinator._watchdog.stop()


def test_silent_workers_of_a_run_that_is_over_are_left_alone(coordinator):
    """The cluster may serve others by now."""
    removed = []

    async def remove_worker(worker, stimulus_id):
        removed.append(worker)

    coordinator.scheduler.remove_worker = remove_worker
    coordinator.scheduler.workers["a"] = SimpleNamespace(last_seen=0.0)
    open_receiver(coordinator, "a", "node1")
    run(sign(coordinator))
    hello(coordinator, 0, size=1, asks=True)
    run(coordinator._check_liveness())
    assert removed == ["a"]
    coordinator.tasks.there = True
    say_goodbye(coordinator, 0)
    coordinator.event("a", "flushed", "r")
    run(coordinator.call("results_done", "r", outcome={}))
    assert coordinator.runs["r"].retired
    run(coordinator._check_liveness())
    assert removed == ["a"]


def test_a_run_that_is_over_is_retired_and_forgotten_at_last(coordinator, monkeypatch):
    monkeypatch.setattr(coordinator_module, "MAX_RETIRED", 0)
    coordinator.scheduler.worker_plugins["plugin-r"] = b""
    endpoint = {"ordinal": 0, "host": "127.0.0.1", "port": 1, "hostname": "node1"}
    coordinator.event("a", "open", "r", endpoint=endpoint, plugin="plugin-r")
    run(sign(coordinator))
    hello(coordinator, 0, size=1, asks=True)
    coordinator.tasks.there = True
    say_goodbye(coordinator, 0)
    coordinator.event("a", "flushed", "r")
    assert not told(coordinator, "a", "retire")  # its analysis still works
    run(coordinator.call("results_done", "r", outcome={}))
    assert told(coordinator, "a", "retire")
    assert not coordinator.tasks.callbacks
    coordinator.event("a", "ranks_left", "r")
    ((_, kwargs),) = coordinator.tasks.callbacks
    assert kwargs == {"name": "plugin-r"}
    assert not coordinator.runs
    with pytest.raises(ContractError, match="run r is over"):
        run(coordinator.call("record", "r"))


def test_a_graph_that_grows_is_not_resumed_and_ends_with_its_run(coordinator):
    open_receiver(coordinator, "a", "node1")
    steps = StepAxis(at_most=True)
    agreed = ArrayContract.agree(ArraySpec("t", "f8", (4,), steps), run="r")

    async def work():
        await sign_with(coordinator, Contract("r", (agreed,)), ahead=True)
        arguments = {"array": 0, "first": 0, "stop": 2}
        assert await coordinator.call("declare_ahead", "r", **arguments) is True
        with pytest.raises(ContractError, match=r"grows with the steps cannot be .* AT_MOST"):
            await sign_with(coordinator, Contract("r", (agreed,)), ahead=True)
        with pytest.raises(ContractError, match="cannot be kept half way"):
            await coordinator.call("checkpoint", "r", timeout=1.0)
        await coordinator.call("abort", "r", who="simulation", cause="on purpose")
        assert await coordinator.call("declare_ahead", "r", **arguments) is False

    run(work())
