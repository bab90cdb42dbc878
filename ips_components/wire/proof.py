"""How both sides of a connection show that they know the run's token, which never travels.

::

    rank      -> Greeting(nonce)
    receiver  -> Challenge(its nonce, its proof)
    rank      -> Hello(its proof, ...)

A proof is HMAC-SHA256 (RFC 2104) of the run's token over one of two labels of 8 bytes,
``b"receiver"`` or ``b"rank"`` padded with zeros, the rank's nonce and the receiver's nonce, of 32
bytes each. Nonces are random and new for every connection, so that what was overheard on one proves
nothing on another; the labels keep a proof from being sent back.
"""

from __future__ import annotations

import os

from ips_components.errors import ProtocolError
from ips_components.wire import messages as m

NONCE_BYTES = 32
_RECEIVER, _RANK = b"receiver", b"rank".ljust(8, b"\0")


def new_nonce() -> bytes:
    """Return random bytes for one connection."""
    return os.urandom(NONCE_BYTES)


def proof_of_rank(token: bytes, rank_nonce: bytes, receiver_nonce: bytes) -> bytes:
    """Return what a hello has to show."""
    return _hmac(token, _RANK + rank_nonce + receiver_nonce)


def proof_of_receiver(token: bytes, rank_nonce: bytes, receiver_nonce: bytes) -> bytes:
    """Return what a challenge has to show."""
    return _hmac(token, _RECEIVER + rank_nonce + receiver_nonce)


def answer(hello: m.Hello, token: bytes, greeting: m.Greeting, challenge: m.Challenge) -> m.Hello:
    """Return the hello with the proof that answers a challenge.

    Raises
    ------
    ProtocolError
        When the challenge does not show that the other side knows the token.

    Examples
    --------
    >>> token, greeting = bytes(32), m.Greeting(new_nonce())
    >>> nonce = new_nonce()
    >>> challenge = m.Challenge(nonce, proof_of_receiver(token, greeting.nonce, nonce))
    >>> hello = m.Hello(run="r", rank=0, size=1, pid=1, session=1)
    >>> answered = answer(hello, token, greeting, challenge)
    >>> answered.proof == proof_of_rank(token, greeting.nonce, nonce)
    True
    """
    from hmac import compare_digest  # 3 ms at import

    expected = proof_of_receiver(token, greeting.nonce, challenge.nonce)
    if not compare_digest(challenge.proof, expected):
        raise ProtocolError("it does not know the token of the run")
    proof = proof_of_rank(token, greeting.nonce, challenge.nonce)
    return m.Hello(**{**hello.fields(), "proof": proof})


def _hmac(key: bytes, message: bytes) -> bytes:
    from hmac import digest

    return digest(key, message, "sha256")
