from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_components.errors import GeometryError
from ips_components.model import Block, ChunkLayout, Placement, Selection, affinity, place, replace
from ips_components.model.placement import share, switch

from .strategies import PROFILE


def layout(n_time, n_space):
    return ChunkLayout((n_time, n_space), ((1,) * n_time, (1,) * n_space))


@given(st.integers(1, 9), st.integers(1, 30), st.data())
@PROFILE
def test_even_load(n_space, n_time, data):
    receivers = sorted(data.draw(st.sets(st.integers(0, 20), min_size=1, max_size=6)))
    placement = place(layout(n_time, n_space), receivers)
    load = Counter(placement.owner(c) for c in range(placement.period * n_space))
    assert set(load) <= set(receivers)
    assert max(load.values()) - min(load[r] for r in receivers) <= 1
    assert placement == place(layout(n_time, n_space), receivers[::-1])


def test_only_needed_chunks_count_as_load():
    placement = place(layout(8, 4), [0, 1], needed=[0])
    assert [placement.owner(4 * t) for t in range(4)] == [0, 1, 0, 1]


def test_chunks_go_to_the_host_of_their_blocks():
    grid = ChunkLayout((5, 8), ((1,) * 5, (4, 4)))
    blocks = {"a": [Block((0,), (3,))], "b": [Block((3,), (5,))]}
    cells = affinity(grid, [Selection.full((5, 8))], blocks)
    assert {host: c.tolist() for host, c in cells.items()} == {"a": [15, 0], "b": [5, 20]}
    hosts = {0: "b", 1: "a", 2: "b"}
    placement = place(grid, hosts, hosts=hosts, cells=cells)
    assert [placement.owner(c) for c in (0, 2, 4)] == [1, 1, 1]
    assert {placement.owner(c) for c in (1, 3)} == {0, 2}
    strided = affinity(grid, [Selection.from_key(np.s_[::2, ::2], (5, 8))], blocks)
    assert {host: c.tolist() for host, c in strided.items()} == {"a": [6, 0], "b": [0, 6]}


def test_hosts_without_receivers_take_part_in_the_even_load():
    grid = ChunkLayout((5, 8), ((1,) * 5, (4, 4)))
    cells = affinity(grid, [Selection.full((5, 8))], {"far": [Block((0,), (8,))]})
    assert place(grid, [0, 1], hosts={0: "a", 1: "b"}, cells=cells).owners == (0, 1)


@given(st.integers(1, 8), st.integers(1, 20), st.data())
@PROFILE
def test_replacing_moves_little(n_space, n_time, data):
    ordinals = st.sets(st.integers(0, 6), min_size=1, max_size=5)
    before = place(layout(n_time, n_space), sorted(data.draw(ordinals)))
    now = sorted(data.draw(ordinals))
    after = replace(before, now)
    assert after.epoch == before.epoch + 1 and after.period == before.period
    load = Counter(after.owners)
    assert set(load) <= set(now)
    assert max(load.values()) - min(load[r] for r in now) <= 1
    # At least so many must move: all of those that left, and what is above an even share.
    most = -(-len(after.owners) // len(now))
    kept = Counter(o for o in before.owners if o in now)
    least = len(before.owners) - sum(min(n, most) for n in kept.values())
    moved = sum(a != b for a, b in zip(before.owners, after.owners, strict=True))
    assert least <= moved <= least + len(now)


def test_nobody_left():
    with pytest.raises(GeometryError, match="start at least one worker"):
        place(layout(1, 1), [])
    with pytest.raises(GeometryError, match="no receiver left"):
        replace(Placement(0, 1, (0,)), [])


@pytest.mark.parametrize("bad", [(-1, 1, (0,)), (0, 2, (0, 1, 2)), (0, 1, ()), (0, 1, (-1,))])
def test_impossible_placements(bad):
    with pytest.raises(GeometryError):
        Placement(*bad)


@given(st.integers(1, 6), st.integers(1, 20), st.data())
@PROFILE
def test_everybody_gets_an_even_share(n_space, n_time, data):
    before = place(layout(n_time, n_space), [0])
    receivers = range(data.draw(st.integers(1, 6)))
    after = share(before, receivers)
    load = Counter(after.owners)
    assert set(load) == set(receivers)
    assert max(load.values()) == min(load.values())


@given(st.integers(1, 5), st.integers(1, 60), st.data())
@PROFILE
def test_what_is_on_its_way_does_not_move(n_space, rows, data):
    draw = data.draw
    old = place(layout(rows, n_space), range(draw(st.integers(1, 3))))
    new = share(old, range(draw(st.integers(1, 5))))
    first = draw(st.integers(0, rows))
    window = range(first, draw(st.integers(first, rows)))
    after = switch(old, new, window, rows)
    for chunk in range(rows * n_space):
        if chunk // n_space in window:
            assert after.owner(chunk) == old.owner(chunk)
    beyond = range(window.stop * n_space, rows * n_space)
    moved = [chunk for chunk in beyond if after.owner(chunk) != new.owner(chunk)]
    assert 16 * len(moved) <= max(len(beyond), 16) + 16 * len(window) * n_space
    assert after.epoch > max(old.epoch, new.epoch)


def test_a_table_that_would_be_too_large_is_not_made():
    old = Placement(0, 1, (0,))
    assert switch(old, Placement(1, 2, (0, 1)), range(5000), 1 << 40) is None
    with pytest.raises(GeometryError, match="1 chunks in space cannot become 2"):
        switch(old, Placement(1, 1, (0, 1)), range(0), 4)
