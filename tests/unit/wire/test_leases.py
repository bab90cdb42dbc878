"""Whatever happens to connections, no slot is written while a receiver can read it."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ips_components.bridge.connection import Connection
from ips_components.bridge.link import Item, LinkState
from ips_components.bridge.segments import Segments
from ips_components.bridge.slots import Place, Ring, SlotMemory, Stored
from ips_components.model.pieces import Piece
from ips_components.wire.contact import Endpoint
from ips_components.wire.leases import SlotEvent, SlotState


class LeasesOfARing(RuleBasedStateMachine):
    """A rank with two rings and one link, against a receiver that may keep what it was sent.

    The link is the real one; only its socket is replaced by lists. ``readers`` are the leases that
    some connection, open or ended, still reads, with the step that lies in the slot and the
    memory in which it lies. The rings share the segments of their array.
    """

    def __init__(self):
        super().__init__()
        self.segments, memory = Segments(), SlotMemory(1 << 30, 1 << 30)
        self.rings = [Ring(1, self.segments, memory) for _ in range(2)]
        self.to_receiver = Connection(Endpoint(0, "host", 1), None)
        self.to_receiver.lane = "shm"
        self.step = 0
        self.content = {}  # slot -> step that was written last
        self.connection = 0
        self.readers = []  # (connection, slot, generation, step)
        self.taken_up_to = 0

    def _use(self, slot):
        piece = Piece(self.step, 0, (), ((0, 1, 1),), 1)
        self.to_receiver.queue(
            slot, Stored(0, self.step, piece, Place((), None, 0, frame=object()))
        )

    @rule(ring=st.integers(0, 1), pages=st.integers(1, 3))
    def write(self, ring, pages):
        slot = self.rings[ring].next(pages * 4096)
        if slot is None:
            return
        self.step += 1
        reads = [r for r in self.readers if r[1] is slot]
        assert not reads, f"slot {slot.number} is written while {reads} read it"
        self.content[slot.number] = self.step
        slot.memory[:] = self.step.to_bytes(4, "little") * (slot.size // 4)
        slot.move(SlotEvent.PUBLISH)
        self._use(slot)

    @rule(ring=st.integers(0, 1))
    def write_and_cancel(self, ring):
        slot = self.rings[ring].next(1)
        if slot is not None:
            self.rings[ring].unused(slot)

    @precondition(lambda self: self.to_receiver.to_send)
    @rule(n=st.integers(1, 3))
    def send(self, n):
        items = [
            self.to_receiver.to_send.popleft() for _ in range(min(n, len(self.to_receiver.to_send)))
        ]
        self.to_receiver.unacked.extend(items)
        for seq, generation in self.to_receiver._grant(items).items():
            slot = self.to_receiver.in_slots[seq]
            step = self.content[slot.number]
            reader = (self.connection, slot, generation, step, seq, slot.memory.toreadonly())
            self.readers.append(reader)

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def stop_reading(self, data):
        """The receiver copied a piece, or the analysis dropped a chunk."""
        reader = self.readers.pop(data.draw(st.integers(0, len(self.readers) - 1)))
        connection, slot, generation, _, seq, _ = reader
        if connection == self.connection:
            self.to_receiver.released(((slot.number, generation),), 0)
        self.taken_up_to = max(self.taken_up_to, seq)

    @precondition(lambda self: self.to_receiver.unacked)
    @rule(data=st.data())
    def acknowledge(self, data):
        item = data.draw(st.sampled_from(list(self.to_receiver.unacked)))
        self.taken_up_to = max(self.taken_up_to, item.seq)
        self.to_receiver.taken(item.seq)

    @rule(heard=st.integers(0, 3))
    def reconnect(self, heard):
        """The connection ends; the new welcome may know less than was read."""
        link = self.to_receiver
        link._lose_leases()
        self.connection += 1
        known = max(0, self.taken_up_to - heard)
        again = [item for item in link.unacked if item.seq > known]
        link.unacked.clear()
        link.to_send.extendleft(reversed(again))
        unsent = {item.seq for item in link.to_send}
        for seq in [seq for seq in link.in_slots if seq not in unsent]:
            link.in_slots.pop(seq).done((0, seq))

    @rule(data=st.data())
    def resend(self, data):
        """A chunk is asked for again."""
        slots = [slot for ring in self.rings for slot in ring.slots]
        slots = [slot for slot in slots if slot.state is not SlotState.WRITING]
        slots = [slot for slot in slots if slot.number in self.content]
        if slots:
            self._use(data.draw(st.sampled_from(slots)))

    @invariant()
    def what_is_read_is_what_was_sent(self):
        for _, slot, _, step, _, memory in self.readers:
            assert self.content[slot.number] == step
            cells = np.frombuffer(memory, "<u4")
            assert (cells == step).all()

    @invariant()
    def a_leased_slot_is_never_free(self):
        for _, slot, *_ in self.readers:
            assert slot.state in (SlotState.SENT, SlotState.RETIRED)

    @invariant()
    def a_slot_is_free_when_nothing_uses_it(self):
        for slot in (slot for ring in self.rings for slot in ring.slots):
            assert slot.state is not SlotState.SENT or slot.uses
        assert self.to_receiver.link is LinkState.NEW
        assert all(isinstance(item, Item) for item in self.to_receiver.to_send)

    def teardown(self):
        for ring in self.rings:
            for slot in ring.slots:
                slot.close()
        assert not self.segments._segments


TestLeases = LeasesOfARing.TestCase
