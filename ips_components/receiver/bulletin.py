"""What every rank has to know, however late it connects."""

from __future__ import annotations

from collections.abc import Iterable

from ips_components.wire import messages as m
from ips_components.wire.contact import Contact
from ips_components.wire.framing import pack

MAX_FEEDBACK = 1024
MAX_FEEDBACK_BYTES = 256 << 20  # of the values but the newest
NO_DIGEST = bytes(32)


class Bulletin:
    """The contract, the latest placement, feedback and notices, ready to be sent.

    Notes
    -----
    The lock of the `PeerTable` guards it: what is added is sent to the ranks that are there, and
    is in the greeting of those that come later, each exactly once.
    """

    def __init__(self) -> None:
        self.digest = NO_DIGEST
        self.size: int | None = None  # ranks of the simulation, when it is known
        self.contract_frame = b""
        self.launch = (0, 0, 0)  # first step, number, flags of `ContractIs`
        self._contract: m.ContractIs | None = None
        self._placement: m.PlacementIs | None = None
        self._feedback: list[m.Feedback] = []
        self._feedback_bytes = 0
        self._notices: list[m.Message] = []  # faults and the stop
        self._attached: dict[str, m.Attach] = {}  # by run
        self._awaited: set[str] = set()  # attached runs that ranks of this launch may wait for

    @property
    def has_contract(self) -> bool:
        """Whether the contract is known."""
        return bool(self.contract_frame)

    def add(self, message: m.Message) -> bytes:
        """Keep a message for ranks that connect later; return its frame."""
        if isinstance(message, m.ContractIs):
            self.digest, self._contract = message.digest, message
            self.contract_frame = pack(message)
            return self.contract_frame
        if isinstance(message, m.PlacementIs):
            self._placement = message
        elif isinstance(message, m.Feedback):
            self._feedback.append(message)
            self._feedback_bytes += len(message.data)
            while len(self._feedback) > MAX_FEEDBACK or (
                self._feedback_bytes > MAX_FEEDBACK_BYTES and len(self._feedback) > 1
            ):
                self._feedback_bytes -= len(self._feedback.pop(0).data)
        elif isinstance(message, m.Attach):
            run = message.ended_run or Contact.from_bytes(message.contact).run
            self._attached[run] = message
        else:
            self._notices.append(message)
        return pack(message)

    def forget(self, run: str) -> bytes:
        """Forget an attached run; return a frame where ranks may wait for it, else nothing."""
        self._attached.pop(run, None)
        if run not in self._awaited:
            return b""
        return self.add(m.Attach.ended(run))

    def begin_launch(self, size: int, launch: tuple[int, int, int]) -> None:
        """Expect the ranks of another launch, which get the same contract."""
        self.size, self.launch = size, launch
        self._attached = {k: v for k, v in self._attached.items() if v.ended_run is None}
        self._awaited = set(self._attached)
        if self._contract is not None:
            known = self._contract
            self.add(m.ContractIs(known.digest, known.contract, known.endpoints, *launch))

    def refusal(self, hello: m.Hello) -> str | None:
        """Return why a rank cannot take part, if it cannot."""
        if self.size is not None and hello.size != self.size:
            return (
                f"rank {hello.rank} says that there are {hello.size} ranks, others said "
                f"{self.size}: an earlier simulation of this run may still be alive, or another "
                "program puts data into the same run"
            )
        if hello.digest in (NO_DIGEST, self.digest):
            return None
        if not self.has_contract:
            return f"rank {hello.rank} has a contract that this receiver does not know yet"
        return (
            f"rank {hello.rank} has contract {hello.digest.hex()[:8]}, this receiver "
            f"{self.digest.hex()[:8]}: start the simulation anew"
        )

    def greeting(self, hello: m.Hello, welcome: m.Welcome, credit: Iterable[m.Message]) -> bytes:
        """Return the answer to a hello: the welcome, and all that the rank has missed."""
        frames = [pack(welcome)]
        if hello.rank == 0:
            frames.extend(map(pack, self._feedback))
        if hello.flags & m.Hello.WANTS_CONTRACT:
            frames.append(self.contract_frame)
        # After the contract: a rank that gets a fault along with it goes on without the analysis.
        frames.extend(map(pack, self._notices))
        if not hello.flags & m.Hello.WANTS_CONTRACT:  # one that asks connects again
            frames.extend(map(pack, self._attached.values()))
        # With the welcome: a rank that may drop would drop its first step without credit. The
        # placement says that the credit for it has come, and whose chunks are requested.
        credit = list(credit) if self.has_contract else []
        frames += [pack(each) for each in credit if isinstance(each, m.Credit)]
        if self._placement is not None and self._placement.epoch >= hello.epoch:
            frames.append(pack(self._placement))
        frames += [pack(each) for each in credit if not isinstance(each, m.Credit)]
        return b"".join(frames)
