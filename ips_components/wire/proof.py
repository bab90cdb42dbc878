"""How both sides of a connection show that they know the run's token, which never travels.

::

    rank      -> Greeting(nonce, session)
    receiver  -> Challenge(its nonce, its proof)
    rank      -> Hello(its proof, session, ...)

A proof is HMAC-SHA256 (RFC 2104) of the run's token over one of two labels of 8 bytes,
``b"receiver"`` or ``b"rank"`` padded with zeros, and what identifies the `Channel`: the nonces of
the rank and of the receiver (32 bytes each), the session of the rank and the id of the receiver
(u64 each). Nonces are random and new for every connection, so that what was overheard on one proves
nothing on another; the labels keep a proof from being sent back. The rank takes the id from the
contact file or a placement, the receiver takes its own: a process that has the port of a dead
receiver cannot pass a rank on to another receiver of the run.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from ips_components.errors import ProtocolError
from ips_components.wire import messages as m

NONCE_BYTES = 32
_RECEIVER, _RANK = b"receiver", b"rank".ljust(8, b"\0")
_CHANNEL = struct.Struct("<32s32sQQ")


def new_nonce() -> bytes:
    """Return random bytes for one connection."""
    return os.urandom(NONCE_BYTES)


class Channel(NamedTuple):
    """One connection between two sides, as one of them sees it.

    Attributes
    ----------
    rank_nonce, receiver_nonce
        What both sides said.
    session
        Of the rank, as in its hello.
    receiver
        `contact.Endpoint.id` of the receiver: the one that the rank means, or the one that it is.
    """

    rank_nonce: bytes
    receiver_nonce: bytes
    session: int
    receiver: int

    def proof_of_rank(self, token: bytes) -> bytes:
        """Return what a hello has to show."""
        return _hmac(token, _RANK + _CHANNEL.pack(*self))

    def proof_of_receiver(self, token: bytes) -> bytes:
        """Return what a challenge has to show."""
        return _hmac(token, _RECEIVER + _CHANNEL.pack(*self))


def answer(
    hello: m.Hello, token: bytes, greeting: m.Greeting, challenge: m.Challenge, receiver: int
) -> m.Hello:
    """Return the hello with the proof that answers a challenge of a receiver with this id.

    Raises
    ------
    ProtocolError
        When the challenge does not show that the other side knows the token and is this receiver.

    Examples
    --------
    >>> token, greeting = bytes(32), m.Greeting(new_nonce(), session=1)
    >>> channel = Channel(greeting.nonce, new_nonce(), greeting.session, receiver=7)
    >>> challenge = m.Challenge(channel.receiver_nonce, channel.proof_of_receiver(token))
    >>> hello = m.Hello(run="r", rank=0, size=1, pid=1, session=1)
    >>> answered = answer(hello, token, greeting, challenge, receiver=7)
    >>> answered.proof == channel.proof_of_rank(token)
    True
    """
    from hmac import compare_digest  # 3 ms at import

    channel = Channel(greeting.nonce, challenge.nonce, greeting.session, receiver)
    if not compare_digest(challenge.proof, channel.proof_of_receiver(token)):
        raise ProtocolError("it does not know the token of the run, or is another receiver of it")
    return m.Hello(**{**hello.fields(), "proof": channel.proof_of_rank(token)})


def _hmac(key: bytes, message: bytes) -> bytes:
    from hmac import digest

    return digest(key, message, "sha256")
