"""The simulation's side of every method: MPI ranks that hand over a block per step.

Run by mpiexec with the path of a job file.  It is also imported in environments that have only a
peer, so that it needs nothing but NumPy and mpi4py until a method is chosen.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 64


class Sender:
    """One method to hand over blocks.

    Parameters
    ----------
    job
        What the driver wrote: shape of a block, number of ranks and steps, addresses.
    comm
        Communicator of the ranks that simulate.
    """

    def __init__(self, job: dict[str, Any], comm: Any) -> None:
        self.job, self.comm, self.rank, self.size = job, comm, comm.rank, comm.size

    def held(self, step: int, block: np.ndarray) -> tuple[float, float]:
        """Hand over a block; the seconds that the simulation stood still, and CPU seconds of it."""
        begin, cpu = time.perf_counter(), time.thread_time()
        self.send(step, block)
        return time.perf_counter() - begin, time.thread_time() - cpu

    def send(self, step: int, block: np.ndarray) -> None:
        raise NotImplementedError

    def drain(self) -> None:
        """Wait until what was sent is on its way for good, if the method knows of waiting."""

    def close(self) -> None:
        """End."""


class Bridged(Sender):
    """This package."""

    def __init__(self, job, comm):
        super().__init__(job, comm)
        from ips_components.bridge import Array, Bridge

        shape = (ROWS * self.size, job["columns"])
        arrays = [
            Array("t", shape, "f8", grid=(self.size, 1), steps=job["steps"]),
            Array("clock", (self.size,), "f8", grid=(self.size,), steps=job["steps"]),
        ]
        self.clock = np.zeros(1)
        self.with_clock = job.get("clock", False)
        self.bridge = Bridge(comm, contact=job["contact"], arrays=arrays[: 1 + self.with_clock])

    def send(self, step, block):
        self.bridge.put("t", step, block)
        if self.with_clock:
            self.bridge.put("clock", step, self.clock)

    def drain(self):
        self.bridge.wait()

    def close(self):
        self.bridge.close()


class InPlace(Bridged):
    """This package, computing into the transport's own memory: the computation is not counted."""

    def held(self, step, block):
        begin, cpu = time.perf_counter(), time.thread_time()
        entering = self.bridge.block("t", step)
        out = entering.__enter__()
        held, spent = time.perf_counter() - begin, time.thread_time() - cpu
        np.copyto(out, block)
        begin, cpu = time.perf_counter(), time.thread_time()
        entering.__exit__(None, None, None)
        return held + time.perf_counter() - begin, spent + time.thread_time() - cpu


class Deisa(Sender):
    """deisa-dask: a scatter per rank, and a gather of metadata to rank 0."""

    def __init__(self, job, comm):
        super().__init__(job, comm)
        from deisa.dask import Bridge

        metadata = {
            "t": {
                "global_shape": [ROWS * self.size, job["columns"]],
                "chunk_shape": [ROWS, job["columns"]],
                "chunk_position": [self.rank, 0],
            }
        }
        self.bridge = Bridge(comm, metadata)

    def send(self, step, block):
        self.bridge.send("t", block, step)

    def close(self):
        self.bridge.close(timestep=self.job["steps"])


class Scatter(Sender):
    """DEISA1's way: every rank a client, a scatter and a message in a queue for every block."""

    def __init__(self, job, comm):
        super().__init__(job, comm)
        from distributed import Client, Queue

        self.client = Client(job["scheduler"], timeout=60)
        self.queue = Queue(f"{job['name']}-{self.rank}", client=self.client)

    def send(self, step, block):
        self.queue.put(self.client.scatter(block, direct=True, hash=False))

    def drain(self):
        # A rank that closes its client before the futures are taken loses the data.
        deadline = time.monotonic() + 60
        while self.queue.qsize() and time.monotonic() < deadline:
            time.sleep(0.01)

    def close(self):
        self.comm.Barrier()
        done = Path(self.job["out"]).with_suffix(".consumed")
        deadline = time.monotonic() + 60
        while not done.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.client.close()


class Zarr(Sender):
    """Post hoc: a chunk per rank and step into a Zarr store on disk, not compressed."""

    def __init__(self, job, comm):
        super().__init__(job, comm)
        import zarr

        shape = (job["steps"], ROWS * self.size, job["columns"])
        if self.rank == 0:
            chunks = (1, ROWS, job["columns"])
            zarr.create_array(
                job["store"], shape=shape, chunks=chunks, dtype="f8", compressors=None
            )
        comm.Barrier()
        self.array = zarr.open_array(job["store"], mode="r+")

    def send(self, step, block):
        self.array[step, ROWS * self.rank : ROWS * (self.rank + 1)] = block


class Hdf5(Sender):
    """Post hoc: an HDF5 file per rank on disk."""

    def __init__(self, job, comm):
        super().__init__(job, comm)
        import h5py

        self.file = h5py.File(f"{job['store']}-{self.rank}.h5", "w")
        shape = (ROWS, job["columns"])
        self.data = self.file.create_dataset("t", (job["steps"], *shape), "f8", chunks=(1, *shape))

    def send(self, step, block):
        self.data[step] = block

    def drain(self):
        self.file.flush()

    def close(self):
        self.file.close()


class Sst(Sender):
    """ADIOS2 SST: a stream per rank (the wheel of PyPI is serial), two steps may wait."""

    def __init__(self, job, comm):
        super().__init__(job, comm)
        import adios2

        io = adios2.Adios().declare_io("benchmark")
        io.set_engine("SST")
        io.set_parameters(
            {"QueueLimit": "2", "QueueFullPolicy": "Block", "RendezvousReaderCount": "1"}
        )
        self.stream = adios2.Stream(io, f"{job['store']}-{self.rank}", "w")

    def send(self, step, block):
        self.stream.begin_step()
        self.stream.write("t", block, block.shape, [0, 0], block.shape)
        self.stream.end_step()

    def close(self):
        self.stream.close()


class Mpi(Sender):
    """The limit of what a message library does: a send to a consumer rank."""

    def send(self, step, block):
        from mpi4py import MPI

        MPI.COMM_WORLD.Send(block, dest=self.size)


SENDERS = {
    "in place": InPlace,
    "shm": Bridged,
    "tcp": Bridged,
    "deisa-dask": Deisa,
    "scatter": Scatter,
    "zarr": Zarr,
    "hdf5": Hdf5,
    "adios2 sst": Sst,
    "mpi": Mpi,
}


def simulate(job: dict[str, Any], comm: Any) -> dict[str, Any]:
    """Put all steps of all phases; what this rank measured."""
    sender = SENDERS[job["method"]](job, comm)
    block = np.random.default_rng(comm.rank).random((ROWS, job["columns"]))
    comm.Barrier()
    opened = _cpu()
    begin = time.time()
    phases, step = {}, 0
    for name, steps, pace in job["phases"]:
        comm.Barrier()
        times, starts, start = [], [], time.perf_counter()
        for _ in range(steps):
            block[0, 0] = step  # every step is another
            starts.append(time.time())
            times.append(sender.held(step, block))
            step += 1
            if pace:
                time.sleep(pace)  # the computation of the next step
        sender.drain()
        seconds = time.perf_counter() - start
        held, spent = zip(*times, strict=True)
        phases[name] = {"held": held, "cpu": spent, "starts": starts, "seconds": seconds}
    sender.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"begin": begin, "phases": phases, "cpu": _cpu() - opened, "peak_kb": peak}


def consume(job: dict[str, Any], comm: Any) -> dict[str, Any]:
    """The consumer rank of the method ``mpi``."""
    block = np.empty((ROWS, job["columns"]))
    stamps = []
    for _, steps, _ in job["phases"]:
        for _ in range(steps):
            total = 0.0
            for rank in range(job["ranks"]):
                comm.Recv(block, source=rank)
                stamp = time.time()
                total += block.mean()
            stamps.append([total / job["ranks"], stamp])
    return {"stamps": stamps, "end": time.time(), "cpu": _cpu()}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    if "scheduler" in job:
        os.environ["DEISA_DASK_SCHEDULER_ADDRESS"] = job["scheduler"]
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    simulating = world.rank < job["ranks"]
    comm = world.Split(0 if simulating else 1, world.rank)
    mine = simulate(job, comm) if simulating else consume(job, world)
    gathered = world.gather(mine)
    if world.rank == 0:
        Path(job["out"]).write_text(json.dumps(gathered))


if __name__ == "__main__":
    main()
