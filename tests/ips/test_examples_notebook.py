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
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    for variable in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    folder = tmp_path / "examples" / "notebook"
    notebook = nbformat.read(folder / "heat2d.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    printed = ["".join(out.get("text", "") for out in cell.outputs) for cell in code]
    assert "nothing wrong" in printed[1]
    assert "exit status 0" in printed[2]
    assert "step 40 of 40" in printed[2] or "40 of 40" in printed[2]
    figures = [out for cell in code for out in cell.outputs if "image/png" in out.get("data", {})]
    assert len(figures) == 2
    assert workspace.run_of("heat2d_moments").record["status"] == "ok"
