"""A pool with the three kinds of tasks that IPS runs on Dask: binary, function, method."""

from time import sleep

from ipsframework import Component

from ips_components import ips_compat

ips_compat.install()


def doze(seconds):
    """A Python function as a task; what it returns is the task's exit status."""
    print(f"doze({seconds})")
    sleep(float(seconds))
    return 0


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        worker = self.services.get_port("WORKER")
        self.services.call(worker, "step", timestamp)


class Worker(Component):
    def doze(self, seconds):
        """A method as a task: the component is copied to the Dask worker."""
        print(f"{self.NAME}.doze({seconds})")
        sleep(float(seconds))
        return 0

    def step(self, timestamp=0.0, **keywords):
        cwd = self.services.get_working_dir()
        self.services.create_task_pool("naps")
        self.services.add_task("naps", "binary", 1, cwd, "/bin/sleep", self.SECONDS)
        self.services.add_task("naps", "method", 1, cwd, self.doze, self.SECONDS)
        self.services.add_task("naps", "function", 1, cwd, doze, self.SECONDS)
        submitted = self.services.submit_tasks(
            "naps", use_dask=True, dask_nodes=1, dask_ppw=int(self.DASK_PPW)
        )
        print("ret_val =", submitted)
        exit_status = self.services.get_finished_tasks("naps")
        print("exit_status =", exit_status)
        failed = [name for name, status in exit_status.items() if status != 0]
        if failed:
            raise RuntimeError(f"tasks of the pool failed: {', '.join(failed)}")
