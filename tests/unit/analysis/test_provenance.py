"""Names and units of plain results, from the external arrays that they are made of."""

from __future__ import annotations

import dask.array as da
import pytest

from ips_components.analysis.provenance import provenance

from .simulated import offer, spec


@pytest.fixture
def t():
    # Equal extents, so that sizes cannot tell which dimension is which.
    return offer(spec(shape=(8, 8), count=8, attrs={"units": "K"}))["t"]


def add(block):
    """Named like an operation that keeps units."""
    return block * block


CASES = {
    "whole": (lambda t: t, "time y x", "K"),
    "view": (lambda t: t[::2, 3], "time x", "K"),
    "mean over time": (lambda t: t.mean(axis=0), "y x", "K"),
    "mean over y": (lambda t: t.mean(axis=1), "time x", "K"),
    "maximum over space": (lambda t: t.max(axis=(1, 2)), "time", "K"),
    "sum with axes kept": (lambda t: t.sum(axis=1, keepdims=True), "time y x", "K"),
    "difference": (lambda t: t[1:] - t[:-1], "time y x", "K"),
    "anomaly": (lambda t: t - t.mean(axis=0), "time y x", "K"),
    "offset": (lambda t: (t + 273.15)[4], "y x", "K"),
    "square": (lambda t: (t**2).mean(axis=(0, 2)), "y", ""),
    "scaled": (lambda t: 2 * t, "time y x", ""),
    "deviation": (lambda t: t.std(axis=2), "time y", ""),
    "share": (lambda t: (t > 3).mean(axis=0), "y x", ""),
    "transposed": (lambda t: da.transpose(t)[1], "y time", "K"),
    "rechunked": (lambda t: t.rechunk({0: 3}).min(axis=0), "y x", "K"),
    "number": (lambda t: t.mean(), "", "K"),
    "new axis": (lambda t: (t.mean(axis=0) * 1.0)[None, :, 2], "- y", ""),
    "stacked": (lambda t: da.stack([t[0], t[1]]), "- - -", ""),
    "histogram": (lambda t: da.histogram(t, bins=3, range=(0, 1))[0], "-", ""),
    "product": (lambda t: t.mean(axis=(1, 2))[:, None] * t.mean(axis=(1, 2))[None], "- -", ""),
    "own function": (lambda t: t.map_blocks(add).mean(axis=0), "y x", ""),
    "not external": (lambda t: da.ones((3, 4)), "- -", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_names_and_units_follow_from_the_source(t, name):
    make, dims, units = CASES[name]
    array = make(t)
    expected = tuple("" if dim == "-" else dim for dim in dims.split())
    found = provenance(array)
    assert (found.dims, found.units) == (expected, units)
    assert len(expected) == array.ndim


def test_arrays_of_other_units_have_none_together():
    arrays = offer(spec("t", attrs={"units": "K"}), spec("p", attrs={"units": "Pa"}))
    found = provenance(arrays["t"] + arrays["p"])
    assert (found.dims, found.units) == (("time", "y", "x"), "")


def test_a_deep_graph_is_no_problem(t):
    array = t
    for _ in range(3000):
        array = array + 1
    assert provenance(array).dims == ("time", "y", "x")


STEPS = {
    "whole": (lambda t: t, range(8)),
    "view": (lambda t: t[1::3, 3], range(1, 8, 3)),
    "mean over y": (lambda t: t.mean(axis=1), range(8)),
    "anomaly": (lambda t: t - t.mean(axis=0), range(8)),
    "sliced later": (lambda t: t.mean(axis=1)[2:6:2], None),
    "space sliced later": (lambda t: t.mean(axis=1)[:, 2:4], range(8)),
    "rechunked": (lambda t: t.rechunk({0: 3}).max(axis=2), range(8)),
    "one step": (lambda t: t[3], None),
    "mean over time": (lambda t: t.mean(axis=0), None),
    "mean over time, kept": (lambda t: t.mean(axis=0, keepdims=True), None),
    "difference": (lambda t: t[1:] - t[:-1], None),
    "not external": (lambda t: da.ones((3, 4)), None),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_follow_from_the_source(t, name):
    """Those of a difference are of neither operand."""
    make, steps = STEPS[name]
    found = provenance(make(t)).time
    assert (None if found is None else found.steps) == steps
    assert found is None or (found.dim, found.run) == ("time", t.source.run)
