"""The public functions of dask.array and xarray over an external array.

Each is called with the same arguments over an external array and over an ordinary dask array of
the same chunks. Where the ordinary one gives a result, the external one gives the same.
"""

import inspect
import operator
import warnings

import dask
import dask.array as da
import numpy as np
import pytest
from dask.graph_manipulation import bind, checkpoint, clone, wait_on

from ips_components.analysis.contract import contract_from_graph
from ips_components.errors import ContractError

from .simulated import RUN, deliver, field_of, offer, spec

xr = pytest.importorskip("xarray")

SPEC = spec(shape=(6, 4), count=8)
FIELD = field_of(SPEC)
CHUNKS = (2, 3, 4)

ARGUMENTS = [
    lambda x: (x,),
    lambda x: (x, x),
    lambda x: (x, 1),
    lambda x: (x, 1, 0),
    lambda x: ([x, x],),
    lambda x: (x > 0.5, x, 0),
    lambda x: (x, (0, 1)),
    lambda x: (x, [1, 3]),
]

LEFT_OUT = {
    "from_array": "keeps the array as it is",
    "from_delayed": "takes no array",
    "from_npy_stack": "reads files",
    "to_npy_stack": "computes at once",
    "store": "computes at once",
    "to_hdf5": "computes at once",
    "to_zarr": "computes at once",
    "compute": "computes at once",
    "optimize": "takes graphs",
    "register_chunk_type": "takes types",
    "test": "runs tests",
    "empty_like": "has no value",
    "persist": "computes at once",
    "compute_chunk_sizes": "computes at once",
}


def public(namespace):
    names = [name for name in dir(namespace) if not name.startswith("_")]
    return [
        name
        for name in names
        if callable(getattr(namespace, name))
        and not inspect.isclass(getattr(namespace, name))
        and name not in LEFT_OUT
    ]


def plain():
    return da.from_array(FIELD, chunks=(2, 3, 4))


def value_of(result, arrays=None):
    """Compute a result; over external arrays, with the data that its contract asks for."""
    if arrays is None:
        return dask.compute(result, scheduler="sync")[0]
    contract = contract_from_graph(result, arrays, run=RUN)
    external = deliver(contract["t"], FIELD)

    def get(graph, keys, **options):
        tasks = graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph
        return dask.get({**dict(tasks), **external}, keys)

    return dask.compute(result, scheduler=get)[0]


def same(ordinary, function):
    """Compare a function's result over the external array with that over the ordinary one."""
    arrays = offer(SPEC, chunks=CHUNKS)
    result = function(arrays["t"])
    if not dask.is_dask_collection(ordinary):
        np.testing.assert_array_equal(result, ordinary)
        return
    expected = value_of(ordinary)
    try:
        found = value_of(result, arrays)
    except ContractError as error:
        assert "does not depend on any external array" in str(error)
        found = dask.compute(result, scheduler="sync")[0]
    except ValueError as error:
        assert "read-only" in str(error)  # out= would write into the simulation's memory
        return
    if expected is None:
        assert found is None
        return
    if isinstance(expected, xr.DataArray | xr.Dataset):
        xr.testing.assert_allclose(found, expected, rtol=1e-12)
        return
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-12)
    assert getattr(found, "dtype", None) == getattr(expected, "dtype", None)


def _flat(result):
    return list(result) if isinstance(result, tuple | list) else [result]


def _refuse(*args, **options):
    raise RuntimeError("computes while the graph is made, before the data exist")


def compare(call):
    """Compare a call over both arrays; return whether the ordinary one gave a result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with dask.config.set(scheduler=_refuse):
                ordinary = call(plain())
            if not any(dask.is_dask_collection(part) for part in _flat(ordinary)):
                return False
            for part in _flat(ordinary):
                value_of(part)
        except Exception:
            return False  # dask.array itself has no such call
        for number, part in enumerate(_flat(ordinary)):
            same(part, lambda x, number=number: _flat(call(x))[number])
    return True


@pytest.mark.parametrize("name", public(da))
def test_functions_of_dask_array(name):
    function = getattr(da, name)
    for arguments in ARGUMENTS:
        compare(lambda x, arguments=arguments: function(*arguments(x)))


@pytest.mark.parametrize("name", public(da.Array))
def test_methods_of_dask_array(name):
    for arguments in ARGUMENTS:
        compare(lambda x, arguments=arguments: getattr(x, name)(*arguments(x)[1:]))


AT_ONCE = {
    "dropna",
    "load",
    "load_async",
    "persist",
    "plot",
    "to_dataframe",
    "to_netcdf",
    "to_pandas",
    "to_series",
}
LABELLED = [
    ((), {}),
    (("time",), {}),
    ((1,), {}),
    ((), {"y": [0, 2]}),
    ((), {"time": 3}),
    (({"time": 2},), {}),
    ((0.25,), {}),
]


@pytest.mark.parametrize("name", [n for n in public(xr.DataArray) if n not in AT_ONCE])
def test_methods_of_a_data_array(name):

    def call(x, *arguments, **options):
        array = xr.DataArray(x, dims=("time", "y", "x"), name="t")
        return getattr(array, name)(*arguments, **options)

    for arguments, options in LABELLED:
        compare(lambda x, a=arguments, o=options: call(x, *a, **o))


@pytest.mark.parametrize("name", [n for n in public(xr.Dataset) if n not in AT_ONCE])
def test_methods_of_a_dataset(name):
    def call(x, *arguments, **options):
        dataset = xr.Dataset({"a": _data_array(x), "b": _data_array(x) * 2})
        found = getattr(dataset, name)(*arguments, **options)
        return list(found.data_vars.values()) if isinstance(found, xr.Dataset) else found

    for arguments, options in [*LABELLED, (("a",), {})]:
        compare(lambda x, a=arguments, o=options: call(x, *a, **o))


@pytest.mark.parametrize(
    "name", [n for n in public(xr) if inspect.isfunction(getattr(xr, n)) and "open" not in n]
)
def test_functions_of_xarray(name):
    function = getattr(xr, name)
    for arguments in [
        lambda t: (t,),
        lambda t: (t, t * 2),
        lambda t: ([t, t * 2],),
        lambda t: ([t, t * 2], "time"),
        lambda t: (t > 0.5, t, 0),
        lambda t: (np.negative, t),
        lambda t: (lambda block: block * 2, t),
    ]:

        def call(x, arguments=arguments):
            found = function(*arguments(_data_array(x)))
            return list(found.data_vars.values()) if isinstance(found, xr.Dataset) else found

        compare(call)


def _data_array(x):
    return xr.DataArray(x, dims=("time", "y", "x"), coords={"time": np.arange(8.0)}, name="t")


@pytest.mark.parametrize(
    "call",
    [
        lambda x: da.repeat(x, 3, axis=1),
        lambda x: x.view("i8"),
        lambda x: x.view("i4"),
        lambda x: clone(x),
        lambda x: clone(x.T + 1, seed=3),
        lambda x: bind(x[1:], x[0].sum()),
        lambda x: wait_on(x[2:5]),
        lambda x: checkpoint(x[:, 2]),
        lambda x: x[:, 9:],
        lambda x: x[5:100, 2],
        lambda x: x[1.0:4.0],
        lambda x: x[np.int64(3), ..., None, ::-2],
        lambda x: xr.apply_ufunc(
            np.subtract,
            _data_array(x),
            _data_array(x).mean("time"),
            dask="parallelized",
            output_dtypes=[float],
        ),
        lambda x: xr.unify_chunks(_data_array(x), _data_array(x).mean("time"))[1],
        lambda x: xr.Dataset({"a": _data_array(x), "b": _data_array(x) * 2}).unify_chunks()["b"],
        lambda x: xr.where(_data_array(x) > _data_array(x).mean("time"), 1, _data_array(x)),
        lambda x: xr.concat([_data_array(x), _data_array(x * 2)], dim="time"),
        lambda x: xr.dot(_data_array(x), _data_array(x * 2), dim="y"),
        lambda x: xr.map_blocks(lambda b: b * 2, _data_array(x)),
        lambda x: _data_array(x).groupby(_data_array(x).time % 2).mean(),
        lambda x: _data_array(x).rolling(time=3).mean(),
        lambda x: _data_array(x).interp(time=[1.5, 2.5]),
        lambda x: _data_array(x).differentiate("time"),
    ],
)
def test_calls_that_once_differed(call):
    assert compare(call)


BINARY = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "divmod"]
BINARY += ["and", "or", "xor", "lshift", "rshift", "lt", "le", "eq", "ne", "gt", "ge"]
SQUARE = np.arange(1.0, 9).reshape(8, 1) * np.ones(8)
OPERANDS = {
    "external": lambda x: x[:, 1:5, 0],
    "sliced": lambda x: x[::-2, :4, 1],
    "transposed": lambda x: x[:, 2, :].T,
    "computed": lambda x: x[:4, 3] + 1,
    "integers": lambda x: (x[:4, 0] * 8).astype(int),
    "reduced": lambda x: x[:4].mean(axis=1),
    "ordinary": lambda x: da.from_array(SQUARE[:4, :4] // 3, chunks=2).astype(int),
    "numpy": lambda x: SQUARE[:4, 2:6],
    "number": lambda x: 2,
}


@pytest.mark.parametrize("name", BINARY)
def test_operators_between_arrays_of_every_kind(name):
    ordinary = da.Array.__dict__
    assert f"__{name}__" in ordinary
    operate = getattr(operator, f"__{name}__", divmod)
    kinds = list(OPERANDS)
    shifts = range(len(kinds)) if name == "matmul" else [BINARY.index(name) % len(kinds)]
    for shift in shifts:
        for i, left in enumerate(kinds):
            right = kinds[(i + shift) % len(kinds)]
            if {left, right} <= {"ordinary", "numpy", "number"}:
                continue
            one, other = OPERANDS[left], OPERANDS[right]
            compare(lambda x, one=one, other=other: operate(one(x), other(x)))


@pytest.mark.parametrize(
    "call",
    [
        lambda u: u[:, 0].T @ u[:, 1],
        lambda u: u[:, 1:3] @ u[:, 2:4].transpose(0, 2, 1),
        lambda u: u @ u[0].T,
        lambda u: u[:, 0, 0] @ u[:, 1],
        lambda u: da.moveaxis(u, 0, -1)[0] @ u[:, 1],
        lambda u: (u[:, 0] - u[:, 0].mean(0)).T @ (u[:, 1] * 2),
        lambda u: (u[:, 0].T @ u[:, 1])[1:3, 0],
        lambda u: np.ones((3, 6)) @ u[0],
        lambda u: np.matmul(u[0].T, u[1]),
        lambda u: da.dot(u[::-1, 0].T, u[:, 1]),
        lambda u: da.tensordot(u[::2, 1:], u[::2, 1:].transpose(2, 1, 0), axes=((0, 2), (2, 0))),
        lambda u: da.tensordot(u, u, axes=((0,), (0,)))[1:3, 0, :, 2],
        lambda u: np.tensordot(u[:, 0], u[:, 1].T, axes=((0,), (1,))),
        lambda u: da.einsum("tij,tkj->ik", u, u[:, ::2]),
        lambda u: da.einsum("ij,jk", u[:, 0].T, u[:, 1])[0],
        lambda u: np.einsum("ti,tj->ij", u[:, 0], u[:, 1]),
        lambda u: da.cov(u[:, 0].T),
        lambda u: da.linalg.svd(u[:, :, 0].rechunk((8, 2)))[1],
    ],
)
def test_products_of_sliced_and_transposed_arrays(call):
    assert compare(call)


def test_persisting_a_dataset_mixes_external_and_ordinary_arrays():
    arrays = offer(SPEC, chunks=CHUNKS)
    data = _data_array(arrays["t"])
    both = xr.Dataset({"a": data, "b": data.mean("time")})
    contract = contract_from_graph(both, arrays, run=RUN)
    external = deliver(contract["t"], FIELD)

    def get(graph, keys, **options):
        tasks = graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph
        return dask.get({**dict(tasks), **external}, keys)

    with dask.config.set(scheduler=get):
        kept = both.persist()
    np.testing.assert_array_equal(kept["a"].compute(scheduler="sync"), FIELD)
    np.testing.assert_allclose(kept["b"].compute(scheduler="sync"), FIELD.mean(axis=0))
