"""One behaviour suite for both bridges: ranks in Python and in C, driven by the same commands."""

import contextlib
import re
import resource
import socket
import threading
from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import pytest
from between import Between
from c_ranks import (
    LOST,
    PYTHON,
    RUN,
    STOPPED,
    USAGE,
    Rank,
    RankError,
    agree,
    coupling,
    delivered,
    expected,
    join_all,
    spec_of,
)
from test_c_bridge import row_cells
from test_c_faults import cut, receiver_process, stop

from ips_components.model.placement import Placement, replace
from ips_components.model.selection import Selection
from ips_components.model.spec import ArraySpec, StepAxis
from ips_components.wire import contact as contacts


@pytest.fixture
def start(either):
    """Start ranks of either bridge."""
    return either


def joined(start, contact, directory, *specs, boxes=None, **environment):
    """One rank that holds all of each array, or these boxes of it."""
    rank = start(**environment)
    for spec in specs:
        whole = [((0,) * len(spec.shape), spec.shape)]
        first, *more = boxes or whole
        rank.offer(spec, *first)
        for offset, shape in more:
            rank("block", spec.name, spec.dtype, *offset, *shape, *(0 for _ in shape))
    join_all([rank], contact, directory)
    return rank


def right(contract, *sinks, ordinal=0):
    """Whether all that is wanted has arrived, with the right value, once."""
    chunks, counts = {}, {}
    for sink in sinks:
        chunks |= sink.chunks
        for key, n in sink.counts.items():
            counts[key] = counts.get(key, 0) + n
    array = contract.arrays[ordinal]
    assert (delivered(array, chunks, ordinal) == expected(array)).all()
    assert set(counts.values()) == {1}


HALVES = [((0, 0), (4, 12)), ((4, 0), (4, 12))]


def numbers(box):
    (a, b), (c, d) = box
    return a, b, c, d


# -- blocks that are open at once ------------------------------------------------------------------


def test_two_blocks_of_a_step_are_open_at_once(start, sinks, tmp_path):
    spec = spec_of(count=8)
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = joined(start, contact, tmp_path, spec, boxes=HALVES)
        for step in range(8):
            for slot, box in enumerate(HALVES):
                rank("open_block", "t", step, slot, *numbers(box))
            for slot in (1, 0):
                rank("fill_block", "t", step, slot)
            for slot in range(2):
                rank("publish_block", "t", step, slot)
        rank("close", 0)
        right(contract, sink)
        assert rank.account("t")[0] == [16, 0, 16, 0, 0]


def test_a_block_is_put_while_another_one_is_open(start, sinks, tmp_path):
    spec = spec_of(count=8)
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = joined(start, contact, tmp_path, spec, boxes=HALVES)
        for step in range(8):
            rank("open_block", "t", step, 0, *numbers(HALVES[0]))
            rank("fill_block", "t", step, 0)
            rank("put_block", "t", step, "C", *numbers(HALVES[1]))
            rank("publish_block", "t", step, 0)
        rank("close", 0)
        right(contract, sink)


def test_blocks_of_two_steps_are_open_at_once(start, sinks, tmp_path):
    spec = spec_of(count=8)
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(0, 8, 2):
            for slot in range(2):
                rank("open_block", "t", step + slot, slot, 0, 0, 8, 12)
            for slot in range(2):
                rank("fill_block", "t", step + slot, slot)
            for slot in range(2):
                rank("publish_block", "t", step + slot, slot)
        rank("close", 0)
        right(contract, sink)


def test_a_block_that_is_discarded_leaves_nothing(start, sinks, tmp_path):
    spec = spec_of(count=30)
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(30):
            rank("acquire", "t", step)
            rank("fill", "t", 77)
            rank("discard", "t")
            rank("acquire", "t", step)
            rank("fill", "t", step)
            rank("publish", "t")
        rank("close", 0)
        right(contract, sink)
        assert rank.account("t")[0] == [30, 0, 30, 0, 0]


def test_two_arrays_of_one_shape_keep_apart_where_nothing_is_wanted(start, sinks, tmp_path):
    one, other = spec_of("a", count=4), spec_of("b", count=4)
    (sink,) = sinks()
    contract = agree(one, other, selections=[Selection.from_key(np.s_[::3], (4, 8, 12))])
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = joined(start, contact, tmp_path, one, other)
        for step in range(4):
            rank("acquire", "a", step)
            rank("acquire", "b", step)
            rank("fill", "a", step)
            before = rank("peek", "a")
            rank("fill", "b", step + 50)
            assert rank("peek", "a") == before
            rank("fill", "b", step)
            rank("publish", "a")
            rank("publish", "b")
        rank("close", 0)
        right(contract, sink, ordinal=0)
        right(contract, sink, ordinal=1)


def test_a_block_of_an_array_that_the_analysis_does_not_need(start, sinks, tmp_path):
    spec, other = spec_of(count=3), spec_of("u", count=3)
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = joined(start, contact, tmp_path, spec, other)
        for step in range(3):
            rank("put", "t", step, "C")
            rank("acquire", "u", step)
            rank("fill", "u", step)
            rank("publish", "u")
        rank("close", 0)
        right(contract, sink)
        assert rank.account("u")[0] == [3, 3, 0, 0, 0]


# -- steps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [True, False])
def test_a_step_that_falls_is_refused(start, sinks, tmp_path, wanted):
    spec = spec_of(count=10)
    (sink,) = sinks()
    rows = np.s_[:] if wanted else np.s_[9:]
    contract = agree(spec, selections=[Selection.from_key(rows, (10, 8, 12))])
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(5):
            rank("put", "t", step, "C")
        for step in (4, 3, 0):
            with pytest.raises(RankError, match=rf"'?t'? at step {step}") as refused:
                rank("put", "t", step, "C")
            assert refused.value.code == USAGE
        if wanted:
            with pytest.raises(RankError, match="at step 2"):
                rank("acquire", "t", 2)
                rank("fill", "t", 2)
                rank("publish", "t")
        for step in range(5, 10):
            rank("put", "t", step, "C")
        rank("close", 0)
        if wanted:
            right(contract, sink)
        assert rank.account("t")[0][0] == 10


@pytest.mark.parametrize("wanted", [True, False], ids=["needed", "unneeded"])
def test_a_negative_step_is_refused_and_others_are_left_out(start, sinks, tmp_path, wanted):
    spec, other = spec_of(start=2, every=3, count=2), spec_of("p")
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = joined(start, contact, tmp_path, spec, other)
        name = "t" if wanted else "p"
        for call in (("put", name, -1, "C"), ("acquire", name, -1)):
            with pytest.raises(RankError, match="at step -1 on rank 0: steps begin with 0") as no:
                rank(*call)
            assert no.value.code == USAGE
        for step in range(8):  # before, between and right behind its steps: no harm
            rank("put", "t", step, "C")
        rank("close", 0)
        right(contract, sink)
        assert rank.account("t")[0][:3] == [8, 6, 2]


@pytest.mark.parametrize("name", ["t", "p"], ids=["needed", "unneeded"])
@pytest.mark.parametrize("how", ["put", "acquire"])
def test_a_step_beyond_those_that_the_program_declares_is_refused(
    start, sinks, tmp_path, name, how
):
    """Below 2 + 2 * 3 = 8 it may put what it likes: those steps are left out on purpose."""
    spec, other = spec_of(start=2, every=3, count=2), spec_of("p", start=2, every=3, count=2)
    (sink,) = sinks()
    contract = agree(spec, selections=[Selection.from_key(np.s_[:1], (2, 8, 12))])
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = joined(start, contact, tmp_path, spec, other)
        for step in range(8):
            rank("put", name, step, "C")
        for step in (8, 9, 100):
            with pytest.raises(RankError, match=f"{name}'? at step {step} on rank 0: .*") as no:
                rank(how, name, step, *("C" if how == "put" else ""))
            assert no.value.code == USAGE
            assert "declares its steps up to step 5; declare as many as it puts" in no.value.text
        rank("close", 0)
        assert rank.account(name)[0][0] == 8


def test_rows_beyond_the_steps_that_the_program_declares_are_refused(start, sinks, tmp_path):
    spec = ArraySpec("x", "<f4", (-1, 3), StepAxis(count=2), ragged=True)
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec)) as (contact, _):
        rank = start()
        rank.offer(spec, (), ())
        join_all([rank], contact, tmp_path)
        for step in range(2):
            rank("rows", "x", step, 2)
        for put in (("rows", "x", 2, 2), ("put_parts", "x", 2, 1, 0)):
            with pytest.raises(RankError, match="declares its steps up to step 1"):
                rank(*put)
        rank("close", 0)
        assert rank.account("x")[0] == [2, 0, 2, 0, 0]


def test_a_program_that_declares_no_number_of_steps_may_go_on(start, sinks, tmp_path):
    spec = spec_of(count=3)
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = joined(start, contact, tmp_path, changed(spec, steps=StepAxis()))
        for step in (0, 1, 2, 3, 4):
            rank("put", "t", step, "C")
        rank("rewind", 4)
        rank("put", "t", 4, "C")
        rank("close", 0)
        right(contract, sink)
        (account,) = sink.byes[0].counters
        assert account.beyond == 2  # steps, of which the run's record has a note


def test_a_block_is_put_once_in_a_step(start, sinks, tmp_path):
    spec = spec_of(count=2)
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = joined(start, contact, tmp_path, spec, boxes=HALVES)
        for step in range(2):
            rank("put_block", "t", step, "C", *numbers(HALVES[0]))
            with pytest.raises(RankError, match=f"at step {step}"):
                rank("put_block", "t", step, "C", *numbers(HALVES[0]))
            rank("put_block", "t", step, "C", *numbers(HALVES[1]))
        rank("close", 0)
        right(contract, sink)


def test_rows_are_put_once_in_a_step(start, sinks, tmp_path):
    spec = ArraySpec("x", "<f4", (-1, 3), StepAxis(count=3), ragged=True)
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec)) as (contact, _):
        rank = start()
        rank.offer(spec, (), ())
        join_all([rank], contact, tmp_path)
        for step in range(3):
            rank("rows", "x", step, 2)
            with pytest.raises(RankError, match=f"at step {step}"):
                rank("rows", "x", step, 2)
        rank("close", 0)
        assert rank.account("x")[0] == [3, 0, 3, 0, 0]


def test_a_solver_goes_back_over_steps_that_nobody_has(start, sinks, tmp_path):
    spec = spec_of(count=10)
    (sink,) = sinks()
    contract = agree(spec, selections=[Selection.from_key(np.s_[::5], (10, 8, 12))])
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(5):
            rank("put", "t", step, "C")
        rank("rewind", 2)
        for step in range(2, 8):
            rank("put", "t", step, "C")
        with pytest.raises(RankError, match="step 5") as refused:
            rank("rewind", 4)
        assert refused.value.code == USAGE
        rank("rewind", 6)
        for step in range(6, 10):
            rank("put", "t", step, "C")
        rank("close", 0)
        right(contract, sink)


# -- flow ------------------------------------------------------------------------------------------


def test_drop_takes_the_first_steps_of_a_fresh_link(start, sinks, tmp_path):
    spec = spec_of(count=3)
    contract = agree(spec, policy="drop")
    for attempt in range(3):
        (sink,) = sinks()
        folder = tmp_path / str(attempt)
        folder.mkdir()
        with coupling(folder, [sink], contract) as (contact, _):
            rank = joined(start, contact, folder, spec)
            for step in range(3):
                rank("put", "t", step, "C")
            rank("close", 0)
            assert rank.account("t")[0] == [3, 0, 3, 0, 0]
            right(contract, sink)


def test_drop_takes_the_first_step_after_a_reconnect(start, sinks, tmp_path):
    spec = spec_of(count=12)
    (sink,) = sinks()
    contract = agree(spec, policy="drop")
    with coupling(tmp_path, [sink], contract) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(12):
            if step % 3 == 2:
                rank("wait", 5)
                cut(receiver)
            rank("put", "t", step, "C")
        rank("close", 0)
        assert rank.account("t")[0] == [12, 0, 12, 0, 0]
        right(contract, sink)


def test_chunks_that_stay_on_many_receivers_starve_no_rank(start, sinks, tmp_path):
    spec = spec_of(count=24)
    made = sinks(4)
    contract = agree(spec, receivers=4)
    assert len(contract.arrays[0].placement.receivers) == 4
    with coupling(tmp_path, made, contract, deadlines={"step": 5.0}) as (contact, _):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(24):
            rank("put", "t", step, "C")
        rank("close", 0)
        right(contract, *made)


def test_a_chunk_that_moves_between_receivers_that_keep_it_starves_no_rank(start, sinks, tmp_path):
    spec = spec_of(shape=(64, 64), count=40)  # one piece is the whole chunk: its slot may be kept
    made = sinks(5)
    contract = agree(spec, receivers=5, chunks=(1, 64, 64))
    contract = replace_placement(contract, Placement(0, 5, tuple(range(5))))
    with coupling(tmp_path, made, contract, deadlines={"step": 5.0}) as (contact, _):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(40):
            rank("put", "t", step, "C")
        rank("close", 0)
        assert all(len(sink.chunks) == 8 for sink in made)
        right(contract, *made)


def test_blocks_whose_order_changes_drain(start, sinks, tmp_path):
    spec = spec_of(shape=(64, 64), count=12)
    made = sinks(2)
    contract = agree(spec, receivers=2, chunks=(1, 32, 64))
    with coupling(tmp_path, made, contract, deadlines={"drain": 3.0}) as (contact, _):
        rank = start()
        rank.offer(spec, (0, 0), (16, 64))
        rank("block", "t", spec.dtype, 16, 0, 48, 64, 0, 0)
        join_all([rank], contact, tmp_path)
        boxes = [(0, 0, 16, 64), (16, 0, 48, 64)]
        for step in range(12):
            for box in boxes if step % 2 else reversed(boxes):
                rank("put_block", "t", step, "C", *box)
        rank("close", 0)
        right(contract, *made)


def test_many_blocks_leave_the_program_half_of_its_descriptors(start, sinks, tmp_path):
    spec = spec_of(shape=(80, 12), count=8)
    (sink,) = sinks()
    boxes = [((row, 0), (1, 12)) for row in range(80)]
    contract = agree(spec, chunks=(1, 80, 12))
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = start()
        pid, limit = rank.process.pid, 160
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
        rank.offer(spec, *boxes[0])
        for offset, shape in boxes[1:]:
            rank("block", "t", spec.dtype, *offset, *shape, 0, 0)
        join_all([rank], contact, tmp_path)
        for step in range(8):
            for box in boxes:
                rank("put_block", "t", step, "C", *numbers(box))
        opened = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        assert sum("ips-components-slot" in target for target in opened) <= limit // 2
        rank("close", 0)
        right(contract, sink)


@pytest.mark.parametrize("language", ["c", "python"])
def test_refused_shared_memory_is_said_once_and_blocks_are_sent(language, command, sinks, tmp_path):
    """A limit on the size of files holds for memory that can be shared as well."""
    spec = spec_of(shape=(600, 600), count=4)
    (sink,) = sinks()
    contract = agree(spec)
    how = command if language == "c" else PYTHON
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = Rank(["sh", "-c", 'trap "" XFSZ; exec "$@"', "sh", *how])
        try:
            resource.prlimit(rank.process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
            rank.offer(spec, (0, 0), (600, 600))
            join_all([rank], contact, tmp_path)
            for step in range(4):
                rank("put", "t", step, "C")
            assert rank("lanes") == "1 0"  # over the same socket
            rank("close", 0)
            status, said = rank.end()
        finally:
            rank.forget()
        right(contract, sink)
        assert status == 0
        assert said.lower().count("blocks are sent instead of being read in shared memory") == 1


def test_arrays_of_the_config_that_nobody_needs_travel_with_the_contract(start, sinks, tmp_path):
    spec = spec_of(count=3)
    (sink,) = sinks()
    contract = changed(agree(spec), unneeded=(spec_of("p"), spec_of("rows", shape=(4,))))
    with coupling(tmp_path, [sink], contract) as (contact, _):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(3):
            rank("put", "t", step, "C")
        rank("close", 0)
        right(contract, sink)


@pytest.mark.parametrize("needed", ["tnxu", "t", "nx", ""])
@pytest.mark.parametrize("declared", [True, False], ids=["by the program", "by the config"])
def test_what_is_produced_does_not_depend_on_what_is_needed(
    start, sinks, tmp_path, needed, declared
):
    """Blocks with halo, a number, particles and points of a mesh, two ranks, three steps."""
    said = {} if declared else {"halo": 1, "process_grid": [2, 1]}
    offers = {
        "t": spec_of("t", "<f4", (8, 12), count=3, attrs=said),
        "n": spec_of("n", "<f8", (), count=3),
        "x": ArraySpec("x", "<f4", (-1, 3), StepAxis(count=3), ragged=True),
        "u": ArraySpec("u", "<f8", (6, 2), StepAxis(count=3), ids="unique"),
    }
    (sink,) = sinks()
    contract = changed(
        agree(*(offers[name] for name in needed)),
        unneeded=tuple(spec for name, spec in offers.items() if name not in needed),
    )
    with coupling(tmp_path, [sink], contract) as (contact, _):
        ranks = [start(number, 2) for number in range(2)]
        for number, rank in enumerate(ranks):
            rank.offer(offers["t"], (4 * number, 0), (4, 12), (1, 1), declare=declared)
            for name in "nxu":
                spec = offers[name]
                shape = len(spec.shape), *spec.shape
                rank("array", name, spec.itemsize, *shape)
                if declared:
                    rank("declare", name, spec.dtype, *shape)
                    rank("steps", name, 0, 1, 3)
            if declared:
                rank("ids", "u", "none", -1)
        join_all(ranks, contact, tmp_path)
        for step in range(3):
            for number, rank in enumerate(ranks):
                rank("put", "t", step, "C")
                rank("put", "n", step, "C")
                rank("rows", "x", step, 2 + step)
                rank("put_ids", "u", step, 0, 3, *range(3 * number, 3 * number + 3))
        for rank in ranks:
            rank.tell("close", 0)
        for rank in ranks:
            rank.answer()
        names = [*needed, *(spec.name for spec in contract.unneeded)]
        for number in range(2):
            counters = {names[each.array]: each for each in sink.byes[number].counters}
            produced = {name: (each.blocks[0], each.bytes[0]) for name, each in counters.items()}
            assert produced == {
                "t": (3, 3 * 4 * 12 * 4),
                "n": (3, 0 if number else 3 * 8),  # rank 0 puts it
                "x": (3, (2 + 3 + 4) * 3 * 4),
                "u": (3, 3 * 3 * 2 * 8),
            }
            assert all(each.closed for each in counters.values())


def test_a_number_that_all_ranks_have_is_sent_once(start, sinks, tmp_path):
    spec = spec_of("energy", shape=(), count=5)
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec)) as (contact, _):
        ranks = [start(number, 3) for number in range(3)]
        for rank in ranks:
            rank("array", "energy", 8, 0)
            rank("declare", "energy", "<f8", 0)
            rank("steps", "energy", 0, 1, 5)
        join_all(ranks, contact, tmp_path)
        for step in range(5):
            for rank in ranks:
                rank("put", "energy", step, "C")
        for rank in ranks:
            rank.tell("close", 0)
        for rank in ranks:
            rank.answer()
        right(agree(spec), sink)
        assert [sink.byes[n].counters[0].blocks[:3] for n in range(3)] == [
            (5, 0, 5),
            (5, 5, 0),
            (5, 5, 0),
        ]


# -- what is wrong is named ------------------------------------------------------------------------

BLOCK_IN_SPACE = ["C", 4, 0, 4, 12]
WRONG_PUTS = {
    "falls": ["put", "t", 2, "C"],
    "repeated": ["put", "t", 3, "C"],
    "negative": ["put", "t", -1, "C"],
    "beyond the declared": ["put", "t", 8, "C"],
    "a block that falls": ["put_block", "two", 2, *BLOCK_IN_SPACE],
    "a block of several is not said": ["put", "two", 4, "C"],
    "outside": ["put_block", "t", 4, "C", 7, 0, 4, 12],
    "rows of blocks": ["rows", "t", 4, 3],
    "rows without ids": ["put_ids", "u", 4, 0, -1],
    "ids of blocks": ["put_ids", "t", 4, 0, 2, 0, 1],
    "an id twice": ["put_ids", "u", 4, 0, 2, 1, 1],
    "an id that is not there": ["put_ids", "u", 4, 0, 2, 1, 6],
    "levels of rows": ["put_blocks", "x", 4, 1, 0, 0],
    "in place falls": ["acquire", "t", 2],
    "in place rows": ["acquire", "x", 4],
    "in place ids": ["acquire", "u", 4],
    "in place one of several": ["acquire", "two", 4],
    "not described": ["put_block", "q", 4, "C", 0, 0, 8, 12],
    "in place not described": ["acquire", "q", 4],
}


def named(words):
    """The words of an error that names array, step and rank of a put."""
    _, name, step, *_ = words
    return rf"^\d+: put of array '?{name}'? at step {step} on rank 0: \S"


@pytest.mark.parametrize("lane", ["shm"])
def test_errors_of_puts_name_array_step_and_rank(start, sinks, tmp_path, language):
    spec, two = spec_of(count=8), spec_of("two", count=8)
    rows = ArraySpec("x", "<f4", (-1, 3), StepAxis(count=8), ragged=True)
    points = ArraySpec("u", "<f8", (6, 2), StepAxis(count=8), ids="unique")
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec, two, rows, points)) as (contact, _):
        rank = start()
        rank.offer(spec, (0, 0), (8, 12))
        rank.offer(two, *HALVES[0])
        rank("block", "two", two.dtype, *numbers(HALVES[1]), 0, 0)
        for one in (rows, points):
            shape = len(one.shape), *one.shape
            rank("array", one.name, one.itemsize, *shape)
            rank("declare", one.name, one.dtype, *shape)
            rank("steps", one.name, 0, 1, 8)
        rank("ids", "u", "none", -1)
        rank("array", "q", 8, 2, 8, 12)
        join_all([rank], contact, tmp_path)
        for step in range(4):
            rank("put", "t", step, "C")
            rank("put_block", "two", step, "C", *numbers(HALVES[0]))
            rank("put_block", "two", step, "C", *numbers(HALVES[1]))
            rank("rows", "x", step, 2)
            rank("put_ids", "u", step, 0, 6, *range(6))
        rows_as_blocks = [["put", "x", 4, "C"]] if language == "c" else []
        for words in [*WRONG_PUTS.values(), *rows_as_blocks]:
            with pytest.raises(RankError, match=named(words)):
                rank(*words)
        with pytest.raises(RankError, match=r"rank 0 .* step 3: step 3 of array '?t'? was sent"):
            rank("rewind", 3)
        rank("put", "t", 4, "C")
        rank("close", 1)
        for words in (["put", "t", 5, "C"], ["acquire", "t", 5]):
            with pytest.raises(RankError, match=named(words) + ".* closed"):
                rank(*words)


@pytest.mark.parametrize("lane", ["tcp"])
def test_a_wait_for_credit_that_ends_names_array_step_and_rank(start, sinks, tmp_path):
    spec = spec_of(shape=(8, 1000), count=40)
    (sink,) = sinks()  # which keeps what comes
    limits = {"step": 0.3}
    coupled = coupling(tmp_path, [sink], agree(spec), deadlines=limits, budget=200_000)
    with coupled as (contact, _):
        rank = joined(start, contact, tmp_path, spec)
        with pytest.raises(RankError, match="gave no credit") as late:
            for step in range(40):
                words = ["put", "t", step, "C"]
                rank(*words)
        assert re.match(named(words), str(late.value))
        rank("close", 1)


LARGE = {"shape": (1024, 1024), "count": 12}  # more than the kernel takes on the way


@pytest.mark.parametrize("lane", ["tcp"])
def test_a_receiver_that_answers_and_reads_nothing_ends_the_wait(start, sinks, tmp_path):
    spec = spec_of(**LARGE)
    (sink,) = sinks()
    contract, limits = agree(spec), {"step": 0.5}
    with (
        coupling(tmp_path, [sink], contract, deadlines=limits, budget=1 << 28) as (contact, (r,)),
        Between(r.endpoint) as between,
    ):
        between.stand_in(contact, r, contract)
        rank = joined(start, contact, tmp_path, spec)
        between.most = 1 << 20
        with pytest.raises(RankError) as late:
            for step in range(12):
                words = ["put", "t", step, "C"]
                rank(*words)
        assert re.match(named(words), str(late.value))
        assert between.held.is_set()
        assert (0, step) not in sink.chunks


@pytest.mark.parametrize("lane", ["tcp"])
def test_a_block_over_a_slow_network_takes_its_time(start, sinks, tmp_path):
    """More than the deadline, which counts from the last byte that moved."""
    spec = spec_of(**LARGE)
    (sink,) = sinks()
    contract, limits = agree(spec), {"step": 2.0}
    with (
        coupling(tmp_path, [sink], contract, deadlines=limits, budget=1 << 28) as (contact, (r,)),
        Between(r.endpoint, pause=0.03) as between,
    ):
        between.stand_in(contact, r, contract)
        rank = joined(start, contact, tmp_path, spec)
        rank("put", "t", 0, "C")
        rank("wait", 20)
        assert (0, 0) in sink.chunks
        rank("close", 1)


NO_REPLAY = {"replay_steps": 0}


@pytest.mark.parametrize("lane", ["tcp"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_blocks_one_after_the_other_without_replay(start, sinks, tmp_path, order):
    """Sent from the program's own memory, which it writes again; connections break meanwhile."""
    spec = spec_of(shape=(250, 300), count=40)
    made = sinks(2)
    contract = agree(spec, receivers=2, chunks=(1, 100, 300))
    with coupling(tmp_path, made, contract, options=NO_REPLAY) as (contact, started):
        rank = joined(start, contact, tmp_path, spec)
        rank.tell("puts", "t", 0, 40, order)
        for n in range(3, 40, 6):
            made[0].wait(lambda n=n: len(made[0].counts) >= n)
            for receiver in started:
                cut(receiver)
        rank.answer()
        rank("close", 0)
        right(contract, *made)
        assert rank.account("t")[0] == [40, 0, 40, 0, 0]


def test_blocks_one_after_the_other_wait_for_credit_and_say_so(start, sinks, tmp_path):
    """A worker is asked for memory while a rank waits: the second time after as long at least."""
    spec = spec_of(shape=(250, 300), count=6)
    (sink,) = sinks()  # which keeps what comes
    asked, long = [], 0.3

    def ask(needed):
        asked.append(needed)
        if len(asked) == 2:
            with sink.changed:
                sink.keep = False
                sink.chunks.clear()

    worker = {"budget": 2 * 250 * 300 * 8, "on_pressure": ask, "pressure_after": long}
    coupled = coupling(tmp_path, [sink], agree(spec), options=NO_REPLAY, **worker)
    with coupled as (contact, _):
        rank = joined(start, contact, tmp_path, spec)
        rank("puts", "t", 0, 6, "C")
        rank("close", 0)
        assert rank.account("t")[0] == [6, 0, 6, 0, 0]
        assert float(rank("waited")) >= long


@pytest.mark.parametrize("lane", ["tcp"])
@pytest.mark.parametrize("again", [False, True])
def test_the_programs_own_memory_is_not_sent_once_its_put_has_failed(start, sinks, tmp_path, again):
    """That step counts as not put, and may be put again."""
    spec = spec_of(shape=(250, 300), count=8)
    (sink,) = sinks()
    contract, limits = agree(spec), {"step": 0.5}
    with (
        coupling(tmp_path, [sink], contract, deadlines=limits, options=NO_REPLAY) as (file, (r,)),
        Between(r.endpoint) as between,
    ):
        between.stand_in(file, r, contract)
        rank = joined(start, file, tmp_path, spec)
        rank("put", "t", 0, "C")
        rank("wait", 10)
        between.passing.clear()
        with pytest.raises(RankError) as late:  # the first ones are copied: none went before
            rank("puts", "t", 1, 6, "C")
        failed = re.match(
            r"7: put of array '?t'? at step (\d) on rank 0: .*receiver 0 at .* did not take a "
            "block within 0.5 s",
            str(late.value),
        )
        between.cut()
        steps = [*range(int(failed[1])), *([int(failed[1])] if again else []), 7]
        for step in steps[int(failed[1]) :]:
            rank("put", "t", step, "C")
        rank("close", 0)
        assert sorted(chunk for _, chunk in sink.chunks) == steps
        came = delivered(contract.arrays[0], sink.chunks)
        assert (came[steps] == expected(contract.arrays[0])[steps]).all()
        assert rank.account("t")[0] == [len(steps), 0, len(steps), 0, 0]
        assert float(rank("waited")) >= limits["step"]


@pytest.mark.parametrize("lane", ["tcp"])
def test_a_rank_says_how_long_it_waited_for_a_receiver_to_read(start, sinks, tmp_path):
    """Its blocks are small and there is room for many, so that it fills the connection itself."""
    spec = spec_of(shape=(80, 100), count=1000)
    (sink,) = sinks()
    contract, limits = agree(spec), {"step": 0.5}
    options = {"replay_steps": 1000}
    with (
        coupling(tmp_path, [sink], contract, deadlines=limits, options=options, budget=1 << 27) as (
            file,
            (receiver,),
        ),
        Between(receiver.endpoint) as between,
    ):
        between.stand_in(file, receiver, contract)
        rank = joined(start, file, tmp_path, spec)
        rank("put", "t", 0, "C")
        rank("wait", 10)
        before = float(rank("waited"))
        between.passing.clear()
        with pytest.raises(RankError, match=r"did not read what was sent within 0.5 s"):
            rank("puts", "t", 1, 999, "C")
        assert float(rank("waited")) - before >= limits["step"]
        between.passing.set()


# -- addresses and streams -------------------------------------------------------------------------


def over_ipv6():
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.mark.parametrize("lane", ["tcp"])
@pytest.mark.skipif(not over_ipv6(), reason="this machine has no address ::1")
def test_a_receiver_at_an_address_of_ipv6(start, sinks, tmp_path):
    spec = spec_of()
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract, host="::1") as (contact, (receiver,)):
        assert receiver.endpoint.host == "::1"
        rank = joined(start, contact, tmp_path, spec)
        for step in range(6):
            rank("put", "t", step, "C")
        cut(receiver)
        rank("close", 0)
        right(contract, sink)


@pytest.mark.parametrize("lane", ["tcp"])
def test_messages_and_signs_of_life_that_come_in_parts(start, sinks, tmp_path):
    spec = spec_of(count=6)
    (sink,) = sinks()
    contract = agree(spec)
    with (
        coupling(tmp_path, [sink], contract, heartbeat=0.001) as (contact, (receiver,)),
        Between(receiver.endpoint, part=5) as between,
    ):
        between.stand_in(contact, receiver, contract)
        rank = joined(start, contact, tmp_path, spec)
        for step in range(6):
            rank("put", "t", step, "C")
        rank("close", 0)
        right(contract, sink)
        assert len(sink.hellos) == 2  # of the request, and of the data


# -- connections that break ------------------------------------------------------------------------


PHASES = ["before", "between", "open", "flushed", "closing"]


@pytest.mark.parametrize("phase", PHASES)
def test_connection_cut(start, sinks, tmp_path, phase):
    spec = spec_of(shape=(60, 70), count=12)
    (sink,) = sinks()
    contract = agree(spec, chunks=(1, 30, 70))
    with coupling(tmp_path, [sink], contract) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(12):
            if phase == "before" and step == 0:
                cut(receiver)
            if phase == "flushed":
                rank("wait", 5)
                cut(receiver)
            if phase == "open":
                rank("acquire", "t", step)
                cut(receiver)
                rank("fill", "t", step)
                rank("publish", "t")
            else:
                rank.tell("put", "t", step, "C")
                if phase == "between":
                    cut(receiver)
                rank.answer()
        rank.tell("close", 0)
        if phase == "closing":
            cut(receiver)
        rank.answer()
        right(contract, sink)
        assert rank.account("t")[0] == [12, 0, 12, 0, 0]


@pytest.mark.parametrize("lane", ["tcp"])
def test_a_receiver_whose_connection_breaks_before_the_goodbye_gets_it(start, sinks, tmp_path):
    """Though the other receiver has answered: it would count the rank as lost."""
    spec = spec_of()
    made = sinks(2)
    contract = agree(spec, receivers=2)
    with (
        coupling(tmp_path, made, contract, hold_byes=True) as (contact, (first, second)),
        Between(second.endpoint) as between,
    ):
        between.stand_in(contact, second, contract, [first])
        rank = joined(start, contact, tmp_path, spec)
        for step in range(6):
            rank("put", "t", step, "C")
        rank("wait", 10)
        between.accepting.clear()
        between.cut()
        rank.tell("close", 0)
        made[0].wait(lambda: made[0].byes)
        first.release_ranks()
        second.release_ranks()
        between.accepting.set()
        rank.answer()
        assert list(made[1].byes) == [0]
        assert not made[1].losses
        right(contract, *made)


@pytest.mark.parametrize("lane", ["tcp"])
def test_a_receiver_that_has_ended_is_not_waited_for(start, sinks, tmp_path):
    spec = spec_of()
    made = sinks(2)
    limits = {"connect": 100.0}
    with coupling(tmp_path, made, agree(spec, receivers=2), deadlines=limits) as (contact, started):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(6):
            rank("put", "t", step, "C")
        rank("wait", 10)
        started[1].close()
        rank("close", 0)
        assert list(made[0].byes) == [0]


def test_connections_cut_at_random(start, sinks, tmp_path):
    spec = spec_of(shape=(100, 100), count=60)
    (sink,) = sinks()
    contract = agree(spec)  # a piece is a whole chunk: a slot may become the chunk itself
    with coupling(tmp_path, [sink], contract) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec)
        over = threading.Event()

        def scissors():
            rng = np.random.default_rng(5)
            while not over.wait(float(rng.uniform(0.002, 0.02))):
                cut(receiver)

        thread = threading.Thread(target=scissors)
        thread.start()
        try:
            for step in range(60):
                rank("put", "t", step, "C")
        finally:
            over.set()
            thread.join()
        rank("close", 0)
        right(contract, sink)


def test_rows_survive_cuts(start, sinks, tmp_path):
    spec = ArraySpec("x", "<f4", (-1, 3), StepAxis(count=12), ragged=True)
    (sink,) = sinks()
    contract = agree(spec)
    with coupling(tmp_path, [sink], contract) as (contact, (receiver,)):
        ranks = [start(i, 2) for i in range(2)]
        for rank in ranks:
            rank.offer(spec, (), ())
        join_all(ranks, contact, tmp_path)
        for step in range(12):
            for number, rank in enumerate(ranks):
                rank.tell("rows", "x", step, (step * (3 + number)) % 5)
            if step % 3 == 1:
                cut(receiver)
            for rank in ranks:
                rank.answer()
        for rank in ranks:
            rank.tell("close", 0)
        for rank in ranks:
            rank.answer()
        for step in range(12):
            rows = [row_cells(n, (step * (3 + n)) % 5, 3, step) for n in range(2)]
            value = np.ascontiguousarray(sink.chunks[0, step])
            raw = value.view(np.uint8).reshape(-1, 3, 4)
            assert (raw == np.concatenate(rows)).all()


# -- receivers that die, hang or move --------------------------------------------------------------


def test_another_receiver_takes_over(start, sinks, tmp_path):
    spec = spec_of(count=6)
    made = sinks(2)
    contract = agree(spec, receivers=2)
    array = contract.arrays[0]
    with coupling(tmp_path, made, contract, options={"replay_steps": 3}) as (contact, receivers):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(3):
            rank("put", "t", step, "C")
        rank("wait", 5)
        made[1].chunks.clear()
        receivers[1].close()
        again = [(0, c) for c in range(12) if array.placement.owner(c) == 1]
        after = replace(array.placement, [0])
        receivers[0].set_placement({0: after}, [receivers[0].endpoint], again)
        for step in range(3, 6):
            rank("put", "t", step, "C")
        rank("close", 0)
        assert (delivered(array, made[0].chunks) == expected(array)).all()
        assert not made[0].missed


def test_drop_waits_for_the_credit_of_a_receiver_that_takes_over(start, sinks, tmp_path):
    """Ranks may hear of a new placement before the new owner has given credit for it."""
    spec = spec_of(count=6)
    made = sinks(2)
    contract = agree(spec, receivers=2, chunks=(1, 8, 12), policy="drop")
    contract = replace_placement(contract, Placement(0, 2, (1, 0)))  # step 5 is of receiver 0
    after, rows = {0: Placement(1, 1, (1,))}, {0: (5, 5)}
    with coupling(tmp_path, made, contract) as (contact, receivers):
        endpoints = [receiver.endpoint for receiver in receivers]
        rank = joined(start, contact, tmp_path, spec)
        for step in range(5):
            rank("put", "t", step, "C")
        rank("wait", 5)
        receivers[0].set_placement(after, endpoints, rows=rows)
        receivers[0].feedback("placed", 1.0, 0)
        assert rank("receive", "placed", 0, 5).split()[-1] == "1"
        later = threading.Timer(0.3, receivers[1].set_placement, (after, endpoints), {"rows": rows})
        later.start()
        rank("put", "t", 5, "C")
        later.join()
        rank("close", 0)
        assert rank.account("t")[0] == [6, 0, 6, 0, 0]
        right(contract, *made)


def test_a_chunk_of_many_steps_moves_when_some_of_them_are_put(start, sinks, tmp_path):
    """Its receiver dies after five of eight steps, which are more than REPLAY_STEPS."""
    spec = spec_of(count=8)
    made = sinks(2)
    contract = agree(spec, receivers=2, chunks=(8, 8, 12))
    array = contract.arrays[0]
    (dying,) = {array.placement.owner(0)}
    with coupling(tmp_path, made, contract, options={"replay_steps": 1}) as (contact, receivers):
        rank = joined(start, contact, tmp_path, spec)
        for step in range(5):
            rank("put", "t", step, "C")
        rank("wait", 5)
        receivers[dying].close()
        after, other = replace(array.placement, [1 - dying]), receivers[1 - dying]
        other.set_placement({0: after}, [other.endpoint], [(0, 0)])
        for step in range(5, 8):
            rank("put", "t", step, "C")
        rank("close", 0)
        right(contract, made[1 - dying])
        assert not made[1 - dying].missed


@pytest.mark.parametrize("policy", ["continue", "abort"])
@pytest.mark.parametrize("limits", [{"connect": 0.4}, {"connect": 2.0, "step": 0.5}])
def test_all_receivers_are_lost(start, sinks, tmp_path, policy, limits):
    spec = spec_of(count=12)
    (sink,) = sinks()
    options = {"on_analytics_loss": policy}
    with coupling(tmp_path, [sink], agree(spec), deadlines=limits, options=options) as (
        contact,
        (receiver,),
    ):
        rank = joined(start, contact, tmp_path, spec)
        rank("put", "t", 0, "C")
        rank("wait", 5)
        receiver.close()
        if policy == "abort":
            with pytest.raises(RankError) as lost:
                for step in range(1, 12):
                    rank("put", "t", step, "C")
            assert lost.value.code == LOST
            return
        for step in range(1, 12):
            rank("put", "t", step, "C")
        assert rank("lost")
        rank("close", 0)
        blocks, nbytes = rank.account("t")
        assert blocks[0] == 12 == sum(blocks[1:])
        assert nbytes[0] == sum(nbytes[1:])


def test_a_receiver_that_hangs_costs_the_others_nothing(start, sinks, tmp_path):
    spec = spec_of(count=3)
    with receiver_process(tmp_path, agree(spec), {}) as (contact, process):
        hung = contacts.read(contact).endpoints[0]
        stop(process.pid)
        (sink,) = sinks()
        contract = agree(spec)
        other = tmp_path / "other"
        other.mkdir()
        with coupling(other, [sink], first=1, deadlines={"connect": 8.0}) as (
            path,
            (receiver,),
        ):
            # Only the opening may meet the one that hangs: the chunks belong to the other one.
            known = contacts.read(path)
            contract = replace_placement(contract, Placement(0, 1, (1,)))
            receiver.set_contract(contract, (hung, receiver.endpoint))
            path.unlink()
            contacts.write(
                path,
                contacts.Contact(
                    RUN, known.token, (hung, receiver.endpoint), known.deadlines, known.options
                ),
            )
            rank = joined(start, path, other, spec)
            for step in range(3):
                rank("put", "t", step, "C")
            with contextlib.suppress(RankError):
                rank("close", 0, timeout=30)
            right(contract, sink)


def replace_placement(contract, placement):
    """The contract with another placement of its only array."""
    return changed(contract, arrays=(changed(contract.arrays[0], placement=placement),))


# -- values from the analysis ----------------------------------------------------------------------


def test_values_arrive(start, sinks, tmp_path):
    spec = spec_of(count=3)
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec)) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec)
        receiver.feedback("gain", np.array([0.5, 0.25]), 1)
        assert rank("receive", "gain", 1, 5).split()[-2:] == ["0.5", "0.25"]
        assert rank("receive", "gain", 2, 0).split()[-2:] == ["0.5", "0.25"]
        with pytest.raises(RankError):
            rank("receive", "gain", 0, 0)
        with pytest.raises(RankError):
            rank("receive", "gain", 2, 0.1)
        rank("close", 0)


def test_two_versions_of_a_large_value_are_kept(start, sinks, tmp_path):
    spec = spec_of(count=3)
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec)) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec)
        for version in range(1, 4):
            receiver.feedback("net/w", np.full(8192, version), version)  # 64 KiB
        receiver.feedback("net", 7.5, 3)
        assert rank("receive", "net", 3, 5).split()[-1] == "7.5"
        for version in (3, 2):
            assert set(rank("receive", "net/w", version, 0).split()[-8192:]) == {str(version)}
        with pytest.raises(RankError):
            rank("receive", "net/w", 1, 0)
        rank("close", 0)


def test_stop_ends_waiting_and_sending(start, sinks, tmp_path):
    spec = spec_of(count=6)
    (sink,) = sinks()
    with coupling(tmp_path, [sink], agree(spec)) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec)
        rank("put", "t", 0, "C")
        receiver.stop("enough")
        with pytest.raises(RankError) as stopped:
            rank("receive", "gain", 1, 10)
        assert stopped.value.code == STOPPED
        assert rank("stop") == "1"
        for step in range(1, 6):
            rank("put", "t", step, "C")
        rank("close", 0)
        blocks, _ = rank.account("t")
        assert blocks[0] == 6 == sum(blocks[1:])
        assert blocks[4] == 0


def test_what_is_lost_ends_waiting_at_once(start, sinks, tmp_path):
    spec = spec_of(count=6)
    (sink,) = sinks()
    limits = {"connect": 0.4, "step": 60.0}
    with coupling(tmp_path, [sink], agree(spec), deadlines=limits) as (contact, (receiver,)):
        rank = joined(start, contact, tmp_path, spec)
        receiver.close()
        with pytest.raises(RankError) as lost:
            rank("receive", "gain", 1, 60)
        assert lost.value.code == LOST
