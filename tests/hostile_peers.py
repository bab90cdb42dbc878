"""What peers say that break the protocol: strangers, and some who know the token of the run."""

import contextlib
import json
import select
import socket
import ssl
import threading

from ips_components.errors import IPSComponentsError
from ips_components.wire import framing, proof
from ips_components.wire import messages as m


def tls_client(own):
    """A client without a certificate, or with one of an authority of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    return context


def client_hello():
    out = ssl.MemoryBIO()
    side = tls_client(None).wrap_bio(ssl.MemoryBIO(), out)
    with contextlib.suppress(ssl.SSLWantReadError):
        side.do_handshake()
    return out.read()


def break_tls(rng, sock, own):
    """A handshake that ends in its middle, goes on with noise, or is done by a stranger."""
    match rng.randrange(4):
        case 0:
            sock.sendall(client_hello()[: rng.randrange(1, 200)])
        case 1:
            sock.sendall(client_hello() + rng.randbytes(300))
        case 2:
            sock.sendall(client_hello())
            sock.recv(1 << 16)
            sock.sendall(rng.randbytes(300))
        case 3:
            context = tls_client(rng.choice([None, own]))
            with context.wrap_socket(sock) as secured:
                secured.sendall(framing.pack(m.Greeting(rng.randbytes(32), 1)))
                secured.recv(1 << 16)


def words(rng, contact, sock):
    """Parts of a conversation, the last of them wrong."""
    greeting = m.Greeting(rng.randbytes(32), rng.randrange(9))
    yield rng.choice([b"GET / HTTP/1.1\r\n\r\n", rng.randbytes(200), framing.pack(greeting)])
    if rng.random() < 0.5 or sock.family != socket.AF_UNIX:
        yield rng.randbytes(rng.choice([1, 40, 400]))
        return
    # This one knows the token, and breaks the protocol.
    try:
        (challenge,) = framing.Decoder().feed(sock.recv(1 << 16))
        good = {"run": contact.run, "rank": 1, "size": 2, "pid": 1, "session": greeting.session}
        wrong = rng.choice(
            [
                {"size": 7},
                {"rank": 2**31 - 1},
                {"rank": 5},
                {"run": "another"},
                {"session": 9},
                {"info": b"{" * 5000},
                {"info": json.dumps({"arrays": [{"name": "field", "shape": [-1]}]}).encode()},
                {"info": json.dumps({"blocks": {"field": [[[1e300], [2]]]}}).encode()},
            ]
        )
        hello = m.Hello(**{**good, **wrong})
        here = sock.getpeername()[1:].decode()
        (receiver,) = (e.id for e in contact.endpoints if e.unix[1:] == here)
        known = contact.secret, greeting, challenge, receiver
        answered = framing.pack(proof.answer(hello, *known))
        yield rng.choice([answered, answered[: len(answered) // 2], answered * 2])
        yield rng.choice([framing.pack(m.Credit(0, 1)), framing.pack(m.Want(9, 1 << 60)), b""])
        yield rng.randbytes(100)
    except (IPSComponentsError, ValueError):
        return


@contextlib.contextmanager
def relay(port, to):
    """Take the port of a dead receiver, and pass on all that comes to another one, and its answers.

    Yields what came from the ranks, as it was received.
    """
    heard = []

    def pass_on(rank, receiver):
        other = {rank: receiver, receiver: rank}
        while True:
            for side in select.select(list(other), [], [])[0]:
                data = side.recv(1 << 16)
                if not data:
                    return
                if side is rank:
                    heard.append(data)
                other[side].sendall(data)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                rank, _ = listener.accept()
                with (
                    rank,
                    socket.create_connection((to.host, to.port)) as receiver,
                    contextlib.suppress(OSError),
                ):
                    pass_on(rank, receiver)

    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield heard
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
