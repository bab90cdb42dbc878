"""Modules that install the adapter after others were imported, or in a sub-workflow only."""

import json
from pathlib import Path

import pytest
from workflows import BIN, Workflow

COUPLED = Path(__file__).parents[1] / "faults" / "coupled"
STOCK = {"MODULE": "stock", "NAME": "Stock", "ROLE": None}


def test_a_component_made_before_the_adapter_is_adapted(workflow):
    """Its answer cannot be pickled; without the adapter, IPS waits for it for ever."""
    ended = workflow(driver="return_lock", DRIVER=STOCK).run()
    assert ended.status == 1
    assert "returned a lock which cannot be pickled" in ended.last_lines


def test_a_failure_ends_a_run_with_a_driver_made_before_the_adapter(workflow):
    ended = workflow(driver="call_worker", worker="raise_error", DRIVER=STOCK).run()
    assert ended.status == 1
    assert "component Part, method step: ValueError: worker found a negative" in ended.last_lines


def _with_sub_workflow(directory, driver, components, **changes):
    sub = Workflow(directory / "sub", components, **changes)
    sub.write()
    text = sub.config_file.read_text()
    lines = [each for each in text.splitlines() if not each.startswith(("SIM_", "USE_PORTAL"))]
    sub.config_file.write_text("\n".join(lines) + "\n")
    parent = {**STOCK, "STEP": driver, "SUB_CONFIG": sub.config_file, "SUB_INPUT": COUPLED}
    return Workflow(directory / "parent", {"DRIVER": parent}, platform={"MPIRUN": "mpiexec"})


@pytest.fixture
def nested(tmp_path, leaves_nothing):
    made = []

    def make(*args, **changes):
        made.append(_with_sub_workflow(tmp_path, *args, **changes))
        return made[-1]

    yield make
    for each in made:
        each.close()


def _part(step, **values):
    part = {"MODULE": "parts", "NAME": "Part", "ROLE": "driver", "STEP": step, **values}
    return {"DRIVER": part}


@pytest.mark.parametrize(
    ("step", "cause"),
    [
        ("raise_error", "ValueError: driver found a negative temperature"),
        ("kill_itself", "was ended by SIGKILL during step()"),
        ("return_lock", "returned a lock which cannot be pickled"),
    ],
)
def test_failure_in_a_sub_workflow_of_a_stock_parent(nested, step, cause):
    ended = nested("run_sub_workflow", _part(step)).run()
    assert ended.status == 1, ended.output
    assert "the run failed" in ended.last_lines
    assert cause in ended.last_lines


def test_failure_in_a_sub_workflow_that_the_parent_copes_with(nested):
    flow = nested("run_sub_workflow_and_cope", _part("raise_error"))
    ended = flow.run()
    assert ended.status == 0, ended.output
    assert "negative temperature" in (flow.root / "coped").read_text()


def _coupled(**changes):
    simulation = {
        "MODULE": "ips_components.simulation",
        "NAME": "Simulation",
        "NPROC": 2,
        "EXECUTABLE": BIN / "python",
        "ARGS": f"{COUPLED}/field.py {{NSTEP}}",
    }
    analytics = {
        "MODULE": "ips_components.analytics",
        "NAME": "Analytics",
        "ANALYSIS": "field_analysis:analyse",
        "INPUT_DIR": COUPLED,
        "FIGURE": False,
    }
    return {
        "DRIVER": {"MODULE": "ips_components.driver", "NAME": "Driver"},
        "SIMULATION": {**simulation, **changes},
        "ANALYTICS": analytics,
    }


TIMES = {"MODE": "REGULAR", "START": 0, "FINISH": 1, "NSTEP": 6}


def test_a_coupled_run_as_sub_workflow_reads_its_own_config(nested):
    """IPS hands the parent's SIMULATION_CONFIG_FILE down to the components of a sub-workflow."""
    flow = nested("run_sub_workflow", _coupled(), time_loop=TIMES)
    ended = flow.run(110)
    assert ended.status == 0, ended.output + ended.log
    (record,) = (json.loads(path.read_text()) for path in flow.root.rglob("run.json"))
    assert record["status"] == "ok"
    assert len(record["steps"]) == 6


def test_a_sub_workflow_that_cannot_work_is_refused(nested):
    ended = nested("run_sub_workflow", _coupled(EXECUTABLE="/no/such"), time_loop=TIMES).run()
    assert ended.status == 1
    assert "'/no/such' is not an executable file" in ended.output
