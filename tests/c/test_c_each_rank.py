"""Ranks that ask for the contract each by itself, and that know a part of the arrays only."""

import math

import pytest
from c_ranks import CONTRACT, RUN, RankError, agree, coupling, delivered, expected, spec_of

from ips_components.model.contract import ArrayContract, Contract
from ips_components.model.spec import ArraySpec, StepAxis

STEPS = 3


def put_all(ranks, *names):
    for step in range(STEPS):
        for rank in ranks:
            for name in names:
                rank("put", name, step)
    for rank in ranks:
        rank.tell("close", 0)
    for rank in ranks:
        rank.answer()


def test_every_rank_asks_for_itself(start, sinks, tmp_path):
    """Where nothing can be broadcast: in any order, rank 0 describes."""
    (sink,) = sinks()
    spec = spec_of(count=STEPS)
    with coupling(tmp_path, [sink]) as (contact, (receiver,)):
        ranks = [start(i, 2) for i in range(2)]
        for number, rank in enumerate(ranks):
            rank.offer(spec, (4 * number, 0), (4, 12))
        ranks[1].tell("request", contact, tmp_path / "blob1")
        sink.wait(lambda: sink.hellos)
        assert not sink.arrays
        ranks[0].tell("request", contact, tmp_path / "blob0")
        sink.wait(lambda: sink.arrays)
        contract = agree(spec)
        receiver.set_contract(contract)
        for number, rank in enumerate(ranks):
            rank.answer()
            rank("join", tmp_path / f"blob{number}")
        put_all(ranks, "t")
        assert (delivered(contract.arrays[0], sink.chunks) == expected(contract.arrays[0])).all()


def test_a_rank_that_knows_a_part_of_the_arrays(start, sinks, tmp_path):
    (sink,) = sinks()
    shared, own = spec_of(count=STEPS), spec_of("own", "<i4", (5,), count=STEPS)
    contract = agree(shared, own)
    with coupling(tmp_path, [sink], contract) as (contact, _):
        ranks = [start(i, 2) for i in range(2)]
        for number, rank in enumerate(ranks):
            rank.offer(shared, (4 * number, 0), (4, 12))
        ranks[0].offer(own, (0,), (5,))
        ranks[1]("partial")
        ranks[0]("request", contact, tmp_path / "blob")
        for rank in ranks:
            rank.tell("join", tmp_path / "blob")
        for rank in ranks:
            rank.answer()
        for step in range(STEPS):
            ranks[0]("put", "own", step)
        put_all(ranks, "t")
        for ordinal, array in enumerate(contract.arrays):
            assert (delivered(array, sink.chunks, ordinal) == expected(array)).all()


@pytest.mark.parametrize("shape", [(8, 12), (-1, 3)])
def test_who_does_not_say_so_is_refused(start, sinks, tmp_path, shape):
    """And rows of a ragged array are of all ranks."""
    spec = spec_of("other", shape=shape, count=STEPS, ragged=shape[0] == -1)
    with coupling(tmp_path, sinks(), agree(spec)) as (contact, _):
        rank = start()
        rank("declare", "mine", "f8", 1, 4)
        if spec.ragged:
            rank("partial")
        rank("request", contact, tmp_path / "blob")
        with pytest.raises(RankError) as caught:
            rank("join", tmp_path / "blob")
        assert caught.value.code == CONTRACT
        assert "every rank declares it" in str(caught.value) or "does not declare" in str(
            caught.value
        )


def test_attributes_are_numbers(start, sinks, tmp_path):
    (sink,) = sinks()
    with coupling(tmp_path, [sink]) as (contact, (receiver,)):
        rank = start()
        rank.offer(spec_of(count=STEPS), (0, 0), (8, 12))
        rank("doubles", "t", "dx", -1, 0.1)
        rank("doubles", "t", "limits", 3, "nan", "-inf", 2)
        rank("integers", "t", "grid", 2, 9007199254740992, -4)
        rank("integers", "t", "none", 0)
        rank.tell("request", contact, tmp_path / "blob")
        sink.wait(lambda: sink.arrays)
        ((offer,),) = sink.arrays
        attrs = offer["attrs"]
        assert math.isnan(attrs["limits"][0])
        assert attrs["limits"][1:] == [-math.inf, 2.0]
        assert (attrs["dx"], attrs["grid"], attrs["none"]) == (0.1, [9007199254740992, -4], [])
        axis = StepAxis(**offer["steps"])
        spec = ArraySpec(**{**offer, "shape": tuple(offer["shape"]), "steps": axis})
        receiver.set_contract(Contract(RUN, (ArrayContract.agree(spec, run=RUN),)))
        rank.answer()
        rank("join", tmp_path / "blob")
        put_all([rank], "t")


def test_a_number_of_steps_that_the_program_does_not_know(start, sinks, tmp_path):
    """The config says it, so that the contract has more than the program declares."""
    (sink,) = sinks()
    contract = agree(spec_of(count=STEPS))
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = start()
        rank.offer(spec_of(count=None), (0, 0), (8, 12))
        rank("request", contact, tmp_path / "blob")
        rank("join", tmp_path / "blob")
        put_all([rank], "t")
        assert (delivered(contract.arrays[0], sink.chunks) == expected(contract.arrays[0])).all()
