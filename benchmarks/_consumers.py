"""The analysis' side of every method: the mean of every step, and when it could begin.

Run with the path of a job file this module is the consumer process of a peer that has one.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def stamp(*blocks: np.ndarray) -> np.ndarray:
    """Read every byte of a step; its mean, and the time at which the task began."""
    began = time.time()
    means = [block.mean() for block in blocks]
    return np.array([sum(means) / len(means), began])


#: What a task finds of its part of a step.
PART = np.dtype([("sum", float), ("cells", float), ("began", float)])


def stamp_part(chunk: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    """Read every byte of a chunk: (steps, y, x) to `PART` of (steps, 1, 1)."""
    began = time.time()
    found = np.empty((len(chunk),) + (1,) * (chunk.ndim - 1), PART)
    found["sum"] = chunk.sum(axis=axis, keepdims=True)
    found["cells"], found["began"] = math.prod(chunk.shape[1:]), began
    return found


def join_parts(parts: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    """Put the parts of a step together; the last task is the one that began late."""
    total = parts["sum"].sum(axis=axis, keepdims=keepdims)
    found = np.empty(total.shape, PART)
    found["sum"], found["cells"] = total, parts["cells"].sum(axis=axis, keepdims=keepdims)
    found["began"] = parts["began"].max(axis=axis, keepdims=keepdims)
    return found


def stamps_of(parts: np.ndarray) -> np.ndarray:
    """The mean of each step, and when its last task began: (steps, 2)."""
    return np.stack([parts["sum"] / parts["cells"], parts["began"]], axis=-1)


def stamped(arrays: Any, columns: int | None = None, name: str = "t") -> dict[str, Any]:
    """Analysis of this package: a stamp for each step, of the first `columns` or of all.

    Large steps are several chunks, cut in space: each is read where it lies.
    """
    import dask.array as da

    array = arrays[name]
    if name == "t":
        array = array[:, :, :columns]
    parts = da.reduction(
        array, stamp_part, join_parts, axis=tuple(range(1, array.ndim)), dtype=PART,
        combine=join_parts, meta=np.empty(0, PART),
    )  # fmt: skip
    stamps = parts.map_blocks(stamps_of, dtype=float, new_axis=[1], chunks=(parts.chunks[0], (2,)))
    return {"stamps": stamps}


def reduced(arrays: Any) -> dict[str, Any]:
    """Analysis of this package: one number for each step."""
    array = arrays["t"]
    return {"sums": array.sum(axis=tuple(range(1, array.ndim)))}


# -- consumers that are driven by a client in the driver's process ---------------------------------


def scatter_consumer(client: Any, job: dict[str, Any]) -> list[list[float]]:
    """Take the futures of every step from the ranks' queues, and submit a task for it."""
    from distributed import Queue

    queues = [Queue(f"{job['name']}-{rank}", client=client) for rank in range(job["ranks"])]
    waiting = []
    for _ in range(job["steps"]):
        blocks = [queue.get(timeout=60) for queue in queues]
        waiting.append(client.submit(stamp, *blocks, pure=False))
    stamps = [list(map(float, value)) for value in client.gather(waiting)]
    Path(job["out"]).with_suffix(".consumed").touch()
    return stamps


def zarr_consumer(client: Any, job: dict[str, Any]) -> list[list[float]]:
    """Read the store with Dask, a chunk per block."""
    import dask.array as da

    array = da.from_zarr(job["store"])
    means = client.compute(array.mean(axis=(1, 2))).result(120)
    return [[float(mean), time.time()] for mean in means]


def hdf5_consumer(client: Any, job: dict[str, Any]) -> list[list[float]]:
    """Read the files with Dask, a task per block."""
    parts = [
        [client.submit(read_hdf5, f"{job['store']}-{rank}.h5", step, pure=False)
         for rank in range(job["ranks"])]
        for step in range(job["steps"])
    ]  # fmt: skip
    waiting = [client.submit(stamp, *blocks, pure=False) for blocks in parts]
    return [[float(mean), time.time()] for mean, _ in client.gather(waiting)]


def read_hdf5(path: str, step: int) -> np.ndarray:
    import h5py

    with h5py.File(path, "r") as file:
        return file["t"][step]


# -- consumers that are processes of their own -----------------------------------------------------


def deisa_consumer(job: dict[str, Any]) -> list[list[float]]:
    """Stamp when deisa-dask calls back, then compute the mean."""
    os.environ["DEISA_DASK_SCHEDULER_ADDRESS"] = job["scheduler"]
    from deisa.dask import Deisa

    deisa = Deisa()
    stamps: dict[int, list[float]] = {}

    def callback(window: list[Any]) -> None:
        began = time.time()
        stamps[int(window[-1].t)] = [float(window[-1].mean().compute()), began]

    failures: list[BaseException] = []
    deisa.register_callback(callback, "t", exception_handler=failures.append)
    deisa.execute_callbacks()
    deadline = time.monotonic() + 4
    while len(stamps) < job["steps"] and time.monotonic() < deadline:
        if failures:
            raise failures[0]
        time.sleep(0.005)
    # A step without a callback is a fact to report, not a failure of the measurement.
    return [stamps.get(step, [np.nan, np.nan]) for step in range(job["steps"])]


def sst_consumer(job: dict[str, Any]) -> list[list[float]]:
    """Read the streams of all ranks, step by step."""
    import adios2

    adios = adios2.Adios()
    streams = []
    for rank in range(job["ranks"]):
        io = adios.declare_io(f"reader{rank}")
        io.set_engine("SST")
        io.set_parameters({"OpenTimeoutSecs": "60"})
        streams.append(adios2.Stream(io, f"{job['store']}-{rank}", "r"))
    stamps = []
    for _ in range(job["steps"]):
        blocks = []
        for stream in streams:
            stream.begin_step()
            blocks.append(stream.read("t"))
        stamps.append(list(map(float, stamp(*blocks))))
        for stream in streams:
            stream.end_step()
    for stream in streams:
        stream.close()
    return stamps


PROCESSES = {"deisa-dask": deisa_consumer, "adios2 sst": sst_consumer}
DRIVEN = {"scatter": scatter_consumer}
AFTERWARDS = {"zarr": zarr_consumer, "hdf5": hdf5_consumer}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    stamps = PROCESSES[job["method"]](job)
    result = {"stamps": stamps, "end": time.time(), "cpu": time.process_time()}
    Path(job["out"]).with_suffix(".consumed").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
