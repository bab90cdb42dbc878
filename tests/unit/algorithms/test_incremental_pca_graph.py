"""The shape of the task graph, and how it runs: lazily, in bounded memory, step by step."""

import dask
import dask.array as da
import numpy as np
import pytest
from dask.callbacks import Callback
from dask.highlevelgraph import HighLevelGraph
from dask.sizeof import sizeof
from dask.utils import key_split
from distributed import Client, Event, LocalCluster, futures_of, secede, wait
from sklearn.decomposition import IncrementalPCA

from ips_components.algorithms import InSituIncrementalPCA
from ips_components.algorithms._graph import Task

LABELS = (["t", "X", "Y"], ["X"], ["Y"])


def refuse(*args, **kwargs):
    raise RuntimeError("something was computed")


def external_blocks(steps, nx, ny, chunk):
    """An array whose blocks are bare keys, as those of an external array are."""
    chunks = ((1,) * steps, (chunk,) * (nx // chunk), (ny,))
    return da.Array(HighLevelGraph({"outside": {}}, {"outside": set()}), "outside", chunks, "f8")


def test_nothing_is_computed_before_it_is_asked_for():
    x = external_blocks(5, 8, 6, 4)
    with dask.config.set(scheduler=refuse):
        pca = InSituIncrementalPCA(2).fit(x, *LABELS)
        pca.partial_fit(x)
        pca.inverse_transform(pca.transform(x))
        InSituIncrementalPCA.from_state(pca.state()).partial_fit(x, *LABELS)
        for name in dir(pca):
            if name.endswith("_") and not name.startswith("_"):
                getattr(pca, name)


def graph_of(array):
    (optimised,) = dask.optimize(array)
    return dict(optimised.__dask_graph__())


@pytest.mark.parametrize(("chunk", "per_batch"), [(12, 1), (6, 4), (3, 8)])
def test_tasks_per_batch(chunk, per_batch):
    def tasks(steps):
        x = external_blocks(steps, 12, 6, chunk)
        return len(graph_of(InSituIncrementalPCA(2).fit(x, *LABELS).singular_values_))

    assert (tasks(10) - tasks(4)) == 6 * per_batch


@pytest.mark.parametrize("samples", [(6,), (4, 2)], ids=["one part", "two parts"])
def test_steps_of_one_chunk_are_updated_by_one_task(samples):
    """And with the numbers of an update for each step, the history included."""
    values = np.random.default_rng(1).normal(size=(20, 5, 6))
    names = ("singular_values_", "components_", "var_", "explained_variance_ratio_history_")

    def fitted(steps):
        return InSituIncrementalPCA(3).fit(
            da.from_array(values, chunks=(steps, -1, samples)), *LABELS
        )

    few, many = fitted(8), fitted(1)
    for name in names:
        got, expected = np.asarray(getattr(few, name)), np.asarray(getattr(many, name))
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13, err_msg=name)
    assert few.explained_variance_ratio_history_.chunks == ((8, 8, 4), (3,))
    updates = [key for key in few.singular_values_.__dask_graph__() if "ipca-update" in key[0]]
    assert len(updates) == 3


@pytest.mark.parametrize("chunk", [12, 6])
def test_optimisation_keeps_updates_apart(chunk):
    """Fused updates would wait for all batches and hold them at once."""
    graph = graph_of(InSituIncrementalPCA(2).fit(external_blocks(9, 12, 6, chunk), *LABELS).mean_)
    for task in graph.values():
        steps = {key[1] for key in task.dependencies if key[0] == "outside"}
        assert len(steps) <= 1


def test_only_the_last_state_is_needed():
    x = external_blocks(30, 12, 6, 6)
    graph = graph_of(InSituIncrementalPCA(2).fit(x, *LABELS).components_)
    states = [key for key in graph if key_split(key) == "ipca-factorise"]
    for key in states:
        users = [task for task in graph.values() if key in task.dependencies]
        assert all(abs(task.key[1] - key[1]) <= 1 for task in users if key[1] < 29)


class Peak(Callback):
    """Follows the bytes and the number of results that are alive at a time."""

    def __init__(self):
        super().__init__()
        self.bytes = self.keys = 0

    def _posttask(self, key, result, dsk, state, worker_id):
        alive = state["cache"].values()
        self.keys = max(self.keys, len(alive))
        self.bytes = max(self.bytes, sum(map(sizeof, alive)))


@pytest.mark.parametrize("nx", [60, 30], ids=["whole", "split"])
def test_memory_does_not_grow_with_the_number_of_batches(nx):
    def peak(steps):
        x = da.random.default_rng(0).normal(size=(steps, 60, 20), chunks=(1, nx, 20))
        pca = InSituIncrementalPCA(3).fit(x, *LABELS)
        with Peak() as watched:
            dask.compute(pca.components_, pca.explained_variance_, pca.mean_)
        return watched

    few, many = peak(5), peak(60)
    # Each of the tasks that are not done is there as a small object too; results are not.
    assert many.keys - few.keys <= 2 * 55 * 2
    batch = 60 * 20 * 8
    assert many.bytes < few.bytes + batch


def test_state_has_a_fixed_size():
    x = da.random.default_rng(0).normal(size=(40, 60, 20), chunks=(1, 60, 20))

    def size(steps):
        pca = InSituIncrementalPCA(3).fit(x[:steps], *LABELS)
        key = pca._model.whole
        return sizeof(dask.get(dict(pca._model.chain.graph), key))

    assert size(2) == size(40)


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def arriving(t, j, nx, ny):
    """A block that comes from outside when its step has come; waits without holding a thread."""
    secede()
    if not Event(f"step-{t}").wait(30):
        raise TimeoutError(f"step {t} was awaited for 30 s")
    return np.random.default_rng([t, j]).normal(size=(1, nx, ny))


def test_every_batch_is_used_when_it_arrives_and_is_freed(client):
    steps, nx, ny = 6, 8, 10
    keys = {
        ("arriving", t, j, 0): Task(("arriving", t, j, 0), arriving, t, j, nx, ny)
        for t in range(steps)
        for j in range(2)
    }
    chunks = ((1,) * steps, (nx, nx), (ny,))
    x = da.Array(HighLevelGraph({"arriving": keys}, {"arriving": set()}), "arriving", chunks, "f8")
    pca = InSituIncrementalPCA(3).fit(x, *LABELS)
    history, components = client.persist([pca.explained_variance_history_, pca.components_])
    rows = sorted(futures_of(history), key=lambda future: future.key[1])
    for t, row in enumerate(rows):
        Event(f"step-{t}").set()
        wait(row, timeout=30)
        assert row.status == "finished"
    wait(components, timeout=30)

    fields = [
        np.concatenate([np.random.default_rng([t, j]).normal(size=(nx, ny)) for j in range(2)])
        for t in range(steps)
    ]
    theirs = IncrementalPCA(3)
    for field in fields:
        theirs.partial_fit(field.T)
    np.testing.assert_allclose(
        client.compute(components).result(30), theirs.components_, atol=1e-10
    )
    held = {key_split(key) for keys in client.has_what().values() for key in keys}
    assert "arriving" not in held
    assert "ipca-factorise" not in held
