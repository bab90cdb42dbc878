"""A program without an analysis: the bridge takes everything and sends nothing."""

import logging

import numpy as np
import pytest

from ips_components.bridge import Array, Bridge
from ips_components.errors import BridgeError, ContactError, RunStopped


def test_all_calls_succeed_and_say_so_once(caplog):
    t = Array("t", shape=(8,), blocks=[((0,), (8,))], dims=("x",), halo=1)
    with caplog.at_level(logging.WARNING), Bridge(arrays=[t], alone=True) as bridge:
        assert bridge.is_alone
        assert bridge.first_step == 0
        for step in range(3):
            bridge.put("t", step, np.zeros(10))
        with bridge.block("t", 3) as cells:
            cells[...] = 1
        bridge.step_end(3)
        bridge.rewind(2)
        bridge.put("t", 2, np.zeros(10))
        assert bridge.receive("gain", 2, default=0.5) == 0.5
        assert bridge.receive_model("m") is None
        assert not bridge.should_stop()
        assert bridge.wait()
        found = bridge.statistics()
    assert found.lost is None
    assert found.arrays["t"]["blocks"]["skipped"] == 5
    assert found.arrays["t"]["blocks"]["delivered"] == 0
    (said,) = caplog.messages
    assert "runs alone" in said


def test_without_a_default_there_is_no_value():
    with (
        Bridge(alone=True) as bridge,
        pytest.raises(RunStopped, match=r"no value 'gain' for step 3 will come: .* runs alone"),
    ):
        bridge.receive("gain", 3)


def test_by_the_environment(monkeypatch, caplog):
    monkeypatch.setenv("IPS_COMPONENTS_ALONE", "1")
    with Bridge(rank=1, size=2) as bridge:  # each rank asks for itself
        bridge.put("t", 0, np.zeros(3))
        assert bridge.is_alone
    monkeypatch.setenv("IPS_COMPONENTS_ALONE", "0")
    with pytest.raises(ContactError):
        Bridge()


def test_a_contact_file_that_is_named_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("IPS_COMPONENTS_DEADLINE", "0.05")
    monkeypatch.setenv("IPS_COMPONENTS_CONTACT", str(tmp_path / "contact.json"))
    with pytest.raises(ContactError, match="no contact file at"):
        Bridge(alone=True)


def test_the_error_names_the_remedy():
    with pytest.raises(ContactError, match=r"IPS_COMPONENTS_ALONE=1 \(or Bridge\(.*alone=True\)"):
        Bridge()


def test_mistakes_are_found_alone_as_well():
    t = Array("t", shape=(8,), offset=(0,), dims=("x",))
    with Bridge(arrays=[t], alone=True) as bridge:
        bridge.put("t", 1, np.zeros(8))
        with pytest.raises(BridgeError, match="was not described"):
            bridge.put("u", 2, np.zeros(8))
