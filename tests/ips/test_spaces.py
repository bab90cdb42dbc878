"""Paths with spaces in them: directories, programs, the interpreter."""

import json
from pathlib import Path

import pytest
from workflows import BIN, Workflow

COUPLED = Path(__file__).parents[1] / "faults" / "coupled"


@pytest.mark.parametrize("launcher", ["mpiexec", "eval"])
def test_a_coupled_run_where_all_paths_have_spaces(tmp_path, leaves_nothing, launcher):
    directory = tmp_path / "my runs"
    directory.mkdir()
    for name in ("field.py", "field_analysis.py"):
        (directory / name).write_text((COUPLED / name).read_text())
    program = directory / "the program"
    program.write_text(f'#!/bin/sh\nexec "{BIN}/python" "$@"\n')
    program.chmod(0o755)
    ranks = 2 if launcher == "mpiexec" else 1
    flow = Workflow(
        directory,
        {
            "DRIVER": {"MODULE": "ips_components.driver", "NAME": "Driver"},
            "SIMULATION": {
                "MODULE": "ips_components.simulation",
                "NAME": "Simulation",
                "NPROC": ranks,
                "EXECUTABLE": program,
                "ARGS": f"\"'{directory}/field.py' {{NSTEP}}\"",
            },
            "ANALYTICS": {
                "MODULE": "ips_components.analytics",
                "NAME": "Analytics",
                "ANALYSIS": "field_analysis:analyse",
                "INPUT_DIR": directory,
                "FIGURE": False,
            },
        },
        platform={"MPIRUN": launcher},
        time_loop={"MODE": "REGULAR", "START": 0, "FINISH": 1, "NSTEP": 6},
    )
    try:
        ended = flow.run(110)
    finally:
        flow.close()
    assert ended.status == 0, ended.output + ended.log
    (record,) = flow.root.rglob("run.json")
    assert json.loads(record.read_text())["status"] == "ok"
