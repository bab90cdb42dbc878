"""A Dask pool whose scheduler and workers run in a container, with IPS outside."""

import platform
import sys
from pathlib import Path

from ipsframework import Component

from ips_components import ips_compat

ips_compat.install()  # task pools on current Dask, and a reliable exit status


class Driver(Component):
    """Call the worker once, as every IPS driver does."""

    def step(self, timestamp=0.0, **keywords):
        worker = self.services.get_port("WORKER")
        self.services.call(worker, "init", timestamp)
        self.services.call(worker, "step", timestamp)
        self.services.call(worker, "finalize", timestamp)


class Worker(Component):
    """Ask a function task and a binary task where they are, and compare with where IPS is."""

    def step(self, timestamp=0.0, **keywords):
        services = self.services
        here = services.get_working_dir()
        services.create_task_pool("pool")
        services.add_task("pool", "function", 1, here, where_am_i, self.WITNESS)
        services.add_task(
            "pool", "binary", 1, here, "/bin/ls", self.WITNESS, logfile=f"{here}/binary.txt"
        )
        services.submit_tasks(
            "pool",
            use_dask=True,
            use_shifter=self.USE_SHIFTER == "True",
            dask_nodes=int(self.DASK_NODES),
            dask_ppw=int(self.DASK_PPW),
        )
        results = services.get_finished_tasks("pool")
        lines = [
            f"function {results['function']}",
            f"binary {results['binary']}",
            f"outside {where_am_i(self.WITNESS)}",
        ]
        Path(here, "where.txt").write_text("\n".join(lines) + "\n")
        print(*lines, sep="\n")


def where_am_i(witness):
    """Python of this process, and whether it sees a file that only the container has."""
    found = "found" if Path(witness).exists() else "missing"
    return f"{sys.executable} {platform.python_version()} {found}"
