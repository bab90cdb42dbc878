"""Worker plugins in task pools: save files from the temporary file system of each node."""

from pathlib import Path

from ipsframework import Component

from ips_components import ips_compat
from ips_components.plugins import ContinuousArchive, CopyAtTeardown, PluginStack

ips_compat.install()


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        worker = self.services.get_port("WORKER")
        self.services.call(worker, "step", timestamp)


class Worker(Component):
    """Runs a few tasks that write into TMPXFS, a directory that each node has for itself."""

    def step(self, timestamp=0.0, **keywords):
        cwd = self.services.get_working_dir()
        plugins = {
            "copy": CopyAtTeardown(self.TMPXFS, Path(cwd, "copied")),
            "archive": ContinuousArchive(self.TMPXFS, Path(cwd, "archived"), float(self.INTERVAL)),
        }
        chosen = [plugins[name] for name in self.PLUGINS.split()]

        self.services.create_task_pool("pool")
        for i in range(int(self.NTASKS)):
            self.services.add_task("pool", f"task_{i}", 1, cwd, write_file, self.TMPXFS, i)
        self.services.submit_tasks(
            "pool", use_dask=True, dask_ppw=2, dask_worker_plugin=PluginStack(chosen)
        )
        print("exit_status =", self.services.get_finished_tasks("pool"))


def write_file(directory, number):
    """Stands for a program that writes its output where writing is fast."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    Path(directory, f"output_{number}.txt").write_text(f"result of task {number}\n")
    return 0
