"""A receiver and its ranks, by the bytes that they exchange."""

import json
import logging
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from ranks import RUN, TOKEN, Rank, Sink, contract_of, receiving, spec_of, until

from ips_components.receiver import io_threads, peers, rate_limit
from ips_components.receiver.receiver import Receiver
from ips_components.wire import framing, proof
from ips_components.wire import messages as m

SPEC = spec_of((4,))
ALL = ((0, 1, 1), (0, 4, 1))


def row_of(rank, n):
    return ((0, 1, 1), (rank, 1, 1), (0, n, 1))


def receiver_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("receiver")]


@pytest.mark.parametrize("lane", ["tcp", "shm"])
def test_three_hundred_ranks_are_served_by_a_bounded_number_of_threads(lane):
    n, columns = 300, 5000
    spec = spec_of((n, columns), count=2)
    with receiving(spec, budget=1 << 27) as (receiver, sink):
        ranks = [Rank(receiver, rank, n, lane=lane) for rank in range(n)]
        for rank in ranks:
            assert isinstance(rank.hear(), m.Welcome)
        assert receiver.statistics().ranks == n
        bound = io_threads.MAX_OWN_THREADS + 2 * io_threads.N_SHARED + 2
        assert len(receiver_threads()) <= bound
        for step in range(2):
            frames = [
                rank.frame(step, row_of(i, columns), np.full(columns, 1000.0 * step + i))
                for i, rank in enumerate(ranks)
            ]
            for start, stop in ((0, 50), (50, 9000), (9000, None)):  # every piece in three parts
                for rank, frame in zip(ranks, frames, strict=True):
                    rank.sock.sendall(frame[start:stop])
        sink.wait(lambda: len(sink.chunks) == 2)
        for step in range(2):
            assert (sink.chunks[0, step][0, :, 7] == 1000.0 * step + np.arange(n)).all()
        for rank in ranks:
            assert rank.hear_until(m.Ack).seq in (1, 2)
            rank.say(m.Bye(1))
        for rank in ranks:
            rank.hear_until(m.ByeAck)
            rank.sock.close()
        sink.wait(lambda: len(sink.named("bye")) == n)
        assert not sink.named("fault")


def test_a_rank_that_stops_in_a_piece_holds_up_no_other_rank_of_its_thread(monkeypatch):
    monkeypatch.setattr(io_threads.ConnectionThreads.__init__, "__defaults__", (0, 1))
    spec = spec_of((2, 1000))
    with receiving(spec) as (receiver, sink), Rank(receiver, 0, 2) as a, Rank(receiver, 1, 2) as b:
        first = a.frame(0, row_of(0, 1000), np.ones(1000))
        a.sock.sendall(first[:200])
        b.put(0, row_of(1, 1000), np.ones(1000))
        b.say(m.StepEnd(0))
        sink.wait(lambda: sink.named("step_end"))
        a.sock.sendall(first[200:])
        sink.wait(lambda: sink.chunks)
        assert (sink.chunks[0, 0] == 1).all()


def test_a_second_session_of_a_rank_is_refused_and_both_processes_are_named():
    info = b'{"host": "node7"}'
    with receiving(SPEC) as (receiver, sink):
        with Rank(receiver, session=1, info=info) as rank:
            rank.hear_until(m.Welcome)
            with Rank(receiver, session=2, info=b'{"host": "node8"}') as other:
                refused = other.hear_until(m.Refused).text
                assert other.hear() is None
            for part in (
                "rank 0 of 1",
                "process 1001 on node7",
                "process 1002 on node8",
                "mpiexec",
            ):
                assert part in refused
            with Rank(receiver, session=1, info=info) as again:  # a reconnect
                again.hear_until(m.Welcome)
                assert rank.hear_until(m.Credit)
        # Its process has ended: another one may take its place.
        with Rank(receiver, session=2) as other:
            other.hear_until(m.Welcome)
        assert not sink.named("fault")


def test_a_connection_that_was_replaced_commits_nothing():
    with receiving(SPEC) as (receiver, sink), Rank(receiver) as old:
        old.hear_until(m.Credit)
        frame = old.frame(0, ALL, np.full(4, 1.0))
        old.sock.sendall(frame[:-8])
        with Rank(receiver) as new:
            assert new.hear_until(m.Welcome).last_seq == 0
            while old.hear() is not None:
                pass
            new.put(0, ALL, np.full(4, 2.0))
            sink.wait(lambda: sink.chunks)
            assert (sink.chunks[0, 0] == 2).all()


def test_rows_that_were_cut_off_by_a_reconnect_are_not_mixed_with_those_sent_again():
    spec = spec_of((-1, 3), ragged=True)
    box = ((0, 1, 1), (0, 5, 1), (0, 3, 1))
    with receiving(spec) as (receiver, sink), Rank(receiver) as old:
        old.hear_until(m.Credit)
        frame = old.frame(0, box, np.full((5, 3), 1.0))
        old.sock.sendall(frame[:-24])
        with Rank(receiver) as new:
            new.put(0, box, np.full((5, 3), 2.0))
            sink.wait(lambda: sink.chunks)
            assert (sink.chunks[0, 0] == 2).all()
            assert sink.chunks[0, 0].shape == (1, 5, 3)


def test_overlapping_blocks_fail_their_chunk_and_name_both_ranks():
    with (
        receiving(SPEC) as (receiver, sink),
        Rank(receiver, 0, 2) as a,
        Rank(receiver, 1, 2) as b,
    ):
        a.put(0, ((0, 1, 1), (0, 3, 1)), np.ones(3))
        a.hear_until(m.Credit)
        a.say(m.StepEnd(0))
        sink.wait(lambda: sink.named("step_end"))
        b.put(0, ((0, 1, 1), (2, 1, 1)), np.ones(1))
        sink.wait(lambda: sink.named("missing"))
        ((array, chunk, _, why),) = sink.named("missing")
        assert (array, chunk) == (0, 0)
        assert "the blocks of rank 0 and rank 1 overlap: [0:1, 0:3] and [0:1, 2:3]" in why
        b.put(1, ALL, np.ones(4))  # the connection goes on
        sink.wait(lambda: sink.chunks)
        assert list(sink.chunks) == [(0, 1)]


@pytest.mark.parametrize("lane", ["tcp", "shm"])
def test_nothing_overtakes_the_welcome_and_feedback_comes_once(lane):
    done = threading.Event()
    sent = []

    def talk(receiver):
        while not done.is_set():
            sent.append(len(sent))
            receiver.feedback("gain", float(sent[-1]), sent[-1])
            done.wait(0.0005)

    with receiving(SPEC) as (receiver, _):
        talker = threading.Thread(target=talk, args=(receiver,))
        talker.start()
        try:
            for _ in range(30):
                with Rank(receiver, lane=lane, flags=m.Hello.WANTS_CONTRACT) as rank:
                    assert isinstance(rank.hear(), m.Welcome)
                    steps = []
                    while len(steps) < 5:
                        if isinstance(message := rank.hear(), m.Feedback):
                            steps.append(message.step)
                    assert steps == list(range(steps[0], steps[0] + len(steps)))
        finally:
            done.set()
            talker.join()


@pytest.mark.parametrize("lane", ["tcp", "shm"])
def test_nothing_follows_the_answer_to_a_goodbye(lane):
    with receiving(SPEC) as (receiver, _), Rank(receiver, lane=lane) as rank:
        rank.hear_until(m.Welcome)
        rank.say(m.Bye(0))
        receiver.release_ranks()
        rank.hear_until(m.ByeAck)
        # It is still connected when the analysis ends, and takes no message any more.
        receiver.feedback("gain", 1.0, 1)
        receiver.stop("converged")
        rank.sock.shutdown(socket.SHUT_WR)
        assert rank.hear() is None


def test_the_first_credit_comes_with_the_welcome():
    with receiving(SPEC) as (receiver, _), Rank(receiver, flags=m.Hello.WANTS_CONTRACT) as rank:
        greeting = [rank.hear() for _ in range(3)]
        assert [type(message) for message in greeting] == [m.Welcome, m.ContractIs, m.Credit]
        assert greeting[2].rows == 10


def test_a_rank_that_has_the_contract_first_waits_for_it():
    contract = contract_of(SPEC)
    digest = bytes.fromhex(contract.digest())
    with (
        receiving(SPEC, contract=False) as (receiver, sink),
        Rank(receiver, 0, 2, digest=digest) as rank,
        Rank(receiver, 1, 2) as other,
    ):
        other.hear_until(m.Welcome)
        until(lambda: any(connection.paused for connection in receiver.connections()))
        receiver.set_contract(contract)
        assert isinstance(rank.hear(), m.Welcome)
        rank.put(0, ALL, np.ones(4))
        sink.wait(lambda: sink.chunks)


def test_a_contract_that_never_comes_refuses_the_rank_that_has_it():
    digest = bytes.fromhex(contract_of(SPEC).digest())
    with (
        receiving(SPEC, contract=False, handshake=0.3) as (receiver, _),
        Rank(receiver, digest=digest) as rank,
    ):
        assert "contract that this receiver does not know" in rank.hear_until(m.Refused).text


def test_nothing_of_a_hello_is_decoded_before_its_token_was_compared(caplog):
    with receiving(SPEC) as (receiver, sink), caplog.at_level(logging.DEBUG):
        for proved in (bytes(32), b"\xff" * 32):
            hello = bytearray(framing.pack(m.Hello(RUN, 0, 1, 1, 1, proved)))
            start = framing.HEADER_BYTES + 32
            hello[start : start + 64] = b"\xff" * 64  # no run name
            with Rank(receiver, hello=False) as stranger:
                stranger.say(m.Greeting(bytes(32), 1))
                assert isinstance(stranger.hear(), m.Challenge)
                stranger.sock.sendall(hello)
                assert stranger.hear() is None
    assert not sink.reports
    assert [r.exc_info for r in caplog.records] == [None, None]
    assert all("a hello with a wrong token" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("change", [{"receiver": 1}, {"session": 5}])
def test_a_hello_that_was_meant_for_another_receiver_or_session_is_refused(change, caplog):
    """Its proof is that of a rank that knows the token."""
    with receiving(SPEC) as (receiver, sink), Rank(receiver, hello=False) as rank:
        greeting = m.Greeting(bytes(32), 1)
        rank.say(greeting)
        nonce = rank.hear().nonce
        right = proof.Channel(greeting.nonce, nonce, 1, receiver.endpoint.id)
        other = right._replace(**change)
        rank.say(m.Hello(RUN, 0, 1, 1, 1, other.proof_of_rank(bytes.fromhex(TOKEN))))
        assert rank.hear() is None
    assert not sink.reports
    assert "a hello with a wrong token, or one for another receiver" in caplog.text


@pytest.mark.parametrize(
    "info",
    [
        {"blocks": {"t": [[[10**40, 0], [2, 4]]]}},
        {"blocks": {"t": [[[1e300, 0], [2, 4]]]}},
        {"step": 1 << 64},
        {"arrays": [{"name": "t", "dtype": "<f8", "shape": [10**30, 1]}]},
        {"arrays": [{"name": "t", "dtype": "<f8", "shape": [4], "attrs": {"id": -(1 << 63) - 1}}]},
    ],
)
def test_numbers_of_a_hello_that_no_stream_of_dask_carries_are_refused(info):
    with (
        receiving(SPEC) as (receiver, sink),
        Rank(receiver, info=json.dumps(info).encode()) as rank,
    ):
        assert "hello" in rank.hear_until(m.Refused).text
        assert not sink.named("hello")


def test_idle_strangers_keep_no_rank_out(monkeypatch):
    monkeypatch.setattr(peers, "MAX_UNAUTHENTICATED", 8)
    with receiving(spec_of((2, 4))) as (receiver, sink):
        strangers = [Rank(receiver, hello=False) for _ in range(30)]
        for lane, number in (("tcp", 0), ("shm", 1)):
            with Rank(receiver, number, 2, lane=lane) as rank:
                assert isinstance(rank.hear(), m.Welcome)
        assert strangers[0].hear() is None  # the oldest has gone
        assert len(receiver.connections()) <= 8 + 2
        assert len(receiver_threads()) <= 2 + 2 * io_threads.N_SHARED + 2
        for stranger in strangers:
            stranger.sock.close()
        assert not sink.named("fault")


def test_bad_connections_write_few_lines(caplog):
    with receiving(SPEC) as (receiver, _):
        for _ in range(5 * rate_limit.BURST):
            with Rank(receiver, hello=False) as stranger:
                stranger.sock.sendall(b"GET / HTTP/1.1\r\nHost: receiver\r\n\r\n")
                assert stranger.hear() is None
    assert rate_limit.BURST <= len(caplog.records) <= rate_limit.BURST + 2


def test_without_the_tcp_lane_no_port_is_open():
    with receiving(SPEC, lanes=("shm",)) as (receiver, _):
        assert receiver.endpoint.port == 0
        assert receiver.endpoint.unix
        with Rank(receiver, lane="shm") as rank:
            rank.hear_until(m.Welcome)


def test_a_receiver_listens_on_an_address_of_ipv6():
    with receiving(SPEC, host="::1") as (receiver, sink):
        assert receiver.endpoint.host == "::1"
        with Rank(receiver, lane="tcp") as rank:
            rank.put(0, ALL, np.ones(4))
            sink.wait(lambda: sink.chunks)


def test_frames_stay_whole_where_a_rank_reads_late():
    """Heartbeats meet a socket that has taken a part of a frame."""
    with receiving(SPEC, heartbeat=0.01) as (receiver, _), Rank(receiver, lane="shm") as rank:
        rank.hear_until(m.Welcome)
        for step in range(4):
            receiver.feedback("field", np.zeros(1 << 17), step)
        (connection,) = receiver.connections()
        for _ in range(3):
            last = connection.last_ping
            until(lambda last=last: connection.last_ping > last)
        receiver.stop("enough")
        found = []
        while not isinstance(message := rank.hear(), m.Stop):
            found.append(message)
        assert [f.step for f in found if isinstance(f, m.Feedback)] == [0, 1, 2, 3]


def test_a_receiver_that_cannot_listen_leaves_nothing_open(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        Receiver(Sink(), run=RUN, token=TOKEN, budget=1, unix_path=str(tmp_path / "no" / "path"))


def test_a_path_socket_is_removed(tmp_path):
    path = tmp_path / "socket"
    with receiving(SPEC, unix_path=str(path)):
        assert Path(path).stat().st_mode & 0o777 == 0o600
    assert not path.exists()
