import pickle

import dask.array as da
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ips_components.analysis.arrays import ExternalArray
from ips_components.analysis.contract import contract_from_graph
from ips_components.errors import ContractError, SelectionError
from ips_components.model import ArraySpec, StepAxis

from .simulated import RUN, couple, deliver, deliver_rows, execute, field_of, offer, spec

SPEC = spec()
FIELD = field_of(SPEC)


@st.composite
def keys(draw, shape):
    items = []
    for n in shape:
        kind = draw(st.integers(0, 5))
        if kind == 0:
            items.append(draw(st.integers(-n, n - 1)))
        elif kind == 1 and not any(isinstance(i, list) for i in items):
            items.append(draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=4)))
        else:
            bound = st.none() | st.integers(-n, n)
            step = draw(st.sampled_from([None, None, 1, 2, 3, -1, -2]))
            items.append(slice(draw(bound), draw(bound), step))
    if any(isinstance(item, list) for item in items):
        # Dask never moves dimensions to the front, as NumPy does for integers beside a list.
        items = [slice(i, i + 1 or None) if isinstance(i, int) else i for i in items]
    if draw(st.booleans()):
        items = [*items[: draw(st.integers(0, len(items)))], Ellipsis]
    if draw(st.integers(0, 4)) == 0:
        items.insert(draw(st.integers(0, len(items))), None)
    return tuple(items)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_chain_of_indices_equals_numpy(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=4)))
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    array_spec = ArraySpec("a", "f8", shape[1:], StepAxis(count=shape[0]))
    field = field_of(array_spec)
    arrays = offer(array_spec, chunks=chunks)
    results, expected = [], []
    for _ in range(data.draw(st.integers(1, 3))):
        lazy, value = arrays["a"], field
        for _ in range(data.draw(st.integers(0, 3))):
            key = data.draw(keys(value.shape)) if value.ndim and value.size else ()
            if None in key and any(isinstance(item, list) for item in key):
                # dask.array of 2026.8.0 itself fails for a list beside a new axis, once an
                # earlier index has made the array an ordinary one.
                key = tuple(item for item in key if item is not None)
            lazy, value = lazy[key], value[key]
            if None in key:  # dask.array itself fails for a list in a later index
                break
        assert lazy.shape == value.shape
        results.append(lazy)
        expected.append(value)
    if any(value.size for value in expected):
        keep = [i for i, value in enumerate(expected) if value.size]
        results = [results[i] for i in keep]
        contract = contract_from_graph(results, arrays, run=RUN)
        found, _ = execute(results, deliver(contract["a"], field))
        for value, i in zip(found, keep, strict=True):
            np.testing.assert_array_equal(value, expected[i])


def test_basic_slicing_gives_views_of_one_source():
    x = offer(SPEC)["t"]
    view = x[10:, ::2][:, 3]
    assert isinstance(view, ExternalArray)
    assert view.external_view.source is x.source
    assert str(view.external_view.selection) == "[10:20, 6, :8]"
    assert (view.shape, view.dims) == ((10, 8), ("time", "x"))
    assert x[...] is x and x[:, :] is x and view[:].name == view.name
    assert x[::2].name == x[0::2].name != x[1::2].name


def test_views_follow_the_chunk_grid():
    x = offer(SPEC, chunks=(2, 4, 8))["t"]
    assert x.chunks == ((2,) * 10, (4, 4, 4), (8,))
    assert x[3:8, 5:].chunks == ((1, 2, 2), (3, 4), (8,))
    assert x[::6, ::11].chunks == ((1,) * 4, (1, 1), (8,))  # chunks without a cell are dropped
    assert x[0].chunks == ((4, 4, 4), (8,))


def test_keys_of_the_whole_array_are_the_external_keys():
    arrays = offer(SPEC)
    (total, other), contract, tasks = couple(lambda a: [a["t"].sum(), a["t"].max()], SPEC)
    assert arrays["t"].name == contract["t"].name
    assert arrays["t"].__dask_keys__()[3][1] == [contract["t"].key(10)]
    # One task per chunk and reduction, fewer above, and none for the chunk itself.
    assert tasks <= 2 * 60 + 60
    np.testing.assert_allclose([total, other], [FIELD.sum(), FIELD.max()])


def test_a_view_is_cut_inside_the_tasks_that_use_it():
    total, contract, tasks = couple(lambda a: a["t"][::2, :5].sum(), SPEC)
    assert contract["t"].chunk_shape(0) == (1, 4, 8)
    assert tasks < 20 + 15
    np.testing.assert_allclose(total, FIELD[::2, :5].sum())


def test_lists_and_masks_take_the_box_around_them():
    mask = np.arange(12) % 4 == 1
    for key in (np.s_[:, [9, 3, 3], 5], np.s_[2, mask], np.s_[:, ..., [-1, 0]]):
        value, contract, _ = couple(lambda a, key=key: a["t"][key], SPEC)
        np.testing.assert_array_equal(value, FIELD[key])
    assert str(contract["t"].cover) == "[:20, :12, :8:7]"
    _, contract, _ = couple(lambda a: a["t"][:, mask], SPEC)
    assert str(contract["t"].cover) == "[:20, 1:10:4, :8]"


def test_indexing_by_dask_arrays_is_left_to_dask():
    value, _, _ = couple(lambda a: a["t"][:, da.from_array(np.array([1, 3]), chunks=2)], SPEC)
    np.testing.assert_array_equal(value, FIELD[:, [1, 3]])


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (np.s_[20], "index 20 is out of bounds for dimension 'time' with size 20"),
        (np.s_[0, -13], "index -13 is out of bounds for dimension 'y'"),
        (np.s_[:, :, [0, 8]], "index 8 is out of bounds for dimension 'x' with size 8"),
        (np.s_[:, np.ones(5, bool)], "mask of length 5"),
        (np.s_[::0], "cannot be zero"),
    ],
)
def test_out_of_range(key, words):
    with pytest.raises(SelectionError, match=words) as caught:
        offer(SPEC)["t"][key]
    assert isinstance(caught.value, IndexError) and "array 't'" in str(caught.value)


def test_empty_selections_depend_on_nothing():
    x = offer(SPEC)["t"]
    empty = x[:0, 3]
    assert empty.shape == (0, 8) and empty.compute().shape == (0, 8)
    assert x[20:].shape == (0, 12, 8)
    assert x[:, 13:20].shape == (20, 0, 8)  # beyond the end, as in dask.array


def test_array_not_offered():
    arrays = offer(SPEC, spec("pressure"))
    with pytest.raises(ContractError, match=r"offers 'pressure', 't'; did you mean 'pressure'\?"):
        arrays["presure"]
    assert "presure" not in arrays


def test_chunks_per_array():
    arrays = offer(SPEC, spec("p"), chunks={"p": (5, -1, -1)})
    assert arrays["p"].numblocks == (4, 1, 1) and arrays["t"].numblocks == (20, 3, 1)
    arrays = offer(SPEC, spec("p"), chunks={"time": 10})
    assert arrays["p"].numblocks == arrays["t"].numblocks == (2, 3, 1)


def test_steps_and_xarray():
    axis = StepAxis(start=100, every=10, count=20)
    s = ArraySpec("t", "f8", (12, 8), axis, dims=("y", "x"), attrs={"units": "K"})
    x = offer(s)["t"]
    np.testing.assert_array_equal(x[::5].steps, [100, 150, 200, 250])
    array = x.to_xarray()
    assert array.dims == ("time", "y", "x") and array.attrs == {"units": "K"}
    picked = array.isel(y=slice(2, 4), x=-1).sel(time=[120, 290])
    mean = array.sel(time=slice(200, 240), drop=True).mean("time")
    arrays = {"t": x}
    contract = contract_from_graph({"a": picked, "b": mean.to_dataset(name="b")}, arrays, run=RUN)
    assert [str(w) for w in contract["t"].wanted] == ["[2:20:17, 2:4, 7]", "[10:15, :12, :8]"]
    values, _ = execute([picked, mean], deliver(contract["t"], FIELD))
    np.testing.assert_array_equal(values[0], FIELD[[2, 19], 2:4, 7])
    np.testing.assert_allclose(values[1], FIELD[10:15].mean(axis=0))


def test_xarray_map_blocks_in_the_old_notation_of_graphs():
    import xarray as xr

    x = offer(SPEC)["t"]
    double = xr.map_blocks(lambda block: block * 2, x.to_xarray())
    contract = contract_from_graph(double, {"t": x}, run=RUN)
    value, _ = execute(double, deliver(contract["t"], FIELD))
    np.testing.assert_array_equal(value, 2 * FIELD)


def test_numpy_functions():
    value, _, _ = couple(
        lambda a: np.stack([np.mean(a["t"][:, 2:4], axis=0), a["t"][3, 2:4]]), SPEC
    )
    np.testing.assert_allclose(value, np.stack([FIELD[:, 2:4].mean(axis=0), FIELD[3, 2:4]]))


PARTICLES = ArraySpec("p", "f8", (-1, 3), StepAxis(count=4), dims=("atom", "axis"), ragged=True)
ROWS = [
    [np.random.default_rng(10 * t + r).random(((3 * t + 5 * r) % 7, 3)) for r in range(5)]
    for t in range(4)
]


def test_particles():
    arrays = offer(PARTICLES, n_receivers=2)
    p = arrays["p"]
    assert p.shape[0] == 4 and np.isnan(p.shape[1]) and p.shape[2] == 3
    centre = p[2].mean(axis=0)
    highest = p[::3, :, 2].max()
    contract = contract_from_graph([centre, highest], arrays, run=RUN)
    assert [str(w) for w in contract["p"].wanted] == ["[:4:3, :2, :3]", "[2, :2, :3]"]
    values, _ = execute([centre, highest], deliver_rows(contract["p"], ROWS))
    np.testing.assert_allclose(values[0], np.concatenate(ROWS[2]).mean(axis=0))
    assert values[1] == max(np.concatenate(ROWS[t])[:, 2].max() for t in (0, 3))


def test_columns_of_particles_are_pushed_down():
    arrays = offer(PARTICLES, n_receivers=2)
    total = arrays["p"][:, :, 1:].sum()
    contract = contract_from_graph(total, arrays, run=RUN)
    assert contract["p"].chunk_shape(0) == (1, -1, 2)
    value, _ = execute(total, deliver_rows(contract["p"], ROWS))
    np.testing.assert_allclose(value, sum(r[:, 1:].sum() for step in ROWS for r in step))


def test_particles_as_a_dataframe():
    pytest.importorskip("dask.dataframe")
    arrays = offer(PARTICLES, n_receivers=2)
    frame = arrays["p"][1:].to_dataframe(["x", "y", "z"])
    assert frame.npartitions == 6
    results = {"mean": frame["y"].mean(), "count": frame["x"].count()}
    contract = contract_from_graph(results, arrays, run=RUN)
    assert [str(w) for w in contract["p"].wanted] == ["[1:4, :2, :3]"]
    values, _ = execute(results, deliver_rows(contract["p"], ROWS))
    rows = np.concatenate([r for step in ROWS[1:] for r in step])
    np.testing.assert_allclose([values["mean"], values["count"]], [rows[:, 1].mean(), len(rows)])
    with pytest.raises(ContractError, match="got 2 names"):
        arrays["p"].to_dataframe(["x", "y"])
    with pytest.raises(ContractError, match="only a ragged array"):
        offer(SPEC)["t"].to_dataframe()


def test_open_ended_arrays_are_sliced_into_windows():
    arrays = offer(ArraySpec("o", "f8", (8,), StepAxis(every=10)), n_receivers=2)
    window = arrays["o"][100:103, ::2]
    assert window.shape == (3, 4)
    np.testing.assert_array_equal(window.steps, [1000, 1010, 1020])
    assert arrays["o"][7].shape == (8,)
    contract = contract_from_graph(window.sum(), arrays, run=RUN)
    assert str(contract["o"].cover) == "[100:103, :7:2]"
    for key, said in ((np.s_[:], ":"), (np.s_[-1:], "-1:"), (np.s_[5:], "5:"), (np.s_[-3], "-3")):
        with pytest.raises(SelectionError, match=rf"no 'o\[{said}\]' .* AT_MOST .* run\.rolling"):
            arrays["o"][key]


def test_graph_submitted_before_its_contract():
    x = offer(SPEC)["t"]
    with pytest.raises(ContractError, match="make it with contract_from_graph"):
        pickle.dumps(x[:, 2:].dask)


def test_graphs_travel_small():
    arrays = offer(spec(count=10_000), n_receivers=4)
    mean = arrays["t"][::2, 1:].mean()
    contract_from_graph(mean, arrays, run=RUN)
    layer = arrays["t"][::2, 1:].dask.layers[arrays["t"][::2, 1:].name]
    data = pickle.dumps(layer)
    assert len(data) < 100_000
    again = pickle.loads(data)
    key = (again.name, 4999, 3, 0)
    assert again[key] == layer[key] and len(again) == len(layer) == 20_000


@pytest.mark.parametrize(
    "use",
    [
        lambda u: u.mean(axis=0),
        lambda u: u * 2,
        lambda u: 1 - u,
        lambda u: np.sqrt(u),
        lambda u: np.mean(u),
        lambda u: u.to_xarray(),
        lambda u: u.shape[0],
        lambda u: len(u),
    ],
)
def test_an_open_ended_array_used_as_a_dask_array_names_the_remedies(use):
    u = offer(spec("u", count=None))["u"]
    with pytest.raises(ContractError, match=r"'u' has no number .* AT_MOST = True .* run\.rolling"):
        use(u)
