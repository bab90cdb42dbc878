"""The same workflows as in ``tests/ips``, and a coupled run of a known field."""

import importlib.util
from pathlib import Path

import pytest
from workflows import BIN, Workflow

_spec = importlib.util.spec_from_file_location(
    "ips_conftest", Path(__file__).parents[1] / "ips" / "conftest.py"
)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
workflow = _module.workflow

HERE = Path(__file__).parent / "coupled"


@pytest.fixture
def coupled(tmp_path, leaves_nothing):
    """Make a coupled run of two ranks and some workers."""
    made = []

    def make(fault="", arguments="", analysis="", pace=0.0, workers=1, steps=12, **parameters):
        words = [f"{HERE}/field.py {{NSTEP}} --pace {pace}", arguments]
        words += [f"--fault {fault}"] if fault else []
        made.append(
            Workflow(
                tmp_path,
                {
                    "DRIVER": {"MODULE": "ips_components.driver", "NAME": "Driver"},
                    "SIMULATION": {
                        "MODULE": "ips_components.simulation",
                        "NAME": "Simulation",
                        "NPROC": 2,
                        "EXECUTABLE": BIN / "python",
                        "ARGS": " ".join(words),
                    },
                    "ANALYTICS": {
                        "MODULE": "ips_components.analytics",
                        "NAME": "Analytics",
                        "ANALYSIS": "field_analysis:analyse",
                        "ANALYSIS_ARGS": analysis or None,
                        "INPUT_DIR": HERE,
                        "DASK_WORKERS_PER_NODE": workers,
                        "DASK_PPW": 2,
                        "CONNECT_TIME_OUT": 40,
                        "DRAIN_TIME_OUT": 10,
                        "FIGURE": False,
                        **parameters,
                    },
                },
                platform={"MPIRUN": "mpiexec"},
                time_loop={"MODE": "REGULAR", "START": 0, "FINISH": 1, "NSTEP": steps},
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close()
