"""Random chains of operations of dask.array and xarray, the same for a seed."""

import functools
import operator
from math import prod

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask.array.overlap import overlap, sliding_window_view, trim_internal

DIMS = "abcde"
REDUCTIONS = "sum mean std var max min prod any all nanmean nansum nanstd nanmax nanmin nanvar"
ALONG_ONE = "argmax argmin nanargmax nanargmin median nanmedian"
PADS = [
    "constant",
    "edge",
    "reflect",
    "symmetric",
    "wrap",
    "maximum",
    "mean",
    "linear_ramp",
    "minimum",
]
BOUNDARIES = ["reflect", "periodic", "nearest", "none", 0]


def pick(r, x):
    """Return a function that takes a random index, with at most one list or mask."""
    items = []
    for n in x.shape:
        kind, listed = r.random(), any(isinstance(item, list | np.ndarray) for item in items)
        if kind < 0.25:
            items.append(r.randrange(-n, n))
        elif kind < 0.7:
            bounds = (r.choice([None, r.randrange(-n, n)]), r.choice([None, r.randrange(-n, n)]))
            items.append(slice(*bounds, r.choice([None, None, 2, -1, -2, 3])))
        elif kind < 0.85 and not listed:
            items.append([r.randrange(-n, n) for _ in range(r.randint(1, 4))])
        elif kind < 0.9 and not listed:
            items.append(np.array([True] + [r.random() < 0.5 for _ in range(n - 1)]))
        elif kind < 0.95:
            items += [None, slice(None)]
        else:
            items.append(slice(None))
    items = items[: r.randint(1, len(items))]
    if r.random() < 0.2:
        items = [Ellipsis, *items[-1:]]
    return lambda x: x[tuple(items)]


def reduce(r, x):
    """Return a function that reduces over some axes."""
    keepdims, split_every = r.random() < 0.4, r.choice([None, 2, 3, {0: 2}])
    axis = r.randrange(-x.ndim, x.ndim)
    if r.random() < 0.3:
        name = r.choice(ALONG_ONE.split())
        axis = axis if "median" in name else r.choice([None, axis])
        return lambda x: getattr(da, name)(x, axis=axis, keepdims=keepdims)
    name = r.choice(REDUCTIONS.split())
    several = tuple(r.sample(range(x.ndim), r.randint(1, x.ndim)))
    axes = r.choice([axis, None, several, several])
    return lambda x: getattr(da, name)(x, axis=axes, keepdims=keepdims, split_every=split_every)


def by_cell(r, x):
    """Return a function that works cell by cell, or nearly so."""
    last = np.arange(x.shape[-1]) - 1.5
    big = np.arange(2.0 * x.size).reshape((2, *x.shape))

    def with_block_info(block, block_info=None):
        return block + sum(block_info[0]["chunk-location"])

    def zeros(x):
        return da.zeros(x.shape, chunks=x.chunks)

    return r.choice(
        [
            lambda x: x * 2 + 1,
            lambda x: np.frexp(x)[0],
            lambda x: np.modf(x)[1],
            lambda x: da.divmod(x, 0.3)[0],
            lambda x: x.astype("f4"),
            lambda x: (x * 10).astype(int),
            lambda x: ~(x > 0),
            lambda x: da.clip(x, -0.2, 0.2),
            lambda x: da.where(x > 0, x, -x),
            lambda x: da.where(last > 0, x, 0),
            lambda x: da.where(last > 0, 0, x),
            lambda x: da.where(big > 5, x, x * 2),
            lambda x: da.add(x, 1, where=x > 0, out=zeros(x)),
            lambda x: da.add(x, 1, where=last > 0, out=zeros(x)),
            lambda x: np.add(x, last, out=da.ones(x.shape)),
            lambda x: da.isin(x.astype(int), [0, 1]),
            lambda x: da.digitize(x, np.array([-0.1, 0.2])),
            lambda x: x + 1j * x[..., ::-1],
            lambda x: da.angle(x + 1j),
            lambda x: np.fmax(x, last),
            lambda x: da.isclose(x, 0, atol=0.1),
            lambda x: x.map_blocks(np.clip, 0, a_max=last[:1]),
            lambda x: x.map_blocks(np.round, decimals=1),
            lambda x: x.map_blocks(with_block_info, dtype=float),
            lambda x: da.ma.masked_greater(x, 0.2),
            lambda x: da.ma.filled(da.ma.masked_less(x, 0), 9),
            lambda x: da.ma.masked_array(x, mask=x < last).sum(axis=-1, keepdims=True),
            lambda x: da.frompyfunc(lambda v: v + 1, 1, 1)(x).astype(float),
            lambda x: x - x.mean(axis=0),
            lambda x: x / (x.sum(axis=-1, keepdims=True) + 7),
            lambda x: da.select([x > 0.2, x < -0.2], [x, -x], 0),
            lambda x: da.choose((x > 0).astype(int), [x * 2, x * 3]),
            lambda x: da.piecewise(x, [x < 0, x >= 0], [lambda v: -v, lambda v: v]),
            lambda x: da.maximum(x, x[..., :1]),
            lambda x: x.astype(object).astype(float),
            lambda x: x.view("i8"),
            lambda x: (x * 9).astype("i4") & 3,
            lambda x: x.map_blocks(functools.partial(np.add, last[:1])),
            lambda x: x.map_blocks(np.vectorize(lambda v: v * 2, otypes=[float]), dtype=float),
            lambda x: da.nan_to_num(x.copy()),
        ]
    )


def rearrange(r, x):
    """Return a function that moves cells, or mixes some of them."""
    n, axis, other = x.ndim, r.randrange(x.ndim), r.randrange(x.ndim)
    back, size, shift = axis - n, x.shape[axis], r.randint(-3, 3)
    order = tuple(r.sample(range(n), n))
    index = [r.randrange(-size, size) for _ in range(r.randint(1, 4))]
    boundary, depth = r.choice(BOUNDARIES), r.randint(1, 2)
    mode, width = r.choice(PADS), [(r.randint(0, 2), r.randint(0, 2)) for _ in range(n)]
    window = r.randint(1, min(size, 3))
    shape, left = [], x.size
    while left > 1 and len(shape) < 4:
        shape.append(r.choice([d for d in range(1, left + 1) if left % d == 0]))
        left //= shape[-1]
    shape.append(left)

    def beside(block):
        return block + np.roll(block, 1, axis=0)

    def coarse(block, axis=None):
        return block.mean(axis=axis) - block.max()

    def halo(x):
        return overlap(x, depth={axis: 1}, boundary={axis: boundary})

    def two(v):
        return v.mean(-1), v.std(-1)

    def assigned(x, key, value):
        x = x.copy()
        x[key(x)] = value
        return x

    def gufunc(function, signature, x, dtypes):
        return da.apply_gufunc(
            function, signature, x, axis=axis, output_dtypes=dtypes, allow_rechunk=True
        )

    whole = {axis: -1}
    first = (slice(None),) * axis + (slice(0, max(1, size // 2)),)
    every = (slice(None),) * n
    return r.choice(
        [
            lambda x: x.transpose(order),
            lambda x: da.moveaxis(x, axis, other),
            lambda x: da.rollaxis(x, axis),
            lambda x: x.rechunk(2),
            lambda x: x.rechunk(whole),
            lambda x: da.roll(x, shift, axis=axis),
            lambda x: da.roll(x, shift),
            lambda x: da.flip(x, axis=axis),
            lambda x: da.rot90(x, k=shift, axes=(axis, other)),
            lambda x: x.reshape(shape),
            lambda x: x.reshape(shape, merge_chunks=False),
            lambda x: x.reshape(-1, limit="1kB"),
            lambda x: da.take(x, index, axis=axis),
            lambda x: da.take(x, np.array(index).reshape(1, -1), axis=axis),
            lambda x: da.repeat(x, 2, axis=axis),
            lambda x: da.tile(x, 2),
            lambda x: da.concatenate([x, x * 2], axis=axis),
            lambda x: da.stack([x, -x, x + 1], axis=axis),
            lambda x: da.block([x, x]),
            lambda x: da.concatenate([x[..., :1], x], axis=-1),
            lambda x: da.dstack([x, x]),
            lambda x: da.pad(x, width, mode=mode),
            lambda x: da.pad(x, 1, mode="constant", constant_values=3),
            lambda x: da.expand_dims(x, axis),
            lambda x: da.broadcast_to(x, (2, *x.shape)),
            lambda x: x.vindex[tuple(np.array([0, 2, 1]) % k for k in x.shape)],
            lambda x: x.vindex[(*every[1:], index if axis == n - 1 else [0])],
            lambda x: da.tril(x)[..., ::-1],
            lambda x: da.triu(x, 1),
            lambda x: da.diagonal(x, axis1=axis, axis2=other, offset=1),
            lambda x: da.diag(x),
            lambda x: sliding_window_view(x, window, axis=axis),
            lambda x: sliding_window_view(x, window, axis=axis).mean(axis=-1),
            lambda x: da.diff(x, axis=axis),
            lambda x: da.diff(x, n=2, axis=axis, prepend=0),
            lambda x: da.cumsum(x, axis=axis),
            lambda x: da.cumsum(x, axis=axis, method="blelloch"),
            lambda x: da.nancumsum(x, axis=axis),
            lambda x: da.gradient(x, axis=axis),
            lambda x: da.coarsen(np.mean, x, {axis: 2}, trim_excess=True),
            lambda x: x.map_overlap(beside, depth=depth, boundary=boundary),
            halo,
            lambda x: trim_internal(halo(x) + 1, {axis: 1}, boundary={axis: boundary}),
            lambda x: x.map_blocks(np.sum, axis=0, drop_axis=0, dtype=float),
            lambda x: x.map_blocks(lambda b: b[None], new_axis=0, dtype=float),
            lambda x: x.map_blocks(np.flip, axis=back),
            lambda x: x.map_blocks(np.sort, axis=back),
            lambda x: x.map_blocks(lambda b: b - b.mean()),
            lambda x: x.map_blocks(np.roll, 1, axis=back),
            lambda x: x.map_blocks(np.roll, 1),
            lambda x: x.map_blocks(np.cumsum, axis=back),
            lambda x: x.map_blocks(np.gradient, axis=back),
            lambda x: x.map_blocks(np.fft.fftshift, axes=back),
            lambda x: x.map_blocks(np.fft.fft, axis=back, dtype=complex),
            lambda x: x.map_blocks(np.linalg.inv, dtype=float),
            lambda x: x.map_blocks(np.rot90, 2),
            lambda x: x.map_blocks(np.argsort, axis=back, dtype=int),
            lambda x: x.map_blocks(np.median, axis=back, keepdims=True, dtype=float),
            lambda x: x.map_blocks(np.take, [7], axis=back, mode="clip"),
            lambda x: x.map_blocks(np.take, [0, 0], axis=back, mode="wrap"),
            lambda x: x.map_blocks(np.repeat, 2, axis=back),
            lambda x: x.map_blocks(np.diagonal, dtype=float),
            lambda x: x.map_blocks(np.linalg.diagonal, dtype=float),
            lambda x: x.map_blocks(operator.getitem, (Ellipsis, slice(None, None, -1))),
            lambda x: x.map_blocks(operator.getitem, slice(None, None, -1)),
            lambda x: da.fft.fft(x.rechunk(whole), axis=axis),
            lambda x: da.fft.irfft(x.rechunk(whole), axis=axis),
            lambda x: da.fft.fftshift(x, axes=axis),
            lambda x: gufunc(lambda v: v - v.mean(-1, keepdims=True), "(i)->(i)", x, float),
            lambda x: gufunc(two, "(i)->(),()", x, (float, float))[1],
            lambda x: da.apply_along_axis(np.sort, axis, x, dtype=float, shape=(size,)),
            lambda x: da.apply_over_axes(np.sum, x, [axis]),
            lambda x: da.topk(x, [2, -2][axis % 2], axis=axis),
            lambda x: da.argtopk(x, 2, axis=axis),
            lambda x: da.nanpercentile(x.rechunk(whole), 40, axis=axis),
            lambda x: da.quantile(x, [[0.3], [0.8]], axis=axis),
            lambda x: da.nanquantile(x, [0.3, 1.0], axis=axis, keepdims=True),
            lambda x: da.nanquantile(x, [[0.3], [1.0]], axis=(0, n - 1) if n > 1 else 0),
            lambda x: da.coarsen(np.nanmax, x, {axis: 2, other: 3}, trim_excess=True),
            lambda x: da.coarsen(coarse, x, {axis: 2}, trim_excess=True),
            lambda x: da.quantile(x, da.from_array(np.array([0.5])), axis=axis),
            lambda x: da.searchsorted(da.asarray(np.array([-0.2, 0.1, 0.3])), x),
            lambda x: da.histogram(x, bins=4, range=(-1, 1))[0],
            lambda x: da.bincount((abs(x.ravel()) * 5).astype(int), minlength=6),
            lambda x: da.unique((x * 2).astype(int)).sum(),
            lambda x: da.einsum("...i,...i", x, x),
            lambda x: da.tensordot(x, x, axes=([axis], [axis])),
            lambda x: da.matmul(x, da.swapaxes(x, -1, -2)),
            lambda x: da.outer(x.ravel()[:5], x.ravel()[-4:]),
            lambda x: da.average(x, axis=axis, weights=np.arange(1.0, size + 1)),
            lambda x: da.insert(x, min(1, size), 7, axis=axis),
            lambda x: da.delete(x, 0, axis=axis),
            lambda x: da.compress([True] * (size - 1) or [True], x, axis=axis),
            lambda x: x.blocks[..., -1],
            lambda x: da.reduction(
                x, chunk=np.sum, aggregate=np.max, axis=axis, dtype=float, keepdims=True
            ),
            lambda x: assigned(x, lambda x: first, 5),
            lambda x: assigned(x, lambda x: x > 0.1, -1),
            lambda x: da.from_delayed(
                dask.delayed(np.sort)(x, axis=0), shape=x.shape, dtype=x.dtype
            ),
            lambda x: da.shuffle(x, [[1, 0], list(range(2, size))], axis=axis),
            lambda x: x[da.from_array(np.array([1, 0]))],
            lambda x: da.linalg.norm(x, axis=axis),
            lambda x: da.cov(x),
            lambda x: da.map_blocks(np.minimum, x, x[..., ::-1].rechunk(x.chunks)),
        ]
    )


def label(r, x):
    """Return a function of xarray."""
    d, e = r.choice(DIMS[: x.ndim]), r.choice(DIMS[: x.ndim])
    size = x.shape[DIMS.index(d)]
    points = [min(size - 1, at) for at in (0.0, 1.0, r.random() * (size - 1))]
    line = xr.DataArray(points, dims="z"), xr.DataArray([0.0, 0.5, 1.0], dims="z")
    method = r.choice(["linear", "nearest", "cubic", "quadratic", "pchip", "slinear", "zero"])
    some = r.choice([slice(1, None), [0, -1], xr.DataArray([0, size - 1], dims=r.choice("pd"))])

    def centred(v):
        return v - v.mean(-1, keepdims=True)

    function = r.choice(
        [
            lambda q: q.isel({d: some}),
            lambda q: q.sel({d: slice(0.0, 2.0)}),
            lambda q: q.sel({d: [0.2]}, method="nearest"),
            lambda q: q.interp({d: points}, method=method),
            lambda q: q.interp({d: points}, method=method),
            lambda q: q.interp({d: [0.5], e: [0.0, 1.0]}),
            lambda q: q.interp({d: line[0], e: line[1]}),
            lambda q: q.interp({d: points}, kwargs={"fill_value": "extrapolate"}),
            lambda q: q.rolling({d: 2}).mean(),
            lambda q: q.rolling({d: 3}, center=True, min_periods=1).max(),
            lambda q: q.rolling({d: 2, e: 2}).construct({d: "w1", e: "w2"}),
            lambda q: q.rolling({d: 2}).construct("w", stride=2),
            lambda q: q.coarsen({d: 2}, boundary="trim").mean(),
            lambda q: q.coarsen({d: 2}, boundary="pad").max(),
            lambda q: q.groupby((q[d] % 2).rename("g")).mean(),
            lambda q: q.groupby(d).map(lambda v: v * 2),
            lambda q: q.groupby_bins(d, 2).map(lambda v: v - v.mean(d)),
            lambda q: q.where(q[d] > 1, drop=True),
            lambda q: q.where(q[d] > 0, -1),
            lambda q: q.shift({d: 1}),
            lambda q: q.roll({d: 1}),
            lambda q: q.pad({d: 1}, mode="edge"),
            lambda q: q.differentiate(d),
            lambda q: q.integrate(d),
            lambda q: q.cumulative_integrate(d),
            lambda q: q.quantile([0.2, 0.7], dim=d),
            lambda q: q.idxmax(d),
            lambda q: q.argmax(d),
            lambda q: q.ffill(d),
            lambda q: q.interpolate_na(d),
            lambda q: q.stack(s=(d, e)),
            lambda q: q.polyfit(d, 1).polyfit_coefficients,
            lambda q: q.dot(q, dim=d),
            lambda q: q.weighted(q[d] + 1).mean(d),
            lambda q: q.reindex({d: [0.0, 1.0, 99.0]}),
            lambda q: q.sortby(d, ascending=False),
            lambda q: q.drop_isel({d: [0]}),
            lambda q: q.broadcast_like(q.rename({d: "zz"})),
            lambda q: q.expand_dims("new", -1),
            lambda q: xr.concat([q, q * 2], d),
            lambda q: xr.apply_ufunc(
                centred,
                q.chunk({d: -1}),
                input_core_dims=[[d]],
                output_core_dims=[[d]],
                dask="parallelized",
                output_dtypes=[float],
            ),
            lambda q: xr.map_blocks(lambda v: v - v.mean(), q),
            lambda q: xr.where(q > 0, q, q.shift({d: 1})),
            lambda q: q.std(d, ddof=1),
            lambda q: q.count(d),
            lambda q: xr.cov(q, q + 1, dim=d),
            lambda q: q.combine_first(q.shift({d: 1})),
            lambda q: q.isel({d: xr.DataArray([[0, 1], [1, 0]], dims=("p", "q"))}),
        ]
    )

    def labelled(x):
        names = DIMS[: x.ndim]
        coords = {name: np.arange(float(n)) for name, n in zip(names, x.shape, strict=True)}
        return function(xr.DataArray(x, dims=list(names), coords=coords)).data

    return labelled


def chain(r, x):
    """Return 2 to 5 functions that an ordinary array can be given to one after the other."""
    functions, length = [], r.randint(1, 4)
    for _ in range(25):
        if len(functions) == length or not x.ndim:
            break
        kind = r.choices([pick, reduce, by_cell, rearrange, label], [3, 1.2, 2, 4, 2])[0]
        try:
            function = kind(r, x)
            result = function(x)
            known = isinstance(result, da.Array) and result.ndim <= 5
            if not known or not 0 < prod(result.shape) <= 20_000:
                continue
            result.compute(scheduler="sync")
        except Exception:
            continue  # dask has no such call
        functions.append(function)
        x = result
    return [*functions, pick(r, x)] if x.ndim else functions
