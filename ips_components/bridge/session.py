"""A rank's part in a run: contact file, hello, contract, and goodbye."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from ips_components._version import __version__
from ips_components.bridge.arrays import Array
from ips_components.bridge.comm import Communicator, from_rank_0, to_rank_0
from ips_components.bridge.connections import HEARTBEAT, Connections
from ips_components.bridge.delivery import Delivery
from ips_components.bridge.dialing import Dialed, Dialer
from ips_components.bridge.mailbox import Mailbox
from ips_components.bridge.outgoing import FOREVER, OutgoingArray
from ips_components.bridge.slots import SlotMemory
from ips_components.deadlines import Deadline, poll_until
from ips_components.errors import (
    AnalyticsLost,
    BridgeError,
    ContactError,
    ContractError,
    DeadlineExceeded,
    GeometryError,
    IPSComponentsError,
)
from ips_components.model.contract import Contract
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.wire import contact as contacts
from ips_components.wire import framing
from ips_components.wire import messages as m
from ips_components.wire.contact import Contact, Endpoint

DEADLINE = contacts.DEADLINE
ALONE = "IPS_COMPONENTS_ALONE"
_RUNS_ALONE = "this program runs alone: there is no contact file, and nothing is sent"
LANE = "IPS_COMPONENTS_LANE"
RankLocation: TypeAlias = tuple[str, dict[str, list[tuple[list[int], list[int]]]]]
"""A rank's host, and its blocks by array."""


class Introduction:
    """What a rank says of itself in each hello.

    Parameters
    ----------
    contact
        Of the run.
    rank, size
        Of this process in the simulation.
    contract
        None: this rank asks for it.
    """

    def __init__(
        self, contact: Contact, rank: int, size: int, contract: m.ContractIs | None = None
    ) -> None:
        # Described in code, sent by the rank that asks for the contract.
        self.arrays: Sequence[Array] = ()
        self.locations: Sequence[RankLocation] = ()
        self.blocks: Mapping[str, Any] = {}  # of this rank, said by the others
        self.step: int | None = None  # the newest that this rank has begun, of an attached run
        self._contact, self._contract = contact, contract
        self._rank, self._size = rank, size
        self._session = int.from_bytes(os.urandom(8), "little")

    def hello(self, epoch: int = 0) -> m.Hello:
        """Return the hello of a rank that follows this placement."""
        info: dict[str, Any] = {"host": socket.gethostname(), "version": __version__}
        if self._contract is None:
            info["arrays"] = [array.to_json() for array in self.arrays]
            info["hosts"] = self.locations
        else:
            info["blocks"] = self.blocks
        if self.step is not None:
            info["step"] = self.step
        return m.Hello(
            run=self._contact.run,
            rank=self._rank,
            size=self._size,
            pid=os.getpid(),
            session=self._session,
            digest=bytes(32) if self._contract is None else self._contract.digest,
            epoch=epoch,
            heartbeat_ms=int(HEARTBEAT * 1000),
            info=json.dumps(info).encode(),
            flags=m.Hello.WANTS_CONTRACT if self._contract is None else 0,
        )


def allowed_lanes(contact: Contact) -> tuple[str, ...]:
    """Return the lanes that may be used; an environment variable may name a single one."""
    lane = os.environ.get(LANE)
    return (lane,) if lane else tuple(contact.options["lanes"])


def aborts_on_loss(contact: Contact) -> bool:
    """Return whether the simulation ends when the analytics are lost."""
    return bool(contact.options["on_analytics_loss"] == "abort")


# -- before the contract (rank 0) ------------------------------------------------------------------


def ask_contract(
    contact: Contact,
    rank: int,
    size: int,
    arrays: Sequence[Array],
    locations: Sequence[RankLocation],
    *,
    step: int | None = None,
    given_up: Callable[[], bool] = lambda: False,
) -> m.ContractIs:
    """Return the contract, as soon as the analysis has submitted its graph.

    Parameters
    ----------
    contact, rank, size
        Of the run, and of this process in the simulation.
    arrays, locations
        What is described in code, and where the ranks are.
    step
        The newest step that this rank has begun, where the run is an attached one.
    given_up
        Called whenever something has changed, and now and then: whether the wait is over.

    Raises
    ------
    DeadlineExceeded
        When no receiver can be reached, or no contract comes in time.
    ContractError, AnalyticsLost
        When the run has failed before there was one. Where the simulation may go on alone, the
        contract of a lost analysis wants nothing.
    """
    introduction = Introduction(contact, rank, size)
    introduction.arrays, introduction.locations = arrays, locations
    introduction.step = step
    dialer = Dialer(contact, allowed_lanes(contact), rank)
    mailbox = Mailbox(abort_on_loss=aborts_on_loss(contact))

    def dial(endpoint: Endpoint, timeout: float) -> Dialed:
        return dialer.dial(endpoint, introduction.hello(), timeout)

    def ignore(*_: object) -> None:
        """No array is sent yet."""

    connections = Connections(contact.endpoints, dial, mailbox, ignore, contact.deadlines, rank)
    try:
        asked = connections.first_reachable()
        connections.needed = True
        limit = contact.deadlines["contract"]
        mailbox.wait_for(
            lambda: mailbox.contract is not None or mailbox.disconnected or given_up(), limit
        )
        if mailbox.contract is not None:
            return mailbox.contract
        if mailbox.fault is not None:
            raise ContractError(f"the run failed before there was a contract: {mailbox.fault.text}")
        mailbox.check()
        if mailbox.lost is not None:
            raise AnalyticsLost(f"there was no contract yet; {mailbox.lost}")
        raise DeadlineExceeded(
            f"{asked.endpoint} gave no contract within {limit:g} s: the analysis has not "
            "submitted its graph; see the analysis' log"
        )
    except AnalyticsLost:
        if aborts_on_loss(contact):
            raise
        return m.ContractIs(bytes(32), Contract(contact.run, ()).to_bytes())
    finally:
        connections.close()


def location_of(described: Iterable[Array]) -> RankLocation:
    """Return this rank's host and what it holds: chunks go to receivers on the same host."""
    boxes: dict[str, list[tuple[list[int], list[int]]]] = {}
    for one in described:
        if one.blocks is not None:
            boxes[one.name] = [(list(offset), list(extent)) for offset, extent in one.blocks]
        elif one.offset is not None:  # its extent is known at the first put only
            boxes[one.name] = [(list(one.offset), [1] * len(one.offset))]
    return contacts.host_identity()[0], boxes


def wait_for_contact(path: str | os.PathLike[str] | None) -> Contact:
    """Read the contact file, as soon as there is one.

    Raises
    ------
    ContactError
        When none is named, or there is none in time.
    """
    path = path or os.environ.get(contacts.ENVIRONMENT)
    if not path:
        raise ContactError(
            f"no contact file: neither Bridge(contact=...) nor the environment variable "
            f"{contacts.ENVIRONMENT} names one; ips.py sets it. To run the program by itself, set "
            f"{ALONE}=1 (or Bridge(..., alone=True)): then nothing is sent"
        )
    text = os.environ.get(DEADLINE, "60")
    try:
        limit = float(text)
    except ValueError:
        raise ContactError(f"{DEADLINE} must be a number of seconds, got {text!r}") from None

    def read() -> Contact | None:
        with contextlib.suppress(FileNotFoundError):
            return contacts.read(path)
        return None

    # A file system has no portable signal for a new file: look again, ever less often.
    found = poll_until(read, Deadline(limit), pause=0.01, growth=2.0, max_pause=0.05)
    if found is None:
        raise ContactError(
            f"no contact file at {path} after {limit:g} s: the analytics have not started; "
            f"see their log, or raise {DEADLINE}"
        )
    return found


# -- without an analysis -----------------------------------------------------------------------


def runs_alone(path: str | os.PathLike[str] | None, alone: bool) -> bool:
    """Return whether there is no contact file, and the program shall run without one."""
    if path or os.environ.get(contacts.ENVIRONMENT):
        return False
    return alone or os.environ.get(ALONE, "0") not in ("", "0")


def say_alone() -> None:
    """Say once, on rank 0, that nothing is sent."""
    import logging  # 4 ms that no rank has to pay at import

    logging.getLogger("ips_components.bridge").warning("ips_components: %s", _RUNS_ALONE)


def nothing_agreed() -> tuple[Contact, m.ContractIs]:
    """Return what a rank has that runs alone: no receiver, and a contract that wants nothing."""
    contact = Contact(run="alone", token="00" * 32, endpoints=())
    return contact, m.ContractIs(bytes(32), Contract(contact.run, ()).to_bytes())


# -- with the contract -------------------------------------------------------------------------


def agree(
    comm: Communicator,
    described: Mapping[str, Array],
    contact: str | os.PathLike[str] | None,
    *,
    alone: bool,
) -> tuple[contacts.Contact | None, m.ContractIs]:
    """Return the contact file and the contract, which rank 0 asks for. Collective.

    No contact file: the program runs by itself.
    """
    locations = to_rank_0(comm, location_of(described.values()))

    def ask() -> tuple[bytes, bytes]:
        if runs_alone(contact, alone):
            say_alone()
            return b"", framing.pack(nothing_agreed()[1])
        found = wait_for_contact(contact)
        given = list(described.values())
        agreed = ask_contract(found, comm.rank, comm.size, given, locations or [])
        return found.to_bytes(), framing.pack(agreed)

    found, frame = from_rank_0(comm, ask)
    header = framing.parse_header(frame)
    agreed = framing.parse(header, memoryview(frame)[framing.HEADER_BYTES :])
    if not isinstance(agreed, m.ContractIs):
        raise ContractError("rank 0 broadcast something that is not a contract")
    return contacts.Contact.from_bytes(found) if found else None, agreed


class Session:
    """A rank that knows the contract and is connected.

    Parameters
    ----------
    contact
        Of the run.
    agreed
        The contract as rank 0 got it.
    described
        Arrays described in code.
    rank, size
        Of this process in the simulation.
    attached
        Whether the run is an attached one: its steps are its own, and nothing waits for it.
    alone
        There is no analysis, by the program's own will.

    Attributes
    ----------
    mailbox, delivery
        Of this rank.
    arrays : dict
        All arrays by name, whether the analysis needs them or not.
    shared : bool
        Whether a receiver on this machine may map slots.

    Raises
    ------
    ContractError
        When what is described in code is not what the contract says.
    DeadlineExceeded
        When no receiver can be reached.
    """

    def __init__(
        self,
        contact: Contact,
        agreed: m.ContractIs,
        described: Mapping[str, Array],
        rank: int,
        size: int,
        *,
        attached: bool = False,
        alone: bool = False,
    ) -> None:
        self.rank = rank
        self._attached = attached
        self.contact = replace(contact, endpoints=agreed.endpoints)
        self.contract = Contract.from_bytes(agreed.contract)
        self.mailbox = Mailbox(abort_on_loss=aborts_on_loss(contact))
        self._many_launches = bool(agreed.launch_flags & m.ContractIs.MANY_LAUNCHES)
        lanes = allowed_lanes(contact)
        dialer = Dialer(contact, lanes, rank)
        introduction = Introduction(contact, rank, size, agreed)

        def dial(endpoint: Endpoint, timeout: float) -> Dialed:
            return dialer.dial(endpoint, introduction.hello(self.delivery.epoch), timeout)

        self.arrays = self._arrays(described, rank, size)
        if agreed.endpoints and not attached:
            for name, one in described.items():
                self.arrays[name].end = self._end_of(one.spec.steps, agreed)
            for out in self.needed:
                if out.contract is not None and (end := out.contract.spec.steps.end) is not None:
                    out.axis_end = end
        introduction.blocks = {
            name: [(block.offset, block.shape) for block in owned]
            for name, out in self.arrays.items()
            if out.contract is not None and (owned := out.owned) is not None
        }
        self.shared = "shm" in lanes and any(
            endpoint.local and endpoint.unix for endpoint in agreed.endpoints
        )
        self.delivery = Delivery(
            self.mailbox,
            agreed.endpoints,
            dial,
            contact.deadlines,
            SlotMemory(int(contact.options["slot_bytes"]), int(contact.options["replay_bytes"])),
            rank,
            patient=not attached,
        )
        try:
            for out in self.needed:
                self.delivery.arrays[out.ordinal] = out
            self.delivery.connections.needed = bool(self.needed)
            if alone:
                self.mailbox.go_alone(_RUNS_ALONE)
            elif agreed.endpoints:
                self.delivery.connections.connect_home()
            else:  # nothing is wanted: no receiver is left
                self.mailbox.lose("the receivers went away before there was a contract")
        except BaseException:
            self.delivery.close()
            raise

    @property
    def needed(self) -> list[OutgoingArray]:
        """Arrays of the contract, in its order."""
        return [out for out in self.arrays.values() if out.contract is not None]

    @property
    def accounted(self) -> list[OutgoingArray]:
        """Arrays of which the run keeps an account: all that are described, needed or not."""
        specs = self.contract.unneeded
        return self.needed + [self.arrays[s.name] for s in specs if s.name in self.arrays]

    @property
    def last_put(self) -> int:
        """The newest step of which a block was put, -1 before any."""
        return max((-1, *(out.put_step for out in self.arrays.values())))

    def _arrays(
        self, described: Mapping[str, Array], rank: int, size: int
    ) -> dict[str, OutgoingArray]:
        arrays: dict[str, OutgoingArray] = {}
        for ordinal, contract in enumerate(self.contract.arrays):
            name = contract.spec.name
            one = described.get(name)
            if described and one is None:
                raise ContractError(
                    f"the analysis wants array {name!r}, this simulation describes "
                    f"{sorted(described)}: rename one of them"
                )
            if one is not None:
                mine = self._as_agreed(one.spec, contract.spec)
                if mine != contract.spec:
                    here, there = mine.difference(contract.spec)
                    raise ContractError(
                        f"array {name!r} is described in code with {here}, but the contract (from "
                        f"[[ARRAYS]] of the config) has {there}: describe it in one place only"
                    )
            arrays[name] = OutgoingArray(name, one, contract, ordinal, rank, size)
        for ordinal, spec in enumerate(self.contract.unneeded, len(arrays)):
            one = described.get(spec.name)
            if one is not None:
                arrays[spec.name] = OutgoingArray(spec.name, one, None, ordinal, rank, size)
            elif not described:
                # A description that does not fit does not matter.
                with contextlib.suppress(BridgeError, GeometryError):
                    arrays[spec.name] = OutgoingArray(
                        spec.name, None, None, ordinal, rank, size, spec
                    )
        for name, one in described.items():
            if name not in arrays:
                arrays[name] = OutgoingArray(name, one, None, -1, rank, size)
        return arrays

    def _as_agreed(self, described: ArraySpec, agreed: ArraySpec) -> ArraySpec:
        """Return a description with the run's steps, where it may say less than the config does.

        Launches may describe the steps of their own only, and a program none. An attached run has
        steps from its beginning on.
        """
        own_launch = self._many_launches and described.steps.every == agreed.steps.every
        if not (own_launch or described.steps.open_ended or self._attached):
            return described
        return replace(described, steps=agreed.steps)

    def _end_of(self, described: StepAxis, agreed: m.ContractIs) -> int:
        """Return the first step of the run beyond those that the program has declared."""
        end = described.end
        if end is None:
            return FOREVER
        if self._many_launches:  # those of the whole run, or of this launch
            shifted = agreed.first_step if agreed.launch_flags & m.ContractIs.RENUMBER else 0
            end += max(shifted, agreed.first_step - described.start)
        return end

    def goodbye(self, bye: m.Bye, within: float | None = None) -> bool:
        """Send the goodbye, and stay until all receivers answer; return whether one has.

        They do so when all that was put has arrived: if one of them dies meanwhile, this rank is
        there to send its chunks to another one.
        """
        mailbox, connections = self.mailbox, self.delivery.connections
        deadline = Deadline(self.contact.deadlines["connect"] if within is None else within)
        while not mailbox.disconnected or connections.open():
            connections.say_goodbye(bye)
            heard = mailbox.wait_for(
                lambda: bool(connections.without_goodbye()) or connections.goodbye_answered(),
                deadline.left,
            )
            if not heard:
                import logging  # 4 ms that no rank has to pay at import

                log = logging.getLogger(__name__)
                level = logging.DEBUG if self._attached else logging.WARNING
                log.log(level, "Rank %s: receivers did not answer the goodbye", self.rank)
                break
            if connections.without_goodbye():  # a connection that had broken
                continue
            if mailbox.goodbyes_answered or mailbox.disconnected:
                break
            try:
                connections.connect_home()  # those that heard it are gone
            except (OSError, IPSComponentsError) as error:
                mailbox.lose(str(error))
        return bool(mailbox.goodbyes_answered)

    def close(self) -> None:
        """End connections and threads at once."""
        self.delivery.close()
