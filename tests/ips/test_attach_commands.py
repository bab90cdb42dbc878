"""``ips-components attach`` and ``peek`` of a run that is under way, under real ``ips.py``."""

import re
import subprocess

import matplotlib.image
import numpy as np
import pytest
import xarray as xr
from plates import Plate, peek, whole
from workflows import BIN

import ips_components
from ips_components.cli import main
from ips_components.deadlines import Deadline, poll_until

pytestmark = [pytest.mark.course, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("analysis", "network"),
    [("", {"SECURITY": "tls", "LANES": "tcp"}), ("plate_analysis:early", {})],
)
def test_attach_and_peek(tmp_path, leaves_nothing, capsys, monkeypatch, analysis, network):
    """Of a run that has no analysis, and of one whose analysis has all its results."""
    workflow = Plate.begin(tmp_path, ANALYSIS=analysis, ON_ANALYTICS_LOSS="continue", **network)
    attached = None
    monkeypatch.chdir(tmp_path)
    try:
        with ips_components.attach(workflow.root) as live:
            live.wait(40 if analysis else 5, timeout=90)
        attached = subprocess.Popen(
            [BIN / "ips-components", "attach", workflow.root],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert attached.stdout.readline() == "plate: <f8 (6, 8) K\n"
        step = workflow.peek(capsys, "--output", "t.nc")
        with xr.open_dataset(tmp_path / "t.nc") as found:
            np.testing.assert_array_equal(found["plate"], whole(step))
            assert found["plate"].attrs["units"] == "K"
        later = workflow.peek(capsys, "--region", "::2,1:5", "--output", "t.npy")
        assert later > step
        np.testing.assert_array_equal(np.load(tmp_path / "t.npy"), whole(later)[::2, 1:5])
        workflow.peek(capsys, "--step", "latest", "--output", "t.png")
        assert matplotlib.image.imread(tmp_path / "t.png")[..., :3].std() > 0.05
        for words, says in (
            (("--step", "2"), "step 2 of array 'plate' has passed"),
            (("--region", "1,2,3"), r"--region: 1,2,3 does not fit array 'plate', .* \(6, 8\)"),
            (("--region", "99"), "--region: 99 does not fit"),
            (("--step", "now"), "expected a number or latest, got 'now'"),
        ):
            assert peek(workflow, *words, "-o", "no.nc") == 1
            assert re.search(says, capsys.readouterr().err)
        record = workflow.stop()
        out, err = attached.communicate(timeout=60)
        assert (attached.returncode, err.count("Traceback")) == (0, 0), out + err
        assert f"{record['run']}: ended" in out
        assert ": step 0 of" not in out + err  # it says where it is, though nothing is wanted
    finally:
        if attached is not None:
            attached.kill()
            attached.wait()
        workflow.close()
    assert record["status"] == "ok"
    assert len(record["attached"]) == 8
    for client in record["attached"]:
        assert client["why"] in ("detached", "")
        assert all(contract["ledger"]["closed"] for contract in client["contracts"]), client


def test_the_analysis_has_failed(tmp_path, leaves_nothing, capsys, monkeypatch):
    """The simulation goes on alone, and can be attached to until its end."""
    workflow = Plate.begin(
        tmp_path, ANALYSIS="plate_analysis:gives_up", ON_ANALYTICS_LOSS="continue"
    )
    monkeypatch.chdir(tmp_path)
    try:
        with ips_components.attach(workflow.root) as live:
            assert poll_until(lambda: live.status == "alone", Deadline(90), pause=0.2)
        with ips_components.attach(workflow.root) as live:  # one that comes later
            live.wait(live.step + 40, timeout=90)
            found = live.compute(lambda arrays: arrays["plate"].to_xarray(), steps=3)
            for step in found:
                np.testing.assert_array_equal(step, whole(int(step["time"])))
            assert found.sizes["time"] == 3
        workflow.peek(capsys, "--output", "t.npy")
        record = workflow.stop(status=1)
        assert "step 5 cannot be analysed" in workflow.output()
    finally:
        workflow.close()
    assert record["status"] == "failed"
    assert "step 5 cannot be analysed" in record["cause"]
    assert record["simulation"]["exit_status"] == 0
    assert record["ledger"]["closed"]
    assert {fault["who"] for fault in record["faults"]} == {"analysis"}
    assert [each["why"] for each in record["attached"]] == ["detached"] * 3


def test_attach_is_forbidden(tmp_path, leaves_nothing, capsys):
    workflow = Plate.begin(tmp_path, ANALYSIS="", ATTACH=False)
    try:
        for words in (["attach"], ["peek", "-o", "t.nc"]):
            command, *more = words
            array = ["plate"] if more else []
            assert main([command, str(workflow.root), *array, *more]) == 1
            said = capsys.readouterr().err
            assert "may not be attached to: its config has ATTACH = False" in said
        record = workflow.stop()
    finally:
        workflow.close()
    assert not record["attached"]
