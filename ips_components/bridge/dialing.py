"""Making a connection to a receiver: socket, encryption, and the exchange of hello and welcome."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ips_components.bridge.sockets import RankSocket
from ips_components.deadlines import Deadline
from ips_components.errors import BridgeError, DeadlineExceeded, ProtocolError, TlsError
from ips_components.wire import framing, proof
from ips_components.wire import messages as m
from ips_components.wire.contact import Contact, Endpoint
from ips_components.wire.protocol import Connection as ConnectionState

if TYPE_CHECKING:
    from ips_components.wire.tls import TlsSocket

Socket: TypeAlias = "RankSocket | TlsSocket"
_UCRED = struct.Struct("3i")
_LOOPBACK = ("127.", "::1")
_LOOPBACK_ONLY = (
    "it listens on the loopback interface only: a process in a container with a network of its own "
    "needs LOOPBACK = False in the section of the analytics"
)


class Dialed(NamedTuple):
    """A connection whose welcome has come.

    Attributes
    ----------
    sock, lane
        Blocking with a limit for sends that make no progress, and ``"shm"`` or ``"tcp"``.
    state, decoder
        Of what comes after the welcome.
    welcome, early
        The answer to the hello, and the messages that came in with it.
    """

    sock: Socket
    lane: str
    state: ConnectionState
    decoder: framing.Decoder
    welcome: m.Welcome
    early: Sequence[m.Message]


class Dialer:
    """Connects a rank to receivers.

    Parameters
    ----------
    contact
        With the TLS files, where connections over TCP are encrypted, and the deadline ``step``.
    lanes
        That may be used.
    rank
        For messages.
    """

    def __init__(self, contact: Contact, lanes: Sequence[str], rank: int) -> None:
        self._tls, self._lanes, self._rank = contact.tls, tuple(lanes), rank
        self._token, self._progress_within = contact.secret, contact.deadlines["step"]

    def dial(self, endpoint: Endpoint, hello: m.Hello, timeout: float) -> Dialed:
        """Connect, send the hello, and wait for the welcome.

        Raises
        ------
        OSError, ProtocolError, DeadlineExceeded
            When the receiver cannot be reached, or does not answer in time.
        BridgeError
            When it refuses this rank, or one does not trust the other.
        """
        deadline = Deadline(timeout)
        try:
            sock, lane = self._connect(endpoint, timeout)
            try:
                dialed = self._introduce(sock, lane, endpoint, hello, deadline)
            except BaseException:
                sock.close()
                raise
        except TlsError as error:  # a receiver may say so only in answer to the greeting
            raise BridgeError(self._no_trust(endpoint, error)) from error
        sock.settimeout(None)
        return dialed

    def _connect(self, endpoint: Endpoint, timeout: float) -> tuple[Socket, str]:
        if endpoint.unix and endpoint.local and "shm" in self._lanes:
            try:
                sock = _connect_locally(endpoint, timeout)
                sock.limit_sends(self._progress_within)
                return sock, "shm"
            except OSError:
                # Another network namespace (a container): TCP may still reach it.
                if "tcp" not in self._lanes:
                    raise
        elif "tcp" not in self._lanes:
            raise BridgeError(
                f"{endpoint} is not on this machine, and only the lane 'shm' is allowed"
            )
        sock = _connect_over_tcp(endpoint, timeout)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.limit_sends(self._progress_within)
            return self._encrypt(sock), "tcp"
        except BaseException:
            sock.close()
            raise

    def _encrypt(self, sock: RankSocket) -> Socket:
        """Encrypt a connection over TCP where the contact file says so."""
        if self._tls is None:
            return sock
        from ips_components.wire import tls  # many milliseconds, only where it is needed

        encrypted = tls.TlsSocket(sock, tls.context_of_rank(self._tls), server_side=False)
        encrypted.handshake()
        return encrypted

    def _introduce(
        self, sock: Socket, lane: str, endpoint: Endpoint, hello: m.Hello, deadline: Deadline
    ) -> Dialed:
        state, decoder = ConnectionState.of_rank(), framing.Decoder()

        def answered(message: m.Message) -> tuple[m.Message, list[m.Message]]:
            sock.sendall(framing.pack(message))
            first, *early = _receive(sock, decoder, deadline, str(endpoint))
            state.received(first)
            if isinstance(first, m.Refused):
                raise BridgeError(f"{endpoint} refused rank {self._rank}: {first.text}")
            return first, early

        greeting = m.Greeting(proof.new_nonce(), hello.session)
        challenge, early = answered(greeting)
        if not isinstance(challenge, m.Challenge) or early:
            raise ProtocolError(f"{endpoint} did not answer the greeting")
        try:
            hello = proof.answer(hello, self._token, greeting, challenge, endpoint.id)
        except ProtocolError as error:
            raise ProtocolError(self._no_trust(endpoint, error)) from error
        welcome, early = answered(hello)
        if not isinstance(welcome, m.Welcome):
            raise ProtocolError(f"{endpoint} did not answer the hello")
        return Dialed(sock, lane, state, decoder, welcome, early)

    def _no_trust(self, endpoint: Endpoint, error: Exception) -> str:
        return (
            f"{endpoint} and rank {self._rank} do not trust each other: {error}; the "
            "contact file may be of another run, or another process has taken the port"
        )


def _connect_over_tcp(endpoint: Endpoint, timeout: float) -> RankSocket:
    """Connect to the port of a receiver.

    Raises
    ------
    BridgeError
        When the receiver listens on the loopback interface of another machine, or container.
    """
    try:
        return RankSocket.of(socket.create_connection((endpoint.host, endpoint.port), timeout))
    except OSError as error:
        if not endpoint.host.startswith(_LOOPBACK):
            raise
        text = f"{error.strerror or error}; {_LOOPBACK_ONLY}"
        # It may also have died, and another one take its place.
        if endpoint.local or not endpoint.hostname:
            raise OSError(error.errno, text) from error
        raise BridgeError(
            f"{endpoint} of {endpoint.hostname} cannot be reached from "
            f"{socket.gethostname()}: {text}"
        ) from error


def _connect_locally(endpoint: Endpoint, timeout: float) -> RankSocket:
    """Connect to the Unix socket of a receiver of the same user."""
    sock = RankSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        path = endpoint.unix or ""
        sock.connect("\0" + path[1:] if path[0] == "@" else path)
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        uid = _UCRED.unpack(credentials)[1]
        if uid != os.geteuid():
            raise ProtocolError(
                f"{endpoint}: its Unix socket belongs to user {uid}, not {os.geteuid()}"
            )
    except BaseException:
        sock.close()
        raise
    return sock


def _receive(
    sock: Socket, decoder: framing.Decoder, deadline: Deadline, who: str
) -> list[m.Message]:
    """Return the first messages that arrive."""
    poll = select.poll()  # unlike select, for any descriptor
    poll.register(sock, select.POLLIN)
    while True:
        if deadline.expired or not poll.poll(deadline.left * 1000):
            raise DeadlineExceeded(
                f"{who} did not answer the hello in time: it may be stopped or overloaded"
            )
        received = sock.recv(1 << 16)
        if not received:
            raise ConnectionResetError(f"{who} closed the connection: its token may be another")
        if messages := decoder.feed(received):
            return messages
