"""The life of a slot of memory and the leases under which receivers read it, without I/O.

A piece that lies in shared memory is read where it lies. Each time such a piece is sent over a
connection, the rank grants a *lease*: the triple (connection, slot, generation), in which the
generation counts the leases of that slot. The piece carries slot and generation; the receiver
returns exactly this pair when nothing reads the cells any more. A lease is never found by the
number of a message, since a number is sent again after a reconnect, while the earlier connection
may have made the same memory part of the analysis.

When a connection ends, no answer can come for its leases. Each slot leased to it is *retired*: what
lies in it may still be sent, but it is never written again. Its memory is freed when the last
mapping of it ends.

`TRANSITIONS` is the whole life of a slot on the rank's side:

======= ========== ======= ============================================================
state   event      next    meaning
======= ========== ======= ============================================================
FREE    TAKE       WRITING the rank writes the next block
FREE    USE        SENT    a piece in it is to be sent again
WRITING PUBLISH    SENT    the block is complete, its pieces are queued
WRITING CANCEL     FREE    the block is not sent
SENT    USE        SENT    one more piece is to be sent
SENT    UNUSED     FREE    the last use has ended
SENT    LEASE_LOST RETIRED a connection ended that had a lease
RETIRED USE        RETIRED what lies in it can be sent again
RETIRED UNUSED     RETIRED and may then be discarded
RETIRED LEASE_LOST RETIRED
======= ========== ======= ============================================================

Everything else is an error. A *use* is a piece in a slot from the moment it is queued until the
receiver has taken it: over shared memory until its lease is returned, else until it is
acknowledged.
"""

from __future__ import annotations

from enum import IntEnum

from ips_components.errors import BridgeError

MAX_SLOTS = 1 << 16
"""Slots of one rank that a receiver knows at most; the cells of further ones are sent."""
MAX_SEGMENTS = 4096
"""Segments of memory, in which the slots lie, that a receiver maps of one rank at most."""
GENERATIONS = 1 << 32
"""Generations are counted modulo this."""

Lease = tuple[int, int]
"""Slot and generation, as they travel in `Piece` and `Release`."""
Use = tuple[int, int]
"""Ordinal of the receiver and number of the message."""


class SlotState(IntEnum):
    """What may be done with a slot."""

    FREE = 0
    WRITING = 1
    SENT = 2
    RETIRED = 3


class SlotEvent(IntEnum):
    """What happens to a slot."""

    TAKE = 0
    PUBLISH = 1
    CANCEL = 2
    USE = 3
    UNUSED = 4
    LEASE_LOST = 5


TRANSITIONS: dict[tuple[SlotState, SlotEvent], SlotState] = {
    (SlotState.FREE, SlotEvent.TAKE): SlotState.WRITING,
    (SlotState.FREE, SlotEvent.USE): SlotState.SENT,
    (SlotState.WRITING, SlotEvent.PUBLISH): SlotState.SENT,
    (SlotState.WRITING, SlotEvent.CANCEL): SlotState.FREE,
    (SlotState.SENT, SlotEvent.USE): SlotState.SENT,
    (SlotState.SENT, SlotEvent.UNUSED): SlotState.FREE,
    (SlotState.SENT, SlotEvent.LEASE_LOST): SlotState.RETIRED,
    (SlotState.RETIRED, SlotEvent.USE): SlotState.RETIRED,
    (SlotState.RETIRED, SlotEvent.UNUSED): SlotState.RETIRED,
    (SlotState.RETIRED, SlotEvent.LEASE_LOST): SlotState.RETIRED,
}


class SlotLife:
    """State, uses and leases of one slot.

    Examples
    --------
    >>> slot = SlotLife()
    >>> slot.move(SlotEvent.TAKE)
    >>> slot.move(SlotEvent.PUBLISH)
    >>> slot.use((3, 1))
    >>> slot.lease(), slot.state.name
    (1, 'SENT')
    >>> slot.move(SlotEvent.LEASE_LOST)
    >>> slot.done((3, 1))
    >>> slot.state.name, slot.discardable
    ('RETIRED', True)
    """

    __slots__ = ("generation", "state", "uses")

    def __init__(self) -> None:
        self.state = SlotState.FREE
        self.generation = 0
        self.uses: set[Use] = set()

    def move(self, event: SlotEvent) -> None:
        """Move by an event.

        Raises
        ------
        BridgeError
            When the table does not allow it: an error of this package.
        """
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            raise BridgeError(
                f"a slot cannot {event.name} in state {self.state.name}: "
                "this is an error of ips_components, please report it"
            )
        self.state = state

    def use(self, use: Use) -> None:
        """Add a piece that is to be sent from the slot."""
        self.move(SlotEvent.USE)
        self.uses.add(use)

    def done(self, use: Use) -> None:
        """End a use; one that has ended already is ignored."""
        uses = self.uses
        if use in uses:
            uses.remove(use)
            if not uses:
                self.move(SlotEvent.UNUSED)

    def lease(self) -> int:
        """Return the generation of a new lease."""
        self.generation = (self.generation + 1) % GENERATIONS
        return self.generation

    @property
    def discardable(self) -> bool:
        """Whether the rank may give up its mapping."""
        state = self.state
        return state is SlotState.FREE or (state is SlotState.RETIRED and not self.uses)
