"""The way of nearly every put: taken when all is as usual, left when anything is not."""

import numpy as np
import pytest
from _pair import RUN, RememberingSink, agree, assembled, joined, receivers, together

from ips_components.bridge import Array, Bridge
from ips_components.bridge.put_path import PutPath
from ips_components.errors import BridgeError
from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.selection import Selection
from ips_components.model.spec import ArraySpec, StepAxis

STEPS = 40
SPEC = ArraySpec("t", "f8", (8, 30), StepAxis(count=STEPS))
SHM = {"lanes": ("shm", "tcp"), "replay_steps": 1}
FIELD = np.random.default_rng(0).random((STEPS, *SPEC.shape))


@pytest.fixture
def counted(monkeypatch):
    """Counts pieces by the way that they went."""
    count = {"fast": 0, "usual": 0}

    def counting(way, method):
        def call(*args):
            count[way] += 1
            return method(*args)

        return call

    monkeypatch.setattr(PutPath, "send_fast", counting("fast", PutPath.send_fast))
    monkeypatch.setattr(PutPath, "publish", counting("usual", PutPath.publish))
    return count


def put(bridge, step, block, in_place):
    if in_place:
        with bridge.block("t", step) as out:
            out[...] = block
    else:
        bridge.put("t", step, block)


def all_given_back(bridge):
    """Wait until all slots are free again."""
    rings = [ring for out in bridge._arrays.values() for ring in out.rings]
    assert bridge._mailbox.wait_for(
        lambda: not any(slot.uses for ring in rings for slot in ring.slots), 10
    )


class CopyingSink(RememberingSink):
    """Lets slots go at once."""

    def chunk(self, array, chunk, value, nbytes):
        super().chunk(array, chunk, value.copy(), nbytes)


@pytest.fixture
def copying(monkeypatch):
    monkeypatch.setattr("_pair.RememberingSink", CopyingSink)


@pytest.mark.parametrize("in_place", [False, True], ids=["put", "in place"])
def test_it_is_taken_from_the_first_use_of_each_slot_on(tmp_path, copying, counted, in_place):
    with receivers(tmp_path, agree(SPEC), contact_options=SHM) as (file, _, (sink,)):
        with Bridge(contact=file) as bridge:
            for step in range(STEPS):
                put(bridge, step, FIELD[step], in_place)
                all_given_back(bridge)
            (ring,) = bridge._arrays["t"].rings
            account = bridge.statistics().arrays["t"]
        assert counted == {"fast": STEPS - ring.length, "usual": ring.length}
        assert account["blocks"]["delivered"] == account["blocks"]["produced"] == STEPS
        assert account["bytes"]["delivered"] == account["bytes"]["produced"] == FIELD.nbytes
        assert np.array_equal(assembled(agree(SPEC), 0, [sink]), FIELD)
        assert [info.step for _, info in sink.steps] == list(range(STEPS))


def test_parts_of_blocks_with_halo_put_and_computed_in_place_by_turns(tmp_path, copying, counted):
    wanted = [Selection.from_key(np.s_[::2, 1:7:2, 3:20:4], FIELD.shape)]
    array = ArrayContract.agree(SPEC, wanted, run=RUN, receivers=(0, 1))
    expected = FIELD[array.cover.to_slices()]
    arrays = [Array("t", SPEC.shape, halo=1, grid=(2, 1), steps=STEPS)]
    contract = Contract(RUN, (array,))
    with receivers(tmp_path, contract, 2, contact_options=SHM) as (file, _, sinks):

        def work(rank):
            with Bridge(contact=file, rank=rank, size=2, arrays=arrays) as bridge:
                for step in range(STEPS):
                    block = np.pad(FIELD[step, 4 * rank : 4 * rank + 4], 1)
                    put(bridge, step, block, in_place=step // 4 % 6 > 2)
                    all_given_back(bridge)
                return bridge.statistics().arrays["t"]["bytes"]

        bytes_of = together(2, work)
        assert counted["fast"] and counted["usual"]  # a slot is laid out anew for the other way
        assert np.array_equal(assembled(contract, 0, sinks), expected)
        assert sum(account["delivered"] for account in bytes_of) == expected.nbytes
        assert sum(account["produced"] for account in bytes_of) == FIELD.nbytes


@pytest.mark.parametrize("in_place", [False, True], ids=["put", "in place"])
@pytest.mark.parametrize("what", ["cut", "moved"])
def test_what_happens_between_taking_a_slot_and_sending_it(
    tmp_path, copying, monkeypatch, in_place, what
):
    """The connection breaks, or the chunk moves to a receiver that asks for it just then."""
    last = STEPS - 1
    contract = agree(SPEC)
    with receivers(tmp_path, contract, contact_options=SHM) as (file, (first,), (sink,)):
        other = CopyingSink()
        with joined(file, contract, first, other) as (bridge, move):
            for step in range(last):
                put(bridge, step, FIELD[step], in_place)
                all_given_back(bridge)

            def happen():
                if what == "cut":
                    (connection,) = bridge._delivery.connections.open()
                    connection.broken(connection.sock, "cut by the test")
                else:
                    move(last)

            taken = []

            def send(path, *args):
                taken.append(path)
                happen()
                return sending(path, *args)

            sending = PutPath.send_fast
            monkeypatch.setattr(PutPath, "send_fast", send)
            put(bridge, last, FIELD[last], in_place)
            monkeypatch.undo()
            assert len(taken) == 1
            reached = sink if what == "cut" else other
            reached.wait(lambda: (0, last) in reached.counts)
        chunks = {**sink.chunks, **other.chunks}
        assert set(sink.counts.values()) | set(other.counts.values()) == {1}
        assert all(np.array_equal(chunks[0, step][0], FIELD[step]) for step in range(STEPS))


def test_a_body_that_raises_gives_the_slot_back(tmp_path, copying, counted):
    with receivers(tmp_path, agree(SPEC), contact_options=SHM) as (file, _, (sink,)):
        with Bridge(contact=file) as bridge:
            for step in range(STEPS):
                if step % 3 == 2:
                    with (
                        pytest.raises(ValueError, match="numerics"),
                        bridge.block("t", step) as out,
                    ):
                        out[...] = 0
                        raise ValueError("numerics")
                put(bridge, step, FIELD[step], in_place=True)
                all_given_back(bridge)
        assert counted["fast"] > counted["usual"]
        assert np.array_equal(assembled(agree(SPEC), 0, [sink]), FIELD)
        assert set(sink.counts.values()) == {1}


@pytest.mark.parametrize("chunks", [(2, 8, 30), (1, 4, 30)], ids=["steps joined", "two chunks"])
def test_other_blocks_go_the_long_way(tmp_path, copying, counted, chunks):
    array = ArrayContract.agree(SPEC, run=RUN, chunks=chunks)
    contract = Contract(RUN, (array,))
    with receivers(tmp_path, contract, contact_options=SHM) as (file, _, (sink,)):
        with Bridge(contact=file) as bridge:
            for step in range(STEPS):
                put(bridge, step, FIELD[step], in_place=step % 2)
        assert counted == {"fast": 0, "usual": STEPS}
        assert np.array_equal(assembled(contract, 0, [sink]), FIELD)


def test_a_wrong_block_is_named_as_ever(tmp_path, copying):
    with (
        receivers(tmp_path, agree(SPEC), contact_options=SHM) as (file, _, _),
        Bridge(contact=file) as bridge,
    ):
        for step in range(10):
            bridge.put("t", step, FIELD[step])
            all_given_back(bridge)
        assert bridge._arrays["t"].fast is not None
        with pytest.raises(BridgeError, match="expected dtype float64, got float32"):
            bridge.put("t", 10, FIELD[10].astype("f4"))
        with pytest.raises(BridgeError, match="expected shape"):
            bridge.put("t", 10, FIELD[10].T)
