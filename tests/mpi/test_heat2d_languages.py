"""The heat example in C and Fortran writes the bytes that the one in Python writes."""

import numpy as np
import pytest
from heat2d_runs import PYTHON, posthoc, run

FEW = ("--steps", 30)
OPTIONS = {
    "defaults": (),
    "uneven": ("--nx", 33, "--ny", 10, *FEW, "--every", 4, "--px", 4),
    "walls": (
        *("--ny", 21, *FEW, "--initial", "gaussian"),
        *("--boundary", "insulated", 3, -1.5, "insulated"),
    ),
    "sine": (*FEW, "--initial", "sine", "--source", "none", "--boundary", 0, 0, 0, 0, "--dt", 0.25),
    "sources": (
        *("--source", "pulse,sweep", "--power", 3, "--period", 20, *FEW),
        *("--diffusivity", 3e-4, "--py", 4),
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_same_bytes_as_python(tmp_path, once, program, name):
    options = OPTIONS[name]
    python = once(f"heat2d-python-{name}", lambda place: posthoc(place, 4, *options))
    posthoc(tmp_path, 4, *options, program=program)
    assert (tmp_path / "field.npy").read_bytes() == (python / "field.npy").read_bytes()


def test_same_bytes_on_one_rank_and_three(tmp_path, program):
    options = ("--nx", 20, "--ny", 31, "--steps", 20)
    alone = posthoc(tmp_path, 1, *options, program=program)
    assert posthoc(tmp_path, 3, *options, program=program).tobytes() == alone.tobytes()


def test_shorter_run_replaces_the_file(tmp_path, program):
    assert len(posthoc(tmp_path, 2, "--steps", 9, program=program)) == 9
    assert len(posthoc(tmp_path, 2, "--steps", 5, program=program)) == 5
    assert (tmp_path / "field.npy").stat().st_size == 128 + 5 * 64 * 64 * 8


@pytest.mark.parametrize("nproc", [1, 4])
def test_a_restarted_run_has_the_bits_of_an_uninterrupted_one(tmp_path, program, nproc):
    options = ("--nx", 21, "--ny", 13, "--every", 3, "--period", 11, "--initial", "gaussian")
    whole = posthoc(tmp_path, 3, *options, "--steps", 22, program=program)
    state = ("--state", tmp_path / "state.npy")
    parts = [
        posthoc(tmp_path, nproc, *options, *state, "--first", first, "--steps", steps, program=by)
        for first, steps, by in ((0, 6, program), (6, 15, PYTHON), (15, 22, program))
    ]
    assert [len(part) for part in parts] == [2, 3, 3]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    last = np.load(tmp_path / "state.npy")
    assert (last.shape, last.tobytes()) == ((1, 13, 21), whole[-1:].tobytes())


def test_a_state_of_another_plate_is_refused(tmp_path, program):
    state = ("--state", tmp_path / "state.npy")
    posthoc(tmp_path, 1, "--steps", 4, *state, program=program)
    before = (tmp_path / "state.npy").read_bytes()
    done = run(2, "--no-coupling", "--first", 4, "--nx", 63, *state, program=program)
    assert done.returncode != 0
    assert done.stderr.count("needs the field of the step before, of 63 x 64 cells") == 1
    assert (tmp_path / "state.npy").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--dt", 1), "--dt must be > 0 and <= 0.554865 s to be stable, got 1"),
        (("--nx", 0), "--nx, --ny, --steps, --every and --diffusivity must be positive"),
        (("--px", 3), "each with at least one cell"),
        (("--initial", "hot"), "--initial takes zero, gaussian or sine, got hot"),
        (("--posthoc", "/no/where/field.npy"), "cannot write /no/where/field.npy"),
        (("--steps", 9, "--first", 9), "--first must be a published step below 9, got 9"),
        (("--every", 4, "--first", 6), "--first must be a published step below 200, got 6"),
        (("--first", 6), "--first 6 needs the field of the step before in --state"),
        (("--first", 6, "--state", "/no/where/state.npy"), "in --state /no/where/state.npy"),
        (("--colour", "red"), "--colour"),
        (("--dt",), "--dt"),
    ],
)
def test_wrong_option_is_refused_once(program, options, complaint):
    done = run(2, "--no-coupling", *options, program=program)
    assert done.returncode != 0
    assert done.stderr.count(complaint) == 1
