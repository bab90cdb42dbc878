"""Seven ways to work with Dask, each a Python function that runs as one task of an IPS pool.

A task that runs on a Dask worker can be a client of the same pool: `worker_client` connects it and
gives its thread back, so that the tasks it submits have room to run. Every lesson checks what it
claims; one that fails raises, its task fails, and so does the run. What a lesson returns arrives
in the component, in place of the exit status that a binary would have. IPS hands arguments to tasks
as strings, as it would to a binary.
"""

import math
import os
import time

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster, as_completed, get_worker, wait, worker_client

from ips_components.examples.eigenvalues import (
    delayed_eigenvalues,
    eigenvalues,
    ensemble_eigenvalues,
    member_eigenvalues,
    random_matrix,
)
from ips_components.examples.monte_carlo import count_inside, monte_carlo_pi, pi_from_counts


def check(claim, what):
    if not claim:
        raise AssertionError(f"this should hold but does not: {what}")


def chunked_array(n):
    """A dask array: a grid of NumPy arrays, of which none exists until it is needed."""
    n = int(n)
    with worker_client() as client:
        # Chunks are written down per axis. They may be uneven but must add up to the shape.
        a, b = 7 * n // 10, n // 2
        x = da.random.default_rng(1).random((n, n), chunks=((a, n - a), (b, n - b)))
        check(x.numblocks == (2, 2), "two by two chunks")
        corner = x.blocks[0, 1]
        check(corner.shape == (a, n - b), "a block is an array of its own")
        same = abs(corner - x[:a, b:]).max()

        # compute() brings a result to the caller; persist() leaves it on the workers, in chunks.
        check(same.compute() == 0.0, "a block is the part of the array that it stands for")
        kept = x.persist()
        wait(kept)
        where = client.who_has(kept)
        check(len(where) == 4 and all(where.values()), "each chunk is on some worker")
        mean = float(kept.mean().compute())
        check(abs(mean - 0.5) < 5 / math.sqrt(12) / n, "the mean of uniform numbers is a half")
        return {"chunks": [list(c) for c in x.chunks], "mean": mean}


def lazy_calls(n):
    """dask.delayed: write calls of any Python functions now, run them later, at the same time."""
    n = int(n)

    def squared(matrix):
        return matrix @ matrix

    with worker_client():
        # Matrices are made by tasks as well: a value that is passed in is carried in the graph.
        matrices = [dask.delayed(random_matrix)(n, seed) for seed in range(3)]
        total = dask.delayed(sum)([dask.delayed(squared)(matrix) for matrix in matrices])
        tasks = len(total.__dask_graph__())
        check(
            tasks >= 7, "nothing has run yet: there is a graph of three times two tasks and a sum"
        )
        start = time.perf_counter()
        found = total.compute()
        seconds = time.perf_counter() - start
        expected = sum(random_matrix(n, seed) @ random_matrix(n, seed) for seed in range(3))
        check(np.allclose(found, expected), "the sum of squares is that of NumPy")
        return {"tasks": tasks, "seconds": seconds}


def futures(count):
    """submit, map and gather: calls that start at once and stay where they ran."""
    count = int(count)

    def cube(x):
        return x**3

    with worker_client() as client:
        one = client.submit(cube, 3)
        check(one.result() == 27, "a future turns into its result")
        again = client.submit(cube, 3)
        check(again.key == one.key, "functions are taken to be pure: an equal call is not repeated")
        fresh = client.submit(time.perf_counter, pure=False)
        check(fresh.key != client.submit(time.perf_counter, pure=False).key, "unless one says so")

        # Map, then reduce on the workers: only the sum comes back.
        cubes = client.map(cube, range(count))
        total = client.submit(sum, cubes)
        check(total.result() == (count * (count - 1) // 2) ** 2, "the sum of cubes is a square")
        # Gather brings all; as_completed gives each as soon as it is there.
        check(client.gather(cubes) == [x**3 for x in range(count)], "gather keeps the order")
        arrived = {future.key for future in as_completed(cubes)}
        check(arrived == {future.key for future in cubes}, "each arrives once")
        return {"sum_of_cubes": total.result()}


def locality(n):
    """scatter, who_has, workers=: where data are, and how to work there."""
    n = int(n)

    def addresses(future):
        return sorted(client.who_has(future)[future.key])

    with worker_client() as client:
        workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
        first, last = workers[0], workers[-1]

        # Best of all: make data where they are needed. Then a few bytes travel, not a matrix.
        made = client.submit(random_matrix, n, 5, workers=first)
        trace = client.submit(np.trace, made)
        expected = float(np.trace(random_matrix(n, 5)))
        check(math.isclose(trace.result(), expected), "the trace of a matrix that was not fetched")
        check(addresses(made) == [first], "a task runs where it is asked to")

        # scatter gives a key to data that exist here, so that calls need not carry them. From a
        # task they go nowhere: they stay on the task's own worker, until others ask for them.
        sent = client.scatter(random_matrix(n, 6))
        check(addresses(sent) == [get_worker().address], "scattered where this task runs")
        scaled = client.map(lambda m, c: c * np.trace(m), [sent] * 3, [0.5, 1, 2], pure=False)
        half, whole, double = client.gather(scaled)
        check(math.isclose(4 * half, double) and math.isclose(2 * whole, double), "three products")

        # A copy for every worker. Dask's memory manager removes copies that it thinks useless, so
        # it is paused meanwhile.
        client.amm.stop()
        try:
            copies = client.scatter(random_matrix(n, 7), broadcast=True)
            check(addresses(copies) == workers, "each worker has a copy")
            low = client.submit(np.min, copies, workers=first)
            high = client.submit(np.max, copies, workers=last)
            check(low.result() < 0 < high.result(), "extremes of normal numbers")
            check(
                addresses(low) == [first] and addresses(high) == [last],
                "each where it was asked to",
            )
        finally:
            client.amm.start()

        # run() is not a task: it calls a function once in each worker, past the scheduler's queue.
        pids = client.run(os.getpid)
        check(len(set(pids.values())) == len(workers), "each worker is a process")
        return {"workers": len(workers), "trace": trace.result()}


def ensemble(members, size):
    """Eigenvalues of many matrices: one after another, delayed, by futures, as a dask array."""
    members, size = int(members), int(size)
    start = time.perf_counter()
    serial = [member_eigenvalues(size, seed, symmetric=True) for seed in range(members)]
    seconds = {"serial": time.perf_counter() - start}
    with worker_client() as client:
        start = time.perf_counter()
        lazy = dask.compute(*delayed_eigenvalues(members, size, symmetric=True))
        seconds["delayed"] = time.perf_counter() - start

        start = time.perf_counter()
        calls = client.map(member_eigenvalues, [size] * members, range(members), symmetric=True)
        called = client.gather(calls)
        seconds["futures"] = time.perf_counter() - start

        start = time.perf_counter()
        draw = dask.delayed(random_matrix)
        shape = (size, size)
        stack = da.stack(
            [da.from_delayed(draw(size, seed, True), shape, float) for seed in range(members)]
        )
        array = ensemble_eigenvalues(stack, symmetric=True).compute()
        seconds["array"] = time.perf_counter() - start
    for name, found in (("delayed", lazy), ("futures", called), ("array", array)):
        check(np.allclose(found, serial), f"{name} gives what the loop gives")
    # The semicircle law: half of the eigenvalues' second moment is in the entries, so this is 1/4.
    moment = float((array**2).mean())
    check(abs(moment - 0.25) < 0.02, "the second moment of a semicircle of radius one")
    check(np.allclose(eigenvalues(np.diag([3.0, 1.0, 2.0]), True), [1, 2, 3]), "in a fixed order")
    return {"second_moment": moment, "seconds": seconds}


def monte_carlo(points):
    """The number pi, as a dask array in few or many chunks, and as independent tasks."""
    points = int(points)
    found = {}
    with worker_client() as client:
        for chunks in (1, 8):
            value, error = dask.compute(*monte_carlo_pi(points, -(-points // chunks), seed=chunks))
            found[f"array, {chunks} chunks"] = [float(value), float(error)]
        counts = client.gather(client.map(count_inside, [points // 8] * 8, range(8)))
        found["tasks"] = list(pi_from_counts(counts, points // 8))
    for name, (value, error) in found.items():
        check(abs(value - math.pi) < 5 * error, f"{name}: {value} lies within 5 x {error} of pi")
    return found


def local_client(count):
    """The same interface without IPS's pool: a cluster of threads in this very process."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
        # Here the client is outside of the workers, so scatter sends data to the named workers.
        numbers = client.scatter(range(count), workers=workers[-1:])
        where = client.who_has(numbers)
        check(all(list(found) == workers[-1:] for found in where.values()), "data on one worker")
        roots = client.map(math.isqrt, numbers)
        total = client.submit(sum, roots).result()
    check(len(workers) == 2, "two workers")
    check(total == sum(map(math.isqrt, range(count))), "the sum of integer roots")
    return {"workers": len(workers), "sum_of_roots": total}
