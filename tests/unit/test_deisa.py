"""DEISA's interface without a cluster: what is refused, and what programs may do in which order."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ips_components import deisa
from ips_components._deisa_bridge import _contact_beside, _described
from ips_components.analysis.arrays import external_arrays
from ips_components.errors import ConfigError, ContractError
from ips_components.model import ArraySpec, StepAxis
from ips_components.wire.contact import ENVIRONMENT

GLOBAL_T = {"sizes": [5, 8, 6], "subsizes": [1, 4, 6], "starts": [0, 4, 0], "timedim": [0]}


class Settings:
    run = "unit"


class StubRun:
    """Signs, and remembers that it did."""

    def __init__(self):
        self.settings = Settings()
        self.contract = None
        spec = ArraySpec("global_t", "f8", (8, 6), StepAxis(count=5), dims=("X", "Y"))
        self.arrays = external_arrays([spec], run="unit", n_receivers=2)
        self.client = object()

    def sign(self, contract):
        self.contract = contract


@pytest.fixture
def attached(monkeypatch):
    """An adaptor within a run of IPS."""
    run = StubRun()
    token = deisa._run_of_ips.set(run)
    yield run
    deisa._run_of_ips.reset(token)


# -- the analytics side ----------------------------------------------------------------------


def test_within_a_run_of_ips_no_file_is_read(attached):
    adaptor = deisa.Deisa("absent.json", "absent.yml")
    assert adaptor.run is attached
    assert list(adaptor.get_deisa_arrays()) == ["global_t"]
    assert adaptor.get_deisa_arrays() is adaptor.get_deisa_arrays()


def test_the_contract_is_what_was_selected(attached):
    arrays = deisa.Deisa().get_deisa_arrays()
    arrays["global_t"][::2, :4]
    assert arrays.check_contract() == {"global_t": [(3, 4, 6)]}
    assert attached.contract is None
    arrays.validate_contract()
    (agreed,) = attached.contract.arrays
    assert agreed.wanted_bytes == 3 * 4 * 6 * 8


def test_a_contract_is_signed_once(attached):
    arrays = deisa.Deisa().get_deisa_arrays()
    arrays["global_t"][...]
    arrays.validate_contract()
    first = attached.contract
    arrays.validate_contract()
    arrays.handle_contract()
    assert attached.contract is first


def test_slices_from_before_the_contract_have_all_of_their_chunks(attached):
    arrays = deisa.Deisa().get_deisa_arrays()
    gt = arrays["global_t"][...]
    difference = gt[1:, :, 0] - gt[:-1, :, 0]
    arrays.validate_contract()
    leaves = [layer for layer in difference.dask.layers.values() if hasattr(layer, "view")]
    assert sum(len(layer) for layer in leaves if not layer.is_whole) == 2 * 4 * 2


def test_nothing_selected_is_an_error(attached):
    arrays = deisa.Deisa().get_deisa_arrays()
    with pytest.raises(ContractError, match="nothing is selected"):
        arrays.validate_contract()
    arrays["global_t"][0]
    arrays.reset_contract()
    with pytest.raises(ContractError, match="nothing is selected"):
        arrays.validate_contract()


def test_an_array_that_is_not_offered_is_an_error(attached):
    with pytest.raises(ContractError, match="offers global_t"):
        deisa.Deisa().get_deisa_arrays()["global_p"]


def test_a_scheduler_file_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match="not the scheduler file"):
        deisa.Deisa(tmp_path / "scheduler.json")


def test_a_config_file_without_workers(tmp_path):
    (tmp_path / "scheduler.json").write_text(json.dumps({"address": "tcp://127.0.0.1:1"}))
    (tmp_path / "config.yml").write_text("wrkers: 2\n")
    with pytest.raises(ConfigError, match="expected an entry workers"):
        deisa.Deisa(tmp_path / "scheduler.json", tmp_path / "config.yml")


# -- programs as analyses --------------------------------------------------------------------


def program(tmp_path, text):
    path = tmp_path / "program.py"
    path.write_text("from ips_components.deisa import Deisa\n" + text)
    return str(path)


def test_a_program_leaves_its_results_in_variables(tmp_path):
    run = StubRun()
    text = """
assert __name__ == "__main__"
arrays = Deisa("scheduler.json", "config.yml").get_deisa_arrays()
gt = arrays["global_t"][...]
arrays.validate_contract()
mean, factor = gt.mean(), 2.0
"""
    kept = deisa.run_program({}, run, program=program(tmp_path, text), keep="[mean, factor]")
    assert set(kept) == {"mean", "factor"}
    assert kept["factor"] == 2.0
    assert deisa._run_of_ips.get() is None


def test_a_program_that_selects_nothing_or_leaves_nothing(tmp_path):
    with pytest.raises(ContractError, match="neither validated a contract"):
        deisa.run_program({}, StubRun(), program=program(tmp_path, "Deisa()\n"))
    text = (
        "arrays = Deisa().get_deisa_arrays()\narrays['global_t'][0]\narrays.validate_contract()\n"
    )
    with pytest.raises(ContractError, match="no variable mean"):
        deisa.run_program({}, StubRun(), program=program(tmp_path, text), keep=["mean"])


# -- the simulation side ---------------------------------------------------------------------


def test_an_array_is_described_as_deisa_describes_it():
    array = _described("global_t", GLOBAL_T, "float64")
    assert array.spec.index_shape == (5, 8, 6)
    assert array.offset == (4, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"starts": None}, "no starts"), ({"timedim": [1]}, "time must be dimension 0")],
)
def test_a_description_that_cannot_be_used(change, message):
    described = {k: v for k, v in {**GLOBAL_T, **change}.items() if v is not None}
    with pytest.raises(ConfigError, match=message):
        _described("global_t", described, "float64")


def test_where_the_contact_file_is(monkeypatch, tmp_path):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert str(_contact_beside(None)) == "deisa_contact.json"
    assert _contact_beside(tmp_path / "scheduler.json") == tmp_path / "deisa_contact.json"
    assert _contact_beside(tmp_path / "my_contact.json") == tmp_path / "my_contact.json"
    monkeypatch.setenv(ENVIRONMENT, "elsewhere.json")
    assert _contact_beside(object()) is None


def test_a_rank_does_not_load_dask():
    code = "import sys; import ips_components.deisa; print('dask' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
