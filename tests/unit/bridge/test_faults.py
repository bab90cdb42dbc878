"""Broken connections and dead processes: no loss, no doubling, no hang, nothing left behind."""

import contextlib
import multiprocessing
import os
import signal
import socket
import threading

import numpy as np
import pytest
from _pair import (
    RUN,
    TOKEN,
    RememberingSink,
    agree,
    assembled,
    joined,
    receivers,
    together,
)
from between import Between
from hostile_peers import relay

from ips_components.bridge import Array, Bridge, put_path
from ips_components.bridge.attached import AttachedRun
from ips_components.bridge.link import LinkState
from ips_components.bridge.sockets import RankSocket
from ips_components.errors import AnalyticsLost, DeadlineExceeded
from ips_components.model.placement import replace
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.receiver.receiver import Receiver
from ips_components.wire import contact as contacts
from ips_components.wire import framing
from ips_components.wire import messages as m

SPEC = ArraySpec("t", "f8", (8, 1000), StepAxis(count=60))
LANES = [("tcp",), ("shm", "tcp")]
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(params=LANES, ids=lambda lanes: lanes[0])
def lanes(request):
    return request.param


def field(step):
    return np.random.default_rng(step).random(SPEC.shape)


def put_all(file, rank, size, steps=60, gate=None):
    arrays = [Array("t", SPEC.shape, grid=(size, 1), steps=60)]
    n = SPEC.shape[0] // size
    with Bridge(contact=file, rank=rank, size=size, arrays=arrays) as bridge:
        for step in range(steps):
            if gate is not None:
                gate(step)
            bridge.put("t", step, field(step)[rank * n : (rank + 1) * n])


def test_connections_cut_again_and_again_lose_and_double_nothing(tmp_path, lanes):
    contract = agree(SPEC, receivers=2)
    with receivers(tmp_path, contract, 2, contact_options={"lanes": lanes}) as (file, rs, sinks):
        done = threading.Event()

        def cut():
            while not done.wait(0.03):
                for receiver in rs:
                    for connection in receiver.connections():
                        connection.shut("cut by the test")

        cutter = threading.Thread(target=cut)
        cutter.start()
        try:
            together(4, lambda rank: put_all(file, rank, 4))
        finally:
            done.set()
            cutter.join()
        for sink in sinks:
            sink.wait(lambda sink=sink: len(sink.counts) == 60)
            assert set(sink.counts.values()) == {1}
            assert not sink.losses
        expected = np.stack([field(step) for step in range(60)])
        assert np.array_equal(assembled(contract, 0, sinks), expected)


@pytest.mark.parametrize("seed", range(12))
def test_a_slot_that_a_cut_connection_may_hold_is_never_written_again(tmp_path, seed):
    """The old connection adopts a slot as a chunk while the new one is sent the same piece."""
    spec = ArraySpec("t", "f8", (100, 100), StepAxis(count=60))
    rng = np.random.default_rng(seed)
    options = {"contact_options": {"lanes": ("shm", "tcp")}}
    with receivers(tmp_path, agree(spec), **options) as (file, (r,), (sink,)):
        done = threading.Event()

        def cut():
            while not done.wait(rng.uniform(0.0005, 0.004)):
                for connection in r.connections():
                    if connection.peer is not None:  # a busy rank would never get through
                        connection.shut("cut by the test")

        cutter = threading.Thread(target=cut)
        with Bridge(contact=file) as bridge:
            cutter.start()
            try:
                for step in range(60):
                    bridge.put("t", step, np.full(spec.shape, float(step)))
            finally:
                done.set()
                cutter.join()
        sink.wait(lambda: len(sink.counts) == 60)
        for (_, chunk), value in sink.chunks.items():
            assert value.min() == value.max() == chunk


def receiver_process(pipe, path, contract, ordinal):
    """A receiver in a process of its own, driven through a pipe."""
    sink = RememberingSink(keep=False)
    receiver = Receiver(sink, run=RUN, token=TOKEN, budget=64 << 20, ordinal=ordinal)
    pipe.send(receiver.endpoint)
    endpoints = pipe.recv()
    receiver.set_contract(contract, endpoints)
    pipe.send("ready")
    sink.wait(lambda: len(sink.counts) >= 10)
    pipe.send("ten")
    pipe.recv()


def test_lent_blocks_survive_cuts(tmp_path):
    """Without a replay buffer large blocks are sent from the caller's memory."""
    spec = ArraySpec("t", "f8", (8, 10_000), StepAxis(count=60))
    contract = agree(spec)
    options = {"lanes": ("tcp",), "replay_steps": 0}
    with receivers(tmp_path, contract, contact_options=options) as (file, (r,), (sink,)):
        done = threading.Event()

        def cut():
            while not done.wait(0.02):
                for connection in r.connections():
                    connection.shut("cut by the test")

        cutter = threading.Thread(target=cut)
        cutter.start()
        field = np.random.default_rng(0).random((60, *spec.shape))
        buffer = np.empty(spec.shape)
        try:
            with Bridge(contact=file) as bridge:
                for step in range(60):
                    buffer[...] = field[step]
                    bridge.put("t", step, buffer)
        finally:
            done.set()
            cutter.join()
        sink.wait(lambda: len(sink.counts) == 60)
        assert set(sink.counts.values()) == {1}
        assert np.array_equal(assembled(contract, 0, [sink]), field)


@contextlib.contextmanager
def lending(path, monkeypatch, spec, limit=0.5, pause=0.0):
    """A bridge that has put step 0 and lends its blocks, over a connection that can be held."""
    monkeypatch.setattr(put_path, "_WORTH_BORROWING", 0)
    monkeypatch.setattr(put_path, "_SHORT_NS", 1 << 60)  # one put follows the other
    contract = agree(spec)
    options = {"lanes": ("tcp",), "replay_steps": 0}
    with (
        receivers(
            path, contract, budget=1 << 28, contact_options=options, deadlines={"step": limit}
        ) as (file, (r,), (sink,)),
        Between(r.endpoint, pause=pause) as between,
    ):
        between.stand_in(file, r, contract)
        with Bridge(contact=file) as bridge:
            bridge.put("t", 0, np.zeros(spec.shape))
            assert bridge.wait(10)
            yield bridge, between, sink


def test_lent_memory_of_a_put_that_failed_is_never_sent(tmp_path, monkeypatch):
    """Its owner has written the next step into it when the receiver can be reached again."""
    spec = ArraySpec("t", "f8", (4, 100), StepAxis(count=3))
    with lending(tmp_path, monkeypatch, spec) as (bridge, between, sink):
        between.passing.clear()
        block = np.full(spec.shape, 1.0)
        with pytest.raises(DeadlineExceeded, match="did not take"):
            bridge.put("t", 1, block)
        block[...] = 2.0
        between.cut()
        bridge.put("t", 2, block)
        sink.wait(lambda: (0, 2) in sink.chunks)
        assert (sink.chunks[0, 2] == 2.0).all()
        assert (0, 1) not in sink.chunks


def test_lent_memory_is_not_sent_on_when_its_put_has_failed(tmp_path, monkeypatch):
    """A background thread is in the middle of it, after a reconnect."""
    spec = ArraySpec("t", "f8", (1 << 22,), StepAxis(count=3))
    with lending(tmp_path, monkeypatch, spec) as (bridge, between, sink):
        between.most = 1 << 20

        def cut():
            between.held.wait(20)
            between.cut()

        cutter = threading.Thread(target=cut)
        cutter.start()
        block = np.full(spec.shape, 1.0)
        with pytest.raises(DeadlineExceeded, match="did not take"):
            bridge.put("t", 1, block)
        cutter.join()
        assert between.held.wait(20)
        block[...] = 2.0
        between.most = None
        between.passing.set()
        bridge.put("t", 2, block)
        sink.wait(lambda: (0, 2) in sink.chunks)
        assert (sink.chunks[0, 2] == 2.0).all()
        assert (0, 1) not in sink.chunks


def test_a_receiver_that_answers_and_reads_nothing_ends_a_lent_put(tmp_path, monkeypatch):
    spec = ArraySpec("t", "f8", (1 << 22,), StepAxis(count=3))
    with lending(tmp_path, monkeypatch, spec) as (bridge, between, sink):
        between.most = 1 << 20
        where = "^put of array 't' at step 1 on rank 0: receiver 0 at "
        with pytest.raises(DeadlineExceeded, match=where + ".* did not read .* 0.5 s"):
            bridge.put("t", 1, np.full(spec.shape, 1.0))
        assert (0, 1) not in sink.chunks
        between.most = None
        between.cut()


def test_a_lent_put_over_a_slow_network_takes_its_time(tmp_path, monkeypatch):
    """More than the deadline, which counts from the last byte that moved."""
    spec = ArraySpec("t", "f8", (1 << 21,), StepAxis(count=2))
    with lending(tmp_path, monkeypatch, spec, limit=2.0, pause=0.01) as (bridge, _, sink):
        bridge.put("t", 1, np.full(spec.shape, 1.0))
        assert (sink.chunks[0, 1] == 1.0).all()


def test_an_attached_run_whose_worker_reads_nothing_does_not_end_the_simulation(
    tmp_path, monkeypatch
):
    def full(*_):
        raise DeadlineExceeded("did not read what was sent within 0.5 s")

    with receivers(tmp_path, agree(SPEC)) as (file, _, (sink,)):
        joined, ended = threading.Event(), threading.Event()
        run = AttachedRun(
            contacts.read(file), {}, 0, 1, lambda: -1, lambda _: joined.set(), lambda _: ended.set()
        )
        run.start()
        assert joined.wait(20)
        run.put("t", 0, -1, np.zeros(SPEC.shape), None)
        sink.wait(lambda: sink.chunks)
        with monkeypatch.context() as patched:
            patched.setattr(RankSocket, "sendall", full)
            run.step_end(0)
        assert ended.wait(20)
        sink.wait(lambda: sink.byes)
        assert "did not read" in sink.byes[0].reason


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupting():
    """A signal raises in the main thread."""

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def test_nothing_follows_a_part_of_a_message(tmp_path, monkeypatch, interrupting):
    """A signal's handler raises while a block is being sent."""
    spec = ArraySpec("t", "f8", (1 << 22,), StepAxis(count=3))
    with lending(tmp_path, monkeypatch, spec) as (bridge, between, sink):
        between.most = 1 << 20

        def interrupt():
            between.held.wait(20)
            interrupting()
            between.most = None

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(Interrupted):
            bridge.put("t", 1, np.full(spec.shape, 1.0))
        thread.join()
        between.passing.set()
        for step in (1, 2):
            bridge.put("t", step, np.full(spec.shape, step + 0.5))
            sink.wait(lambda step=step: (0, step) in sink.chunks)
            assert (sink.chunks[0, step] == step + 0.5).all()
        assert not sink.losses
        assert not sink.faults


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_receivers_chunks_come_again_from_replay_buffers(tmp_path, lanes, stop):
    contract = agree(SPEC, receivers=2)
    array = contract.arrays[0]
    options = {"lanes": lanes, "replay_steps": 60}
    ours, theirs = SPAWN.Pipe()
    victim = SPAWN.Process(target=receiver_process, args=(theirs, tmp_path, contract, 1))
    victim.start()
    try:
        doomed = ours.recv()
        with receivers(tmp_path, None) as (file, (survivor,), (sink,)):
            endpoints = (survivor.endpoint, doomed)
            survivor.set_contract(contract, endpoints)
            ours.send(endpoints)
            assert ours.recv() == "ready"
            deadlines = {"connect": 2.0, "step": 30.0, "drain": 20.0, "contract": 10.0}
            contacts.write(file, contacts.Contact(RUN, TOKEN, endpoints, deadlines, options))
            killed = threading.Event()

            def gate(step):
                if step == 20:
                    killed.wait(20)

            ranks = threading.Thread(
                target=lambda: together(2, lambda rank: put_all(file, rank, 2, gate=gate))
            )
            ranks.start()
            assert ours.recv() == "ten"
            os.kill(victim.pid, stop)
            victim.join(10)
            placement = replace(array.placement, [0])
            lost = [c for c in range(120) if array.placement.owner(c) == 1]
            survivor.set_placement(
                {0: placement}, (survivor.endpoint,), [(0, chunk) for chunk in lost]
            )
            killed.set()
            ranks.join(60)
            assert not ranks.is_alive()
            sink.wait(lambda: len(sink.counts) == 120)
            expected = np.stack([field(step) for step in range(60)])
            assert np.array_equal(assembled(contract, 0, [sink]), expected)
            assert set(sink.counts.values()) == {1}
            assert all(bye.counters[0].closed for bye in sink.byes.values())
    finally:
        victim.kill()
        victim.join(10)
        ours.close()
        theirs.close()


def test_chunks_that_left_the_replay_buffer_are_reported(tmp_path, lanes):
    options = {"lanes": lanes, "replay_steps": 0}
    with receivers(tmp_path, agree(SPEC), contact_options=options) as (file, (r,), (sink,)):
        with Bridge(contact=file) as bridge:
            for step in range(20):
                bridge.put("t", step, field(step))
            bridge.wait()
            sink.wait(lambda: len(sink.counts) == 20)
            r.set_placement({}, (r.endpoint,), [(0, 2), (0, 19)])
            sink.wait(lambda: sink.missed and sink.counts[0, 19] == 2)
        (missed,) = sink.missed
        assert missed[:3] == (0, 2, 0)
        assert "replay buffer" in missed[3]


def rank_process(file, rank, size, started):
    def gate(step):
        if step == 10:
            started.set()
            threading.Event().wait(60)

    put_all(file, rank, size, gate=gate)


def test_rank_killed_between_two_steps(tmp_path, lanes):
    with receivers(tmp_path, agree(SPEC), contact_options={"lanes": lanes}, grace=0.3) as (
        file,
        (receiver,),
        (sink,),
    ):
        started = SPAWN.Event()
        process = SPAWN.Process(target=rank_process, args=(file, 0, 1, started))
        process.start()
        assert started.wait(30)
        sink.wait(lambda: len(sink.counts) == 10)
        os.kill(process.pid, signal.SIGKILL)
        process.join(10)
        sink.wait(lambda: 0 in sink.losses, 10)
        assert "not back within 0.3 s" in sink.losses[0]
        assert receiver.statistics().ranks == 0
        # What it shared stays valid for those who hold it.
        assert np.array_equal(sink.chunks[0, 9][0], field(9))
        process.close()


def test_a_stopped_rank_is_found_by_its_silence(tmp_path, lanes):
    with receivers(
        tmp_path, agree(SPEC), contact_options={"lanes": lanes}, grace=0.3, silence=3.0
    ) as (file, _, (sink,)):
        started = SPAWN.Event()
        process = SPAWN.Process(target=rank_process, args=(file, 0, 1, started))
        process.start()
        try:
            assert started.wait(30)
            os.kill(process.pid, signal.SIGSTOP)
            sink.wait(lambda: 0 in sink.losses, 15)
            assert "no sign of life for 3 s" in sink.losses[0]
        finally:
            process.kill()
            process.join(10)
            process.close()


@pytest.mark.parametrize("policy", ["continue", "abort"])
def test_all_receivers_gone(tmp_path, lanes, policy):
    options = {"lanes": lanes, "on_analytics_loss": policy}
    with receivers(tmp_path, agree(SPEC), contact_options=options, deadlines={"connect": 0.3}) as (
        file,
        (receiver,),
        _,
    ):
        bridge = Bridge(contact=file)
        bridge.put("t", 0, field(0))
        assert bridge.wait()
        receiver.close()
        if policy == "abort":
            with pytest.raises(AnalyticsLost, match=r"receiver 0 at|no receiver is left"):
                for step in range(1, 60):
                    bridge.put("t", step, field(step))
            bridge.close("aborted")
        else:
            for step in range(1, 60):
                bridge.put("t", step, field(step))
            bridge.close()
            account = bridge.statistics().arrays["t"]["blocks"]
            assert account["produced"] == 60 == account["delivered"] + account["lost"]
            assert account["lost"] > 50
            assert bridge.statistics().lost


@pytest.mark.parametrize("policy", ["continue", "abort"])
def test_all_receivers_gone_before_the_contract(tmp_path, lanes, policy):
    """The analysis still builds its graph when its workers die."""
    options = {"lanes": lanes, "on_analytics_loss": policy}
    limits = {"connect": 0.3, "contract": 60.0}
    with receivers(tmp_path, None, contact_options=options, deadlines=limits) as (
        file,
        (receiver,),
        (sink,),
    ):

        def die():
            sink.wait(lambda: sink.hellos, 10)
            receiver.close()

        death = threading.Thread(target=die)
        death.start()
        try:
            if policy == "abort":
                with pytest.raises(AnalyticsLost, match="no receiver is left"):
                    Bridge(contact=file)
                return
            with Bridge(contact=file) as bridge:
                for step in range(3):
                    bridge.put("t", step, field(step))
                assert bridge.receive("gain", step=3, default=7.0) == 7.0
                assert not bridge.should_stop()
            account = bridge.statistics()
            assert account.arrays["t"]["blocks"]["skipped"] == 3
            assert "before there was a contract" in account.lost
        finally:
            death.join()


def stopped_receiver(pipe, contract):
    sink = RememberingSink(keep=False)
    receiver = Receiver(sink, run=RUN, token=TOKEN, budget=64 << 20, ordinal=0, silence=1.0)
    receiver.set_contract(contract)
    pipe.send(receiver.endpoint)
    pipe.recv()


def test_a_stopped_receiver_is_found_by_its_silence(tmp_path, lanes):
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=stopped_receiver, args=(theirs, agree(SPEC)))
    process.start()
    try:
        endpoint = ours.recv()
        file = tmp_path / "contact"
        deadlines = {"connect": 1.0, "step": 30.0, "drain": 5.0}
        options = {"lanes": lanes}
        contacts.write(file, contacts.Contact(RUN, TOKEN, (endpoint,), deadlines, options))
        with Bridge(contact=file) as bridge:
            bridge.put("t", 0, field(0))
            assert bridge.wait()
            os.kill(process.pid, signal.SIGSTOP)
            for step in range(1, 60):
                bridge.put("t", step, field(step))
            account = bridge.statistics()
        assert account.lost
        assert account.arrays["t"]["blocks"]["produced"] == 60
    finally:
        process.kill()
        process.join(10)
        process.close()
        ours.close()
        theirs.close()


def test_no_receiver_can_be_reached(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    endpoint = contacts.Endpoint(0, "127.0.0.1", port)
    file = tmp_path / "contact"
    contacts.write(file, contacts.Contact(RUN, TOKEN, (endpoint,), {"connect": 0.3}))
    with pytest.raises(DeadlineExceeded, match=r"no receiver could be reached within 0\.3 s"):
        Bridge(contact=file)


def test_no_contract_in_time(tmp_path):
    with (
        receivers(tmp_path, None, deadlines={"contract": 0.3}) as (file, _, _),
        pytest.raises(DeadlineExceeded, match=r"gave no contract within 0.3 s"),
    ):
        Bridge(contact=file)


def test_a_wrong_token(tmp_path):
    with receivers(tmp_path, agree(SPEC), deadlines={"connect": 0.3}) as (file, (r,), (sink,)):
        contact = contacts.read(file)
        wrong = contacts.Contact(RUN, contacts.new_token(), contact.endpoints, contact.deadlines)
        contacts.write(file, wrong)
        with pytest.raises(DeadlineExceeded, match="token"):
            Bridge(contact=file)
        assert r.statistics().ranks == 0
        assert not sink.hellos


def test_who_took_the_port_of_a_receiver_gets_no_hello(tmp_path):
    """It answers the greeting as well as it can without the token."""
    heard = []

    def impostor():
        with contextlib.suppress(OSError):
            while True:
                rank, _ = listener.accept()
                with rank:
                    heard.append(rank.recv(1 << 16))
                    rank.sendall(framing.pack(m.Challenge(bytes(32), heard[-1][-32:])))
                    while more := rank.recv(1 << 16):
                        heard.append(more)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=impostor)
        thread.start()
        endpoint = contacts.Endpoint(0, *listener.getsockname())
        known = contacts.Contact(RUN, contacts.new_token(), (endpoint,), {"connect": 0.3})
        contacts.write(tmp_path / "contact.json", known)
        with pytest.raises(DeadlineExceeded, match="does not know the token of the run"):
            Bridge(contact=tmp_path / "contact.json")
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert heard
    assert {framing.parse_header(each).op for each in heard} == {m.Greeting.OP}
    assert not any(known.secret in each for each in heard)


def test_who_took_the_port_of_a_receiver_cannot_pass_a_rank_on_to_another(tmp_path):
    options = {"lanes": ["tcp"]}
    two = agree(SPEC, receivers=2)
    with receivers(tmp_path, two, 2, contact_options=options) as (file, rs, sinks):
        dead, living = (receiver.endpoint for receiver in rs)
        with Bridge(contact=file) as bridge:
            bridge.put("t", 0, field(0))
            assert bridge.wait()
            connections = bridge._delivery.connections.by_ordinal
            rs[0].close()
            with relay(dead.port, living) as heard, bridge._mailbox.changed:
                assert bridge._mailbox.changed.wait_for(
                    lambda: "or is another receiver of it" in connections[0].why_closed, 20
                ), connections[0].why_closed
                assert connections[1].link is LinkState.OPEN  # it was not replaced
        assert {framing.parse_header(each).op for each in heard} == {m.Greeting.OP}
        assert len(sinks[1].hellos) == 1


def test_a_forked_child_hides_nothing(tmp_path, lanes):
    """The parent's death is seen although a child of it lives on."""
    with receivers(tmp_path, agree(SPEC), contact_options={"lanes": lanes}, grace=0.2) as (
        file,
        _,
        (sink,),
    ):
        started = SPAWN.Event()
        process = SPAWN.Process(target=forking_rank, args=(file, started))
        process.start()
        assert started.wait(30)
        os.kill(process.pid, signal.SIGKILL)
        process.join(10)
        sink.wait(lambda: 0 in sink.losses, 10)
        process.close()


def forking_rank(file, started):
    bridge = Bridge(contact=file)
    bridge.put("t", 0, field(0))
    if os.fork() == 0:
        threading.Event().wait(5)
        os._exit(0)
    started.set()
    threading.Event().wait(60)


@pytest.mark.parametrize("in_place", [False, True], ids=["put", "in place"])
def test_a_chunk_that_moves_while_its_block_is_on_its_way_reaches_its_new_receiver(
    tmp_path, lanes, in_place
):
    """The newcomer asks for what the rank has not put yet: no receiver asks a second time."""
    contract = agree(SPEC)
    options = {"lanes": lanes, "replay_steps": 2}
    with receivers(tmp_path, contract, contact_options=options) as (file, (first,), _):
        other = RememberingSink()
        with joined(file, contract, first, other) as (bridge, move):
            bridge.put("t", 0, field(0))
            delivery, out = bridge._delivery, bridge._arrays["t"]
            if in_place:
                with bridge.block("t", 1) as block:
                    block[...] = field(1)
                    move(1)
            else:
                take = delivery.slot

                def slot(ring, nbytes):
                    delivery.slot = take
                    move(1)
                    return take(ring, nbytes)

                delivery.slot = slot
                bridge.put("t", 1, field(1))
            assert out.owner(int(contract.arrays[0].needed_ids(1, 2)[0])) == 1
            other.wait(lambda: len(other.counts) == contract.arrays[0].layout.n_space)
