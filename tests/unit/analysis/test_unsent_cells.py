"""No result is made of a cell that is not sent.

Each expression is computed with all cells, and with those of the contract among garbage: memory of
chunks is recycled, so that any value may be where nothing was sent. The results are equal, bit for
bit.
"""

import functools
import logging
import operator
import os
import random
import time
import warnings

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

from ips_components.analysis.cells import search
from ips_components.analysis.contract import contract_from_graph
from ips_components.errors import ContractError

from .expressions import chain
from .simulated import RUN, deliver, field_of, offer, spec

SPEC = spec(shape=(6, 4), count=8)
FIELD = field_of(SPEC) - 0.5
CHUNKS = [(2, 3, 2), (1, 6, 4), (8, 2, 4), (3, 4, 3)]
GARBAGE = (np.nan, 7e200, -3.25)


def compute(result, external):
    def get(graph, keys, **options):
        tasks = graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph
        return dask.get({**dict(tasks), **external}, keys)

    return dask.compute(result, scheduler=get)[0]


def chunks_of(array, garbage):
    """Yield keys and values of the chunks of a contract, with garbage where nothing is sent."""
    sent = deliver(array, np.ones_like(FIELD))
    for chunk in array.needed_ids().tolist():
        key, all_cells = array.key(chunk), FIELD[array.chunk_selection(chunk).to_slices()]
        value = all_cells.copy() if garbage is None else np.where(sent[key], all_cells, garbage)
        value.flags.writeable = False
        yield key, value


def same(one, other):
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(one)
        return np.array_equal(mask, np.ma.getmaskarray(other)) and same(
            one.filled(0), other.filled(0)
        )
    if isinstance(one, xr.Dataset):
        return all(same(one[name], other[name]) for name in one)
    one, other = np.asarray(one), np.asarray(other)
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if one.dtype.hasobject:
        return repr(one.tolist()) == repr(other.tolist())
    return np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")


def check(function, chunks=CHUNKS[0]):
    """Compare; return the share of cells that is asked for, or None if dask has no such call."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        arrays = offer(SPEC, chunks=chunks)
        try:
            ordinary = function(da.from_array(FIELD, chunks=chunks))
            value = dask.compute(ordinary, scheduler="sync")[0]
            result = function(arrays["t"])
        except Exception:
            return None
        if not dask.is_dask_collection(result):
            return None
        try:
            wanted = contract_from_graph(result, arrays, run=RUN).arrays
        except ContractError as error:
            assert "does not depend on any external array" in str(error)
            wanted = ()

        def of(garbage):
            return compute(result, dict(each for a in wanted for each in chunks_of(a, garbage)))

        try:
            expected = of(None)
        except TypeError as error:  # an index of dask with a list and a new axis
            assert "missing 1 required positional argument: 'axis'" in str(error)
            return None
        if isinstance(value, np.ndarray) and value.dtype.kind in "fc":
            assert value.shape != ordinary.shape or np.allclose(
                expected, value, rtol=1e-9, atol=1e-12, equal_nan=True
            )
        for garbage in GARBAGE:
            assert same(of(garbage), expected), f"differs with {garbage} in cells that are not sent"
        return sum(part.size for a in wanted for part in a.wanted) / FIELD.size


def square(x):
    return x[:, :4].rechunk((2, 4, 4))


@functools.wraps(np.absolute)
def like_numpy(block):
    return block - block.mean()


like_numpy.__name__, like_numpy.__module__ = "abs", "numpy"


def add(row):
    return row - row.mean()


def largest_first(block, axis=None):
    return block.mean(axis=axis) - block.max()


centred = np.vectorize(add, signature="(n)->(n)", otypes=[float])


def labelled(x):
    coords = {"y": np.arange(6.0), "x": np.arange(4.0)}
    return xr.DataArray(x, dims=("time", "y", "x"), coords=coords)


@pytest.mark.parametrize(
    "function",
    [
        # called as functions of NumPy are that work cell by cell
        lambda x: square(x).map_blocks(np.linalg.inv, dtype=float)[:, 0, 0],
        lambda x: x.map_blocks(like_numpy)[:, 0, 0],
        lambda x: x.map_blocks(centred, dtype=float)[:, 0, 0],
        # of one name, with other axes
        lambda x: da.stack(
            [
                square(x).map_blocks(each, drop_axis=0, dtype=float)[0].sum()
                for each in (np.diagonal, np.linalg.diagonal)
            ]
        ),
        # a weight of 0 makes a difference where something is not a number; not linear
        lambda x: labelled(x).interp(y=[1.0, 2.5]).data,
        lambda x: labelled(x).interp(y=[1.0, 2.5], x=[1.0, 2.0]).data,
        lambda x: labelled(x).isel(x=1).interp(y=[2.5], method="pchip").data,
        # an array among the options that broadcasts
        lambda x: x[:, :1].map_blocks(
            np.clip, 0, a_max=np.ones((2, 3, 2)), chunks=((2,) * 4, (3,), (2, 2))
        )[:, 1:],
        lambda x: x.map_blocks(operator.getitem, True, dtype=float, new_axis=0)[0, 0],
        # mixes slices where one has no number, for an array q of two dimensions
        lambda x: da.nanquantile(x, [[0.3], [1.0]], axis=(0, 1))[..., 1:],
        # a function that is applied to windows looks at all of the block
        lambda x: da.coarsen(largest_first, x, {1: 2})[2],
        # refuses slices without any number
        lambda x: da.nanargmax(x, axis=1)[3, 1],
        lambda x: labelled(x).idxmax("y").isel(x=1, time=3).data,
    ],
)
def test_what_once_asked_for_too_few_cells(function):
    assert check(function) is not None


def test_where_a_function_is_not_as_assumed_no_contract_fails():
    def analysis(x):
        x = da.insert(da.rollaxis(x, 1), 1, 7, axis=1)
        x = xr.DataArray(x, dims=("y", "time", "x"))
        mean = x.weighted(xr.DataArray(np.arange(1.0, 7), dims="y")).mean("y").data
        return mean.reshape(36, merge_chunks=False)[::-1]

    assert check(analysis, CHUNKS[3]) is not None


def test_little_is_made_of_ordinary_arrays(monkeypatch, caplog):
    monkeypatch.setattr(search, "MAX_MADE", 1000)
    made = []

    def analysis(x):
        mask = da.from_array(Recorded(made), chunks=(2, 3, 2), meta=np.empty((0, 0, 0), bool))
        return da.where(mask, x, 0)[3]

    arrays = offer(SPEC, chunks=CHUNKS[0])
    with caplog.at_level(logging.WARNING):
        contract_from_graph(analysis(arrays["t"]), arrays, run=RUN)
    assert 0 < sum(made) <= 1000 + 12 * 8


class Recorded:
    """An array in a file, as zarr and h5py have it."""

    shape, dtype, ndim = (8, 6, 4), np.dtype(float), 3

    def __init__(self, made):
        self.made = made

    def __getitem__(self, key):
        part = np.ones(self.shape)[key]
        self.made.append(part.nbytes)
        return part


def random_chain(seed):
    chunks = CHUNKS[seed % len(CHUNKS)]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        functions = chain(random.Random(seed), da.from_array(FIELD, chunks=chunks))
    return check(lambda x: functools.reduce(lambda y, f: f(y), functions, x), chunks)


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_random_chains(first):
    shares = [random_chain(seed) for seed in range(first, first + 20)]
    assert sum(share is not None for share in shares) > 14
    assert sum(share is not None and share < 1 for share in shares) > 6


@pytest.mark.campaign
def test_random_chains_of_a_campaign():
    seconds = float(os.environ.get("CAMPAIGN_SECONDS", "600"))
    start = random.SystemRandom().randrange(1 << 40)
    until = time.monotonic() + seconds
    seed = start
    while time.monotonic() < until:
        try:
            random_chain(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        seed += 1
