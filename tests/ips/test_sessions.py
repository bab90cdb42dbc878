"""Programs whose ranks open or leave their bridges wrongly: no such run succeeds.

Two communicators of one program, processes that a foreign ``mpiexec`` makes rank 0 of 1 each, and
ranks that end with status 0 without closing their bridge.
"""

import json
import re

import pytest
from workflows import BIN, PARTS, Workflow

pytestmark = pytest.mark.course

STEPS = 20


def coupled(directory, *options, nproc=2, **parameters):
    return Workflow(
        directory,
        {
            "DRIVER": {"NAME": "Driver", "MODULE": "ips_components.driver"},
            "SIMULATION": {
                "NAME": "Simulation",
                "MODULE": "ips_components.simulation",
                "NPROC": nproc,
                "EXECUTABLE": BIN / "python",
                "ARGS": f"{PARTS}/named_field.py hot 12 {STEPS} 1.0 {' '.join(options)}",
            },
            "ANALYTICS": {
                "NAME": "Analytics",
                "MODULE": "ips_components.analytics",
                "ANALYSIS": "several_analysis:one_of_them",
                "DRAIN_TIME_OUT": 10,
                "FIGURE": False,
                **parameters,
            },
        },
        platform={"MPIRUN": "mpiexec", "CORES_PER_NODE": 16},
        time_loop={"MODE": "REGULAR", "START": 0, "FINISH": 1, "NSTEP": STEPS},
    )


def failed(flow):
    """Run it; return what it said and its record."""
    ended = flow.run(120)
    assert ended.status == 1, ended.output + ended.log
    (path,) = flow.root.glob("run_*/run.json")
    record = json.loads(path.read_text())
    assert record["status"] == "failed"
    return ended.output, record


@pytest.mark.parametrize(
    ("comm", "nproc", "size"),
    [("self", 2, 1), ("split", 4, 2)],
    ids=["singletons", "split"],
)
def test_two_programs_in_one_are_refused(tmp_path, leaves_nothing, comm, nproc, size):
    flow = coupled(tmp_path, f"--comm {comm}", "--pace 0.05", nproc=nproc)
    output, _ = failed(flow)
    # The receiver refuses the second one; the coordinator does where they reach two receivers.
    assert re.search(rf"rank \d of {size} is connected already|2 programs of {size} rank", output)
    assert "mpiexec of another MPI" in output


@pytest.mark.parametrize("who", ["one", "all"])
def test_a_rank_that_ends_without_closing_fails_the_run(tmp_path, leaves_nothing, who):
    flow = coupled(tmp_path, "--leave-at 2", f"--who {who}")
    output, record = failed(flow)
    assert not record["ledger"]["closed"]
    assert "cause:" in output and "rank " in output
