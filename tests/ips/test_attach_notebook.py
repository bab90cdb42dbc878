"""The notebook that attaches to a run under ips.py; all of it is executed."""

import json

import pytest
from example_runs import Workspace

pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

from test_examples_notebook import client_of  # noqa: E402

pytestmark = [
    pytest.mark.course,
    pytest.mark.timeout(400),
    # Of the kernel's machinery, not of ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def test_a_notebook_looks_into_a_run_without_an_analysis(tmp_path, leaves_nothing, monkeypatch):
    workspace = Workspace(tmp_path)
    client, notebook = client_of(tmp_path, monkeypatch, name="attach.ipynb")
    client.execute()
    cells = {
        "".join(cell.source): cell.outputs for cell in notebook.cells if cell.cell_type == "code"
    }

    def shown(source, kind):
        (outputs,) = (each for text, each in cells.items() if text.endswith(source))
        return [out["data"][kind] for out in outputs if kind in out.get("data", {})]

    (page,) = shown("\nlive", "text/html")
    assert "temperature" in page
    assert "y: 32, x: 32" in page
    assert shown('cmap="RdBu_r");', "image/png")
    assert shown("every=10)", "image/png")  # it has changed in its place
    assert "xarray.DataArray" in shown('found["std"]', "text/html")[0]
    assert shown("len(maxima)", "text/plain") == ["3"]
    assert int(shown("figure.step", "text/plain")[0]) > 0
    assert shown('["why"]', "text/plain")[-1] == "'detached'"
    record = workspace.run_of("heat2d_moments").record
    assert record["status"] == "ok"
    for contract in record["attached"][0]["contracts"]:
        assert contract["ledger"]["closed"], json.dumps(contract)
