"""The states of a connection, as tables."""

import pytest

from ips_components.errors import ProtocolError
from ips_components.wire import framing, proof
from ips_components.wire import messages as m
from ips_components.wire.protocol import RANK, RECEIVER, Connection, State, check_hello

GREETING = m.Greeting(bytes(32))
HELLO = m.Hello(run="r", rank=0, size=1, pid=1, session=1)


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


def test_a_receiver_that_does_not_know_the_token_gets_no_proof():
    token, nonce = bytes(range(32)), bytes(32)
    of_another_token = proof.proof_of_receiver(bytes(32), GREETING.nonce, nonce)
    of_a_rank = proof.proof_of_rank(token, GREETING.nonce, nonce)
    of_another_nonce = proof.proof_of_receiver(token, bytes([1] * 32), nonce)
    for shown in (bytes(32), of_another_token, of_a_rank, of_another_nonce):
        with pytest.raises(ProtocolError, match="does not know the token"):
            proof.answer(HELLO, token, GREETING, m.Challenge(nonce, shown))
    right = m.Challenge(nonce, proof.proof_of_receiver(token, GREETING.nonce, nonce))
    answered = proof.answer(HELLO, token, GREETING, right)
    assert answered.proof == of_a_rank
    assert token not in framing.pack(answered)
