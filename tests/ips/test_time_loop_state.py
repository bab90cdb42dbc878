"""Components of a time loop exchange state files: real ``ips.py``, a driver of the usual form."""

from pathlib import Path

from workflows import BIN, PARTS, Workflow

SIMULATION = {
    "NAME": "Simulation",
    "MODULE": "ips_components.simulation",
    "NPROC": 1,
    "EXECUTABLE": BIN / "python",
}


def test_each_step_sees_the_state_that_the_others_have_left(tmp_path, leaves_nothing):
    """State is staged before each step, and only what a section lists is given back."""
    flow = Workflow(
        tmp_path,
        {
            "DRIVER": {"NAME": "GenericDriver", "MODULE": "generic_driver"},
            "INIT": {
                "NAME": "StateInit",
                "MODULE": "generic_driver",
                "INPUT_FILES": "a.txt b.txt",
                "INPUT_DIR": tmp_path,
            },
            "FIRST": {
                **SIMULATION,
                "SUB_CLASS": "first",
                "ARGS": f"{PARTS}/add_one.py a.txt b.txt",
                "STATE_FILES": "a.txt",
            },
            "SECOND": {
                **SIMULATION,
                "SUB_CLASS": "second",
                "ARGS": f"{PARTS}/add_one.py b.txt a.txt",
                "STATE_FILES": "b.txt",
            },
        },
        top={"STATE_FILES": "a.txt b.txt", "STATE_WORK_DIR": tmp_path / "run" / "state"},
        time_loop={"MODE": "REGULAR", "START": 0, "FINISH": 3, "NSTEP": 3},
    )
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("0")
    ended = flow.run()
    assert ended.status == 0, ended.output + ended.log
    (first,) = flow.root.glob("work/*first*/seen_a.txt")
    (second,) = flow.root.glob("work/*second*/seen_b.txt")
    assert first.read_text().splitlines() == [f"a.txt={i} b.txt={i}" for i in range(3)]
    assert second.read_text().splitlines() == [f"a.txt={i + 1} b.txt={i}" for i in range(3)]
    state = Path(tmp_path, "run", "state")
    assert [(state / name).read_text() for name in ("a.txt", "b.txt")] == ["3", "3"]
