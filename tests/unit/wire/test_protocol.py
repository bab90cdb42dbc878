"""The states of a connection, as tables."""

import pytest

from ips_components.errors import ProtocolError
from ips_components.wire import framing, proof
from ips_components.wire import messages as m
from ips_components.wire.protocol import RANK, RECEIVER, Connection, State, check_hello

HELLO = m.Hello(run="r", rank=0, size=1, pid=1, session=1)
GREETING = m.Greeting(bytes(32), HELLO.session)


@pytest.mark.parametrize("kind", sorted(m.BY_OP.values(), key=lambda kind: kind.OP))
def test_nothing_but_a_greeting_and_a_hello_come_first(kind):
    assert ((State.GREETING, kind) in RECEIVER) == (kind is m.Greeting)
    assert ((State.HELLO, kind) in RECEIVER) == (kind is m.Hello)


@pytest.mark.parametrize("kind", sorted(m.BY_OP.values(), key=lambda kind: kind.OP))
def test_each_message_goes_one_way_except_ping(kind):
    to_receiver = any(k is kind for _, k in RECEIVER)
    to_rank = any(k is kind for _, k in RANK)
    assert to_receiver or to_rank
    assert (to_receiver and to_rank) == (kind is m.Ping)


def test_a_session():
    receiver = Connection.of_receiver()
    for message in (GREETING, HELLO, m.StepEnd(0), m.Ping(), m.Bye(0)):
        receiver.received(message)
    assert receiver.state is State.LEAVING
    rank = Connection.of_rank()
    rank.received(m.Challenge(bytes(32), bytes(32)))
    rank.received(m.Welcome())
    rank.leave()
    rank.received(m.Ack(3))
    rank.received(m.ByeAck())
    assert rank.state is State.CLOSED


def test_an_impossible_message_tells_the_story():
    receiver = Connection.of_receiver()
    receiver.received(GREETING)
    receiver.received(HELLO)
    receiver.received(m.StepEnd(0))
    with pytest.raises(ProtocolError, match="Welcome is not allowed in state OPEN; before it: Gre"):
        receiver.received(m.Welcome())


def test_a_hello_of_another_run_is_refused():
    with pytest.raises(ProtocolError, match="belongs to run 'r'"):
        check_hello(HELLO, "other")
    check_hello(HELLO, "r")


def test_a_receiver_that_is_not_the_one_or_does_not_know_the_token_gets_no_proof():
    token, nonce = bytes(range(32)), bytes(32)
    channel = proof.Channel(GREETING.nonce, nonce, GREETING.session, receiver=7)
    of_a_rank = channel.proof_of_rank(token)
    others = [
        channel._replace(rank_nonce=bytes([1] * 32)),
        channel._replace(receiver_nonce=bytes([1] * 32)),
        channel._replace(session=2),
        channel._replace(receiver=8),
    ]
    wrong = [bytes(32), of_a_rank, channel.proof_of_receiver(bytes(32))]
    for shown in wrong + [other.proof_of_receiver(token) for other in others]:
        with pytest.raises(ProtocolError, match=r"does not know the token .* or is another"):
            proof.answer(HELLO, token, GREETING, m.Challenge(nonce, shown), 7)
    right = m.Challenge(nonce, channel.proof_of_receiver(token))
    answered = proof.answer(HELLO, token, GREETING, right, 7)
    assert answered.proof == of_a_rank
    assert of_a_rank not in [other.proof_of_rank(token) for other in others]
    assert token not in framing.pack(answered)
