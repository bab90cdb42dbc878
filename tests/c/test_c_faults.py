"""C ranks and deaths: of connections, of receivers, of ranks; and receivers that talk nonsense."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import pytest
from between import Between
from c_ranks import (
    INCOMPLETE,
    LATE,
    LOST,
    RUN,
    RankError,
    agree,
    coupling,
    delivered,
    expected,
    join_all,
    spec_of,
)
from hostile_peers import relay

from ips_components.model.placement import replace
from ips_components.model.selection import Selection
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.wire import contact as contacts
from ips_components.wire import framing, proof
from ips_components.wire import messages as m

LANES = ["shm", "tcp"]


def joined(start, contact, directory, spec, lane="", **environment):
    """A single rank that holds the whole array."""
    rank = start(IPS_COMPONENTS_LANE=lane, **environment)
    rank.offer(spec, (0,) * len(spec.shape), spec.shape)
    join_all([rank], contact, directory)
    return rank


def cut(receiver):
    """Break all connections of a receiver; it goes on listening."""
    for connection in receiver.connections():
        connection.shut("cut by the test")


@pytest.mark.parametrize("lane", LANES)
def test_connections_cut_again_and_again_lose_and_double_nothing(start, sinks, tmp_path, lane):
    spec = spec_of(shape=(100, 100), count=30)
    (sink,) = sinks()
    contract = agree(spec, chunks=(1, 30, 100))
    with coupling(tmp_path, [sink], contract) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec, lane)
        for step in range(30):
            rank("put", "t", step, "C")
            if step % 7 == 3:
                cut(receiver)
        rank("close", 0)
        assert (delivered(contract.arrays[0], sink.chunks) == expected(contract.arrays[0])).all()
        assert set(sink.counts.values()) == {1}
        assert sink.byes[0].counters[0].blocks == (30, 0, 30, 0, 0)


def test_a_block_whose_put_failed_is_sent_as_it_was_put(start, sinks, tmp_path):
    """The program has used its memory for something else when the receiver reads on."""
    spec = spec_of(shape=(2048, 2048), count=2)
    (sink,) = sinks()
    contract = agree(spec)
    limits = {"step": 0.5}
    with (
        coupling(tmp_path, [sink], contract, deadlines=limits, budget=1 << 28) as (
            file,
            (receiver,),
        ),
        Between(receiver.endpoint) as between,
    ):
        between.stand_in(file, receiver, contract)
        rank = joined(start, file, tmp_path, spec, "tcp")
        rank("put", "t", 0, "C")
        rank("wait", 10)
        between.passing.clear()
        with pytest.raises(RankError, match="did not read what was sent") as late:
            rank("put", "t", 1, "C")
        assert late.value.code == LATE
        between.passing.set()
        rank("close", 0)
        assert (delivered(contract.arrays[0], sink.chunks) == expected(contract.arrays[0])).all()


@pytest.mark.parametrize("host", ["localhost", "no-such-host.invalid"])
def test_receiver_named_by_its_host(start, sinks, tmp_path, host):
    spec = spec_of(count=3)
    (sink,) = sinks()
    contract = agree(spec)
    limits = {"connect": 1.0}
    with coupling(tmp_path, [sink], contract, deadlines=limits) as (path, (receiver,)):
        known = contacts.read(path)
        named = changed(receiver.endpoint, host=host)
        receiver.set_contract(contract, (named,))
        path.unlink()
        contacts.write(path, contacts.Contact(RUN, known.token, (named,), known.deadlines))
        if host != "localhost":
            with pytest.raises(RankError, match="could be reached"):
                joined(start, path, tmp_path, spec, "tcp")
            return
        rank = joined(start, path, tmp_path, spec, "tcp")
        for step in range(3):
            rank("put", "t", step, "C")
        rank("close", 0)
        assert (delivered(contract.arrays[0], sink.chunks) == expected(contract.arrays[0])).all()


def test_rank_that_computes_for_long_is_not_taken_for_dead(start, sinks, tmp_path):
    spec = spec_of()
    (sink,) = sinks()
    timing = {"silence": 0.2, "heartbeat": 0.05, "grace": 0.2}
    with coupling(tmp_path, [sink], agree(spec), **timing) as (contact, _):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(3):
            rank("put", "t", step, "C")
            threading.Event().wait(0.5)  # it computes
        rank("close", 0)
        assert not sink.losses
        assert len(sink.hellos) == 2  # of the request, and of the data


@pytest.mark.parametrize("policy", ["continue", "abort"])
@pytest.mark.parametrize("lane", LANES)
def test_all_receivers_gone(start, sinks, tmp_path, policy, lane):
    spec = spec_of(count=20)
    (sink,) = sinks()
    options = {"on_analytics_loss": policy}
    limits = {"connect": 0.3}
    with coupling(tmp_path, [sink], agree(spec), deadlines=limits, options=options) as (
        contact,
        (receiver,),
    ):
        rank = joined(start, contact, tmp_path, spec, lane)
        rank("put", "t", 0, "C")
        rank("wait", 5)
        receiver.close()
        if policy == "continue":
            for step in range(1, 20):
                rank("put", "t", step, "C")
            assert "no receiver is left" in rank("lost")
            rank("close", 0)
            blocks, nbytes = rank.account("t")
            assert blocks[0] == 20
            assert blocks[4] >= 15  # some were on their way when it died
            assert nbytes[0] == sum(nbytes[1:]) == 20 * 8 * 12 * 8
        else:
            with pytest.raises(RankError, match="no receiver is left") as lost:
                for step in range(1, 20):
                    rank("put", "t", step, "C")
            assert lost.value.code == LOST


@pytest.mark.parametrize("lane", LANES)
def test_receiver_gone_another_takes_over_from_the_replay_buffer(start, sinks, tmp_path, lane):
    spec = spec_of(count=6)
    made = sinks(2)
    contract = agree(spec, receivers=2)
    array = contract.arrays[0]
    with coupling(tmp_path, made, contract, options={"replay_steps": 2}) as (contact, receivers):
        rank = joined(start, contact, tmp_path, spec, lane)
        for step in range(3):
            rank("put", "t", step, "C")
        rank("wait", 5)
        made[1].chunks.clear()
        receivers[1].close()
        # The coordinator's part: all chunks to receiver 0, which asks for those of the dead one.
        again = [(0, c) for c in range(12) if array.placement.owner(c) == 1]
        after = replace(array.placement, [0])
        receivers[0].set_placement({0: after}, [receivers[0].endpoint], again)
        for step in range(3, 6):
            rank("put", "t", step, "C")
        rank("close", 0)
        assert (delivered(array, made[0].chunks) == expected(array)).all()
        assert not made[0].missed
        assert set(made[0].counts.values()) == {1}


def test_chunk_that_the_replay_buffer_has_no_more_is_gone(start, sinks, tmp_path):
    spec = spec_of(count=12)
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec), options={"replay_steps": 1}) as (
        contact,
        (receiver,),
    ):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(12):
            rank("put", "t", step, "C")
        sink.wait(lambda: len(sink.chunks) == 12)
        sink.chunks.clear()
        receiver.set_placement({}, [receiver.endpoint], [(0, 2), (0, 11)])
        while (0, 11) not in sink.chunks:
            rank("progress")
        sink.wait(lambda: sink.missed)
        assert [(array, chunk, by) for array, chunk, by, _ in sink.missed] == [(0, 2, 0)]
        rank("close", 0)


def shared_bytes(process):
    """Memory that a rank shares, as far as it was written."""
    fds = Path(f"/proc/{process.pid}/fd").iterdir()
    shared = [fd for fd in fds if "ips-components-slot" in str(fd.readlink())]
    return sum(fd.stat().st_blocks * 512 for fd in shared)


def test_replay_buffer_is_bounded_in_bytes(start, sinks, tmp_path):
    spec = spec_of(shape=(8, 64), count=40)  # a page per step
    (sink,) = sinks(keep=False)
    options = {"replay_steps": 30, "replay_bytes": 9 * 4096}
    with coupling(tmp_path, [sink], agree(spec), options=options) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(40):
            rank("put", "t", step, "C")
        rank("wait", 5)
        assert shared_bytes(rank.process) == (3 + 9) * 4096
        receiver.set_placement({}, [receiver.endpoint], [(0, 31)])
        while sink.counts[0, 31] < 2:
            rank("progress")
        assert not sink.missed
        rank("close", 0)


def test_slots_that_became_too_small_are_unmapped_by_the_receiver(start, sinks, tmp_path):
    spec = ArraySpec("x", "<f4", (-1, 3), StepAxis(count=40), ragged=True)
    (sink,) = sinks(keep=False)
    with coupling(tmp_path, [sink], agree(spec)) as (contact, (receiver,)):
        rank = start()
        rank.offer(spec, (), ())
        join_all([rank], contact, tmp_path)
        for step in range(40):
            rank("rows", "x", step, 700 * (step + 1))
            rank("wait", 5)
        (connection,) = receiver.connections()
        sink.wait(lambda: len(connection.slots) <= 5 + 1)  # two to be sent again, and three
        # What smaller slots have left is used again, or is in segments that are given up.
        assert shared_bytes(rank.process) <= 3 * 5 * 700 * 40 * 12
        rank("close", 0)


def test_rank_without_rows_says_so_again(start, sinks, tmp_path):
    spec = ArraySpec("x", "<f4", (-1, 3), StepAxis(count=4), ragged=True)
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec)) as (contact, (receiver,)):
        ranks = [start(i, 2) for i in range(2)]
        for rank in ranks:
            rank.offer(spec, (), ())
        join_all(ranks, contact, tmp_path)
        ranks[0]("rows", "x", 0, 5)
        ranks[1]("rows", "x", 0, 0)
        sink.wait(lambda: sink.chunks)
        sink.chunks.clear()
        receiver.set_placement({}, [receiver.endpoint], [(0, 0)])
        while not sink.chunks:
            for rank in ranks:
                rank("progress")
        assert sink.chunks[0, 0].shape == (1, 5, 3)
        assert not sink.missed
        for rank in ranks:
            rank.tell("close", 0)
        for rank in ranks:
            rank.answer()


def test_rank_killed(start, sinks, tmp_path):
    spec = spec_of()
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec), grace=0.2) as (contact, _):
        rank = joined(start, contact, tmp_path, spec)
        rank("put", "t", 0, "C")
        sink.wait(lambda: sink.chunks)
        rank.process.kill()
        sink.wait(lambda: sink.losses)
        assert list(sink.losses) == [0]
        value = sink.chunks[0, 0]  # its memory outlives the rank
        assert (np.ascontiguousarray(value).view(np.uint8) != 0).any()
        del value


@pytest.mark.parametrize("lane", LANES)
def test_rank_stays_to_send_again_until_it_may_leave(start, sinks, tmp_path, lane):
    spec = spec_of()
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec), hold_byes=True) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec, lane)
        for step in range(6):
            rank("put", "t", step, "C")
        rank.tell("close", 0)
        sink.wait(lambda: sink.byes)
        sink.wait(lambda: len(sink.chunks) == 6)
        sink.chunks.clear()
        receiver.set_placement({}, [receiver.endpoint], [(0, 5)])
        sink.wait(lambda: (0, 5) in sink.chunks)
        sink.byes.clear()
        cut(receiver)  # it returns, and says goodbye once more
        sink.wait(lambda: sink.byes)
        receiver.release_ranks()
        rank.answer()
        assert not sink.losses


@contextlib.contextmanager
def receiver_process(directory, contract, deadlines, policy="continue", **options):
    """A receiver that can be killed."""
    token = contacts.new_token()
    script = Path(__file__).with_name("receiver_process.py")
    signed = contract.to_bytes().hex() if contract is not None else ""
    arguments = [RUN, token, signed, json.dumps(options)]
    with subprocess.Popen(
        [sys.executable, str(script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            endpoint = contacts.Endpoint(**json.loads(process.stdout.readline()))
            path = directory / "contact.json"
            loss = {"on_analytics_loss": policy}
            contacts.write(path, contacts.Contact(RUN, token, (endpoint,), deadlines, loss))
            yield path, process
        finally:
            process.kill()


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGSTOP])
def test_receiver_killed_or_stopped_in_the_middle_of_puts(start, tmp_path, lane, by):
    spec = spec_of(shape=(600, 600), count=60)
    limits = {"connect": 0.6, "step": 20.0, "drain": 5.0}
    timing = {"silence": 0.6, "heartbeat": 0.1}
    with receiver_process(tmp_path, agree(spec), limits, **timing) as (contact, process):
        rank = joined(start, contact, tmp_path, spec, lane)
        for step in range(60):
            rank.tell("put", "t", step, "C")
        for _ in range(5):
            process.stdout.readline()
        os.kill(process.pid, by)
        for _ in range(60):
            rank.answer()
        with contextlib.suppress(RankError):
            rank("close", 0)
        blocks, nbytes = rank.account("t")
        assert blocks[0] == 60 == sum(blocks[1:])
        assert nbytes[0] == sum(nbytes[1:])
        status, errors = rank.end()
        assert (status, errors) == (0, "")


@pytest.mark.parametrize("policy", ["continue", "abort"])
def test_receiver_killed_before_the_contract(start, tmp_path, policy):
    spec = spec_of()
    blob = tmp_path / "blob"
    with receiver_process(tmp_path, None, {"connect": 0.5}, policy) as (contact, process):
        ranks = [start() for _ in range(2)]
        for rank in ranks:
            rank.offer(spec, (0,) * len(spec.shape), spec.shape)
        ranks[0].tell("request", contact, blob)
        assert process.stdout.readline() == b"hello\n"
        process.kill()
        if policy == "abort":
            with pytest.raises(RankError, match="went away before the contract") as lost:
                ranks[0].answer()
            assert lost.value.code == LOST
            with pytest.raises(RankError, match="went away before the contract"):
                ranks[1]("join", blob)
            return
        ranks[0].answer()
        for rank in ranks:
            rank("join", blob)
            rank("put", "t", 0, "C")
            rank("close", 0)
            assert rank.account("t")[0] == [1, 1, 0, 0, 0]
            assert rank.end() == (0, "")


def stop(pid):
    """Stop a process, and wait until all its threads stand: the signal alone does not."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while any(
        task.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "T"
        for task in Path(f"/proc/{pid}/task").iterdir()
    ):
        assert time.monotonic() < deadline


def test_drain_has_a_deadline(start, tmp_path):
    spec = spec_of()
    limits = {"connect": 0.5, "drain": 0.3}
    with receiver_process(tmp_path, agree(spec), limits) as (contact, process):
        rank = joined(start, contact, tmp_path, spec)
        rank("put", "t", 0, "C")
        process.stdout.readline()
        rank("wait", 5)
        stop(process.pid)
        rank("put", "t", 1, "C")
        with pytest.raises(RankError) as late:
            rank("wait", 0.1)
        assert late.value.code == INCOMPLETE
        with pytest.raises(RankError, match=r"within 0\.3 s of the end") as late:
            rank("close", 0)
        assert late.value.code == INCOMPLETE
        assert rank.account("t")[0] == [2, 0, 1, 0, 1]


# -- receivers that talk nonsense ----------------------------------------------------------------


def talk(endpoint):
    """Frames that a receiver might send to rank 0, all of them well-formed."""
    owners = (m.Owners(0, 1, 1, (0,)),)
    return [
        m.Credit(0, 3),
        m.Credit(7, 3),
        m.Credit(0, 2**64 - 1),
        m.Resend(0, 0),
        m.Resend(0, 2**63),
        m.Resend(9, 5),
        m.Ack(1),
        m.Ack(2**40),
        m.Release(((1, 2), (2, 2), (2**32 - 1, 1))),
        m.Release(()),
        m.PlacementIs(2, owners, (endpoint,)),
        m.PlacementIs(3, (m.Owners(0, 1, 2, (0,)),), (endpoint,)),
        m.PlacementIs(4, (m.Owners(0, 1, 1, (5,)),), ()),
        m.PlacementIs(5, (), (endpoint, contacts.Endpoint(4, "256.256.256.256", 1, "x" * 300))),
        m.Feedback("gain", 3, 0, (2, 2), bytes(32)),
        m.Feedback("gain", 3, 0, (2**32, 2**32), bytes(32)),
        m.Feedback("gain", -(2**63), 9, (), b"x"),
        m.Feedback("", 3, 3, (), b"{}"),
        m.Fault("failed", 0),
        m.Stop("stop"),
        m.Ping(),
        m.ByeAck(),
        m.Welcome(2**50),
        m.ContractIs(bytes(32), b"junk", ()),
        m.Refused("no"),
    ]


def mangled(rng, frames):
    """Some frames, a few of their bytes changed or missing."""
    stream = bytearray()
    for message in rng.choices(frames, k=rng.randrange(1, 6)):
        frame = bytearray(framing.pack(message))
        for _ in range(rng.choice([0, 0, 1, 2, 8])):
            at = rng.randrange(min(len(frame), rng.choice([32, 64, 4096])))
            frame[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        stream += frame[: rng.randrange(len(frame))] if rng.random() < 0.1 else frame
    return bytes(stream)


class Impostor:
    """Listens as a receiver would and says what it should not, anew on every connection."""

    def __init__(self, contract, seed, token):
        self.token = bytes.fromhex(token)
        self.rng = random.Random(seed)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = contacts.Endpoint(0, "127.0.0.1", self.listener.getsockname()[1])
        self.contract = contract
        self.heard = 0
        self.greeted = False
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc_info):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    self._answer(connection)

    def _answer(self, connection):
        head = framing.parse_header(_exactly(connection, 32))
        greeting = m.Greeting.parse(memoryview(_exactly(connection, head.body)))
        nonces = greeting.nonce, proof.new_nonce()
        channel = proof.Channel(*nonces, greeting.session, self.endpoint.id)
        challenge = m.Challenge(nonces[1], channel.proof_of_receiver(self.token))
        connection.sendall(framing.pack(challenge))
        head = framing.parse_header(_exactly(connection, 32))
        _exactly(connection, head.body)
        self.greeted = True
        connection.sendall(framing.pack(m.Welcome(0, 0, 2000, 30000)))
        if head.flags:
            array = self.contract
            digest = bytes.fromhex(array.digest())
            connection.sendall(
                framing.pack(m.ContractIs(digest, array.to_bytes(), (self.endpoint,)))
            )
        else:
            self.heard += 1
            connection.sendall(mangled(self.rng, talk(self.endpoint)))
            connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass


def _exactly(connection, n):
    data = b""
    while len(data) < n:
        part = connection.recv(n - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data


def survive_nonsense(start, directory, seeds, rounds=40, timeout=20.0):
    """Let ranks meet impostors until each has heard enough of them."""
    spec = spec_of(count=rounds)
    contract = agree(spec, selections=[Selection.from_key(np.s_[:, 1:, ::2], (rounds, 8, 12))])
    for seed in seeds:
        token = contacts.new_token()
        with Impostor(contract, seed, token) as impostor:
            path = directory / "contact.json"
            limits = {"connect": timeout, "contract": timeout, "step": 0.1, "drain": 0.1}
            contacts.write(path, contacts.Contact(RUN, token, (impostor.endpoint,), limits))
            try:
                rank = joined(start, path, directory, spec, "tcp")
            except RankError:
                continue  # a placement without any receiver came with the welcome
            for step in range(rounds):
                for words in (
                    ["put", "t", step, "C"],
                    ["receive", "gain", 3, 0],
                    ["progress"],
                    ["step_end", step],
                ):
                    with contextlib.suppress(RankError):
                        rank(*words)
                if rank("lost"):
                    break
            with contextlib.suppress(RankError):
                rank("close", 0)
            blocks, nbytes = rank.account("t")
            assert blocks[0] == sum(blocks[1:])
            assert nbytes[0] == sum(nbytes[1:])
            assert rank.end() == (0, "")
            assert impostor.heard


def test_who_took_the_port_of_a_receiver_gets_no_hello(start, tmp_path):
    contract = agree(spec_of(count=1))
    with Impostor(contract, 0, contacts.new_token()) as impostor:
        path = tmp_path / "contact.json"
        limits = {"connect": 0.3, "contract": 0.3}
        known = contacts.Contact(RUN, contacts.new_token(), (impostor.endpoint,), limits)
        contacts.write(path, known)
        with pytest.raises(RankError, match="does not know the token of the run"):
            joined(start, path, tmp_path, spec_of(count=1), "tcp")
    assert not impostor.greeted


def test_who_took_the_port_of_a_receiver_cannot_pass_a_rank_on_to_another(start, sinks, tmp_path):
    spec, (of_dead, of_living) = spec_of(count=1), sinks(2)
    limits = {"connect": 0.3, "contract": 0.3}
    with coupling(tmp_path, [of_dead, of_living], agree(spec), deadlines=limits) as (path, pair):
        dead, living = (receiver.endpoint for receiver in pair)
        contacts.write(path, changed(contacts.read(path), endpoints=(dead,)))
        pair[0].close()
        with (
            relay(dead.port, living) as heard,
            pytest.raises(RankError, match="is another receiver of it"),
        ):
            joined(start, path, tmp_path, spec, "tcp")
    assert {framing.parse_header(each).op for each in heard} == {m.Greeting.OP}
    assert not of_living.hellos


def test_receivers_that_talk_nonsense(start, tmp_path):
    survive_nonsense(start, tmp_path, range(6), rounds=8)
