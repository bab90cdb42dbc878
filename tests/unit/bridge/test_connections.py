"""The connections of a rank: hung and dead receivers, the I/O thread, and descriptors."""

import os
import resource
import socket
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from _pair import RUN, TOKEN, agree, receivers, together

from ips_components.bridge import Array, Bridge, segments
from ips_components.bridge.link import LinkState
from ips_components.errors import AnalyticsLost, BridgeError
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.placement import Placement
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.wire import contact as contacts
from ips_components.wire.contact import Endpoint

SPEC = ArraySpec("t", "f8", (8, 100), StepAxis(count=40))
FIELD = np.random.default_rng(0).random((40, *SPEC.shape))


@contextmanager
def hung(count):
    """Endpoints whose listeners take connections and never answer, as stopped processes do."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        yield [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


def with_endpoints(file, endpoints, **deadlines):
    """Write the contact file anew with these receivers."""
    contact = contacts.read(file)
    contacts.write(
        file,
        contacts.Contact(
            RUN, TOKEN, tuple(endpoints), {**contact.deadlines, **deadlines}, contact.options
        ),
    )


def test_a_receiver_that_hangs_costs_a_part_of_the_time_to_connect(tmp_path):
    """It comes first for rank 1, and used to be given all of the time."""
    contract = agree(SPEC)
    with (
        hung(1) as (port,),
        receivers(tmp_path, contract, contact_options={"lanes": ["tcp"]}) as (file, (r,), (sink,)),
    ):
        good = r.endpoint
        with_endpoints(file, [good, Endpoint(1, "127.0.0.1", port)], connect=600.0)
        done = threading.Event()

        def work():
            arrays = [Array("t", SPEC.shape, grid=(2, 1), steps=40)]
            with Bridge(contact=file, rank=1, size=2, arrays=arrays) as bridge:
                bridge.put("t", 0, FIELD[0, 4:])
                assert bridge.wait()
                done.set()

        thread = threading.Thread(target=work)
        thread.start()
        assert done.wait(60), "the hung receiver was waited for"
        thread.join()
        sink.wait(lambda: 1 in sink.byes)


def test_receivers_that_hang_hold_up_no_other(tmp_path):
    """The I/O thread reads and gives signs of life while 30 connections are tried again."""
    contract = agree(SPEC)
    with (
        hung(30) as ports,
        receivers(tmp_path, contract, contact_options={"lanes": ["tcp"]}) as (file, (r,), (sink,)),
        Bridge(contact=file) as bridge,
    ):
        connections = bridge._delivery.connections
        dead = [Endpoint(100 + i, "127.0.0.1", port) for i, port in enumerate(ports)]
        with bridge._mailbox.changed:
            connections.follow([r.endpoint, *dead])
            for endpoint in dead:
                connections.by_ordinal[endpoint.ordinal].reconnect()
        for step in range(40):
            bridge.put("t", step, FIELD[step])
        assert bridge.wait(30)
        assert {c.link for c in connections.by_ordinal.values()} == {
            LinkState.OPEN,
            LinkState.RECONNECTING,
        }
        sink.wait(lambda: len(sink.counts) == 40)
        with bridge._mailbox.changed:
            connections.follow([r.endpoint])


def test_an_error_in_the_io_thread_ends_the_run_with_a_cause(tmp_path, monkeypatch):
    options = {"on_analytics_loss": "abort"}
    with receivers(tmp_path, agree(SPEC), contact_options=options) as (file, _, _):
        bridge = Bridge(contact=file)

        def fail(now):
            raise RuntimeError("an unforeseen error")

        monkeypatch.setattr(bridge._delivery.connections, "_maintain", fail)
        assert bridge._mailbox.wait_for(lambda: bridge._mailbox.lost, 10)
        with pytest.raises(AnalyticsLost, match=r"I/O thread failed .*an unforeseen error"):
            bridge.put("t", 0, FIELD[0])
        assert bridge._delivery.connections.goodbye_answered()  # there is none to wait for
        bridge.close("aborted")


def test_a_connection_that_breaks_while_it_opens_does_not_end_the_io_thread(tmp_path):
    with receivers(tmp_path, agree(SPEC)) as (file, _, (sink,)):
        with Bridge(contact=file) as bridge:
            (connection,) = bridge._delivery.connections.open()
            for step in range(40):
                sock = connection.sock
                if sock is not None:
                    connection.broken(sock, "cut by the test")
                bridge.put("t", step, FIELD[step])
            assert bridge.wait(30)
            assert bridge._mailbox.lost is None
        sink.wait(lambda: len(sink.counts) == 40)


def test_slots_of_blocks_that_vary_in_size_are_dropped_at_both_receivers(tmp_path):
    """Also at the one that gets no piece of the block for which a slot was too small."""
    spec = ArraySpec("t", "f8", (3, 6000), StepAxis(count=7))
    array = ArrayContract.agree(spec, run=RUN, receivers=(0, 1), chunks=(1, 2, 6000))
    array = array.with_placement(Placement(0, 1, (0, 1)))
    blocks = [((0, 0), (2, 6000)), ((2, 0), (1, 6000))]
    arrays = [Array("t", spec.shape, blocks=blocks, steps=7)]
    field = np.random.default_rng(1).random((7, 3, 6000))
    with receivers(tmp_path, Contract(RUN, (array,)), 2, keep=False) as (file, _, sinks):
        with Bridge(contact=file, arrays=arrays) as bridge:
            for step in range(7):
                for offset, shape in blocks[:: 1 if step % 3 else -1]:
                    block = field[step, offset[0] : offset[0] + shape[0]]
                    bridge.put("t", step, block, offset=offset)
            assert bridge.wait()
            assert bridge._delivery.connections.drained()
        assert sum(len(sink.counts) for sink in sinks) == 14


@pytest.fixture
def few_descriptors():
    """So few more files may be opened that many blocks would take all of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = len(list(Path("/proc/self/fd").iterdir())) + 120
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_blocks_leave_the_program_its_descriptors(tmp_path, few_descriptors, caplog):
    n = 100
    spec = ArraySpec("t", "f8", (n, 64), StepAxis(count=8))
    array = ArrayContract.agree(spec, run=RUN, chunks=(1, n, 64))
    arrays = [Array("t", spec.shape, blocks=[((i, 0), (1, 64)) for i in range(n)], steps=8)]
    field = np.random.default_rng(2).random((8, n, 64))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with receivers(tmp_path, Contract(RUN, (array,))) as (file, _, (sink,)):
        with Bridge(contact=file, arrays=arrays) as bridge:
            for step in range(8):
                for i in range(n):
                    bridge.put("t", step, field[step, i : i + 1], offset=(i, 0))
            assert bridge.wait()
            slots = [slot for ring in bridge._arrays["t"].rings for slot in ring.slots]
            assert len(slots) >= 4 * n
            assert all(slot.segment is not None for slot in slots)
            assert len({slot.segment.number for slot in slots}) < 10
            assert len(list(Path("/proc/self/fd").iterdir())) < before + 40
        assert all(np.array_equal(sink.chunks[0, step][0], field[step]) for step in range(8))
    assert "ulimit -n" not in caplog.text
    assert segments._in_use.count == 0


@pytest.mark.parametrize("lanes", [("tcp",), ("shm", "tcp")], ids=lambda lanes: lanes[0])
def test_a_put_of_many_blocks_costs_no_more_for_each(tmp_path, lanes):
    """Instructions of the interpreter are counted, since times are those of the machine."""
    counts = []

    def count(frame, event, arg):
        if event == "call" and "ips_components" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counts[-1] += event == "opcode"
        return count

    for n in (40, 400):
        spec = ArraySpec("t", "f8", (n, 4), StepAxis(count=2))
        contract = Contract(RUN, (ArrayContract.agree(spec, run=RUN, chunks=(1, n, 4)),))
        arrays = [Array("t", spec.shape, blocks=[((i, 0), (1, 4)) for i in range(n)], steps=2)]
        folder = tmp_path / str(n)
        folder.mkdir()
        with (
            receivers(folder, contract, contact_options={"lanes": lanes}) as (file, _, _),
            Bridge(contact=file, arrays=arrays) as bridge,
        ):
            for step in range(2):
                counts.append(0)
                sys.settrace(count)
                try:
                    for i in range(n):
                        bridge.put("t", step, FIELD[step, :1, :4], offset=(i, 0))
                finally:
                    sys.settrace(None)
                counts[-1] /= n
                assert bridge.wait()
    assert counts[2] < 2 * counts[0]  # the first step makes slots, others use them again
    assert counts[3] < 2 * counts[1]


def test_many_arrays_leave_the_program_half_of_its_descriptors(tmp_path, few_descriptors, caplog):
    names = [f"t{i}" for i in range(100)]
    specs = [ArraySpec(name, "f8", (64,), StepAxis(count=4)) for name in names]
    agreed = tuple(ArrayContract.agree(spec, run=RUN, chunks=(1, 64)) for spec in specs)
    field = np.random.default_rng(2).random((4, len(names), 64))
    segments._in_use.warned = False
    with receivers(tmp_path, Contract(RUN, agreed)) as (file, _, (sink,)):
        with Bridge(contact=file) as bridge:
            for step in range(4):
                for i, name in enumerate(names):
                    bridge.put(name, step, field[step, i])
            assert bridge.wait()
            assert 0 < segments._in_use.count <= few_descriptors // 2
        for i in range(len(names)):
            for step in range(4):
                assert np.array_equal(sink.chunks[i, step][0], field[step, i])
    assert len([r for r in caplog.records if "ulimit -n" in r.getMessage()]) == 1
    assert segments._in_use.count == 0


def test_a_sign_of_life_that_is_sent_in_part_comes_whole(tmp_path, monkeypatch):
    """A socket that is nearly full takes some bytes of it; the rest goes before anything else."""
    take_all = socket.socket.send

    def take_some(self, data, flags=0):
        return take_all(self, data[:10] if flags & socket.MSG_DONTWAIT else data, flags)

    monkeypatch.setattr(socket.socket, "send", take_some)
    options = {"lanes": ["tcp"]}
    with receivers(tmp_path, agree(SPEC), contact_options=options) as (file, _, (sink,)):
        with Bridge(contact=file) as bridge:
            (connection,) = bridge._session.delivery.connections.by_ordinal.values()
            sock = connection.sock
            for step in range(40):
                for _ in range(step % 5):
                    connection.ping(connection.sent + connection.heartbeat)
                bridge.put("t", step, FIELD[step])
            assert bridge.wait()
            assert connection.sock is sock
        assert all(np.array_equal(sink.chunks[0, step][0], FIELD[step]) for step in range(40))


def test_without_shared_memory_blocks_are_sent(tmp_path, monkeypatch, caplog):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refused)
    segments._in_use.warned = False
    with receivers(tmp_path, agree(SPEC)) as (file, _, (sink,)):
        with Bridge(contact=file) as bridge:
            for step in range(40):
                bridge.put("t", step, FIELD[step])
        assert all(np.array_equal(sink.chunks[0, step][0], FIELD[step]) for step in range(40))
    assert "there is none (" in caplog.text


def test_a_block_described_by_its_offset_alone_is_not_known_before_it_is_put(tmp_path):
    arrays = [Array("t", SPEC.shape, offset=(0, 0), steps=40)]
    with (
        receivers(tmp_path, agree(SPEC)) as (file, _, _),
        Bridge(contact=file, arrays=arrays) as bridge,
    ):
        with pytest.raises(BridgeError, match=r"array 't' at step 3 .* not known .* blocks="):
            bridge.block("t", 3).__enter__()
        bridge.put("t", 3, FIELD[3])


def test_an_array_of_the_config_that_nobody_needs_is_computed_in_place(tmp_path):
    """Each rank gets memory of the shape of its block, and nothing is sent."""
    pressure = ArraySpec("p", "f4", (8, 100), StepAxis(), attrs={"halo": 1, "process_grid": [2, 1]})
    unfit = ArraySpec("q", "f4", (8, 100), StepAxis(), attrs={"process_grid": [7, 1]})
    contract = Contract(RUN, agree(SPEC).arrays, unneeded=(pressure, unfit))
    assert Contract.from_bytes(contract.to_bytes()).unneeded == (pressure, unfit)
    assert contract.digest() == agree(SPEC).digest()
    with receivers(tmp_path, contract) as (file, _, (sink,)):

        def work(rank):
            with Bridge(contact=file, rank=rank, size=2) as bridge:
                for step in range(2):
                    bridge.put("t", step, FIELD[step, 4 * rank : 4 * rank + 4])
                    with bridge.block("p", step) as block:
                        assert (block.shape, block.dtype) == ((6, 102), np.float32)
                        block[...] = step
                    bridge.put("q", step, np.zeros(3))
                return bridge.statistics().arrays["p"]["blocks"]

        assert [each["skipped"] for each in together(2, work)] == [2, 2]
        sink.wait(lambda: len(sink.counts) == 2)


def test_a_list_is_put_like_an_array_at_every_step(tmp_path):
    spec = ArraySpec("t", "f8", (2, 3), StepAxis(count=4))
    with receivers(tmp_path, agree(spec)) as (file, _, (sink,)):
        with Bridge(contact=file) as bridge:
            for step in (0, 1, 7):  # 7: not wanted
                bridge.put("t", step, [[1.0, 2.0, 3.0], [4.0, 5.0, float(step)]])
        sink.wait(lambda: len(sink.counts) == 2)
        assert sink.chunks[0, 1].tolist() == [[[1, 2, 3], [4, 5, 1]]]
