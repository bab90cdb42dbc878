"""What receivers say to ranks; the bytes are described in `messages`."""

from __future__ import annotations

import struct
from typing import ClassVar, Self

from ips_components.wire._parts import Fixed, Message, Text, need
from ips_components.wire._record import Record
from ips_components.wire.contact import Endpoint, pack_endpoints, parse_endpoints
from ips_components.wire.leases import Lease

_CONTRACT = struct.Struct("<32sII")
_LAUNCH = struct.Struct("<qII")
_PLACEMENT = struct.Struct("<II")
_OWNERS = struct.Struct("<IIII")
_FEEDBACK = struct.Struct("<qBBHI")


class Challenge(Fixed):
    """The answer to a greeting, with the proof that the receiver knows the token of the run."""

    nonce: bytes
    proof: bytes

    OP: ClassVar[int] = 44
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<32s32s")
    FIELDS: ClassVar[tuple[str, ...]] = ("nonce", "proof")


class Welcome(Fixed):
    """The hello was accepted; ``last_seq`` is where a returning rank goes on."""

    last_seq: int = 0
    ordinal: int = 0
    heartbeat_ms: int = 0
    silence_ms: int = 0
    zero: int = 0
    flags: int = 0

    OP: ClassVar[int] = 32
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("flags",)
    HAS_CONTRACT: ClassVar[int] = 1
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<QIIII")
    FIELDS: ClassVar[tuple[str, ...]] = (
        "last_seq",
        "ordinal",
        "heartbeat_ms",
        "silence_ms",
        "zero",
    )


class ContractIs(Message):
    """The contract of the run, with the endpoints that it names by ordinal, for one launch.

    ``first_step`` is the step at which the launch goes on; ``launch_flags`` say whether other
    launches put into the same arrays, whether ranks count from 0 at every launch, and from bit
    `AWAITED` on how many attached runs a rank joins before it puts, for a bounded time.
    """

    digest: bytes
    contract: bytes
    endpoints: tuple[Endpoint, ...] = ()
    first_step: int = 0
    launch: int = 0
    launch_flags: int = 0

    OP: ClassVar[int] = 33
    MAX_BODY: ClassVar[int] = 256 << 20
    MANY_LAUNCHES: ClassVar[int] = 1
    RENUMBER: ClassVar[int] = 2
    AWAITED: ClassVar[int] = 8
    MAX_AWAITED: ClassVar[int] = 255

    @property
    def awaited(self) -> int:
        """Attached runs that a rank joins before it puts."""
        return self.launch_flags >> self.AWAITED & self.MAX_AWAITED

    def pack(self) -> bytes:
        endpoints = pack_endpoints(self.endpoints)
        head = _CONTRACT.pack(self.digest, len(endpoints), len(self.contract))
        launch = _LAUNCH.pack(self.first_step, self.launch, self.launch_flags)
        return head + endpoints + self.contract + launch

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        digest, first, second = _CONTRACT.unpack_from(body)
        start = _CONTRACT.size
        end = start + first + second
        need(body, end)
        launched = len(body) >= end + _LAUNCH.size
        first_step, launch, flags = _LAUNCH.unpack_from(body, end) if launched else (0, 0, 0)
        return cls(
            digest=digest,
            contract=bytes(body[start + first : end]),
            endpoints=parse_endpoints(body[start : start + first]),
            first_step=first_step,
            launch=launch,
            launch_flags=flags,
        )


class Credit(Fixed):
    """Pieces of the array's chunk rows below ``rows`` are welcome."""

    array: int = 0
    rows: int = 0

    OP: ClassVar[int] = 34
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("array",)
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Q")
    FIELDS: ClassVar[tuple[str, ...]] = ("rows",)


class Resend(Fixed):
    """The receiver takes (or takes again) the rank's part of a chunk, whatever the credit."""

    array: int = 0
    chunk: int = 0

    OP: ClassVar[int] = 35
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("array",)
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Q")
    FIELDS: ClassVar[tuple[str, ...]] = ("chunk",)


class Ack(Fixed):
    """All numbered messages up to ``seq`` were taken."""

    seq: int = 0

    OP: ClassVar[int] = 36
    LAYOUT: ClassVar[struct.Struct] = struct.Struct("<Q")
    FIELDS: ClassVar[tuple[str, ...]] = ("seq",)


class Release(Message):
    """These leases have ended: nothing reads the pieces any more. Also an `Ack` of ``seq``."""

    leases: tuple[Lease, ...] = ()
    seq: int = 0

    OP: ClassVar[int] = 37
    MAX_BODY: ClassVar[int] = 1 << 20
    HEADER_FIELDS: ClassVar[tuple[str, ...]] = ("seq",)

    def pack(self) -> bytes:
        numbers = [number for lease in self.leases for number in lease]
        return struct.pack(f"<{len(numbers)}I", *numbers)

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        numbers = struct.unpack_from(f"<{len(body) // 8 * 2}I", body)
        return cls.made((tuple(zip(numbers[0::2], numbers[1::2], strict=True)), 0))


class Owners(Record):
    """The placement of one array: ``owners[(row % period) * chunks per row + s]``."""

    array: int
    epoch: int
    period: int
    owners: tuple[int, ...]


class PlacementIs(Message):
    """Chunks have new owners; the endpoints are the complete new list."""

    epoch: int
    owners: tuple[Owners, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()

    OP: ClassVar[int] = 38
    MAX_BODY: ClassVar[int] = 256 << 20

    def pack(self) -> bytes:
        parts = [_PLACEMENT.pack(self.epoch, len(self.owners))]
        for one in self.owners:
            parts.append(_OWNERS.pack(one.array, one.epoch, one.period, len(one.owners)))
            parts.append(struct.pack(f"<{len(one.owners)}I", *one.owners))
        return b"".join((*parts, pack_endpoints(self.endpoints)))

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        epoch, count = _PLACEMENT.unpack_from(body)
        at = _PLACEMENT.size
        owners = []
        for _ in range(count):
            array, own_epoch, period, length = _OWNERS.unpack_from(body, at)
            at += _OWNERS.size
            need(body, at + 4 * length)
            owners.append(
                Owners(array, own_epoch, period, struct.unpack_from(f"<{length}I", body, at))
            )
            at += 4 * length
        return cls(epoch, tuple(owners), parse_endpoints(body[at:]))


class Feedback(Message):
    """A value from the analysis for the simulation; see `wire.values` for Python objects.

    One without a name is the last: no value will come any more.
    """

    name: str
    step: int
    kind: int
    shape: tuple[int, ...] = ()
    data: bytes = b""

    OP: ClassVar[int] = 39
    MAX_BODY: ClassVar[int] = 64 << 20

    def pack(self) -> bytes:
        name = self.name.encode()
        head = _FEEDBACK.pack(self.step, self.kind, len(self.shape), len(name), len(self.data))
        return head + struct.pack(f"<{len(self.shape)}Q", *self.shape) + name + self.data

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        step, kind, ndim, name_length, data_length = _FEEDBACK.unpack_from(body)
        at = _FEEDBACK.size + 8 * ndim
        need(body, at + name_length + data_length)
        shape = struct.unpack_from(f"<{ndim}Q", body, _FEEDBACK.size)
        name = str(body[at : at + name_length], "utf-8")
        at += name_length
        return cls(name, step, kind, shape, bytes(body[at : at + data_length]))


class Fault(Message):
    """The analytics side has failed; ``policy`` says what the simulation does about it."""

    text: str
    policy: int = 0

    OP: ClassVar[int] = 40
    MAX_BODY: ClassVar[int] = 1 << 20
    CONTINUE: ClassVar[int] = 0
    ABORT: ClassVar[int] = 1

    def pack(self) -> bytes:
        return struct.pack("<II", self.policy, 0) + self.text.encode()[: self.MAX_BODY - 8]

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        (policy,) = struct.unpack_from("<I", body)
        return cls(str(body[8:], "utf-8", "replace"), policy)


class Stop(Text):
    """The analysis has what it wants: end at the next convenient step, successfully."""

    OP: ClassVar[int] = 41


class ByeAck(Message):
    """The rank's bye was taken."""

    OP: ClassVar[int] = 42


class Attach(Message):
    """A further contract asks for data: that of the run whose contact this is.

    With the id of a run alone, padded to `RUN_BYTES`, that run has ended: ranks of a launch that
    goes on with it need not wait for it.
    """

    contact: bytes

    OP: ClassVar[int] = 45
    MAX_BODY: ClassVar[int] = 1 << 20
    RUN_BYTES: ClassVar[int] = 64

    @classmethod
    def ended(cls, run: str) -> Self:
        """Return the message that a run has ended."""
        return cls(run.encode().ljust(cls.RUN_BYTES, b"\0"))

    @property
    def ended_run(self) -> str | None:
        """Id of the run that has ended; None: a contract asks for data."""
        if len(self.contact) != self.RUN_BYTES:
            return None
        return self.contact.rstrip(b"\0").decode()

    def pack(self) -> bytes:
        return self.contact

    @classmethod
    def parse(cls, body: memoryview) -> Self:
        return cls(bytes(body))


class Refused(Text):
    """Why the receiver will not talk to this rank."""

    OP: ClassVar[int] = 43
