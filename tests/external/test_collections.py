"""External tasks through the collections: what an analyst writes, with optimisation on."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.highlevelgraph import HighLevelGraph
from distributed.utils_test import gen_cluster
from external_helpers import NAME, external_of, install, key, lazy, tasks_of, until

from ips_components.external.layer import ExternalLayer

STEPS, ROWS, COLUMNS = 6, 8, 10
CHUNKS = ((1,) * STEPS, (4, 4), (COLUMNS,))


def field(name: str = NAME) -> da.Array:
    """A space-time field, one step and half the rows per chunk."""
    numblocks = tuple(map(len, CHUNKS))
    graph = HighLevelGraph({name: ExternalLayer(name, numblocks)}, {name: set()})
    return da.Array(graph, name, CHUNKS, dtype=float)


def truth() -> np.ndarray:
    return np.random.default_rng(1).random((STEPS, ROWS, COLUMNS))


async def deliver(tasks, *workers, name: str = NAME) -> None:
    """Send the whole field, chunk by chunk."""
    values = truth()
    for number, (t, i) in enumerate(np.ndindex(STEPS, 2)):
        worker = external_of(workers[number % len(workers)])
        worker.deliver({(name, t, i, 0): values[t : t + 1, 4 * i : 4 * i + 4]})


EXPRESSIONS = {
    "sum": lambda x: x.sum(),
    "mean-over-time": lambda x: x.mean(axis=0),
    "fused-elementwise": lambda x: (np.sqrt(x * 2 + 1) - x).std(axis=(1, 2)),
    "derivative": lambda x: da.diff(x, axis=0).max(axis=0),
    "blocks": lambda x: x.blocks[1:3].sum(),
    "strided": lambda x: x[::2, 1::3, :5] + 1,
    "fancy": lambda x: x[[0, 3, 5]][:, [1, 2]],
    "reversed": lambda x: x[::-1, ::-1],
    "rechunk": lambda x: x.rechunk((STEPS, 2, 5)).cumsum(axis=0),
    "p2p-rechunk": lambda x: x.rechunk((STEPS, 2, 5), method="p2p"),
    "tasks-rechunk": lambda x: x.rechunk((STEPS, 2, 5), method="tasks"),
    "overlap": lambda x: x.map_overlap(lambda b: b * 2, depth=(0, 1, 1), boundary="periodic"),
    "stack": lambda x: da.stack([x.min(axis=0), x.max(axis=0)]),
    "concatenate": lambda x: da.concatenate([x, x + 1], axis=1),
    "tensordot": lambda x: da.tensordot(x, x, axes=((1, 2), (1, 2))),
    "svd": lambda x: da.linalg.svd(x.reshape((STEPS, -1)).rechunk((2, -1)))[1],
    "where": lambda x: da.where(x > 0.5, x, 0).argmax(axis=0),
    "reshape": lambda x: x.reshape((STEPS * ROWS, COLUMNS)),
    "map-blocks-with-info": lambda x: x.map_blocks(
        lambda b, block_info: b + block_info[0]["chunk-location"][0], dtype=float
    ),
    "histogram": lambda x: da.histogram(x, bins=4, range=(0, 1))[0],
    "percentile": lambda x: da.percentile(x.ravel(), 50, method="nearest"),
    "topk": lambda x: da.topk(x.ravel(), 3),
    "apply-gufunc": lambda x: da.apply_gufunc(lambda b: b.mean(-1), "(k)->()", x, axis=-1),
    "identity": lambda x: x,
}


#: Without optimisation nothing is fused, and fewer things differ.
PLAIN = ("sum", "blocks", "rechunk", "overlap", "svd")


@pytest.mark.parametrize(
    ("name", "optimised"),
    [*((name, True) for name in EXPRESSIONS), *((name, False) for name in PLAIN)],
)
@gen_cluster(client=True)
async def test_array_expression_submitted_before_the_data(c, s, a, b, name, optimised):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (STEPS, 2, 1), None, group="g")
    expression = EXPRESSIONS[name]
    result = c.compute(expression(field()), optimize_graph=optimised)
    tasks.release_group("g", when_known=[result.key])
    await until(lambda: tasks.counts("g").get("wanted"), "the graph")
    await deliver(tasks, a, b)
    got = await result
    if name == "p2p-rechunk":  # runs on a cluster only, and changes no value
        expression = EXPRESSIONS["identity"]
    right = expression(da.from_array(truth(), chunks=CHUNKS)).compute(scheduler="sync")
    np.testing.assert_allclose(got, right)
    del result
    await until(lambda: not s.tasks, "everything to be freed")


@gen_cluster(client=True)
async def test_persist_then_compute_twice(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (STEPS, 2, 1), None, group="g")
    anomaly = c.persist(field() - field().mean(axis=0))
    await until(lambda: tasks.counts("g").get("wanted"), "the graph")
    await deliver(tasks, a)
    right = truth() - truth().mean(axis=0)
    np.testing.assert_allclose(await c.compute(anomaly.sum(axis=0)), right.sum(axis=0), atol=1e-12)
    np.testing.assert_allclose(await c.compute(anomaly.max()), right.max())


@gen_cluster(client=True)
async def test_persisting_the_external_array_itself_keeps_its_chunks(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (STEPS, 2, 1), None, group="g")
    kept = c.persist(field())
    await until(lambda: tasks.counts("g").get("wanted"), "the graph")
    tasks.release_group("g")
    await deliver(tasks, a, b)
    np.testing.assert_allclose(await c.compute(kept.sum()), truth().sum())
    np.testing.assert_allclose(await c.compute(kept.max()), truth().max())
    assert len([k for w in (a, b) for k in w.data if k[0] == NAME]) >= 2 * STEPS


@gen_cluster(client=True)
async def test_delayed_consumers(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (STEPS, 2, 1), None, group="g")
    parts = [dask.delayed(np.sum)(block) for block in field().to_delayed().ravel()]
    total = c.compute(dask.delayed(sum)(parts))
    await until(lambda: tasks.counts("g").get("wanted"), "the graph")
    await deliver(tasks, a, b)
    assert await total == pytest.approx(truth().sum())


@gen_cluster(client=True)
async def test_from_delayed_of_an_external_future(c, s, a, b):
    from ips_components.external import external_future, provide

    future = await external_future("temperature", client=c)
    x = da.from_delayed(dask.delayed(future), shape=(10, 10), dtype=float)
    total = c.compute(x.sum())
    await until(lambda: s.tasks.get("temperature") and s.tasks["temperature"].waiters, "the graph")
    assert total.status == "pending"
    await provide({"temperature": np.ones((10, 10))}, client=c)
    assert await total == 100


@gen_cluster(client=True)
async def test_xarray_with_named_dimensions_and_coordinates(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (STEPS, 2, 1), None, group="g")
    coords = {"time": np.arange(STEPS) * 0.5, "y": np.linspace(0, 1, ROWS)}

    def analysis(data):
        x = xr.DataArray(data, dims=("time", "y", "x"), coords=coords, name="temperature")
        x = x.sel(time=slice(0.5, 2)).isel(x=slice(None, None, 2))
        return xr.Dataset({"mean": x.mean("time"), "trend": x.diff("time").max("y")})

    lazy_set = analysis(field())
    future = c.compute(lazy_set)
    tasks.release_group("g", when_known=[future.key])
    await until(lambda: tasks.counts("g").get("wanted"), "the graph")
    # Only the selected steps are wanted; the others go when the hold on them is dropped.
    await until(
        lambda: {k[1] for k in tasks.registry.groups["g"].states} == {1, 2, 3, 4},
        "the selected steps to be left",
    )
    await deliver(tasks, a, b)
    xr.testing.assert_allclose(await future, analysis(truth()))


@gen_cluster(client=True)
async def test_dataframe_of_varying_length(c, s, a, b):
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    from ips_components.external import external_future, provide

    steps = range(4)
    futures = [await external_future(("particles", step), client=c) for step in steps]
    meta = pd.DataFrame({"id": np.array([], dtype="i8"), "energy": np.array([], dtype="f8")})
    frame = dd.from_delayed([dask.delayed(f) for f in futures], meta=meta, verify_meta=False)
    mean = c.compute(frame.groupby("id").energy.mean())
    tables = {
        ("particles", step): pd.DataFrame(
            {"id": np.arange(step * 3) % 3, "energy": np.arange(step * 3) * 1.0}
        )
        for step in steps
    }
    await until(lambda: all(s.tasks[k].waiters for k in tables), "the graph")
    for k, table in tables.items():
        await provide({k: table}, client=c)
    right = pd.concat(tables.values()).groupby("id").energy.mean()
    pd.testing.assert_series_equal((await mean).sort_index(), right)


@gen_cluster(client=True)
async def test_particle_rows_of_unknown_length(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare(NAME, (3, 1), None, group="g")
    chunks = ((np.nan,) * 3, (2,))
    graph = HighLevelGraph({NAME: ExternalLayer(NAME, (3, 1))}, {NAME: set()})
    rows = da.Array(graph, NAME, chunks, dtype=float)
    result = c.compute(rows[rows[:, 0] > 0].sum(axis=0))
    await until(lambda: tasks.counts("g").get("wanted"), "the graph")
    tables = [np.random.default_rng(i).normal(size=(5 * i, 2)) for i in range(3)]
    for i, table in enumerate(tables):
        external_of(a).deliver({(NAME, i, 0): table})
    whole = np.concatenate(tables)
    np.testing.assert_allclose(await result, whole[whole[:, 0] > 0].sum(axis=0))


@gen_cluster(client=True)
async def test_several_arrays_at_different_rates_in_one_graph(c, s, a, b):
    await install(c)
    tasks = tasks_of(s)
    tasks.declare("external-fast-00000000", (12,), None, group="g")
    tasks.declare("external-slow-00000000", (3,), None, group="g")
    fast, slow = lazy(12, "external-fast-00000000"), lazy(3, "external-slow-00000000")
    ratio = (fast.reshape((3, 16)).mean(axis=1) / slow.reshape((3, 4)).mean(axis=1)).sum()
    result = c.compute(ratio)
    tasks.release_group("g", when_known=[result.key])
    for i in range(12):
        external_of(a).deliver({key(i, "external-fast-00000000"): np.full(4, i)})
        if i % 4 == 3:
            external_of(b).deliver({key(i // 4, "external-slow-00000000"): np.full(4, i + 1)})
    assert await result == pytest.approx(1.5 / 4 + 5.5 / 8 + 9.5 / 12)


@gen_cluster(client=True)
async def test_tasks_are_recognisable_by_their_prefix(c, s, a, b):
    await install(c)
    tasks_of(s).declare("external-temperature-0a1b2c3d", (3,), None, group="g")
    assert s.task_prefixes["external-temperature"].states["waiting"] == 3
