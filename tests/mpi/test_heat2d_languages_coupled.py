"""The heat example in C and Fortran delivers, chunk by chunk, the bytes that Python delivers."""

import threading

import numpy as np
import pytest
from coupled_runs import couple
from heat2d_runs import PYTHON, run

from ips_components.model.placement import replace
from ips_components.model.selection import Selection

OPTIONS = ("--nx", 33, "--ny", 21, "--steps", 24, "--every", 2)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """What the Python program delivers, whole and in part."""
    found = {}
    for name, select in SELECTIONS.items():
        path = tmp_path_factory.mktemp("python")
        contract, chunks, byes = couple(path, 4, PYTHON, *OPTIONS, select=select)
        found[name] = contract, chunks, endings(byes)
    return found


def endings(byes):
    """Return status and last step of every rank's goodbye."""
    return {rank: (bye.status, bye.last_step) for rank, bye in byes.items()}


SELECTIONS = {
    "everything": lambda spec: None,
    "strided": lambda spec: [
        Selection((3, 4, 1), (4, 10, 11), (2, 1, 3)),
        Selection((0, 0, 0), (1, 21, 33), (1, 1, 1)),
    ],
}


@pytest.mark.parametrize("lane", ["shm", "tcp"])
@pytest.mark.parametrize("selected", SELECTIONS)
def test_same_chunks_as_python(tmp_path, monkeypatch, program, reference, selected, lane):
    monkeypatch.setenv("IPS_COMPONENTS_LANE", lane)
    path = tmp_path / "field.npy"
    contract, chunks, byes = couple(
        tmp_path, 4, program, *OPTIONS, "--posthoc", path, select=SELECTIONS[selected]
    )
    agreed, expected, ended = reference[selected]
    assert contract["temperature"].spec == agreed["temperature"].spec
    assert chunks.keys() == expected.keys()
    assert all(chunks[key].tobytes() == expected[key].tobytes() for key in expected)
    # The last step that was put, whether anything of it is wanted or not.
    assert endings(byes) == ended == dict.fromkeys(range(4), ("ok", 22))
    assert all(bye.counters[0].closed for bye in byes.values())
    assert np.load(path).shape == (12, 21, 33)


def test_without_contact_file_all_ranks_say_what_to_do(monkeypatch, program):
    monkeypatch.delenv("IPS_COMPONENTS_CONTACT", raising=False)
    for _ in range(3):  # MPICH's launcher may lose what ranks say just before they abort
        done = run(2, *OPTIONS, program=program)
        assert done.returncode != 0
        if done.stderr:
            break
    assert "no contact file: neither the program nor the environment variable" in done.stderr


@pytest.mark.parametrize("lane", ["shm", "tcp"])
def test_a_receiver_that_is_gone_at_the_goodbye_loses_nothing(
    tmp_path, monkeypatch, program, reference, lane
):
    monkeypatch.setenv("IPS_COMPONENTS_LANE", lane)
    lost = []

    def die(contract, receivers, chunks):
        array = contract.arrays[0]
        receivers[1].close()
        lost.extend((0, c) for _, c in chunks if array.placement.owner(c) == 1 and c >= 16)
        for key in lost:
            del chunks[key]
        after = replace(array.placement, [0])
        receivers[0].set_placement({0: after}, [receivers[0].endpoint], lost)
        pause = threading.Event()
        for _ in range(600):
            if chunks.keys() >= set(lost):
                return
            pause.wait(0.05)
        raise TimeoutError(f"{set(lost) - chunks.keys()} were not sent again")

    _, chunks, _ = couple(tmp_path, 4, program, *OPTIONS, at_goodbye=die)
    _, expected, _ = reference["everything"]
    assert len(lost) == 4
    assert chunks.keys() == expected.keys()
    assert all(chunks[key].tobytes() == expected[key].tobytes() for key in expected)
