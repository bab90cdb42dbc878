"""The states of a connection, as tables."""

import pytest

from ips_components.errors import ProtocolError
from ips_components.wire import messages as m
from ips_components.wire.protocol import RANK, RECEIVER, Connection, State, check_hello

HELLO = m.Hello(token=bytes(32), run="r", rank=0, size=1, pid=1, session=1)


@pytest.mark.parametrize("kind", sorted(m.BY_OP.values(), key=lambda kind: kind.OP))
def test_nothing_but_a_hello_comes_first(kind):
    assert ((State.HELLO, kind) in RECEIVER) == (kind is m.Hello)


@pytest.mark.parametrize("kind", sorted(m.BY_OP.values(), key=lambda kind: kind.OP))
def test_each_message_goes_one_way_except_ping(kind):
    to_receiver = any(k is kind for _, k in RECEIVER)
    to_rank = any(k is kind for _, k in RANK)
    assert to_receiver or to_rank
    assert (to_receiver and to_rank) == (kind is m.Ping)


def test_a_session():
    receiver = Connection.of_receiver()
    for message in (HELLO, m.StepEnd(0), m.Ping(), m.Bye(0)):
        receiver.received(message)
    assert receiver.state is State.LEAVING
    rank = Connection.of_rank()
    rank.received(m.Welcome())
    rank.leave()
    rank.received(m.Ack(3))
    rank.received(m.ByeAck())
    assert rank.state is State.CLOSED


def test_an_impossible_message_tells_the_story():
    receiver = Connection.of_receiver()
    receiver.received(HELLO)
    receiver.received(m.StepEnd(0))
    with pytest.raises(ProtocolError, match="Welcome is not allowed in state OPEN; before it: Hel"):
        receiver.received(m.Welcome())


def test_a_wrong_token_is_refused_before_the_run():
    with pytest.raises(ProtocolError, match="wrong token"):
        check_hello(HELLO, bytes([1] * 32), "other")
    with pytest.raises(ProtocolError, match="belongs to run 'r'"):
        check_hello(HELLO, bytes(32), "other")
    check_hello(HELLO, bytes(32), "r")
