"""The heat example coupled: what arrives at the receivers is what it writes to a file."""

import numpy as np
from coupled_runs import assembled, couple
from heat2d_runs import PYTHON, run

from ips_components.model.selection import Selection

OPTIONS = ("--nx", 33, "--ny", 21, "--steps", 24, "--every", 2)


def test_delivered_field_is_the_one_on_disk(tmp_path):
    path = tmp_path / "field.npy"
    contract, chunks, byes = couple(tmp_path, 4, PYTHON, *OPTIONS, "--posthoc", path)
    spec = contract["temperature"].spec
    assert (spec.shape, spec.dims, spec.steps.every) == ((21, 33), ("time", "y", "x"), 2)
    assert spec.attrs["units"] == "K"
    assert assembled(contract["temperature"], chunks).tobytes() == np.load(path).tobytes()
    ends = {rank: (bye.status, bye.last_step) for rank, bye in byes.items()}
    assert ends == dict.fromkeys(range(4), ("ok", 22))


def test_only_what_is_selected_arrives(tmp_path):
    path = tmp_path / "field.npy"
    selection = Selection((3, 4, 1), (4, 10, 11), (2, 1, 3))
    contract, chunks, _ = couple(
        tmp_path, 3, PYTHON, *OPTIONS, "--posthoc", path, select=lambda spec: [selection]
    )
    field = assembled(contract["temperature"], chunks)
    wanted = np.zeros(field.shape, bool)
    wanted[3:10:2, 4:14, 1:34:3] = True
    np.testing.assert_array_equal(field[wanted], np.load(path)[wanted])
    assert np.isnan(field[~wanted]).all()


def test_without_contact_file_it_says_what_to_do(monkeypatch):
    monkeypatch.delenv("IPS_COMPONENTS_CONTACT", raising=False)
    done = run(2, *OPTIONS)
    assert done.returncode != 0
    assert "ContactError" in done.stderr
