"""A simulation under real ``ips.py`` that goes on until it is stopped, for attached clients."""

from __future__ import annotations

import json

import numpy as np
from workflows import BIN, PARTS, Workflow

from ips_components.cli import main
from ips_components.deadlines import Deadline, poll_until

ROWS, COLUMNS = 6, 8


def whole(step):
    return np.arange(ROWS * COLUMNS, dtype=float).reshape(ROWS, COLUMNS) + 1000 * step


def peek(workflow, *words):
    """``ips-components peek`` in this process, since each start of Python takes its time."""
    return main(["peek", str(workflow.root), "plate", *words])


class Plate(Workflow):
    """A plate that is put step by step until `stop`."""

    @classmethod
    def begin(cls, directory, **analytics):
        workflow = cls(
            directory,
            {
                "DRIVER": {"NAME": "Driver", "MODULE": "ips_components.driver"},
                "SIMULATION": {
                    "NAME": "Simulation",
                    "MODULE": "ips_components.simulation",
                    "NPROC": 2,
                    "EXECUTABLE": BIN / "python",
                    "ARGS": f"{PARTS}/until_stopped.py {directory / 'stop'} 0.05",
                },
                "ANALYTICS": {
                    "NAME": "Analytics",
                    "MODULE": "ips_components.analytics",
                    "DASK_PPW": 1,
                    "FIGURE": False,
                    **analytics,
                },
            },
            platform={"MPIRUN": "mpiexec"},
            time_loop={"MODE": "REGULAR", "START": 0, "FINISH": 1, "NSTEP": 100000},
        )
        workflow.write()
        workflow.process = workflow.start()
        if not poll_until(
            lambda: list(workflow.root.glob("run_*/contact.json")), Deadline(90), pause=0.05
        ):
            workflow.close()
            raise AssertionError(workflow.output() + workflow.log())
        return workflow

    def peek(self, capsys, *words):
        """Peek; the step that was written."""
        assert peek(self, *words) == 0, capsys.readouterr().err
        out = capsys.readouterr().out
        assert out.startswith("plate at step ")
        return int(out.split()[3].rstrip(":"))

    def stop(self, status=0):
        """End the run; its record."""
        (self.directory / "stop").touch()
        ended = self.wait(self.process, 120)
        assert ended.status == status, ended.output + ended.log
        (record,) = self.root.glob("run_*/run.json")
        return json.loads(record.read_text())
