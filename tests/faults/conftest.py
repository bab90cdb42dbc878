"""The same workflows as in ``tests/ips``, and a coupled run of a known field."""

import importlib.util
import sys
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
PARTS = Path(__file__).parents[1] / "ips" / "parts"
sys.path.append(str(PARTS))  # `killing` is for tests and for their programs


def _simulation(words, **parameters):
    return {
        "MODULE": "ips_components.simulation",
        "NAME": "Simulation",
        "NPROC": 2,
        "EXECUTABLE": BIN / "python",
        "ARGS": f"{HERE}/field.py {{NSTEP}} {words}",
        **parameters,
    }


def _coupled(directory, simulations, steps, workers, analysis, **parameters):
    return Workflow(
        directory,
        {
            "DRIVER": {"MODULE": "ips_components.driver", "NAME": "Driver"},
            **simulations,
            "ANALYTICS": {
                "MODULE": "ips_components.analytics",
                "NAME": "Analytics",
                "ANALYSIS": analysis,
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


@pytest.fixture
def coupled(tmp_path, leaves_nothing):
    """Make a coupled run of two ranks and some workers."""
    made = []

    def make(fault="", arguments="", analysis="", pace=0.0, workers=1, steps=12, **parameters):
        words = f"--pace {pace} {arguments}" + (f" --fault {fault}" if fault else "")
        environment = parameters.pop("ENVIRONMENT", None)
        simulations = {"SIMULATION": _simulation(words, ENVIRONMENT=environment)}
        parameters = {"ANALYSIS_ARGS": analysis or None, **parameters}
        analyse = "field_analysis:analyse"
        made.append(_coupled(tmp_path, simulations, steps, workers, analyse, **parameters))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def random_workflow(tmp_path, leaves_nothing):
    """Make a run of a random case."""
    made = []

    def make(case, pace=None, workers=None, **parameters):
        words = f"{case.seed} {case.pace if pace is None else pace}"
        program = {"NPROC": case.ranks, "ARGS": f"{HERE}/random_rank.py {words}"}
        parameters = {
            "ANALYSIS_ARGS": f"seed={case.seed}",
            "LANES": ", ".join(case.lanes) + ("," if len(case.lanes) == 1 else ""),
            "REPLAY_STEPS": case.replay_steps,
            "SLOT_BYTES": case.slot_bytes,
            **parameters,
        }
        simulations = {"SIMULATION": {**_simulation(""), **program}}
        workers, analyse = workers or case.receivers, "random_analysis:analyse"
        flow = _coupled(tmp_path, simulations, case.steps, workers, analyse, **parameters)
        made.append(flow)
        flow.write()
        rng = case.rng("config")
        with flow.config_file.open("a") as file:
            file.write("[[ARRAYS]]\n")
            for field in case.arrays:
                chunks = [rng.randint(1, n) for n in (field.axis.count, *field.shape)]
                file.write(f"[[[{field.name}]]]\nPOLICY = {field.policy}\n")
                file.write(f"CHUNKS = {', '.join(map(str, chunks))},\n")
        return flow

    yield make
    for each in made:
        each.close()


@pytest.fixture
def coupled_two(tmp_path, leaves_nothing):
    """Make a run of two simulations, HOT and COLD, of two ranks each, that feed one analysis."""
    made = []

    def make(hot="", cold="", pace=0.0, workers=1, steps=12, **parameters):
        simulations = {
            port: _simulation(f"--name {port.lower()} --pace {pace} {words}")
            for port, words in (("HOT", hot), ("COLD", cold))
        }
        both = "several_analysis:both"
        parameters = {"INPUT_DIR": PARTS, **parameters}
        made.append(_coupled(tmp_path, simulations, steps, workers, both, **parameters))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def members(tmp_path, leaves_nothing):
    """Make a run of three simulations, MEMBER_A, _B and _C, that may be left out."""
    made = []

    def make(pace=0.0, workers=1, steps=12, on_failure=None, **parameters):
        words = {name: parameters.pop(name, "") for name in ("a", "b", "c")}
        simulations = {
            f"MEMBER_{name}".upper(): _simulation(
                f"--name {name} --pace {pace} {words[name]}",
                ON_FAILURE=(on_failure or {}).get(name, "leave_out"),
            )
            for name in words
        }
        analyse = "members_analysis:analyse"
        made.append(_coupled(tmp_path, simulations, steps, workers, analyse, **parameters))
        return made[-1]

    yield make
    for each in made:
        each.close()
