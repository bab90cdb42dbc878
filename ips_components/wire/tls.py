"""TLS between ranks and receivers: a socket that encrypts, with the few calls that both sides use.

Both sides show a certificate of the run's own authority, the one that Dask's scheduler and workers
use. Names are not compared: nodes are found by their addresses, and the authority is the run's.

An SSL object of Python's standard library must not be used by two threads at a time, and one over
a socket holds it for as long as that waits. This one works on memory: it is locked only while it
computes, so that a thread that waits for data never stops another one that sends.
"""

from __future__ import annotations

import socket
import ssl
import threading
from typing import TYPE_CHECKING

from ips_components.errors import ContactError, TlsError

if TYPE_CHECKING:
    from ips_components.wire.contact import Certificates

PART = 256 << 10  # encrypted and sent at a time
_HANDSHAKE = 0x16  # the first byte of a TLS handshake


def context_of_rank(files: Certificates) -> ssl.SSLContext:
    """Return what a rank needs to be let in.

    Raises
    ------
    ContactError
        When the certificates cannot be read here.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    try:
        context.load_verify_locations(files.authority)
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ValueError) as error:
        raise ContactError(
            f"the run's certificates ({files.authority}, {files.certificate}, {files.key}) cannot "
            f"be used on {socket.gethostname()}: {error}; the run's directory must be on a file "
            "system that all nodes share"
        ) from error
    return context


def _reason(error: ssl.SSLError) -> str:
    """Return what went wrong, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not of this run's authority: {error.verify_message}"
    said = (error.reason or str(error)).replace("_", " ").lower()
    return f"TLS says: {said}"


def speaks_tls(sock: socket.socket, flags: int = 0) -> bool | None:
    """Return whether a client's first byte begins TLS; None: it has hung up.

    With ``MSG_DONTWAIT`` raises `BlockingIOError` if nothing is there yet.
    """
    first = sock.recv(1, socket.MSG_PEEK | flags)
    return first[0] == _HANDSHAKE if first else None


class TlsSocket:
    """A connected socket that encrypts; one thread may read while others write.

    Parameters
    ----------
    sock
        The socket, which belongs to this object from now on.
    context
        Certificates and authority.
    server_side
        Whether the peer has connected to us.

    Notes
    -----
    The methods are those of a socket, as far as ranks and receivers use them. `send` needs
    ``MSG_DONTWAIT``: when it raises `BlockingIOError`, the same bytes must be given again.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._lock = threading.Lock()  # of the SSL object
        self._writing = threading.Lock()  # records leave in the order in which they are made
        self._unsent = memoryview(b"")  # encrypted, but not taken by the socket yet
        self._meant = 0  # bytes of the caller's that these are
        self._buffer = bytearray(PART)

    def handshake(self, flags: int = 0) -> bool:
        """Agree with the peer; nothing else may be done before.

        With ``MSG_DONTWAIT`` returns False where the peer's next message is not there yet; the
        call has to be repeated when the socket is readable.

        Raises
        ------
        TlsError
            When the peer is not trusted, does not trust us, or speaks no TLS.
        OSError
            When the connection ends meanwhile.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._sock.sendall(self._outgoing.read())
                try:
                    more = self._more(flags)
                except BlockingIOError:
                    return False
                if not more:
                    raise ConnectionResetError(
                        "the connection was closed while its encryption was agreed upon"
                    ) from None
                continue
            except ssl.SSLError as error:
                self._sock.sendall(self._outgoing.read())  # the peer gets the reason
                raise TlsError(_reason(error)) from error
            self._sock.sendall(self._outgoing.read())
            return True

    # -- reading -------------------------------------------------------------------------------

    def recv_into(self, target: memoryview, nbytes: int = 0, flags: int = 0) -> int:
        """Receive up to ``nbytes`` bytes (0: as many as fit); 0 at the end of the connection."""
        target = target[: nbytes or len(target)]
        got = 0
        while True:
            with self._lock:
                got += self._decrypt(target[got:])
            if got == len(target) or (got and not flags & socket.MSG_WAITALL):
                return got
            if not self._more(flags & socket.MSG_DONTWAIT):
                return got

    def recv(self, nbytes: int, flags: int = 0) -> bytes:
        """Receive what is there, about ``nbytes`` bytes; nothing at the end of the connection."""
        parts = []
        part = memoryview(bytearray(min(nbytes, PART)))
        while True:
            with self._lock:
                while n := self._decrypt(part):
                    parts.append(bytes(part[:n]))
            if parts or not self._more(flags & socket.MSG_DONTWAIT):
                return b"".join(parts)

    def _decrypt(self, target: memoryview) -> int:
        """Fill a buffer as far as whole records are at hand (the lock is held)."""
        got = 0
        while got < len(target):
            try:
                n = self._tls.read(len(target) - got, target[got:])
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:  # the peer has said that it is done
                break
            except ssl.SSLError as error:
                raise TlsError(_reason(error)) from error
            if not n:
                break
            got += int(n)
        return got

    def _more(self, flags: int) -> bool:
        """Take what the socket has; False at its end."""
        n = self._sock.recv_into(self._buffer, 0, flags)
        with self._lock:
            self._incoming.write(memoryview(self._buffer)[:n])
        return n > 0

    # -- writing -------------------------------------------------------------------------------

    def sendall(self, data: bytes | memoryview, flags: int = 0) -> None:
        """Send everything, however long it takes."""
        data = memoryview(data)
        with self._writing:
            if self._unsent:
                self._sock.sendall(self._unsent)
                self._unsent, self._meant = memoryview(b""), 0
            for start in range(0, len(data), PART):
                records = self._encrypt(data[start : start + PART])
                more = socket.MSG_MORE if start + PART < len(data) else flags
                self._sock.sendall(records, more)

    def send(self, data: bytes | memoryview, flags: int) -> int:
        """Send some of the data without waiting; return how much of it."""
        with self._writing:
            if not self._unsent:
                part = memoryview(data)[:PART]
                self._unsent, self._meant = memoryview(self._encrypt(part)), len(part)
            while self._unsent:
                sent = self._sock.send(self._unsent, flags | socket.MSG_DONTWAIT)
                self._unsent = self._unsent[sent:]
            return self._meant

    def _encrypt(self, data: memoryview) -> bytes:
        with self._lock:
            if data:
                self._tls.write(data)
            return self._outgoing.read()

    # -- the socket itself ---------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the socket's descriptor, for polling."""
        return self._sock.fileno()

    def settimeout(self, timeout: float | None) -> None:
        """Bound the waits of the socket."""
        self._sock.settimeout(timeout)

    def shutdown(self, how: int) -> None:
        """End the connection; threads that wait for it wake."""
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()
