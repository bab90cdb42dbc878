"""A pool of tasks on the nodes of a Slurm job: IPS components of a driver and a worker.

The same file runs on a laptop: only the platform file differs.
"""

import os
import socket
import time
from pathlib import Path

from ipsframework import Component

from ips_components import ips_compat

ips_compat.install()  # task pools on current Dask, and a reliable exit status


class PoolDriver(Component):
    """Call the worker once, as every IPS driver does."""

    def step(self, timestamp=0.0, **keywords):
        worker = self.services.get_port("WORKER")
        self.services.call(worker, "init", timestamp)
        self.services.call(worker, "step", timestamp)
        self.services.call(worker, "finalize", timestamp)


class PoolWorker(Component):
    """Run NTASKS small tasks and write down on which node each of them ran."""

    def step(self, timestamp=0.0, **keywords):
        use_dask = self.USE_DASK == "True"
        services = self.services
        here = services.get_working_dir()
        services.create_task_pool("pool")
        for i in range(int(self.NTASKS)):
            if use_dask:
                seconds = self.TASK_SECONDS
                services.add_task("pool", f"task_{i}", 1, here, where, seconds)
            else:
                services.add_task(
                    "pool", f"task_{i}", 1, here, self.BINARY, logfile=f"{here}/task_{i}.txt"
                )
        if use_dask:
            services.submit_tasks(
                "pool", use_dask=True, dask_nodes=int(self.DASK_NODES), dask_ppw=int(self.DASK_PPW)
            )
        else:
            services.submit_tasks("pool")
        results = services.get_finished_tasks("pool")
        if use_dask:
            nodes = results
        else:
            failed = {name: status for name, status in results.items() if status}
            if failed:
                raise RuntimeError(f"tasks that failed, with their exit status: {failed}")
            nodes = {name: Path(here, f"{name}.txt").read_text().strip() for name in results}
        lines = [f"{name} {node}" for name, node in sorted(nodes.items())]
        Path(here, "nodes.txt").write_text("\n".join(lines) + "\n")
        print(*lines, sep="\n")


def where(seconds):
    """Name of the node that runs this task; a function task of the Dask pool."""
    time.sleep(float(seconds))  # stands for work; IPS passes all arguments as strings
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()
