"""The notebook starts a coupled run, watches it and plots its results; all of it is executed."""

import os

import pytest
from example_runs import BIN, Workspace

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

pytestmark = [
    pytest.mark.course,
    pytest.mark.timeout(300),
    # Of the kernel's machinery, not of ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def test_the_notebook_runs_from_top_to_bottom(tmp_path, leaves_nothing, monkeypatch):
    workspace = Workspace(tmp_path)
    client, notebook = client_of(tmp_path, monkeypatch)
    client.execute()

    cells = {
        "".join(cell.source): cell.outputs for cell in notebook.cells if cell.cell_type == "code"
    }

    def shown(source, kind="text/html"):
        (outputs,) = (each for text, each in cells.items() if text.endswith(source))
        return [out["data"][kind] for out in outputs if kind in out.get("data", {})]

    (progress,) = shown("\nrun")
    assert "succeeded" in progress
    assert "60 of 60" in progress
    (result,) = shown("\nresult")
    assert "succeeded" in result
    assert "report.html" in result
    assert "xarray.Dataset" in shown("result.results")[0]
    figures = [out for each in cells.values() for out in each if "image/png" in out.get("data", {})]
    assert len(figures) == 3
    run = workspace.run_of("heat2d_moments")
    assert run.record["status"] == "ok"
    assert float(shown(".item()", "text/plain")[0]) == run.results()["maximum"].max()


def test_a_run_that_fails_raises_its_cause_in_the_cell(tmp_path, leaves_nothing, monkeypatch):
    workspace = Workspace(tmp_path)
    analysis = tmp_path / "configs" / "wrong.py"
    analysis.write_text(
        "def analyse(arrays):\n"
        "    mean = arrays['temperature'].map_blocks(lambda t: t / len(missing))\n"
        "    return {'mean': mean.mean()}\n"
    )
    source = (
        "import ips_components\n"
        "run = ips_components.run('configs/heat2d_moments.config', 'platform/workstation.conf',\n"
        f"    directory={str(tmp_path)!r}, NSTEP=20,\n"
        "    ANALYSIS='wrong:analyse', ANALYSIS_ARGS=None)\n"
        "run.wait()"
    )
    client, notebook = client_of(tmp_path, monkeypatch, source)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="'missing' is not defined"):
        client.execute()
    (progress,) = (o["data"]["text/html"] for o in notebook.cells[0].outputs if "data" in o)
    assert "failed" in progress
    assert "&#x27;missing&#x27; is not defined" in progress
    assert workspace.run_of("heat2d_moments").record["status"] == "failed"


def client_of(tmp_path, monkeypatch, source=None, name="heat2d.ipynb"):
    """A client for the notebook of the example, or for one with a single cell."""
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    for variable in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    folder = tmp_path / "examples" / "notebook"
    if source is None:
        notebook = nbformat.read(folder / name, as_version=4)
    else:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    client = nbclient.NotebookClient(
        notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client, notebook
