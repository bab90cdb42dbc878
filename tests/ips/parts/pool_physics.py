"""Physics components that run their codes as tasks of task pools; they know nothing of coupling."""

import sys
from pathlib import Path

import numpy as np
from ipsframework import Component

from ips_components import ips_compat
from ips_components.deadlines import Deadline, poll_until

ips_compat.install()

CELLS = 12


def member(name):
    """A Python task that puts one step of a whole field, wherever the run is."""
    from ips_components.bridge import Bridge

    with Bridge() as bridge:
        step = bridge.first_step
        bridge.put(name, step, 100.0 * step + np.arange(CELLS))
    return 0


def part(name, rank, size):
    """A Python task that is one rank of several, and puts its part of two steps."""
    from ips_components.bridge import Array, Bridge

    rank, size = int(rank), int(size)  # IPS hands arguments on as text
    first, last = CELLS * rank // size, CELLS * (rank + 1) // size
    array = Array(name, shape=(CELLS,), offset=(first,), steps=range(6))
    with Bridge(rank=rank, size=size, arrays=[array]) as bridge:
        for step in range(bridge.first_step, bridge.first_step + 2):
            bridge.put(name, step, 100.0 * step + np.arange(first, last))
    return rank


def studied(name, member, members):
    """A Python task that is one member of a parameter study, side by side with the others."""
    from ips_components.bridge import Array, Bridge

    member, members = int(member), int(members)
    array = Array(name, shape=(members, CELLS), offset=(member, 0), steps=range(6))
    with Bridge(rank=member, size=members, arrays=[array]) as bridge:
        first = bridge.first_step
        meet(first, member, members)
        for step in range(first, first + 2):
            bridge.put(name, step, 100.0 * step + np.arange(CELLS).reshape(1, CELLS))
    return member


def separate(names, rank, size):
    """A Python task that puts an array of its own, side by side with the tasks of other arrays."""
    from ips_components.bridge import Array, Bridge

    names, rank, size = names.split("+"), int(rank), int(size)
    blocks = [[((0,), (CELLS,))] if i == rank else [] for i in range(size)]
    arrays = [
        Array(name, shape=(CELLS,), blocks=mine, steps=range(6))
        for name, mine in zip(names, blocks, strict=True)
    ]
    with Bridge(rank=rank, size=size, arrays=arrays) as bridge:
        first = bridge.first_step
        meet(first, rank, size)
        for step in range(first, first + 2):
            bridge.put(names[rank], step, 100.0 * step + np.arange(CELLS), offset=(0,))
    return rank


def meet(first, member, members):
    """Wait until all tasks of a pool have opened their bridges."""
    Path(f"open_{first}_{member}").touch()
    met = lambda: len(list(Path().glob(f"open_{first}_*"))) == members  # noqa: E731
    if not poll_until(met, Deadline(60), pause=0.02):
        raise RuntimeError("the other members have not opened their bridges")


def plain(name):
    """A Python task that has nothing to do with the run."""
    return len(name)


class PoolPhysics(Component):
    """Submits a pool at each step: ``TASKS`` says of which kind, ``USE_DASK`` how."""

    def init(self, timestamp=0.0):
        pass

    def step(self, timestamp=0.0):
        services, cwd = self.services, self.services.get_working_dir()
        kind, count = self.TASKS.split(":")
        count, name = int(count), self.ARRAY
        services.create_task_pool("pool")
        for i in range(count):
            if kind == "members":
                what = [1, cwd, member, name]
            elif kind in ("ranks", "study", "separate"):
                task = {"ranks": part, "study": studied, "separate": separate}[kind]
                what = [1, cwd, task, name, i, count]
            else:
                words = self.PROGRAM.format(i=i, count=count).split()
                what = [int(self.TASK_NPROC), cwd, words[0], *words[1:]]
            services.add_task("pool", f"task_{i}", *what, **self.log_of(kind, i))
        if kind == "members":
            services.add_task("pool", "plain", 1, cwd, plain, name)
        dask = self.USE_DASK == "True"
        services.submit_tasks("pool", use_dask=dask, dask_nodes=1, dask_ppw=count)
        found = {}
        while len(found) < count:
            found |= services.get_finished_tasks("pool")
        services.remove_task_pool("pool")
        if "programs" in kind and any(found.values()):
            raise RuntimeError(f"tasks failed: {found}")

    def log_of(self, kind, i):
        if kind not in ("programs", "members of programs"):
            return {}
        env = {"IPS_COMPONENTS_RANKS": self.TASKS.split(":")[1]} if kind != "programs" else {}
        return {"logfile": f"task_{i}.log", "task_env": env}

    def finalize(self, timestamp=0.0):
        pass


class Prepared(Component):
    """Its code is prepared by a task of its own, and judged by one that may fail."""

    def init(self, timestamp=0.0):
        pass

    def step(self, timestamp=0.0):
        self.run("-c", "print('prepared')")
        if self.run(*self.OPTIONS.split(), nproc=2) != 0:
            raise RuntimeError("the code failed")
        self.run("-c", "raise SystemExit(3)")

    def run(self, *arguments, nproc=1):
        cwd = self.services.get_working_dir()
        task = self.services.launch_task(nproc, cwd, sys.executable, *arguments, logfile="own.log")
        return self.services.wait_task(task)

    def finalize(self, timestamp=0.0):
        pass
