"""The contact file: where the receivers of a run are, and the secret that opens them.

It is written by the analytics side and read by rank 0 only: mode 0600, replaced
atomically, checked for owner, mode, format and version before a word of it is believed.

It is JSON. For readers without a JSON parser its key ``binary`` holds the same facts once more, as
hexadecimal digits of this little-endian record (`Contact.to_bytes`)::

    0    8s    magic "IPSCTCT2"
    8    32s   token
    40   64s   run, UTF-8, NUL padded
    104  4*f64 deadlines in seconds: connect, contract, step, drain
    136  u32   lanes allowed: 1 tcp, 2 shm
    140  u32   on analytics loss: 0 continue, 1 abort
    144  u32   replay steps
    148  u32   1: TCP connections are encrypted (TLS), else 0
    152  u64   replay bytes
    160  u64   slot bytes
    168  endpoints: n u32, then n records:
               ordinal u32, port u16, four lengths u16, zero u16, pid u64, id u64,
               then host, unix, hostname, boot as UTF-8 texts of these lengths
    then, if encrypted: three lengths u16, zero u16,
               then authority, certificate, key: paths as UTF-8 texts of these lengths
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Self

from ips_components.errors import ContactError
from ips_components.wire._record import Record

FORMAT = "ips-components-contact"
VERSION = 3
ENVIRONMENT = "IPS_COMPONENTS_CONTACT"
DEADLINE = "IPS_COMPONENTS_DEADLINE"
"""Environment variable: seconds for which a rank waits for the contact file."""
MAX_BYTES = 16 << 20

DEADLINES: Mapping[str, float] = {"connect": 10.0, "contract": 60.0, "step": 300.0, "drain": 60.0}
"""Default deadlines, in seconds."""

OPTIONS: Mapping[str, Any] = {
    "lanes": ("shm", "tcp"),
    "replay_steps": 1,
    "replay_bytes": 1 << 30,
    "slot_bytes": 1 << 30,
    "on_analytics_loss": "continue",
}
"""Default options of the bridge."""

MAGIC = b"IPSCTCT2"
_CONTACT = struct.Struct("<8s32s64s4dIIIIQQ")
_ENDPOINT = struct.Struct("<IHHHHHHQQ")
_COUNT = struct.Struct("<I")
_CERTIFICATES = struct.Struct("<HHHH")
_LANES = {"tcp": 1, "shm": 2}
_ON_LOSS = ("continue", "abort")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A receiver's address.

    Parameters
    ----------
    ordinal
        Number of the receiver in placements.
    host, port
        TCP address.
    unix
        Name of the Unix socket: ``@name`` in the abstract namespace, else a path; empty for none.
    hostname, boot
        Identity of the machine (host name and the kernel's boot id): a rank with the same
        identity is on the same node and may use shared memory.
    pid
        Process that listens.
    id
        Random number of 64 bits, of this receiver alone; see `proof`.
    """

    ordinal: int
    host: str
    port: int
    unix: str = ""
    hostname: str = ""
    boot: str = ""
    pid: int = 0
    id: int = 0

    @property
    def local(self) -> bool:
        """Whether this process runs on the same machine, as booted now."""
        return bool(self.boot) and (self.hostname, self.boot) == host_identity()

    def __str__(self) -> str:
        return f"receiver {self.ordinal} at {self.host}:{self.port} (process {self.pid})"


class Certificates(Record):
    """Files in PEM form with which a rank is let in where connections are encrypted.

    They are those of Dask's clients. The contact file holds their paths, never their content.

    Parameters
    ----------
    authority
        Certificate of the authority that has signed those of both sides.
    certificate, key
        The rank's own.
    """

    authority: str
    certificate: str
    key: str

    @classmethod
    def of_security(cls, security: Any) -> Self | None:
        """Return the files of a `distributed.Security`; None where it has none.

        Certificates that exist in memory only (``Security.temporary()``) cannot be given to ranks.
        """
        names = ("tls_ca_file", "tls_client_cert", "tls_client_key")
        files = [getattr(security, name, None) for name in names]
        if not getattr(security, "require_encryption", False):
            return None
        if not all(isinstance(file, str) and file and "\n" not in file for file in files):
            return None
        return cls(*(os.path.abspath(str(file)) for file in files))  # noqa: PTH100 (see `write`)


@dataclass(frozen=True, slots=True)
class Contact:
    """What rank 0 must know to reach the analytics side of a run.

    Parameters
    ----------
    run
        Id of the run.
    token
        Secret of the run, 64 hexadecimal digits.
    endpoints
        The receivers.
    deadlines, options
        What differs from `DEADLINES` and `OPTIONS`.
    live_page, dashboard
        Addresses of the run's live page and of Dask's dashboard with secrets in them, for people;
        empty without one. They are in the file only: ranks do not need them, and the binary form
        does not have them.
    scheduler
        Address of the Dask scheduler, for clients that attach to the run; in the file only.
        Empty: no client may attach.
    scheduler_tls
        Certificates for connections to the scheduler, where they are encrypted; in the file only.
    tls
        Certificates for connections over TCP, which are then encrypted; None: they are not.
    """

    run: str
    token: str = field(repr=False)
    endpoints: tuple[Endpoint, ...]
    deadlines: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    live_page: str = field(default="", repr=False)
    tls: Certificates | None = None
    scheduler: str = ""
    scheduler_tls: Certificates | None = None
    dashboard: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not self.run or len(self.run.encode()) > 64:
            raise ContactError(f"a run id must have 1 to 64 bytes, got {self.run!r}")
        try:
            length = len(bytes.fromhex(self.token))
        except ValueError:
            length = -1
        if length != 32:
            raise ContactError("a token must be 64 hexadecimal digits")
        object.__setattr__(self, "deadlines", {**DEADLINES, **self.deadlines})
        options = {**OPTIONS, **self.options}
        options["lanes"] = tuple(sorted(options["lanes"]))
        object.__setattr__(self, "options", options)
        if self.options["on_analytics_loss"] not in _ON_LOSS:
            raise ContactError(
                f"on_analytics_loss must be one of {_ON_LOSS}, "
                f"got {self.options['on_analytics_loss']!r}"
            )
        if not set(self.options["lanes"]) <= set(_LANES) or not self.options["lanes"]:
            raise ContactError(f"lanes must be of {set(_LANES)}, got {self.options['lanes']!r}")

    @property
    def secret(self) -> bytes:
        """The token's 32 bytes."""
        return bytes.fromhex(self.token)

    def to_bytes(self) -> bytes:
        """Return the binary form."""
        options = self.options
        head = _CONTACT.pack(
            MAGIC,
            self.secret,
            self.run.encode(),
            *(self.deadlines[name] for name in DEADLINES),
            sum(_LANES[lane] for lane in set(options["lanes"])),
            _ON_LOSS.index(options["on_analytics_loss"]),
            options["replay_steps"],
            self.tls is not None,
            options["replay_bytes"],
            options["slot_bytes"],
        )
        return head + pack_endpoints(self.endpoints) + _pack_certificates(self.tls)

    @classmethod
    def from_bytes(cls, record: bytes | memoryview) -> Self:
        """Read the binary form."""
        try:
            magic, token, run, *rest = _CONTACT.unpack_from(record)
            if magic != MAGIC:
                raise ContactError(f"a contact must begin with {MAGIC!r}, got {magic!r}")
            deadlines, (lanes, on_loss, replay_steps, tls, *limits) = rest[:4], rest[4:]
            endpoints, end = _endpoints_at(record, _CONTACT.size)
            return cls(
                run=run.rstrip(b"\0").decode(),
                token=token.hex(),
                endpoints=endpoints,
                deadlines=dict(zip(DEADLINES, deadlines, strict=True)),
                options={
                    "lanes": [lane for lane, bit in _LANES.items() if lanes & bit],
                    "on_analytics_loss": _ON_LOSS[on_loss],
                    "replay_steps": replay_steps,
                    "replay_bytes": limits[0],
                    "slot_bytes": limits[1],
                },
                tls=_parse_certificates(record, end) if tls & 1 else None,
            )
        except (struct.error, ValueError, IndexError) as error:
            raise ContactError(f"a damaged contact: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        pages: dict[str, Any] = {
            "live_page": self.live_page,
            "dashboard": self.dashboard,
            "scheduler": self.scheduler,
        }
        if self.scheduler_tls is not None:
            pages["scheduler_tls"] = self.scheduler_tls.fields()
        return {
            "format": FORMAT,
            "version": VERSION,
            "run": self.run,
            "token": self.token,
            "endpoints": [asdict(endpoint) for endpoint in self.endpoints],
            "deadlines": dict(self.deadlines),
            "options": dict(self.options),
            **{name: address for name, address in pages.items() if address},
            **({"tls": self.tls.fields()} if self.tls is not None else {}),
            "binary": self.to_bytes().hex(),
        }

    @classmethod
    def from_json(cls, content: Any, where: str = "contact") -> Self:
        """Check and return the content of a file."""
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ContactError(f"{where} is not a contact file of IPS components")
        if content.get("version") != VERSION:
            raise ContactError(
                f"{where} has version {content.get('version')!r}, this bridge reads {VERSION}: "
                "install the same release of ips_components on both sides"
            )
        known = Endpoint.__dataclass_fields__
        try:
            return cls(
                run=content["run"],
                token=content["token"],
                endpoints=tuple(
                    Endpoint(**{k: v for k, v in one.items() if k in known})
                    for one in content["endpoints"]
                ),
                deadlines={k: float(v) for k, v in content.get("deadlines", {}).items()},
                options=dict(content.get("options", {})),
                live_page=str(content.get("live_page", "")),
                scheduler=str(content.get("scheduler", "")),
                scheduler_tls=_certificates(content.get("scheduler_tls")),
                tls=_certificates(content.get("tls")),
                dashboard=str(content.get("dashboard", "")),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ContactError(f"{where} is damaged: {error!r}") from error


def _certificates(fields: Any) -> Certificates | None:
    return Certificates(**fields) if fields else None


def new_token() -> str:
    """Return a fresh token: 32 random bytes as hexadecimal digits."""
    return os.urandom(32).hex()


def new_id() -> int:
    """Return a fresh id of a receiver."""
    return int.from_bytes(os.urandom(8), "little")


@cache
def host_identity() -> tuple[str, str]:
    """Return host name and boot id of this machine; the boot id is empty where there is none."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123 (see `write`)
            boot = file.read().strip()
    except OSError:
        boot = ""
    return socket.gethostname(), boot


def write(path: str | os.PathLike[str], contact: Contact) -> None:
    """Write the contact file: readers see the old one, or none, or the complete new one."""
    from pathlib import Path  # 5 ms that no rank has to pay at import

    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(contact.to_json(), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def read(path: str | os.PathLike[str]) -> Contact:
    """Read and check a contact file.

    Raises
    ------
    FileNotFoundError
        When there is none (yet).
    ContactError
        When it belongs to another user, can be read by others, or is not what it should be.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ContactError(f"contact file {path} is not a regular file")
        if status.st_uid != os.geteuid():
            raise ContactError(
                f"contact file {path} belongs to user {status.st_uid}, this process is user "
                f"{os.geteuid()}: it is not trusted"
            )
        if status.st_mode & 0o077:
            raise ContactError(
                f"contact file {path} has mode {stat.S_IMODE(status.st_mode):04o}, expected 0600: "
                "its token may be known to others; start the run anew"
            )
        if status.st_size > MAX_BYTES:
            raise ContactError(f"contact file {path} has {status.st_size} bytes, too many")
        try:
            content = json.loads(file.read(MAX_BYTES))
        except ValueError as error:
            raise ContactError(f"contact file {path} is damaged: {error}") from error
    return Contact.from_json(content, f"contact file {path}")


def pack_endpoints(endpoints: Sequence[Endpoint]) -> bytes:
    """Return the binary form of a list of endpoints."""
    parts = [_COUNT.pack(len(endpoints))]
    for e in endpoints:
        texts = [text.encode() for text in (e.host, e.unix, e.hostname, e.boot)]
        parts.append(_ENDPOINT.pack(e.ordinal, e.port, *map(len, texts), 0, e.pid, e.id))
        parts.extend(texts)
    return b"".join(parts)


def parse_endpoints(body: memoryview | bytes) -> tuple[Endpoint, ...]:
    """Return the endpoints of a binary list."""
    return _endpoints_at(body, 0)[0]


def _endpoints_at(body: memoryview | bytes, at: int) -> tuple[tuple[Endpoint, ...], int]:
    """Return the endpoints of the list that begins at an offset, and where it ends."""
    (count,) = _COUNT.unpack_from(body, at)
    at += _COUNT.size
    endpoints = []
    for _ in range(count):
        ordinal, port, *lengths, _zero, pid, id_ = _ENDPOINT.unpack_from(body, at)
        texts, at = _texts_at(body, at + _ENDPOINT.size, lengths)
        host, unix, hostname, boot = texts
        endpoints.append(Endpoint(ordinal, host, port, unix, hostname, boot, pid, id_))
    return tuple(endpoints), at


def _texts_at(body: memoryview | bytes, at: int, lengths: Sequence[int]) -> tuple[list[str], int]:
    if len(body) < at + sum(lengths):
        raise ValueError("a record is cut short")
    texts = []
    for length in lengths:
        texts.append(str(body[at : at + length], "utf-8"))
        at += length
    return texts, at


def _pack_certificates(files: Certificates | None) -> bytes:
    if files is None:
        return b""
    texts = [text.encode() for text in (files.authority, files.certificate, files.key)]
    return b"".join((_CERTIFICATES.pack(*map(len, texts), 0), *texts))


def _parse_certificates(record: memoryview | bytes, at: int) -> Certificates:
    *lengths, _zero = _CERTIFICATES.unpack_from(record, at)
    return Certificates(*_texts_at(record, at + _CERTIFICATES.size, lengths)[0])
