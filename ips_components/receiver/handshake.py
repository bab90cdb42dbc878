"""The beginning of a connection: encryption where required, then a hello with its proof."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Generator
from hmac import compare_digest

from ips_components.errors import ProtocolError
from ips_components.receiver.reading import AT_ONCE, READABLE, Closed, Input
from ips_components.wire import framing, proof
from ips_components.wire import messages as m
from ips_components.wire.protocol import Connection as State
from ips_components.wire.tls import TlsSocket, speaks_tls

UNENCRYPTED = (
    "this receiver takes TCP connections with TLS only, but the contact file names no certificates "
    "or the rank is in C or Fortran, which cannot speak TLS: run a Dask worker on the rank's node, "
    "so that shared memory serves, or see SECURITY in the parameters"
)


def encrypt(plain: socket.socket, tls: TlsSocket) -> Generator[memoryview, int, None]:
    """Agree on encryption; a rank that comes without it gets an answer that it can read.

    Raises
    ------
    ProtocolError
        The rank speaks without TLS.
    """
    begins: bool | None = None
    waiting = True
    while waiting:
        try:
            begins = speaks_tls(plain, AT_ONCE)
            waiting = False
        except BlockingIOError:
            yield READABLE
    if begins is None:
        raise Closed("the connection was closed by the rank's side")
    if not begins:
        refusal = framing.pack(m.Refused(UNENCRYPTED))
        with contextlib.suppress(OSError):
            # What lies unread when a socket is closed takes the answer with it.
            plain.recv(1 << 16, AT_ONCE)
            plain.send(refusal, AT_ONCE | socket.MSG_NOSIGNAL)
        raise ProtocolError("it speaks without TLS, which this receiver requires")
    while not tls.handshake(AT_ONCE):
        yield READABLE


def read_hello(
    reading: Input, state: State, send: Callable[[m.Message], None], token: bytes, receiver: int
) -> Generator[memoryview, int, m.Hello]:
    """Answer a greeting, and read a hello; nothing of it is looked at before its proof.

    Raises
    ------
    ProtocolError
        These are not the first two messages, or the rank does not know the token, or means
        another receiver than the one with this id.
    """
    header = framing.parse_header((yield from reading.take(framing.HEADER_BYTES)))
    if header.op != m.Greeting.OP or header.body != m.Greeting.LAYOUT.size:
        raise ProtocolError(f"the first message must be a greeting, got message {header.op}")
    greeting = m.Greeting.parse((yield from reading.take(header.body)))
    state.received(greeting)
    channel = proof.Channel(greeting.nonce, proof.new_nonce(), greeting.session, receiver)
    send(m.Challenge(channel.receiver_nonce, channel.proof_of_receiver(token)))
    header = framing.parse_header((yield from reading.take(framing.HEADER_BYTES)))
    if header.op != m.Hello.OP or header.body < m.HELLO_BYTES:
        raise ProtocolError(f"the second message must be a hello, got message {header.op}")
    fixed = bytes((yield from reading.take(m.HELLO_BYTES)))
    if not compare_digest(fixed[: m.PROOF_BYTES], channel.proof_of_rank(token)):
        raise ProtocolError("a hello with a wrong token, or one for another receiver")
    body = memoryview(bytearray(header.body))
    body[: m.HELLO_BYTES] = fixed
    yield from reading.read_into(body[m.HELLO_BYTES :])
    hello = framing.parse(header, body)
    state.received(hello)
    assert isinstance(hello, m.Hello)
    if hello.session != greeting.session:
        raise ProtocolError("a hello of another session than its greeting")
    return hello
