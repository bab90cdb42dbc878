import itertools
import threading

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client

from ips_components.analysis.contract import contract_from_graph, persist_together, submit
from ips_components.errors import ContractError
from ips_components.model import Contract, Placement

from .simulated import RUN, couple, deliver, execute, field_of, offer, spec

SPEC = spec()
FIELD = field_of(SPEC)


def wanted(contract, name="t"):
    return [str(part) for part in contract[name].wanted]


@pytest.mark.parametrize(
    ("title", "analysis", "parts"),
    [
        ("derivative in time", lambda x: x[1:] - x[:-1], ["[:20, :12, :8]"]),
        (
            "second derivative, sampled",
            lambda x: (x[2::4] - 2 * x[1:-1:4] + x[:-2:4]).sum(axis=0),
            ["[:19:2, :12, :8]", "[1:18:4, :12, :8]"],
        ),
        ("lag", lambda x: (x[5:, 3] * x[:-5, 3]).mean(axis=0), ["[:20, 3, :8]"]),
        (
            "moving average",
            lambda x: da.overlap.map_overlap(
                lambda a: (a[2:] + a[1:-1] + a[:-2]) / 3,
                x[:, :2],
                depth={0: 1},
                boundary="reflect",
                trim=False,
                dtype=float,
            ),
            ["[:20, :2, :8]"],
        ),
        ("sum of steps", lambda x: x[3] + x[9] + x[15], ["[3:16:6, :12, :8]"]),
        ("two regions", lambda x: x[:, 0].sum() + x[:, 11].sum(), ["[:20, :12:11, :8]"]),
        (
            "overlapping regions",
            lambda x: x[:, 2:6, 1:4].sum() + x[:, 4:8, 2:6].sum(),
            ["[:20, 2:4, 1:4]", "[:20, 4:6, 1]", "[:20, 4:8, 2:6]"],
        ),
        ("some blocks of a result", lambda x: (x * 2).blocks[4:6, 1], ["[4:6, 4:8, :8]"]),
        ("rechunked", lambda x: x.rechunk((20, 3, 8))[:, 0:3].std(axis=0), ["[:20, :3, :8]"]),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_only_what_is_used_is_wanted(title, analysis, parts):
    value, contract, _ = couple(lambda a: analysis(a["t"]), SPEC)
    expected = analysis(da.from_array(FIELD, chunks=(1, 4, 8))).compute()
    np.testing.assert_allclose(value, expected)
    assert sorted(wanted(contract)) == sorted(parts)


@pytest.mark.parametrize("chunks", [None, 5, (3, 7, -1), ((1, 9, 10), (6, 6), (3, 5))])
def test_steps_in_one_chunk(chunks):
    def analysis(a):
        x = a["t"]
        return [x[1:] - x[:-1], x[::3, 1:5].mean(), x[7, 2, 3]]

    values, contract, _ = couple(analysis, SPEC, chunks=chunks)
    np.testing.assert_allclose(values[0], FIELD[1:] - FIELD[:-1])
    np.testing.assert_allclose(values[1], FIELD[::3, 1:5].mean())
    np.testing.assert_allclose(values[2], FIELD[7, 2, 3])
    assert wanted(contract) == ["[:20, :12, :8]"]


def test_arrays_that_nobody_uses_are_not_in_the_contract():
    specs = spec("t"), spec("u", shape=(6,), dims=("z",)), spec("unused")
    (value, other), contract, _ = couple(
        lambda a: [a["t"][:, 0, 0] * a["u"][:, 2], a["u"][5].sum()], *specs
    )
    u = field_of(specs[1])
    np.testing.assert_allclose(value, FIELD[:, 0, 0] * u[:, 2])
    np.testing.assert_allclose(other, u[5].sum())
    assert [a.spec.name for a in contract.arrays] == ["t", "u"]
    assert wanted(contract, "u") == ["[:20, 2]", "[5, :6]"] or contract["u"].fraction < 0.3
    assert contract.ordinal("unused") is None


def test_what_is_culled_away_is_not_wanted():
    def analysis(a):
        both = da.stack([a["t"].sum(axis=(1, 2)), a["p"].sum(axis=(1, 2))])
        return both[0, 10:]

    value, contract, _ = couple(analysis, SPEC, spec("p"))
    np.testing.assert_allclose(value, FIELD.sum(axis=(1, 2))[10:])
    assert contract.ordinal("p") is None and wanted(contract) == ["[10:20, :12, :8]"]


def test_nested_results_of_all_kinds():
    pytest.importorskip("xarray")
    arrays = offer(SPEC)
    x = arrays["t"]
    results = {
        "array": x[3].mean(),
        "delayed": dask.delayed(np.linalg.norm)(x[4, :, 0]),
        "many": [x[5].to_xarray().sum("y"), (x[6, 0, 0],)],
    }
    contract = contract_from_graph(results, arrays, run=RUN)
    flat = [results["array"], results["delayed"], *results["many"][:1], results["many"][1][0]]
    values, _ = execute(flat, deliver(contract["t"], FIELD))
    np.testing.assert_allclose(values[0], FIELD[3].mean())
    np.testing.assert_allclose(values[1], np.linalg.norm(FIELD[4, :, 0]))
    np.testing.assert_allclose(values[2], FIELD[5].sum(axis=0))
    assert values[3] == FIELD[6, 0, 0]
    assert sum(w.size for w in contract["t"].wanted) == 96 + 12 + 96 + 1


def test_tasks_made_before_the_contract():
    arrays = offer(SPEC)
    x = arrays["t"]
    low = dask.optimize(x[::2, 3:].sum(axis=1) + x[::2, 2])[0]  # low-level tasks, fused
    parts = x[7, :4].to_delayed(optimize_graph=True).ravel()[0]
    whole = dask.optimize(x[9].max() * 2)[0]
    seen_but_unused = dask.optimize(x[11, 5:].sum())[0]
    results = [low, parts, whole]
    contract = contract_from_graph(results, arrays, run=RUN)
    assert seen_but_unused.shape == ()
    assert sum(w.size for w in contract["t"].wanted) == 10 * 10 * 8 + 4 * 8 + 12 * 8
    values, _ = execute(results, deliver(contract["t"], FIELD))
    np.testing.assert_allclose(values[0], FIELD[::2, 3:].sum(axis=1) + FIELD[::2, 2])
    np.testing.assert_allclose(values[1], FIELD[7, :4])
    np.testing.assert_allclose(values[2], FIELD[9].max() * 2)


def test_stored_results(tmp_path):
    arrays = offer(SPEC)
    zarr = pytest.importorskip("zarr")
    target = zarr.create_array(tmp_path / "a.zarr", shape=(10, 8), chunks=(1, 8), dtype="f8")
    lazy = da.store(arrays["t"][::2, 3], target, lock=False, compute=False)
    contract = contract_from_graph(lazy, arrays, run=RUN)
    assert wanted(contract) == ["[:19:2, 3, :8]"]
    execute(lazy, deliver(contract["t"], FIELD))
    np.testing.assert_array_equal(target[:], FIELD[::2, 3])


def test_graphs_that_are_not_culled_ask_for_what_is_in_the_contract_only():
    arrays = offer(SPEC)
    lazy = arrays["t"][:, 2:].blocks[3]
    contract = contract_from_graph(lazy, arrays, run=RUN)
    external = deliver(contract["t"], FIELD)
    graph = dict(lazy.dask)  # everything, without Dask's own culling
    from dask._task_spec import convert_legacy_graph

    for task in convert_legacy_graph(graph).values():
        assert all(d in graph or d in external for d in task.dependencies)
    with pytest.raises(ContractError, match="not in the contract"):
        arrays["t"][11, :2].compute(scheduler="sync")


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (lambda a: {"good": a["t"].sum(), "ones": da.ones(3)}, "ones does not depend on any"),
        (lambda a: [a["t"].sum(), [dask.delayed(int)("3")]], r"result 1\[0\] does not depend"),
        (lambda a: {"n": 3}, "n is a int, not lazy"),
        (lambda a: a["t"][:0], "the result does not depend on any external array"),
        (lambda a: None, "the result is a NoneType"),
    ],
)
def test_results_that_need_no_simulation(results, words):
    arrays = offer(SPEC)
    with pytest.raises(ContractError, match=words):
        contract_from_graph(results(arrays), arrays, run=RUN)


def test_made_once_for_the_right_run():
    arrays = offer(SPEC)
    total = arrays["t"].sum()
    with pytest.raises(ContractError, match="belongs to run 'unit', not to 'other'"):
        contract_from_graph(total, arrays, run="other")
    contract_from_graph(total, arrays, run=RUN)
    with pytest.raises(ContractError, match="has a contract already"):
        contract_from_graph(total, arrays, run=RUN)


def test_policies_and_placement():
    arrays = offer(SPEC, spec("p"))
    results = [arrays["t"].sum(), arrays["p"][:, 0].sum()]
    with pytest.raises(ContractError, match=r"policies name arrays \['q'\]"):
        contract_from_graph(results, arrays, run=RUN, policies={"q": "drop"})
    asked = []

    def placement(layout, needed):
        asked.append(needed)
        return Placement(0, 1, (7,) * layout.n_space)

    contract = contract_from_graph(
        results, arrays, run=RUN, placement=placement, policies={"p": "drop"}
    )
    assert (contract["t"].policy, contract["p"].policy) == ("block", "drop")
    assert asked == [(0, 1, 2), (0,)]
    assert contract["p"].placement.receivers == (7,)
    assert Contract.from_bytes(contract.to_bytes()) == contract


def test_a_thousand_steps_one_by_one():
    long = spec(count=1000, shape=(4,), dims=("x",))
    values, contract, _ = couple(
        lambda a: da.stack([a["t"][t].sum() for t in range(0, 1000, 2)]), long
    )
    assert wanted(contract) == ["[:999:2, :4]"]
    np.testing.assert_allclose(values, field_of(long)[::2].sum(axis=1))


@pytest.mark.parametrize("order", [*itertools.permutations(("array", "delayed", "labelled"))])
def test_values_of_several_kinds_are_persisted_each_as_what_it_is(order):
    """Dask alone mixes them up where a delayed value is between arrays."""
    ones = da.ones((4, 4), chunks=2)
    state = {
        "array": ones.max() * 2,
        "delayed": dask.delayed(int)(4),
        "labelled": xr.DataArray(ones.sum() * 7),
    }
    data = xr.Dataset({"u": (("y", "x"), ones * 3)})
    kept, output = persist_together({name: state[name] for name in order}, [data, 5])
    values = {name: float(value.compute()) for name, value in kept.items()}
    assert values == {"array": 2.0, "delayed": 4.0, "labelled": 112.0}
    assert float(output[0].u.sum()) == 48.0
    assert output[1] == 5


def test_a_graph_that_cannot_be_sent_names_the_result_and_the_object():
    lock = threading.Lock()
    results = {"good": da.ones(3), "locked": da.ones(3).map_blocks(lambda x: lock and x)}
    with (
        Client(processes=False, dashboard_address=None) as client,
        pytest.raises(ContractError, match=r"'good', 'locked' cannot be sent .*_thread.lock"),
    ):
        submit(client, results)
