"""The queue from the components to the framework."""

import multiprocessing
import os
import pickle
import queue
import signal
import struct
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_components.ips_compat import _queues
from ips_components.ips_compat._ips import Message, MethodResult
from ips_components.ips_compat._queues import FrameDecoder, PickleCheckedQueue, PollingQueue

FORK = multiprocessing.get_context("fork")


class _Queue:
    def __init__(self):
        self.messages = []

    def put(self, message):
        self.messages.append(message)


class _Unreadable(Exception):
    def __init__(self, first, second):
        super().__init__(first)


@pytest.mark.parametrize(
    ("status", "value", "text"),
    [
        (Message.SUCCESS, threading.Lock(), "returned a lock which cannot be pickled"),
        (Message.FAILURE, _Unreadable("one", 2), "one"),
    ],
)
def test_an_answer_that_would_get_lost_becomes_a_failure(status, value, text):
    inner = _Queue()
    PickleCheckedQueue(inner).put(MethodResult("a", "b", 1, status, value))
    (message,) = inner.messages
    assert message.status == Message.FAILURE
    assert text in str(message.args[0])
    pickle.loads(pickle.dumps(message.args))


def test_other_answers_pass_as_they_are():
    inner = _Queue()
    error = KeyError("x")
    PickleCheckedQueue(inner).put(MethodResult("a", "b", 1, Message.FAILURE, error))
    assert inner.messages[0].args == (error,)


def _framed(data):
    return struct.pack("!i", len(data)) + data


@given(st.lists(st.binary(max_size=50), max_size=5), st.lists(st.integers(1, 20), min_size=1))
def test_frames_are_found_however_the_stream_is_cut(messages, cuts):
    stream = b"".join(_framed(each) for each in messages)
    frames, found = FrameDecoder(), []
    while stream:
        length = cuts[len(stream) % len(cuts)]
        frames.feed(stream[:length])
        stream = stream[length:]
        while (frame := frames.next()) is not None:
            found.append(frame)
    assert found == messages
    assert not frames.drop_partial()


def test_frames_of_more_than_two_gigabytes_have_a_longer_length():
    frames = FrameDecoder()
    frames.feed(struct.pack("!iQ", -1, 3))
    assert frames.next() is None
    frames.feed(b"abc")
    assert frames.next() == b"abc"


@pytest.fixture
def inner():
    made = FORK.Queue(0)
    yield made
    made.close()
    made.cancel_join_thread()


def _polling(inner, on_idle=lambda: None, died=lambda: False, seen=None):
    return PollingQueue(inner, (seen if seen is not None else []).append, on_idle, died)


def test_messages_of_any_size_arrive_in_order(inner):
    seen = []
    polling = _polling(inner, seen=seen)
    sent = [b"x" * size for size in (0, 1, 5000, 1 << 20)]
    writer = FORK.Process(target=lambda: [inner.put(each) for each in sent])
    writer.start()
    assert [polling.get() for _ in sent] == sent
    writer.join(20)
    assert seen == sent


def test_what_is_made_up_while_nothing_arrives_counts_as_arrived(inner):
    assert _polling(inner, on_idle=lambda: "made up").get() == "made up"
    with pytest.raises(queue.Empty):
        _polling(inner).get(block=False)
    with pytest.raises(queue.Empty):
        _polling(inner).get(timeout=0.05)


def test_a_component_that_always_asks_hides_no_death(inner):
    """The portal bridge asks for events several times a second."""
    polling = _polling(inner, on_idle=lambda: "made up")
    answered = threading.Event()

    def ask():
        while not answered.wait(0.05):
            inner.put("events?")

    asking = threading.Thread(target=ask)
    asking.start()
    deadline = time.monotonic() + 30
    while polling.get() != "made up":
        assert time.monotonic() < deadline
    answered.set()
    asking.join()


def test_a_message_that_cannot_be_unpickled_is_passed_over(inner):
    inner._writer.send_bytes(b"no pickle")
    inner.put("next")
    assert _polling(inner).get() == "next"


def _die_while_writing(inner):
    inner._wlock.acquire()
    os.write(inner._writer.fileno(), struct.pack("!i", 100) + b"only the beginning")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_writer_that_dies_while_it_writes_stops_nobody(inner, monkeypatch):
    monkeypatch.setattr(_queues, "_LOCK_LIMIT", 0.3)
    dead = FORK.Process(target=_die_while_writing, args=(inner,))
    dead.start()
    dead.join(20)
    other = FORK.Process(target=lambda: inner.put("from another"))
    other.start()
    polling = _polling(inner, died=lambda: dead.exitcode is not None)
    assert polling.get(timeout=20.0) == "from another"
    other.join(20)
    assert other.exitcode == 0


def test_nobody_writes_while_a_writer_is_killed(inner):
    """Also where it waits for room in the pipe, since no process reads."""
    polling = _polling(inner)
    busy = FORK.Process(target=lambda: [inner.put(b"x" * 100_000) for _ in range(100_000)])
    busy.start()
    deadline = time.monotonic() + 20
    for _ in range(5):
        assert polling.get(timeout=20.0) == b"x" * 100_000
        assert time.monotonic() < deadline
    with polling.no_writer():
        busy.kill()
        busy.join(20)
    inner.put("after it")
    while polling.get(timeout=20.0) != "after it":
        assert time.monotonic() < deadline
