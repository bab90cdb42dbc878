"""Names, keys and ranges: what a client may ask for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ips_components.errors import ExternalTaskError
from ips_components.external.names import (
    ExternalName,
    check_key,
    chunk_index,
    key_name,
    linear_index,
)

GRIDS = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@given(GRIDS)
def test_keys_come_in_c_order(numblocks):
    keys = list(ExternalName("x", numblocks).keys())
    assert keys == [("x", *index) for index in np.ndindex(*numblocks)]
    assert [linear_index(key[1:], numblocks) for key in keys] == list(range(len(keys)))
    assert [chunk_index(i, numblocks) for i in range(len(keys))] == [key[1:] for key in keys]


@given(GRIDS, st.data())
def test_ranges_select_by_linear_id(numblocks, data):
    everything = list(ExternalName("x", numblocks).keys())
    cuts = sorted(data.draw(st.sets(st.integers(0, len(everything)), max_size=6)))
    ranges = tuple(zip(cuts[::2], cuts[1::2], strict=False))
    spec = ExternalName("x", numblocks, ranges)
    chosen = list(spec.keys())
    assert chosen == [key for a, b in ranges for key in everything[a:b]]
    assert [key for key in everything if key in spec] == chosen


@pytest.mark.parametrize(
    "arguments",
    [
        ("", (1,)),
        ("x" * 600, (1,)),
        (7, (1,)),
        ("x", ()),
        ("x", [3]),
        ("x", (0,)),
        ("x", (-1,)),
        ("x", (2.0,)),
        ("x", (True,)),
        ("x", (10**5, 10**5)),
        ("x", (1,) * 40),
        ("x", (4,), ((2, 1),)),
        ("x", (4,), ((0, 5),)),
        ("x", (4,), ((1, 1),)),
        ("x", (4,), ((2, 3), (0, 1))),
        ("x", (4,), ((0, 2), (1, 3))),
        ("x", (4,), ((0.0, 2.0),)),
        ("x", (4,), ("ab",)),
        ("x", (2,), None, ((1, 2, 3),)),
        ("x", (2,), None, ((1, -2),)),
    ],
)
def test_descriptions_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ExternalTaskError):
        ExternalName(*arguments)


@pytest.mark.parametrize(
    "key",
    ["", 5, None, b"x", ("x",), ("x", -1), ("x", 1.0), ("x", "y"), (1, 2), ("", 1), "x" * 501, []],
)
def test_keys_that_are_none_are_refused(key):
    with pytest.raises(ExternalTaskError, match="key of an external task"):
        check_key(key)


def test_shape_of_a_chunk():
    spec = ExternalName("x", (2, 2), None, ((3, 1), (2, 5)), "<f8")
    assert spec.shape(("x", 1, 1)) == (1, 5)
    assert key_name("plain") == "plain"
