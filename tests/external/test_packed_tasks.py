"""Tasks whose functions and arguments the scheduler does not see."""

import pickle
import subprocess
import sys
import threading

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask._task_spec import Alias, DataNode, Task, TaskRef, convert_legacy_graph, execute_graph
from distributed import Client, LocalCluster
from distributed.protocol.pickle import dumps

from ips_components.analysis.contract import submit
from ips_components.external.packed_tasks import MAX_LARGE, pack


def graph_of(collection):
    return convert_legacy_graph(dict(collection.__dask_graph__()))


def lazy_sum():
    return (da.arange(24, chunks=6).reshape(4, 6) ** 2)[1:].sum()


def test_packed_tasks_have_the_same_values():
    lazy = lazy_sum()
    (key,) = lazy.__dask_keys__()
    assert execute_graph(pack(graph_of(lazy)), keys=[key])[key] == lazy.compute(scheduler="sync")


def test_keys_dependencies_and_names_stay():
    graph = graph_of(lazy_sum())
    packed = pack(graph)
    assert {key: task.dependencies for key, task in packed.items()} == {
        key: task.dependencies for key, task in graph.items()
    }
    task = Task("new", np.add, TaskRef("old"), 1)
    assert "add" in repr(pack({"new": task})["new"])


def test_a_scheduler_imports_nothing_of_the_analysis(tmp_path):
    lazy = xr.DataArray(lazy_sum()).mean()
    file = tmp_path / "graph"
    file.write_bytes(dumps(pack(graph_of(lazy))))
    code = (
        "import pickle, sys, distributed; "
        f"graph = pickle.load(open({str(file)!r}, 'rb')); "
        "names = 'dask.array', 'xarray', 'pandas', 'scipy'; "
        "sys.exit(str([name for name in names if name in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr.strip() == ""


def test_a_worker_unpacks_tasks_as_they_arrive_and_not_in_the_threads_that_run_them():
    code = (
        "import pickle, sys; from dask._task_spec import Task; import dask.array.chunk as chunk; "
        "from ips_components.external.packed_tasks import pack; "
        "packed = pack({'x': Task('x', chunk.trim, 1)}); "
        "sys.stdout.buffer.write(pickle.dumps(packed))"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    for setting, expected in (("", "False"), ("packed_tasks.unpack_arrivals(); ", "True")):
        code = (
            f"import pickle, sys; from ips_components.external import packed_tasks; {setting}"
            "pickle.loads(sys.stdin.buffer.read()); print('dask.array.chunk' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], input=made.stdout, capture_output=True, timeout=60
        )
        assert done.stdout.decode().strip() == expected, done.stderr


def test_values_and_aliases_are_left_as_they_are():
    tasks = {"value": DataNode("value", 3), "alias": Alias("alias", "value")}
    assert pack(tasks) == tasks


def test_a_large_value_of_many_tasks_does_not_travel_once_for_each():
    shared = np.arange(1 << 16)
    tasks = {number: Task(number, np.add, shared, number) for number in range(40)}
    size = len(pickle.dumps(pack(tasks)))
    assert size < MAX_LARGE + 2 * shared.nbytes


def test_a_task_that_cannot_be_pickled_is_refused():
    with pytest.raises(TypeError, match="task 'x'"):
        pack({"x": Task("x", id, threading.Lock())})


def test_annotations_of_an_analysis_still_reach_the_scheduler():
    with (
        LocalCluster(n_workers=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        worker = next(iter(client.scheduler_info()["workers"]))
        with dask.annotate(workers=[worker]):
            lazy = dask.delayed(sum)([1, 2])
        future = submit(client, {"pinned": lazy})["pinned"]
        assert future.result() == 3
        restrictions = [task.worker_restrictions for task in cluster.scheduler.tasks.values()]
        assert {worker} in restrictions
