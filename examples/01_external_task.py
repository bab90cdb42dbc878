"""A Dask graph over data that do not exist yet, provided later by another process.

    python examples/01_external_task.py

The well-known demonstration of external tasks, on a stock Dask cluster: a future for a key that
nobody has, a dask array around it, a sum that is submitted and waits; then a second process
connects, provides the data, and the number appears.
"""

import subprocess
import sys

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

from ips_components.external import external_future, provide

KEY = "temperature"
SHAPE = (10, 10)


def simulate(address: str) -> None:
    """What the other process does: connect, provide, leave."""
    with Client(address) as client:
        provide({KEY: np.arange(100, dtype=float).reshape(SHAPE)}, client=client)


def analyse() -> None:
    """Build and submit the graph first, get the data later."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        future = external_future(KEY, client=client)
        field = da.from_delayed(dask.delayed(future), shape=SHAPE, dtype=float)
        total = client.compute(field.sum())
        print(f"submitted: the sum is {total.status}, the data are {future.status}")

        simulation = [sys.executable, __file__, cluster.scheduler_address]
        subprocess.run(simulation, check=True, timeout=60)

        print(f"provided by another process: the sum is {total.result(timeout=30)}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        simulate(sys.argv[1])
    else:
        analyse()
