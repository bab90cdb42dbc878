"""What a picture of an array on the live page consists of, and when one is asked for."""

import base64

import numpy as np
import pytest

from ips_components.coordination.pictures import Pictures
from ips_components.live.pictures import NO_NUMBER, SIDE, make_picture, picture_region
from ips_components.model.spec import ArraySpec, StepAxis


def picture(value, shape, dtype="f8"):
    spec = ArraySpec("t", dtype, shape, StepAxis(count=9))
    return make_picture(spec, picture_region(shape), 7, value)


def cells(found):
    return np.frombuffer(found["cells"], np.uint8).reshape(found["shape"])


def test_bytes_go_from_the_lowest_to_the_highest_cell():
    found = picture(np.array([[-1.0, np.nan], [0.0, 3.0]]), (2, 2))
    np.testing.assert_array_equal(cells(found), [[0, NO_NUMBER], [64, NO_NUMBER - 1]])
    assert (found["step"], found["low"], found["high"]) == (7, -1.0, 3.0)


@pytest.mark.parametrize("value", [np.full(3, 5), np.full(3, True), np.float64(5)])
def test_cells_that_are_all_equal(value):
    found = picture(value, np.shape(value))
    assert set(cells(found).ravel()) == {0}
    assert found["shape"] == [1, np.size(value)]
    assert found["low"] == found["high"] == value.max()


def test_the_largest_numbers_have_a_picture():
    most = np.finfo(float).max
    found = picture(np.array([-most, 0.0, most]), (3,))
    np.testing.assert_array_equal(cells(found), [[0, 127, NO_NUMBER - 1]])


def test_no_number_at_all():
    found = picture(np.full((2, 2), np.inf), (2, 2))
    assert set(cells(found).ravel()) == {NO_NUMBER}
    assert found["low"] is found["high"] is None


def test_few_cells_of_a_large_array_are_sent():
    region = picture_region((5, 7, 3000, 100))
    assert region[:2] == (2, 3)
    sizes = [len(range(3000)[region[2]]), len(range(100)[region[3]])]
    assert sizes == [250, 100]
    assert max(sizes) <= SIDE
    found = picture(np.zeros(sizes), (5, 7, 3000, 100))
    assert found["at"] == {"dim_1": 2, "dim_2": 3}
    assert (found["dims"], found["every"]) == (["dim_3", "dim_4"], [12, 1])


def test_pictures_are_asked_for_as_long_as_a_browser_looks():
    now, asked = [0.0], []
    pictures = Pictures(asked.append, clock=lambda: now[0])
    pictures.show("t", {"step": 1, "cells": b"x"})  # not shown in any browser
    assert pictures.look("t", goes_on=True) is None
    assert asked == ["t"]
    pictures.show("t", {"step": 2, "cells": b"x"})
    for _ in range(4):  # several browsers
        found = pictures.look("t", goes_on=True)
    assert asked == ["t"]
    assert found == {"step": 2, "cells": base64.b64encode(b"x").decode()}
    now[0] = 1.5
    assert pictures.look("t", goes_on=True)["step"] == 2
    assert asked == ["t", "t"]
    now[0] = 60.0  # not shown for long
    assert pictures.look("t", goes_on=True) is None
    pictures.show("t", {"step": 9, "cells": b""})
    now[0] = 300.0  # the last picture stays
    assert pictures.look("t", goes_on=False)["step"] == 9
    assert asked == ["t"] * 3
