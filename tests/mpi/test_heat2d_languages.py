"""The heat example in C and Fortran writes the bytes that the one in Python writes."""

import pytest
from heat2d_runs import PYTHON, posthoc, run

OPTIONS = [
    (),
    ("--nx", 33, "--ny", 10, "--steps", 30, "--every", 4, "--px", 4),
    ("--ny", 21, "--initial", "gaussian", "--boundary", "insulated", 3, -1.5, "insulated"),
    ("--initial", "sine", "--source", "none", "--boundary", 0, 0, 0, 0, "--dt", 0.25),
    ("--source", "pulse,sweep", "--power", 3, "--period", 20, "--diffusivity", 3e-4, "--py", 4),
]


@pytest.mark.parametrize("options", OPTIONS, ids=["defaults", "uneven", "walls", "sine", "sources"])
def test_same_bytes_as_python(tmp_path, program, options):
    files = []
    for name, command in ("python", PYTHON), ("other", program):
        (tmp_path / name).mkdir()
        posthoc(tmp_path / name, 4, *options, program=command)
        files.append((tmp_path / name / "field.npy").read_bytes())
    assert files[0] == files[1]


def test_same_bytes_on_one_rank_and_three(tmp_path, program):
    options = ("--nx", 20, "--ny", 31, "--steps", 20)
    alone = posthoc(tmp_path, 1, *options, program=program)
    assert posthoc(tmp_path, 3, *options, program=program).tobytes() == alone.tobytes()


def test_shorter_run_replaces_the_file(tmp_path, program):
    assert len(posthoc(tmp_path, 2, "--steps", 9, program=program)) == 9
    assert len(posthoc(tmp_path, 2, "--steps", 5, program=program)) == 5
    assert (tmp_path / "field.npy").stat().st_size == 128 + 5 * 64 * 64 * 8


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--dt", 1), "--dt must be > 0 and <= 0.554865 s to be stable, got 1"),
        (("--nx", 0), "--nx, --ny, --steps, --every and --diffusivity must be positive"),
        (("--px", 3), "each with at least one cell"),
        (("--initial", "hot"), "--initial takes zero, gaussian or sine, got hot"),
        (("--posthoc", "/no/where/field.npy"), "cannot write /no/where/field.npy"),
        (("--colour", "red"), "--colour"),
        (("--dt",), "--dt"),
    ],
)
def test_wrong_option_is_refused_once(program, options, complaint):
    done = run(2, "--no-coupling", *options, program=program)
    assert done.returncode != 0
    assert done.stderr.count(complaint) == 1
