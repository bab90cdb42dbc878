"""What attached clients ask the coordinator, as an RPC."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ips_components.coordination.messages.calls import Call


@dataclass(frozen=True, slots=True)
class Attach(Call):
    """A client attaches, by a name of its own choice; what it must know of the run.

    ``client_id`` is that of Dask: when that client is gone, so is this one.
    """

    NAME: ClassVar[str] = "attach"
    token: str = field(repr=False)
    name: str
    client_id: str


@dataclass(frozen=True, slots=True)
class Renew(Call):
    """An attached client is alive; how far the run is."""

    NAME: ClassVar[str] = "renew"
    name: str


@dataclass(frozen=True, slots=True)
class Amend(Call):
    """Have the ranks join the attached run whose contact this is, in its binary form."""

    NAME: ClassVar[str] = "amend"
    name: str
    contact: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AwaitRanks(Call):
    """Wait until all ranks have joined an attached run; the newest step that each has begun.

    With ``joined``, until all have its contract.
    """

    NAME: ClassVar[str] = "ranks"
    timeout: float
    joined: bool = False


@dataclass(frozen=True, slots=True)
class EndAmendment(Call):
    """An attached client needs one of its attached runs no more."""

    NAME: ClassVar[str] = "end_amendment"
    name: str
    attached: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Detach(Call):
    """An attached client leaves."""

    NAME: ClassVar[str] = "detach"
    name: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class ShowPicture(Call):
    """A picture of the newest step of an array, for the live page."""

    NAME: ClassVar[str] = "picture"
    array: str
    picture: dict[str, Any]
