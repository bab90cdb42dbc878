"""What is asked for is what the results are made of, cell by cell."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ips_components.analysis.cells import Region
from ips_components.analysis.contract import contract_from_graph

from .simulated import RUN, couple, deliver, execute, field_of, offer, spec

SPEC = spec(shape=(5, 4), count=6)  # 120 cells, each of which is tried
FIELD = field_of(SPEC)
CHUNKS = (2, 3, 2)
POINTS = ([0, 3, 5], [1, 4, 4], [3, 0, 2])
windows = np.lib.stride_tricks.sliding_window_view


def cells_of(function, field, changes=(-10.0, 10.0)):
    """Return which cells make a difference to the result of a function of NumPy."""
    first = np.asarray(function(field))
    needed = np.zeros(field.shape, bool)
    for index in np.ndindex(field.shape):
        for change in changes:
            other = field.copy()
            other[index] += change
            with np.errstate(invalid="ignore"):
                needed[index] |= not np.array_equal(
                    np.asarray(function(other)), first, equal_nan=True
                )
    return needed


def asked_for(contract):
    asked = np.zeros(FIELD.shape, bool)
    for part in contract["t"].wanted:
        asked[part.to_slices()] = True
    return asked


def check(lazy, plain, chunks=CHUNKS):
    value, contract, _ = couple(lazy, SPEC, chunks=chunks)
    expected = np.asarray(plain(FIELD))
    np.testing.assert_allclose(np.asarray(value), expected, rtol=1e-12)
    assert value.dtype == expected.dtype
    np.testing.assert_array_equal(asked_for(contract), cells_of(plain, FIELD))


@pytest.mark.parametrize(
    "function",
    [
        # element-wise, casts, copies, transpositions, and then a part
        lambda x: (x * 2 + 1)[::2, 1:3],
        lambda x: x.astype("f4")[3, :, 2],
        lambda x: np.where(x > 0.5, x, -1)[1:4, 2],
        lambda x: np.where(np.eye(5, 4) > 0, x, 0).sum(axis=0),
        lambda x: np.where(np.arange(5)[:, None] > 2, x, x[::-1])[1],
        lambda x: np.clip(x, 0.2, 0.8)[4, ::2],
        lambda x: np.nan_to_num(np.sqrt(abs(x)))[:, 2, ::-2],
        lambda x: np.round(x, 1)[5, 1:],
        lambda x: x.T[1],
        lambda x: np.moveaxis(x, 0, -1)[2, :, 4],
        lambda x: np.swapaxes(x, 0, 2)[1:3, 4],
        lambda x: np.transpose(x, (1, 2, 0)).astype("f4")[3, 2],
        lambda x: (x.T * np.arange(6)).T[3, 2],
        lambda x: (x - x[:, :1])[4, 3],
        lambda x: (x + x[::-1])[1, 2],
        lambda x: np.maximum(x, x[0])[3, 2, 1],
        lambda x: (x > 0.3)[2, 2:4],
        lambda x: x.copy()[2, 3],
        lambda x: (x**2)[[4, 1, 1], 2],
        lambda x: (x + 1)[:, [3, 0]],
        lambda x: (x + 1)[:, :, np.array([True, False, False, True])],
        lambda x: (x + 1)[1][:, [3, 1]][2],
        # reductions over other dimensions, and then a part
        lambda x: x.mean(axis=0)[::2, 3],
        lambda x: x.std(axis=(0, 2))[1:3],
        lambda x: x.max(axis=1)[::3],
        lambda x: (x**2).sum(axis=2)[4, ::2],
        lambda x: x.argmax(axis=0)[1, 1],
        lambda x: x.cumsum(axis=1)[3, :, 1],
        lambda x: np.nanmean(x, axis=0)[2],
        lambda x: (x - x.mean(axis=0))[2, 1],
        lambda x: (x / x.sum(axis=(1, 2), keepdims=True))[4],
        lambda x: x.sum(axis=1, keepdims=True)[3, 0, 1:3],
        # shapes
        lambda x: x.reshape(6, 20)[:, 7],
        lambda x: x.reshape(-1)[13:17],
        lambda x: x.ravel()[::7],
        lambda x: x.reshape(3, 2, 5, 4)[1, 1, 2:4],
        lambda x: x.reshape(6, 5, 2, 2)[2:4, 3, :, 1],
        lambda x: x[..., None][3, 2],
        lambda x: np.broadcast_to(x, (3, 6, 5, 4))[1, 2, 3],
        lambda x: np.expand_dims(x, 1)[2, 0, 4],
        lambda x: np.squeeze(x[:, :1] * 1)[4, 2],
        # several arrays and parts
        lambda x: np.stack([x, x * 2])[1, 3, 2],
        lambda x: np.concatenate([x, x + 1], axis=1)[2, 4:6],
        lambda x: np.roll(x, 2, axis=1)[3, 0],
        lambda x: np.diff(x, axis=0)[2],
        lambda x: np.diff(x * 2, n=2, axis=1)[3, 1],
        lambda x: np.repeat(x, 2, axis=1)[2, 5],
        lambda x: np.tile(x, (1, 2, 1))[3, 7, 1],
        lambda x: np.flip(x * 2, axis=1)[1, 0],
        lambda x: np.pad(x, 1)[3, 2],
        lambda x: np.tril(x[0] * 2)[4],
        # windows
        lambda x: windows(x, 3, axis=0)[2, :, 1],
        lambda x: windows(x, 2, axis=1)[:, ::3],
        lambda x: windows(x, 2, axis=1).mean(axis=-1)[3, 1],
        # several results of different parts
        lambda x: (x * 2)[1, 2] + (x - 1)[4, 2],
    ],
)
def test_the_cells_of_functions_that_numpy_has(function):
    check(lambda a: function(a["t"]), function)


MATRIX = np.arange(1.0, 13).reshape(4, 3)
VECTOR = np.arange(1.0, 5)


def assigned(x, value):
    x = x.copy()
    x[:, 1] = value
    return x


@pytest.mark.parametrize(
    ("lazy", "plain"),
    [
        (lambda x: x.rechunk((6, 1, 1))[:, 3, 2], lambda x: x[:, 3, 2]),
        (lambda x: x.rechunk((3, 5, 3))[4], lambda x: x[4]),
        (lambda x: (x + 1).rechunk((6, 2, 2)).mean(axis=0)[1], lambda x: (x + 1).mean(0)[1]),
        (lambda x: x.rechunk((2, 5, 4)).reshape(6, 20)[:, 3], lambda x: x[:, 0, 3]),
        (lambda x: x.vindex[POINTS], lambda x: x[POINTS]),
        (lambda x: x.vindex[:, [1, 2], [0, 3]], lambda x: x[:, [1, 2], [0, 3]].T),
        (lambda x: (x * 2).vindex[POINTS], lambda x: x[POINTS] * 2),
        (lambda x: x[da.from_array(np.array([4, 1]), chunks=1)], lambda x: x[[4, 1]]),
        (lambda x: (x + 1)[:, da.from_array(np.array([4, 1]))], lambda x: x[:, [4, 1]] + 1),
        (lambda x: x[:, da.arange(5) > 3], lambda x: x[:, 4:]),
        (lambda x: da.map_blocks(np.sin, x)[3], lambda x: np.sin(x[3])),
        (lambda x: x.rechunk(3)[:0].sum() + x[1, 1, 1], lambda x: x[1, 1, 1]),
        (lambda x: da.digitize(x, np.array([0.5]))[2, 1], lambda x: np.digitize(x[2, 1], [0.5])),
        (lambda x: da.fft.rfft(x.rechunk({2: -1}), axis=2)[2, 1], lambda x: np.fft.rfft(x[2, 1])),
        (lambda x: (x * 2).blocks[1, 0], lambda x: x[2:4, :3] * 2),
        (lambda x: da.einsum("tyx,tyx->ty", x, x)[2, 1:3], lambda x: (x[2, 1:3] ** 2).sum(-1)),
        (lambda x: da.einsum("tyx->xt", x)[1], lambda x: x[:, :, 1].sum(1)),
        (lambda x: da.einsum("...x,x->...", x, VECTOR)[3, 2], lambda x: x[3, 2] @ VECTOR),
        (lambda x: da.tensordot(x, MATRIX, axes=1)[2, 3, 1], lambda x: x[2, 3] @ MATRIX[:, 1]),
        (lambda x: da.tensordot(x, x, axes=([0, 2], [0, 2]))[1, 3],
         lambda x: (x[:, 1] * x[:, 3]).sum()),
        (lambda x: (x @ MATRIX)[1, 2], lambda x: x[1, 2] @ MATRIX),
        (lambda x: da.matmul(x, x.transpose(0, 2, 1))[1, 2, 0], lambda x: x[1, 2] @ x[1, 0]),
        (lambda x: da.dot(x, VECTOR)[3, 2], lambda x: x[3, 2] @ VECTOR),
        (lambda x: assigned(x, 7)[2, 2:], lambda x: assigned(x, 7)[2, 2:]),
        (lambda x: da.gradient(x, axis=1)[2, :, 1], lambda x: np.gradient(x, axis=1)[2, :, 1]),
        (lambda x: da.coarsen(np.mean, x, {1: 2}, trim_excess=True)[2, 1],
         lambda x: x[2, 2:4].mean(axis=0)),
        (lambda x: da.coarsen(np.max, x, {0: 2, 2: 2})[::2, 3, 1],
         lambda x: x[:, 3, 2:].reshape(3, 4).max(axis=1)[::2]),
        (lambda x: da.coarsen(np.sum, x, {1: 3}, trim_excess=True),
         lambda x: x[:, :3].sum(axis=1, keepdims=True)),
        (lambda x: da.topk(x, 2, axis=0)[:, 1, 2], lambda x: np.sort(x[:, 1, 2])[:-3:-1]),
        (lambda x: da.topk(x, -2, axis=1, split_every=2)[1, :, 2],
         lambda x: np.sort(x[1, :, 2])[:2]),
        (lambda x: da.topk(x, 9, axis=2)[1, 2], lambda x: np.sort(x[1, 2])[::-1]),
        (lambda x: da.quantile(x, [[0.4], [0.6]], axis=0)[1, 0, 1, 2:],
         lambda x: np.quantile(x[:, 1, 2:], 0.6, axis=0)),
        (lambda x: da.quantile(x, 0.4, axis=(1, 2), keepdims=True)[3],
         lambda x: np.quantile(x[3], 0.4, keepdims=True)),
        (lambda x: da.nanquantile(x, [0.0, 0.6], axis=2)[:, 3, 1],
         lambda x: np.quantile(x[3, 1], [0.0, 0.6])),
        (lambda x: da.nanpercentile(x, 40, axis=0)[2, ::3],
         lambda x: np.percentile(x[:, 2, ::3], 40, axis=0)),
        (lambda x: da.median(x.rechunk({0: -1}), axis=0)[1, 1] * 0 + x[:, 1, 1].sum(),
         lambda x: x[:, 1, 1].sum()),
    ],
)  # fmt: skip
def test_the_cells_of_functions_of_dask(lazy, plain):
    check(lambda a: lazy(a["t"]), plain)


def labelled(x):
    return xr.DataArray(x, dims=("time", "y", "x"), coords={"y": np.arange(5.0)})


P = xr.DataArray([0, 2, 3], dims="p")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.isel(time=2, y=slice(1, 4, 2)),
        lambda x: x.isel(y=P, x=P),
        lambda x: x.isel(time=P, y=P, x=P),
        lambda x: x.sel(y=[1.0, 3.0]).isel(x=[0, 3]),
        lambda x: x.where(x > 0.4).isel(time=3),
        lambda x: x.where(x.y > 2).isel(x=1).mean("time"),
        lambda x: x.transpose("x", "time", "y")[1],
        lambda x: x.mean("time").isel(x=slice(None, None, 3)),
        lambda x: (x - x.mean("time")).isel(y=2),
        lambda x: x.std(("y", "x")).isel(time=[0, 4]),
        lambda x: x.fillna(0).isel(y=3),
        lambda x: x.astype("f4").isel(time=1),
        lambda x: x.stack(p=("y", "x")).isel(p=7).drop_vars(("p", "y", "x")),
        lambda x: x.shift(y=1).isel(y=3),
        lambda x: x.diff("y").isel(y=1),
        lambda x: x.cumsum("time").isel(x=1),
        lambda x: x.rolling(y=3).construct("w").isel(y=3),
        lambda x: x.rolling(y=3).mean().isel(y=3, time=2),
        lambda x: x.coarsen(x=2).mean().isel(x=1),
        lambda x: xr.concat([x, x + 1], "z").isel(z=1, time=2),
        lambda x: x.clip(0.2, 0.8).isel(x=2),
        lambda x: x.head(time=2).tail(y=1),
        lambda x: x.expand_dims("z").isel(time=4),
        lambda x: x.quantile([0.2, 0.7], dim="time").isel(y=2, x=1),
        lambda x: x.quantile(0.5, dim=("time", "y"), skipna=False).isel(x=1),
        lambda x: x.interp(y=[1.5, 2.5]),
        lambda x: x.interp(y=1.25, method="nearest").isel(x=2),
    ],
)
def test_the_cells_of_functions_of_xarray(function):
    check(
        lambda a: function(labelled(a["t"])).data,
        lambda x: function(labelled(x)).values,
    )


def test_a_function_of_the_user_gets_whole_blocks():
    """Also where nothing of its result is needed: no function sees cells that were not sent."""

    def picky(block):
        assert (block > 0).all()
        return block + 1

    def analysis(a):
        mapped = a["t"].map_blocks(picky, meta=np.empty((0, 0, 0)))
        return mapped.rechunk((6, 1, 1))[:, 3, 2]

    value, contract, _ = couple(analysis, SPEC, chunks=CHUNKS)
    np.testing.assert_allclose(value, FIELD[:, 3, 2] + 1)
    assert asked_for(contract).sum() == 6 * 2 * 2


def second(block, block_id=None):
    return block


def third(block, block_info=None):
    return block


def test_a_function_that_widens_the_contract_is_named():
    def first(block):
        return block[:1].repeat(len(block), axis=0)

    arrays = offer(SPEC, chunks=(6, 5, 2))
    x = arrays["t"]
    mapped = x.map_blocks(first, meta=np.empty((0, 0, 0)))
    contract_from_graph([mapped[:, 3, 2], (x * 2).rechunk(3)[:, 3, 2]], arrays, run=RUN)
    assert x.source.widened == (10.0, ("first",))
    for function in (second, third):
        arrays = offer(SPEC, chunks=(6, 5, 2))
        mapped = arrays["t"].map_blocks(function, meta=np.empty((0, 0, 0)))
        contract_from_graph(mapped[:, 3, 2], arrays, run=RUN)
        assert arrays["t"].source.widened == (10.0, (function.__name__,))
    arrays = offer(SPEC, chunks=(6, 5, 2))
    contract_from_graph(arrays["t"].map_blocks(first).sum(), arrays, run=RUN)
    assert arrays["t"].source.widened is None


def test_many_points_are_exact_and_more_are_few_boxes():
    big = spec(shape=(60, 50), count=30)
    rng = np.random.default_rng(1)
    at = rng.permutation(60)[:40], rng.integers(0, 50, 40)
    _, contract, _ = couple(lambda a: a["t"].vindex[(slice(None), *at)], big)
    assert sum(part.size for part in contract["t"].wanted) == 30 * 40
    at = rng.integers(0, 60, 3000), rng.integers(0, 50, 3000)
    value, contract, _ = couple(lambda a: a["t"].vindex[(slice(None), *at)], big)
    assert len(contract["t"].wanted) <= 256
    np.testing.assert_array_equal(value, field_of(big)[:, at[0], at[1]].T)


def test_no_cell_is_lost_where_a_region_has_too_many_products():
    n = 1100
    square = spec(shape=(n, n), count=1)
    at = np.arange(n), np.random.default_rng(2).permutation(n)
    value, _, _ = couple(lambda a: (a["t"] + 1).vindex[(slice(None), *at)], square)
    np.testing.assert_array_equal(value, (field_of(square)[:, at[0], at[1]] + 1).T)
    region = Region((np.array([i]), np.array([at[1][i]])) for i in range(n))
    assert all(any(i in rows and at[1][i] in columns for rows, columns in region) for i in range(n))


FUNCTIONS = [
    lambda x: x * 2 + 1,
    lambda x: x.T,
    lambda x: x.astype("f4"),
    lambda x: np.where(x > 0.5, x, 0),
    lambda x: np.moveaxis(x, 0, -1),
    lambda x: np.stack([x, x + 1], axis=-1)[..., 0],
    lambda x: x.reshape(-1),
    lambda x: x.sum(axis=0),
    lambda x: x[::-1],
    lambda x: x.rechunk(2) if isinstance(x, da.Array) else x,
    lambda x: x.cumsum(axis=-1),
]


@st.composite
def parts(draw, shape):
    items = []
    for n in shape:
        bound = st.none() | st.integers(-n, n)
        some = st.lists(st.integers(-n, n - 1), min_size=1, max_size=3)
        step = draw(st.sampled_from([None, 1, 2, -1]))
        slices = st.builds(slice, bound, bound, st.just(step))
        item = draw(st.integers(-n, n - 1) | slices | some)
        if any(isinstance(i, list) for i in items) or (
            isinstance(item, list) and any(isinstance(i, int) for i in items)
        ):  # NumPy moves the dimension of a list to the front if an integer is apart from it
            item = slice(None)
        items.append(item)
    return tuple(items[: draw(st.integers(0, len(items)))])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_random_chains_are_equal_and_ask_for_no_cell_too_many(data):
    arrays = offer(SPEC, chunks=data.draw(st.sampled_from([CHUNKS, (1, 5, 4), (6, 2, 4)])))
    lazy, value = arrays["t"], FIELD
    chain = []
    for _ in range(data.draw(st.integers(1, 5))):
        if not value.ndim or not value.size:
            break
        if data.draw(st.booleans()):
            key = data.draw(parts(value.shape))
            function = lambda x, key=key: x[key]  # noqa: E731
        else:
            function = data.draw(st.sampled_from(FUNCTIONS))
        if not function(value).size:
            continue
        chain.append(function)
        lazy, value = function(lazy), function(value)

    def plain(x):
        for function in chain:
            x = function(x)
        return x

    contract = contract_from_graph({"r": lazy}, arrays, run=RUN)
    found, _ = execute(lazy, deliver(contract["t"], FIELD))
    np.testing.assert_allclose(found, value, rtol=1e-5)
    needed = cells_of(plain, FIELD, changes=[10.0])
    np.testing.assert_array_equal(asked_for(contract), needed)
