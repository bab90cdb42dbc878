"""Memory stays bounded, no rank starves, and what is dropped is counted."""

import gc
import threading

import numpy as np
import pytest
from _pair import agree, receivers, together

from ips_components.bridge import Array, Bridge, steps
from ips_components.errors import DeadlineExceeded
from ips_components.model.selection import Selection
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.wire.messages import StepEnd

KIB = 1 << 10
STEP = 256 * KIB
SPEC = ArraySpec("t", "f8", (4, STEP // 32), StepAxis(count=40))
LANES = [("tcp",), ("shm", "tcp")]


@pytest.fixture(params=LANES, ids=lambda lanes: lanes[0])
def options(request):
    return {"contact_options": {"lanes": request.param}}


def rows(rank, step, n=4):
    return np.full((4 // n, STEP // 32), 100 * step + rank, "f8")


def start(work):
    errors = []

    def run():
        try:
            together(4, work)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def test_a_slow_consumer_makes_ranks_wait_in_bounded_memory(tmp_path, options):
    budget = 3 * STEP
    arrays = [Array("t", SPEC.shape, grid=(4, 1), steps=40)]
    with receivers(tmp_path, agree(SPEC), budget=budget, **options) as (file, (r,), (sink,)):

        def work(rank):
            with Bridge(contact=file, rank=rank, size=4, arrays=arrays) as bridge:
                for step in range(40):
                    bridge.put("t", step, rows(rank, step))
                return bridge.statistics().waited

        thread, errors = start(work)
        for step in range(40):
            sink.wait(lambda step=step: (0, step) in sink.counts)
            numbers = r.statistics()
            assert numbers.held + numbers.reserved <= budget
            assert numbers.pool_leased + numbers.pool_idle <= budget
            with sink.changed:
                value = sink.chunks.pop((0, step))
            assert (value[0] == 100 * step + np.arange(4)[:, None]).all()
            del value
        thread.join(30)
        assert not errors


def test_a_retained_slice_does_not_starve_the_rank(tmp_path, options):
    kept = []
    with receivers(tmp_path, agree(SPEC), budget=64 * STEP, **options) as (file, (_,), (sink,)):
        with Bridge(contact=file) as bridge:
            for step in range(40):
                bridge.put("t", step, rows(0, step, 1))
                if step % 2:
                    sink.wait(lambda step=step: (0, step) in sink.counts)
                    kept.append(sink.chunks[0, step][0, 1, :5])
        sink.wait(lambda: len(sink.counts) == 40)
        sink.chunks.clear()
        gc.collect()
        assert [int(k[0]) for k in kept] == list(range(100, 4000, 200))
        kept.clear()


def test_a_chunk_larger_than_the_budget_passes_alone(tmp_path, options):
    with receivers(tmp_path, agree(SPEC), budget=STEP // 2, keep=False, **options) as (
        file,
        _,
        (sink,),
    ):
        with Bridge(contact=file) as bridge:
            for step in range(10):
                bridge.put("t", step, rows(0, step, 1))
        assert len(sink.counts) == 10


def test_a_fast_rank_waits_for_a_slow_one(tmp_path, options):
    """The fast rank may not fill the budget with steps that the slow one has not begun."""
    go = threading.Event()
    arrays = [Array("t", SPEC.shape, grid=(4, 1), steps=40)]
    with receivers(tmp_path, agree(SPEC), budget=3 * STEP, keep=False, **options) as (
        file,
        (receiver,),
        (sink,),
    ):

        def work(rank):
            with Bridge(contact=file, rank=rank, size=4, arrays=arrays) as bridge:
                for step in range(40):
                    if rank == 3 and step == 1:
                        go.wait(20)
                    bridge.put("t", step, rows(rank, step))

        thread, errors = start(work)
        sink.wait(lambda: (0, 0) in sink.counts)
        while receiver.statistics().waiting_ranks < 3:
            assert thread.is_alive()
        assert receiver.statistics().open_chunks <= 3
        go.set()
        thread.join(30)
        assert not errors
        assert len(sink.counts) == 40


def test_the_first_block_of_an_array_is_dropped(tmp_path, options):
    """Nothing of it was copied; the next one goes as any other."""
    specs = [ArraySpec(name, "f8", SPEC.shape, StepAxis(count=3)) for name in "ab"]
    contract = agree(*specs, policy="drop")
    coupled = receivers(tmp_path, contract, budget=STEP, **options)
    with coupled as (file, _, (sink,)), Bridge(contact=file) as bridge:
        bridge.put("a", 0, rows(0, 0, 1))
        sink.wait(lambda: sink.counts)  # it holds the only chunk for which there is room
        bridge.put("b", 0, rows(0, 0, 1))
        sink.chunks.clear()
        bridge.put("b", 1, rows(0, 1, 1))
        account = bridge.statistics().arrays["b"]["blocks"]
        assert account["dropped"] >= 1
        assert account["produced"] == 2 == account["delivered"] + account["dropped"]


def test_policy_drop_counts_and_reports(tmp_path, options):
    contract = agree(SPEC, policy="drop")
    with receivers(tmp_path, contract, budget=3 * STEP, **options) as (file, _, (sink,)):
        with Bridge(contact=file) as bridge:
            for step in range(40):
                bridge.put("t", step, rows(0, step, 1))
            assert bridge.wait()
            account = bridge.statistics().arrays["t"]["blocks"]
        assert account["produced"] == 40 == account["delivered"] + account["dropped"]
        assert account["dropped"] > 0
        assert len(sink.counts) == account["delivered"]
        told = {chunk for _, chunk, _, _ in sink.missed}
        assert told | {chunk for _, chunk in sink.counts} >= set(range(max(told) + 1))


def test_pressure_is_told_when_ranks_wait_and_nothing_is_released(tmp_path, options):
    asked = []

    def spill(nbytes):
        asked.append(nbytes)
        with sink.changed:
            sink.chunks.clear()

    with receivers(
        tmp_path, agree(SPEC), budget=2 * STEP, on_pressure=spill, pressure_after=0.1, **options
    ) as (file, _, (sink,)):
        with Bridge(contact=file) as bridge:
            for step in range(6):
                bridge.put("t", step, rows(0, step, 1))
        sink.wait(lambda: len(sink.counts) == 6)
    assert asked
    assert set(asked) == {STEP}


def test_a_wait_for_credit_has_a_deadline(tmp_path, options):
    with receivers(tmp_path, agree(SPEC), budget=STEP, deadlines={"step": 0.3}, **options) as (
        file,
        _,
        (sink,),
    ):
        bridge = Bridge(contact=file)
        bridge.put("t", 0, rows(0, 0, 1))
        with pytest.raises(DeadlineExceeded, match=r"'t', rank 0: receiver 0 .* no credit within"):
            bridge.put("t", 1, rows(0, 1, 1))
        bridge.close("aborted", "no credit")
        sink.wait(lambda: 0 in sink.byes)


def test_two_arrays_share_the_budget_in_order_of_steps(tmp_path, options):
    specs = (SPEC, ArraySpec("u", "f8", (4, STEP // 32), StepAxis(0, 2, 20)))
    with receivers(tmp_path, agree(*specs), budget=4 * STEP, keep=False, **options) as (
        file,
        _,
        (sink,),
    ):
        with Bridge(contact=file) as bridge:
            for step in range(40):
                bridge.put("t", step, rows(0, step, 1))
                bridge.put("u", step, rows(1, step, 1))
            assert bridge.statistics().arrays["u"]["blocks"]["skipped"] == 20
        assert len(sink.counts) == 60


def test_statistics_tell_the_lanes(tmp_path):
    with receivers(tmp_path, agree(SPEC)) as (file, (receiver,), _), Bridge(contact=file):
        assert receiver.statistics().lanes == {"shm": 1, "tcp": 0}


def slots_of(bridge, name):
    """All slots of an array on this rank."""
    return [slot for ring in bridge._arrays[name].rings for slot in ring.slots]


def test_the_replay_buffer_is_bounded_in_bytes(tmp_path, options):
    page = 4096
    spec = ArraySpec("t", "<f8", (2, 256), StepAxis(count=60))  # a page per block
    arrays = [Array("t", spec.shape, blocks=[((i, 0), (1, 256)) for i in range(2)], steps=60)]
    limits = {"replay_steps": 40, "replay_bytes": 9 * page}
    options["contact_options"].update(limits)
    with receivers(tmp_path, agree(spec), keep=False, **options) as (file, (r,), (sink,)):
        with Bridge(contact=file, arrays=arrays) as bridge:
            for step in range(60):
                for i in range(2):
                    bridge.put("t", step, np.full((1, 256), float(step)), offset=(i, 0))
            assert bridge.wait()
            held = slots_of(bridge, "t")
            assert sum(slot.size for slot in held) == (2 * 3 + 9) * page
            # What is kept is what was put last.
            kept = {stored.t for slot in held for stored in slot.stored}
            assert set(range(56, 60)) <= kept
            r.set_placement({}, [r.endpoint], [(0, 57)])
            sink.wait(lambda: sink.counts[0, 57] == 2)
        assert not sink.missed


def test_slots_that_became_too_small_are_unmapped_by_the_receiver(tmp_path):
    spec = ArraySpec("x", "<f8", (-1, 8), StepAxis(count=40), ragged=True)
    with (
        receivers(tmp_path, agree(spec), keep=False) as (file, (r,), (sink,)),
        Bridge(contact=file) as bridge,
    ):
        for step in range(40):
            bridge.put("x", step, np.zeros((64 * (step + 1), 8)))
            assert bridge.wait()
        (connection,) = r.connections()
        ours = {slot.number for slot in slots_of(bridge, "x")}
        sink.wait(lambda: connection.slots <= ours)


def test_chunks_that_are_released_at_once_are_never_copied_by_the_receiver(tmp_path):
    with (
        receivers(tmp_path, agree(SPEC), keep=False) as (file, (receiver,), (sink,)),
        Bridge(contact=file) as bridge,
    ):
        block = rows(0, 0, 1)
        for step in range(40):  # as fast as slots come back
            bridge.put("t", step, block)
        assert bridge.wait()
        sink.wait(lambda: len(sink.counts) == 40)
        numbers = receiver.statistics()
        assert numbers.pool_leased == numbers.pool_idle == 0  # no buffer was ever needed


def test_a_rank_goes_on_while_a_thread_sends_its_block_over_tcp(tmp_path):
    """Neither the block nor the end of the step before makes it wait for the receiver."""
    spec = ArraySpec("t", "f8", (1, 4 << 20), StepAxis(count=3))  # more than sockets take
    contract = agree(spec)
    options = {"contact_options": {"lanes": ["tcp"], "replay_steps": 1}}
    block, may_read = np.ones(spec.shape), threading.Event()
    with receivers(tmp_path, contract, budget=1 << 30, **options) as (file, _, (sink,)):
        take = sink.chunk

        def chunk(*args):
            assert may_read.wait(30)
            take(*args)

        sink.chunk = chunk
        with Bridge(contact=file) as bridge:
            try:
                for step in range(3):  # nothing is read of the second one, nor of the third
                    bridge.put("t", step, block)
                bridge.step_end(2)
                assert not sink.counts
            finally:
                may_read.set()
            assert bridge.wait()
        sink.wait(lambda: len(sink.counts) == 3)


def test_the_end_of_a_step_does_not_send_the_block_before_it(tmp_path, monkeypatch):
    """Not even when the thread that is to send it has not had its turn yet."""
    options = {"contact_options": {"lanes": ["tcp"], "replay_steps": 1}}
    with receivers(tmp_path, agree(SPEC), **options) as (file, _, (sink,)):
        with Bridge(contact=file) as bridge:
            (connection,) = bridge._delivery.connections.open()
            with monkeypatch.context() as late:
                late.setattr(connection, "send_in_background", lambda: None)
                bridge.put("t", 0, rows(0, 0, 1))
                bridge.step_end(0)
                assert [item.stored is not None for item in connection.to_send] == [True, False]
            connection.send_in_background()
            assert bridge.wait()
        sink.wait(lambda: len(sink.counts) == 1)


def test_puts_that_nobody_wants_show_that_the_rank_goes_on(tmp_path, monkeypatch):
    """The first one after a step that was wanted ends that step, each later one sends the account.

    The array that the analysis does not need at all counts as well.
    """
    monkeypatch.setattr(steps, "_SIGN_EVERY", 0.0)
    first = Selection.from_key(np.s_[:1], SPEC.index_shape)
    contract = agree(SPEC, selections=[first])
    with receivers(tmp_path, contract) as (file, _, (sink,)), Bridge(contact=file) as bridge:
        for step in range(3):
            bridge.put("t", step, rows(step, 0, 1))
        bridge.put("unknown", 0, np.zeros(3))
        sink.wait(lambda: len(sink.steps) == 3)
        assert [info.step for _, info in sink.steps] == [
            0,
            StepEnd.NO_STEP + 2,
            StepEnd.NO_STEP,
        ]
        assert [info.counters[0].blocks[:3] for _, info in sink.steps] == [
            (2, 1, 1),
            (3, 2, 1),
            (3, 2, 1),
        ]


def test_puts_that_nobody_wants_do_not_wait_for_a_receiver(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "_SIGN_EVERY", 0.0)
    first = Selection.from_key(np.s_[:1], SPEC.index_shape)
    with receivers(tmp_path, agree(SPEC, selections=[first])) as (file, (receiver,), _):
        bridge = Bridge(contact=file)
        receiver.close()
        connections = bridge._delivery.connections
        assert bridge._mailbox.wait_for(lambda: not connections.open(), 10.0)
        reports = []
        monkeypatch.setattr(bridge._delivery, "report", reports.append)
        bridge.put("t", 1, rows(1, 0, 1))
        assert not reports
        bridge.close("aborted")
