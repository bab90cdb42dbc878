"""A pool whose tasks are lessons in Dask; see lessons.py for what they show."""

import json
from pathlib import Path

import lessons
from ipsframework import Component

from ips_components import ips_compat

ips_compat.install()


class Driver(Component):
    def step(self, timestamp=0.0, **keywords):
        tour = self.services.get_port("TOUR")
        for call in ("init", "step", "finalize"):
            self.services.call(tour, call, timestamp)


class Tour(Component):
    def step(self, timestamp=0.0, **keywords):
        cwd = self.services.get_working_dir()
        size, members, points = int(self.MATRIX_SIZE), int(self.MEMBERS), int(self.POINTS)
        self.services.create_task_pool("tour")
        for lesson, arguments in (
            (lessons.chunked_array, [size]),
            (lessons.lazy_calls, [size]),
            (lessons.futures, [100]),
            (lessons.locality, [size]),
            (lessons.ensemble, [members, size]),
            (lessons.monte_carlo, [points]),
        ):
            self.services.add_task("tour", lesson.__name__, 1, cwd, lesson, *arguments)
        # Each worker is a process with DASK_PPW threads; DASK_WORKERS_PER_NODE is in the config.
        self.services.submit_tasks(
            "tour", use_dask=True, dask_nodes=int(self.DASK_NODES), dask_ppw=int(self.DASK_PPW)
        )
        found = self.services.get_finished_tasks("tour")
        found["local_client"] = lessons.local_client(100)

        Path("lessons.json").write_text(json.dumps(found, indent=2) + "\n")
        for name, result in found.items():
            print(f"{name}: {json.dumps(result)}")
        self.services.stage_output_files(timestamp, self.OUTPUT_FILES)
