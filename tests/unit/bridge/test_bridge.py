"""Blocks of ranks become chunks, bit for bit, over both lanes."""

import contextlib
import os
import re
import resource
import threading
import time

import numpy as np
import pytest
from _pair import RUN, agree, assembled, receivers, together
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ips_components.bridge import Array, Bridge, Rows
from ips_components.errors import (
    AnalyticsLost,
    BridgeError,
    ContactError,
    ContractError,
    DeadlineExceeded,
    IPSComponentsError,
    RunStopped,
)
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.selection import Selection
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.wire.values import NO_MORE, decode

LANES = [("tcp",), ("shm", "tcp")]
SPEC = ArraySpec("t", "f8", (12, 8), StepAxis(count=6))


@pytest.fixture(params=LANES, ids=lambda lanes: lanes[0])
def lanes(request):
    return request.param


def quarter(field, rank, halo=0):
    i, j = divmod(rank, 2)
    padded = np.pad(field, halo)
    n, m = field.shape[0] // 2, field.shape[1] // 2
    return padded[i * n : (i + 1) * n + 2 * halo, j * m : (j + 1) * m + 2 * halo]


def run(contract, file, sinks, work, size=4, arrays=None):
    """Run `work(bridge, rank)` on all ranks and wait for all goodbyes and chunks."""

    def rank(number):
        with Bridge(contact=file, rank=number, size=size, arrays=arrays) as bridge:
            work(bridge, number)
            return bridge

    return together(size, rank)


def test_blocks_become_chunks(tmp_path, lanes):
    contract = agree(SPEC, receivers=2)
    field = np.random.default_rng(0).random((6, 12, 8))
    options = {"lanes": lanes}
    with receivers(tmp_path, contract, 2, contact_options=options) as (file, _, sinks):

        def work(bridge, rank):
            for step in range(6):
                bridge.put("t", step, quarter(field[step], rank))
            assert set(bridge.statistics().lanes.values()) == {lanes[0]}

        bridges = run(contract, file, sinks, work)
        assert np.array_equal(assembled(contract, 0, sinks), field)
        assert all(count == 1 for sink in sinks for count in sink.counts.values())
        for rank, bridge in enumerate(bridges):
            account = bridge.statistics().arrays["t"]
            assert account["bytes"]["produced"] == account["bytes"]["delivered"] == 6 * 6 * 4 * 8
            byes = [sink.byes[rank] for sink in sinks if rank in sink.byes]
            assert byes[0].counters[0].closed
            assert byes[0].status == "ok"
        steps = {info.step for sink in sinks for _, info in sink.steps}
        assert steps == set(range(6))
        assert not any(sink.faults or sink.losses for sink in sinks)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u8", "c16", "b1", ">f8", "f2"])
@pytest.mark.parametrize("order", ["C", "F", "strided", "negative"])
def test_types_and_memory_orders(tmp_path, lanes, dtype, order):
    spec = ArraySpec("t", dtype, (6, 4), StepAxis(count=2))
    contract = agree(spec)
    field = (np.arange(48).reshape(2, 6, 4) % 7).astype(dtype)
    with receivers(tmp_path, contract, contact_options={"lanes": lanes}) as (file, _, sinks):
        with Bridge(contact=file) as bridge:
            for step in range(2):
                block = field[step]
                if order == "F":
                    block = np.asfortranarray(block)
                elif order == "strided":
                    block = np.repeat(np.repeat(block, 2, 0), 3, 1)[::2, ::3]
                elif order == "negative":
                    block = np.ascontiguousarray(block[::-1, ::-1])[::-1, ::-1]
                bridge.put("t", step, block)
        assert np.array_equal(assembled(contract, 0, sinks), field)
        assert all(not value.flags.writeable for value in sinks[0].chunks.values())


def test_only_what_is_wanted_is_sent_and_halo_never(tmp_path, lanes):
    wanted = [
        Selection.from_key(np.s_[::2, 1:9:3, ::2], (6, 12, 8)),
        Selection.from_key(np.s_[4:, 10:, 5], (6, 12, 8)),
    ]
    array = ArrayContract.agree(SPEC, wanted, run=RUN, receivers=(0, 1))
    contract = Contract(RUN, (array,))
    field = np.random.default_rng(1).random((6, 12, 8))
    expected = np.zeros_like(field)
    for part in array.wanted:
        expected[part.to_slices()] = field[part.to_slices()]
    expected = expected[array.cover.to_slices()]
    with receivers(tmp_path, contract, 2, contact_options={"lanes": lanes}) as (file, _, sinks):
        arrays = [Array("t", (12, 8), "f8", halo=1, steps=6)]

        def work(bridge, rank):
            for step in range(6):
                bridge.put("t", step, quarter(field[step], rank, halo=1))

        bridges = run(contract, file, sinks, work, arrays=arrays)
        assert np.array_equal(assembled(contract, 0, sinks), expected)
        delivered = sum(b.statistics().arrays["t"]["bytes"]["delivered"] for b in bridges)
        assert delivered == array.wanted_bytes
        produced = sum(b.statistics().arrays["t"]["bytes"]["produced"] for b in bridges)
        assert produced == field.nbytes


def test_blocks_in_place(tmp_path, lanes):
    contract = agree(SPEC, receivers=2)
    field = np.random.default_rng(2).random((6, 12, 8))
    arrays = [Array("t", (12, 8), "f8", halo=2, steps=6)]
    with receivers(tmp_path, contract, 2, contact_options={"lanes": lanes}) as (file, _, sinks):

        def work(bridge, rank):
            for step in range(6):
                with bridge.block("t", step) as out:
                    assert out.shape == (10, 8)
                    out[...] = quarter(field[step], rank, halo=2)

        run(contract, file, sinks, work, arrays=arrays)
        assert np.array_equal(assembled(contract, 0, sinks), field)


@pytest.mark.parametrize("in_place", [False, True], ids=["put", "in place"])
@pytest.mark.parametrize("dtype", ["f8", ">i4"])
def test_an_array_of_a_single_cell(tmp_path, lanes, dtype, in_place):
    spec = ArraySpec("e", dtype, (), StepAxis(count=12))
    options = {"lanes": lanes}
    with receivers(tmp_path, agree(spec), contact_options=options) as (file, _, sinks):
        with Bridge(contact=file) as bridge:
            for step in range(12):
                if in_place:
                    with bridge.block("e", step) as cell:
                        cell[...] = step + 1
                else:
                    bridge.put("e", step, np.asarray(step + 1, dtype))
        assert np.array_equal(assembled(agree(spec), 0, sinks), np.arange(1, 13))


def test_a_body_that_raises_publishes_nothing(tmp_path, lanes):
    contract = agree(SPEC)
    with receivers(tmp_path, contract, contact_options={"lanes": lanes}) as (file, _, sinks):
        with Bridge(contact=file) as bridge:
            with pytest.raises(ValueError, match="numerics"), bridge.block("t", 0) as out:
                out[...] = 1
                raise ValueError("numerics")
            with bridge.block("t", 0) as out:
                out[...] = 2
        assert (sinks[0].chunks[0, 0] == 2).all()


def test_steps_that_nobody_wants_cost_nothing(tmp_path):
    wanted = [Selection.from_key(np.s_[3], (6, 12, 8))]
    contract = Contract(RUN, (ArrayContract.agree(SPEC, wanted, run=RUN),))
    block = np.zeros((12, 8))
    with receivers(tmp_path, contract) as (file, _, sinks):
        with Bridge(contact=file, arrays=[Array("t", (12, 8), steps=6), Array("u", (3,))]) as b:
            for step in range(6):
                b.put("t", step, block)
                b.put("u", step, np.zeros(3))
            account = b.statistics().arrays
        assert account["t"]["blocks"]["skipped"] == 5
        assert account["u"]["blocks"] == {
            "produced": 6, "skipped": 6, "delivered": 0, "dropped": 0, "lost": 0,
        }  # fmt: skip
        assert set(sinks[0].counts) == {(0, 3)}


def test_blocks_that_move_and_several_blocks_per_rank(tmp_path, lanes):
    contract = agree(SPEC, receivers=2)
    field = np.random.default_rng(3).random((6, 12, 8))
    with receivers(tmp_path, contract, 2, contact_options={"lanes": lanes}) as (file, _, sinks):

        def work(bridge, rank):
            for step in range(6):
                for part in range(6):
                    if (part + step) % 3 == rank:
                        rows = slice(2 * part, 2 * part + 2)
                        bridge.put("t", step, field[step, rows], offset=(2 * part, 0))

        run(contract, file, sinks, work, size=3)
        assert np.array_equal(assembled(contract, 0, sinks), field)


def test_particles(tmp_path, lanes):
    spec = ArraySpec("x", "f4", (-1, 3), StepAxis(count=4), ragged=True)
    contract = agree(spec, receivers=2)
    rng = np.random.default_rng(4)
    counts = rng.integers(0, 5, (4, 4))
    counts[1] = 0
    rows = {(s, r): rng.random((counts[s, r], 3)).astype("f4") for s in range(4) for r in range(4)}
    with receivers(tmp_path, contract, 2, contact_options={"lanes": lanes}) as (file, _, sinks):

        def work(bridge, rank):
            for step in range(4):
                bridge.put("x", step, rows[step, rank])

        run(contract, file, sinks, work, arrays=[Array("x", (-1, 3), "f4", steps=4, ragged=True)])
        for step in range(4):
            for part in range(2):
                chunk = step * 2 + part
                value = next(s.chunks[0, chunk] for s in sinks if (0, chunk) in s.chunks)
                expected = np.concatenate([rows[step, r] for r in (2 * part, 2 * part + 1)])
                assert np.array_equal(value[0], expected)


def test_several_steps_per_chunk(tmp_path, lanes):
    contract = agree(SPEC, receivers=2, chunks=(4, 5, -1))
    field = np.random.default_rng(5).random((6, 12, 8))
    with receivers(tmp_path, contract, 2, contact_options={"lanes": lanes}) as (file, _, sinks):

        def work(bridge, rank):
            for step in range(6):
                bridge.put("t", step, quarter(field[step], rank))

        run(contract, file, sinks, work)
        assert np.array_equal(assembled(contract, 0, sinks), field)


def test_arrays_described_in_code_reach_the_analysis(tmp_path):
    with receivers(tmp_path, None) as (file, (receiver,), (sink,)):
        endpoint = receiver.endpoint

        def agree_then(arrays):
            spec = ArraySpec(
                arrays[0]["name"], arrays[0]["dtype"], tuple(arrays[0]["shape"]),
                StepAxis(**arrays[0]["steps"]), tuple(arrays[0]["dims"]), arrays[0]["attrs"],
            )  # fmt: skip
            threading.Thread(target=lambda: receiver.set_contract(agree(spec), (endpoint,))).start()

        sink.on_described = agree_then
        offered = Array("t", (4, 4), "f4", dims=("y", "x"), steps=range(10, 50, 20), attrs={"a": 1})
        with Bridge(contact=file, arrays=[offered]) as bridge:
            for step in range(50):
                bridge.put("t", step, np.full((4, 4), step, "f4"))
        assert sorted(sink.counts) == [(0, 0), (0, 1)]
        assert sink.chunks[0, 1][0, 0, 0] == 30


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (np.zeros((6, 4), "f4"), "expected dtype float64, got float32"),
        (np.zeros((6, 5)), r"expected shape \(12, 8\) \(block \(12, 8\)\), got \(6, 5\)"),
        (np.zeros(6), r"expected shape \(12, 8\) .* got \(6,\)"),
    ],
)
def test_a_wrong_block_is_named(tmp_path, block, message):
    with (
        receivers(tmp_path, agree(SPEC)) as (file, _, _sinks),
        pytest.raises(BridgeError, match=f"array 't' at step 2 on rank 0: {message}"),
        Bridge(contact=file) as bridge,
    ):
        bridge.put("t", 2, block)


@pytest.mark.parametrize("right", [0, 3])
@pytest.mark.parametrize("how", ["put", "rows", "block"])
def test_a_step_whose_first_block_is_wrong_was_not_put(tmp_path, lanes, right, how):
    rows = ArraySpec("t", "f8", (-1, 2), StepAxis(count=6), ragged=True)
    spec = rows if how == "rows" else SPEC
    good = np.ones((12, 2) if how == "rows" else (12, 8))
    with receivers(tmp_path, agree(spec), lanes=lanes) as (file, _, (sink,)):
        with pytest.raises((BridgeError, ZeroDivisionError)), Bridge(contact=file) as bridge:
            for step in range(right):
                bridge.put("t", step, good)
            if how == "block":
                with bridge.block("t", right):
                    raise ZeroDivisionError("unstable")
            bridge.put("t", right, good.astype("f4"))
        sink.wait(lambda: sink.byes)
    assert sink.byes[0].last_step == right - 1
    assert [info.step for _, info in sink.steps] == [*range(right)]


def test_an_array_that_was_not_described(tmp_path):
    arrays = [Array("t", (12, 8), steps=6)]
    with (
        receivers(tmp_path, agree(SPEC)) as (file, _, _sinks),
        pytest.raises(BridgeError, match="'temp' was not described; described are \\['t'\\]"),
        Bridge(contact=file, arrays=arrays) as bridge,
    ):
        bridge.put("temp", 0, np.zeros((12, 8)))


def test_an_array_that_the_simulation_does_not_offer(tmp_path):
    with (
        receivers(tmp_path, agree(SPEC)) as (file, _, _sinks),
        pytest.raises(ContractError, match="the analysis wants array 't'"),
    ):
        Bridge(contact=file, arrays=[Array("u", (3,))])


def test_an_array_that_is_described_twice_differently(tmp_path):
    said = (
        r"described in code with shape \(12, 9\), but the contract \(from .*\) has shape \(12, 8\):"
    )
    with (
        receivers(tmp_path, agree(SPEC)) as (file, _, _sinks),
        pytest.raises(ContractError, match=said),
    ):
        Bridge(contact=file, arrays=[Array("t", (12, 9), steps=SPEC.steps.count)])


def test_an_exception_in_the_body_is_told(tmp_path):
    with receivers(tmp_path, agree(SPEC)) as (file, _, (sink,)):
        with pytest.raises(ZeroDivisionError), Bridge(contact=file) as bridge:
            bridge.put("t", 0, np.zeros((12, 8)))
            raise ZeroDivisionError("unstable")
        sink.wait(lambda: 0 in sink.byes)
        assert sink.byes[0].status == "aborted"
        reason = sink.byes[0].reason
        assert reason.startswith(f"ZeroDivisionError: unstable; at {__file__}, line ")
        assert reason.endswith(", in test_an_exception_in_the_body_is_told")


def test_no_contact_file(tmp_path, monkeypatch):
    monkeypatch.delenv("IPS_COMPONENTS_CONTACT", raising=False)
    with pytest.raises(ContactError, match="IPS_COMPONENTS_CONTACT"):
        Bridge()
    monkeypatch.setenv("IPS_COMPONENTS_DEADLINE", "0.05")
    with pytest.raises(ContactError, match=r"no contact file at .* after 0.05 s"):
        Bridge(contact=tmp_path / "none")


class FakeComm:
    """Broadcasts between threads, as a communicator does between ranks."""

    def __init__(self, rank, size, board):
        self.rank, self.size, self._board = rank, size, board

    def bcast(self, obj, root=0):
        barrier, cell = self._board
        if self.rank == root:
            cell[0] = obj
        barrier.wait(20)
        result = cell[0]
        barrier.wait(20)
        return result


def world(size):
    board = (threading.Barrier(size), [None])
    return [FakeComm(rank, size, board) for rank in range(size)]


def test_an_error_on_rank_0_reaches_every_rank(tmp_path, monkeypatch):
    monkeypatch.setenv("IPS_COMPONENTS_DEADLINE", "0.05")
    comms = world(3)

    def rank(number):
        with pytest.raises(ContactError, match="no contact file"):
            Bridge(comms[number], contact=tmp_path / "none")
        return True

    assert together(3, rank) == [True] * 3


def test_feedback_and_stop_are_the_same_on_all_ranks(tmp_path):
    comms = world(3)
    with receivers(tmp_path, agree(SPEC), 2) as (file, started, _):

        def rank(number):
            with Bridge(comms[number], contact=file) as bridge:
                nothing = bridge.receive("gain", step=1, default=None)
                if number == 0:
                    for receiver in started:
                        receiver.feedback("gain", 0.5, 2)
                        receiver.feedback("gain", [1, 2], 4)
                got = bridge.receive("gain", step=2)
                awaited = bridge.receive("gain", step=4)
                held = bridge.receive("gain", step=3, default=None)
                latest = bridge.receive("gain", step=9, default=None)
                assert (awaited, held) == ([1, 2], 0.5)
                before = bridge.should_stop()
                if number == 0:
                    started[0].stop("converged")
                while not bridge.should_stop():
                    pass
                return nothing, got, latest, before

        assert together(3, rank) == [(None, 0.5, [1, 2], False)] * 3


@pytest.mark.parametrize("before", [True, False], ids=["before", "while waiting"])
def test_receive_ends_at_once_when_the_analysis_stops_the_run(tmp_path, before):
    comms = world(2)
    with receivers(tmp_path, agree(SPEC)) as (file, (receiver,), _):

        def rank(number):
            with Bridge(comms[number], contact=file) as bridge:
                stop = threading.Timer(0.0 if before else 0.3, receiver.stop, ["converged"])
                if number == 0:
                    receiver.feedback("gain", 0.5, 2)
                    stop.start()
                while before and not bridge.should_stop():
                    pass
                began = time.monotonic()
                with pytest.raises(RunStopped, match=r"'gain' for step 4 .*\(converged\)"):
                    bridge.receive("gain", step=4)
                waited = time.monotonic() - began
                if number == 0:
                    stop.join()
                assert bridge.receive("gain", step=2) == 0.5  # sent before the stop
                assert bridge.receive("gain", step=4, default=None) == 0.5
                return waited

        assert max(together(2, rank)) < 5


@pytest.mark.parametrize("policy", ["continue", "abort"])
@pytest.mark.parametrize("how", ["fault", "gone"])
def test_receive_ends_at_once_when_the_analysis_is_lost(tmp_path, how, policy):
    options = {"on_analytics_loss": policy}
    limits = {"connect": 0.3}
    with receivers(tmp_path, agree(SPEC), contact_options=options, deadlines=limits) as (
        file,
        (receiver,),
        _,
    ):
        bridge = Bridge(contact=file)
        end = threading.Timer(
            0.2,
            receiver.close if how == "gone" else lambda: receiver.fault("KeyError: 'x'", policy),
        )
        end.start()
        began = time.monotonic()
        why = "no receiver is left" if how == "gone" else "KeyError: 'x'"
        try:
            with pytest.raises(AnalyticsLost, match=why):
                bridge.receive("gain", step=4)
            assert time.monotonic() - began < 5
            assert bridge.receive("gain", default=1.5) == 1.5
        finally:
            end.join()
            bridge.close("aborted")


def test_receive_ends_at_once_when_the_analysis_has_returned(tmp_path):
    last = NO_MORE.name, decode(NO_MORE), NO_MORE.step
    with receivers(tmp_path, agree(SPEC)) as (file, (receiver,), _):
        receiver.feedback("gain", 0.5, 2)
        with Bridge(contact=file) as bridge:
            threading.Timer(0.2, receiver.feedback, last).start()
            with pytest.raises(RunStopped, match=r"'gain' for step 4 .*has returned"):
                bridge.receive("gain", step=4)
            assert bridge.receive("gain", step=2) == 0.5
            assert not bridge.should_stop()
        with Bridge(contact=file) as late:  # what was said is said again
            assert late.receive("gain", step=2) == 0.5
            with pytest.raises(RunStopped, match="has returned"):
                late.receive("gain", step=4)


def test_a_value_that_does_not_come_in_time(tmp_path):
    with receivers(tmp_path, agree(SPEC)) as (file, _, _), Bridge(contact=file) as bridge:
        with pytest.raises(DeadlineExceeded, match=r"no value 'gain' came .* within 0\.05 s"):
            bridge.receive("gain", timeout=0.05)
        with pytest.raises(DeadlineExceeded, match=r"'gain' for step 3 came"):
            bridge.receive("gain", step=3, timeout=0.0)


@pytest.mark.parametrize("policy", ["continue", "abort"])
def test_a_fault_of_the_analysis(tmp_path, policy):
    with receivers(tmp_path, agree(SPEC)) as (file, (receiver,), _):
        bridge = Bridge(contact=file)
        try:
            bridge.put("t", 0, np.zeros((12, 8)))
            bridge.wait()
            receiver.fault("KeyError: 'x'", policy)
            assert bridge._mailbox.wait_for(lambda: bridge._mailbox.fault, 10)
            if policy == "abort":
                with pytest.raises(AnalyticsLost, match="KeyError"):
                    bridge.put("t", 1, np.zeros((12, 8)))
            else:
                bridge.put("t", 1, np.zeros((12, 8)))
                account = bridge.statistics().arrays["t"]["blocks"]
                assert (account["delivered"], account["lost"]) == (1, 1)
        finally:
            bridge.close("aborted")


def test_a_closed_bridge(tmp_path):
    with receivers(tmp_path, agree(SPEC)) as (file, _, _):
        bridge = Bridge(contact=file)
        bridge.close()
        bridge.close()
        with pytest.raises(BridgeError, match="closed"):
            bridge.put("t", 0, np.zeros((12, 8)))


@pytest.fixture
def descriptors():
    """So many open files that all further ones have numbers that select() cannot take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("may not have so many open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    yield max(opened)
    for fd in opened:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_descriptors_beyond_1024(tmp_path, lanes, descriptors):
    contract = agree(SPEC)
    field = np.random.default_rng(0).random((6, 12, 8))
    with receivers(tmp_path, contract, contact_options={"lanes": lanes}) as (file, _, sinks):

        def work(bridge, rank):
            assert all(c.sock.fileno() > 1024 for c in bridge._delivery.connections.open())
            for step in range(6):
                bridge.put("t", step, quarter(field[step], rank))

        assert descriptors > 1024
        run(contract, file, sinks, work)
        assert np.array_equal(assembled(contract, 0, sinks), field)


@settings(max_examples=12, deadline=None)
@given(
    counts=st.integers(1, 3).flatmap(
        lambda size: st.lists(
            st.lists(st.integers(0, 4), min_size=size, max_size=size), min_size=1, max_size=3
        )
    ),
    n_receivers=st.integers(1, 3),
    lanes=st.sampled_from(LANES),
)
@example(counts=[[2]], n_receivers=2, lanes=LANES[0])
@example(counts=[[0]], n_receivers=3, lanes=LANES[1])
def test_rows_of_any_number_of_ranks_in_any_number_of_parts(
    tmp_path_factory, counts, n_receivers, lanes
):
    """What arrives is what all ranks put, in their order, with more parts than ranks as well."""
    steps, size = len(counts), len(counts[0])
    spec = ArraySpec("x", "<f4", (-1, 3), StepAxis(count=steps), ragged=True)
    contract = agree(spec, receivers=n_receivers)
    tmp_path = tmp_path_factory.mktemp("rows")
    rows = [
        [np.full((n, 3), 10 * step + rank, "f4") for rank, n in enumerate(of_step)]
        for step, of_step in enumerate(counts)
    ]
    options = {"contact_options": {"lanes": lanes}}
    with receivers(tmp_path, contract, n_receivers, **options) as (file, started, sinks):
        for receiver in started:  # as the coordinator does
            receiver.set_size(size)

        def work(bridge, rank):
            for step in range(steps):
                bridge.put("x", step, rows[step][rank])

        run(contract, file, sinks, work, size)
        for number in range(steps * n_receivers):
            sink = sinks[contract.arrays[0].placement.owner(number)]
            sink.wait(lambda sink=sink, number=number: (0, number) in sink.chunks)
        for step in range(steps):
            parts = [
                next(s.chunks[0, c] for s in sinks if (0, c) in s.chunks)
                for c in range(step * n_receivers, (step + 1) * n_receivers)
            ]
            assert np.array_equal(np.concatenate(parts, axis=1)[0], np.concatenate(rows[step]))
        assert all(count == 1 for sink in sinks for count in sink.counts.values())


def test_two_open_blocks_of_an_array_never_share_memory(tmp_path):
    spec = ArraySpec("t", "f8", (8, 6), StepAxis(count=12))
    with receivers(tmp_path, agree(spec)) as (file, _, (sink,)):
        arrays = [Array("t", (8, 6), "f8", blocks=[((0, 0), (4, 6)), ((4, 0), (4, 6))], steps=12)]
        with Bridge(contact=file, arrays=arrays) as bridge:
            for step in range(12):
                with (
                    bridge.block("t", step, offset=(0, 0)) as top,
                    bridge.block("t", step, offset=(4, 0)) as bottom,
                ):
                    assert not np.shares_memory(top, bottom)
                    top[...], bottom[...] = step, -step
        sink.wait(lambda: len(sink.counts) == 12)
    for (_, chunk), value in sink.chunks.items():
        assert (value[0, :4] == chunk).all()
        assert (value[0, 4:] == -chunk).all()


def test_arrays_of_equal_shape_never_share_memory_at_steps_that_nobody_wants(tmp_path):
    specs = [ArraySpec(name, "f8", (4, 6), StepAxis(count=4)) for name in "uv"]
    even = [Selection.from_key(np.s_[::2], (4, 4, 6))]
    with receivers(tmp_path, agree(*specs, selections=even)) as (file, _, (sink,)):
        arrays = [Array(name, (4, 6), "f8", grid=(1, 1), steps=4) for name in "uv"]
        with Bridge(contact=file, arrays=arrays) as bridge:
            for step in range(4):
                with bridge.block("u", step) as u, bridge.block("v", step) as v:
                    assert not np.shares_memory(u, v)
                    u[...], v[...] = 1, 2
                    assert (u == 1).all()
        sink.wait(lambda: len(sink.counts) == 4)


def test_physical_times_travel_once_for_each_step_that_somebody_wants(tmp_path, lanes):
    contract = agree(SPEC, selections=[Selection.from_key(np.s_[::2], SPEC.index_shape)])
    field = np.zeros(SPEC.shape)
    with receivers(tmp_path, contract, contact_options={"lanes": lanes}) as (file, _, (sink,)):
        with Bridge(contact=file) as bridge:
            for step in range(4):
                bridge.put("t", step, field, time=0.5 * step)
            with bridge.block("t", 4, time=7) as cells:
                cells[...] = 0
            with pytest.raises(BridgeError, match="must be finite"):
                bridge.step_time(4, float("nan"))
            bridge.put("t", 5, field)
        assert sink.times == [(0, 0, 0.0), (0, 2, 1.0), (0, 4, 7.0)]


@pytest.mark.parametrize("way", ["put", "block", "rewind", "step_end"])
def test_a_step_is_a_whole_number_of_any_kind(tmp_path, way):
    """A step that is in no array would vanish without a word."""
    spec = ArraySpec("t", "f8", (4,), StepAxis(count=6))
    field = np.arange(24.0).reshape(6, 4)
    with receivers(tmp_path, agree(spec)) as (file, _, (sink,)), Bridge(contact=file) as bridge:
        name, cells = ["t"] * (way in ("put", "block")), [field[0]] * (way == "put")
        for wrong in (1.5, float("nan"), "2", None, np.float64(0.5)):
            with pytest.raises(BridgeError, match=re.escape(f"whole number, got {wrong!r}")):
                getattr(bridge, way)(*name, wrong, *cells)
        for step, kind in enumerate((int, float, np.int8, np.uint64, np.float32, np.float64)):
            bridge.put("t", kind(step), field[step])
        assert bridge.wait()
        assert [sink.chunks[0, t][0].tolist() for t in range(6)] == field.tolist()


WRONG = {
    "shape": {"block": np.zeros((8, 5))},
    "dtype": {"block": np.zeros((8, 6), "f4")},
    "objects": {"block": np.zeros((8, 6), object)},
    "nothing": {"block": None},
    "text": {"block": "cells"},
    "masked": {"block": np.ma.masked_less(np.zeros((8, 6)), 1)},
    "rows": {"block": Rows(np.zeros((8, 6)))},
    "uneven lists": {"block": [[0.0] * 6, [0.0]]},
    "offset is a number": {"offset": 5},
    "offset is short": {"offset": (0,)},
    "offset with a fraction": {"offset": (0, 0.5)},
    "offset of texts": {"offset": ("a", "b")},
    "outside": {"offset": (4, 0)},
    "step with a fraction": {"step": 1.5},
    "no step": {"step": None},
    "step is a text": {"step": "3"},
    "step is negative": {"step": -1},
    "time is not finite": {"time": float("nan")},
    "time is a text": {"time": "now"},
    "ids": {"ids": [1, 2]},
    "levels": {"levels": [0], "places": [[0, 0]]},
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("wanted", [True, False], ids=["wanted", "not wanted"])
def test_whatever_is_wrong_with_a_put_names_array_step_and_rank(tmp_path, wrong, wanted):
    """Or is taken where nothing of the step is wanted, so that it is not checked."""
    spec = ArraySpec("t", "f8", (8, 6), StepAxis(count=4))
    selections = None if wanted else [Selection.from_key(np.s_[:2], spec.index_shape)]
    contract = agree(spec, selections=selections)
    call = {"block": np.zeros((8, 6)), "step": 3, **WRONG[wrong]}
    step = call.pop("step")
    where = re.escape(f"put of array 't' at step {step} on rank 0: ")
    with receivers(tmp_path, contract) as (file, _, _):
        bridge = Bridge(contact=file)
        try:
            with (
                contextlib.nullcontext() if not wanted else pytest.raises(BridgeError, match=where)
            ):
                bridge.put("t", step, **call)
        except IPSComponentsError as error:
            assert re.match(where, str(error))
        finally:
            bridge.close("aborted")
