"""The documentation is true: it builds, its links lead somewhere, what it names exists."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ips_components.config import reference
from ips_components.report._schema import RECORD

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if page.relative_to(DOCS).parts[0][0] != "_")
NAMES = [str(page.relative_to(DOCS)) for page in PAGES]

# Words in capitals that are no parameters of a config.
OTHERS = {"COUPLED_RUN", "MPI", "TCP", "PATH", "TERM", "KILL", "NUM_CHECKPOINT", "RUN_DIR", "INFO"}
OTHERS |= {"INIT", "TRANSPORT"}  # ports
OTHERS |= {"ADIOS2_PLUGIN_PATH", "ADIOS2_ROOT", "ADIOS2_DIR"}  # ADIOS2's
OTHERS |= {"USER_W3_DIR"}  # of IPS
OTHERS |= {"IPS_BRIDGE_RANK", "IPS_BRIDGE_SIZE"}
OTHERS |= {"SCHED_BATCH", "SO_RCVBUF", "SO_SNDBUF", "SO_RCVLOWAT"}  # the kernel's

# Modules that a config names.
COMPONENTS = ("driver", "simulation", "analytics", "ensemble")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_the_page_on_meshes_and_particles_runs() -> None:
    """Its Python code needs no analysis."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", text_of(DOCS / "guide/unstructured.md"), re.M | re.S
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert len(blocks) == 6


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", without_code(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    text = text_of(page)
    links = re.findall(r"\[[^\]]*\]\(([^)]+)\)", without_code(text))
    links += re.findall(r"^```\{(?:literalinclude|include)\} (\S+)$", text, flags=re.MULTILINE)
    for link in links:
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if "_generated" in target.parts:
            continue
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(text_of(target)), f"{link}: no such heading"


def test_every_page_is_in_the_table_of_contents():
    listed = set(re.findall(r"^([\w/-]+)$", text_of(DOCS / "index.md"), flags=re.MULTILINE))
    assert {name.removesuffix(".md") for name in NAMES} - {"index"} <= listed


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_parameters_that_are_named_exist(page):
    known = set(re.findall(r"^\| `([A-Z][A-Z0-9_]*)`", reference(), flags=re.MULTILINE))
    named = set(re.findall(r"`([A-Z][A-Z0-9_]+)(?: = [^`]*)?`", without_code(text_of(page))))
    variables = {name for name in named if name.startswith("IPS_COMPONENTS_")}
    header = text_of(ROOT / "ips_components" / "bridge" / "c" / "ips_bridge.h")
    of_c = {name for name in named if re.search(rf"\b{name}\b", header)}
    assert named - known - variables - of_c <= OTHERS


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_imports_in_examples_work(page):
    found = re.findall(r"^\s*from (ips_components[\w.]*) import ([\w, ]+)", text_of(page), re.M)
    for module, names in found:
        for name in names.split(","):
            home = importlib.import_module(module)
            name = name.split()[0]
            if not hasattr(home, name):
                importlib.import_module(f"{module}.{name}")


def test_files_that_are_named_exist():
    for page in PAGES:
        for name in re.findall(
            r"`((?:configs|examples|platform|benchmarks)/[\w./]*)`", text_of(page)
        ):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "README.md"])
def test_what_the_front_pages_name_exists(name):
    text = text_of(ROOT / name)
    paths = re.findall(r"\b(?:tests|benchmarks|docs|examples|configs|platform)/[\w./-]*[\w/]", text)
    paths += [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert len(paths) > 3


@pytest.mark.parametrize(
    "module", ["", ".bridge", ".external", ".live", ".runs", *(f".{each}" for each in COMPONENTS)]
)
def test_the_page_of_the_api_has_every_public_name(module):
    page = text_of(DOCS / "reference" / "api.md")
    names = importlib.import_module(f"ips_components{module}").__all__
    # Errors are on the page by their module.
    errors = importlib.import_module("ips_components.errors")
    assert [n for n in names if n not in page and not hasattr(errors, n) and n[0] != "_"] == []


def test_messages_of_the_troubleshooting_page_are_messages_of_the_code():
    constants = "\n".join(
        node.value
        for path in (ROOT / "ips_components").rglob("*.py")
        for node in ast.walk(ast.parse(text_of(path)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    ours, _, _ = text_of(DOCS / "troubleshooting.md").partition("## Slurm")
    for heading in re.findall(r"^### (.+)$", ours, flags=re.MULTILINE):
        for part in heading.split("…"):
            assert part.strip() in constants, f"no message says {part.strip()!r} ({heading})"


def test_the_record_is_described_as_it_is():
    page = text_of(DOCS / "reference" / "files.md")
    section = page.partition("## run.json")[2].partition("\n## ")[0]
    _, _, table = section.partition("| field | meaning |")
    first = re.findall(r"^\| ([^|]+) \|", table, flags=re.MULTILINE)
    described = {name for cell in first for name in re.findall(r"`(\w+)`", cell)}
    assert described == set(RECORD.fields)


def test_benchmark_results_become_tables(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    generated = importlib.import_module("generated")
    assert list(generated.benchmark_lines(tmp_path)) == ["No results are stored with this version."]
    results = {
        "distributed": "2026.8.0",
        "machine": {"cpus": 2},
        "sizes": {"10": {"wall": {"declare": 0.1234}}, "20": {"wall": {"declare": 0.3}}},
    }
    (tmp_path / "external_tasks.json").write_text(json.dumps(results))
    assert list(generated.benchmark_lines(tmp_path))[:8] == [
        "### External tasks",
        "",
        "- distributed: 2026.8.0",
        "- machine: cpus 2",
        "",
        "| sizes | wall declare |",
        "|---|---|",
        "| 10 | 0.123 |",
    ]


def test_plots_of_benchmarks_stand_with_their_tables(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    generated = importlib.import_module("generated")
    results, pictures = tmp_path / "results", tmp_path / "_generated"
    results.mkdir()
    pictures.mkdir()
    for name in ("contract", "peers"):
        (results / f"{name}.json").write_text(json.dumps({"rows": [{"method": "a|b"}]}))
    for plot in ("peers.svg", "peers_large.svg"):
        (results / plot).write_text("<svg/>")
    lines = list(generated.benchmark_lines(results, pictures))
    shown = [line for line in lines if line.startswith(("###", "!["))]
    assert shown == [
        "### Contract",
        "### Peers",
        "![Plot of peers](_generated/peers.svg)",
        "![Plot of peers](_generated/peers_large.svg)",
    ]
    assert sorted(path.name for path in pictures.iterdir()) == ["peers.svg", "peers_large.svg"]
    assert "| a\\|b |" in lines


def test_it_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", tmp_path / "trees"]
    built = subprocess.run(
        [*command, DOCS, tmp_path / "html"], capture_output=True, text=True, timeout=110
    )
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "html" / "reference" / "config.html").stat().st_size > 20_000


def test_every_example_is_a_page(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    course = importlib.import_module("course")
    names = course.examples()
    assert [name[:2] for name in names[:14]] == [f"{i:02}" for i in range(1, 15)]
    folders = {path.name for path in course.EXAMPLES.iterdir() if path.is_dir()}
    assert folders - {"notebook"} <= set(names)
    course.write_course(tmp_path)
    written = {path.stem: text_of(path) for path in (tmp_path / "_course").iterdir()}
    assert written.keys() == {"index", *names}
    assert "[the heat" not in written["index"]
    assert "[04](04_heat_equation.md) the heat equation" in written["index"]
    assert "at nine of ten steps" in written["05_select_less"]
    assert "## `examples/05_select_less/select_less.py`" in written["05_select_less"]
    assert "`configs/heat2d_ipca.config`" in written["04_heat_equation"]


def test_the_table_of_whole_runs_says_which_goals_are_not_reached(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    generated = importlib.import_module("generated")
    assert "python -m benchmarks whole_run" in next(generated.whole_run_lines(tmp_path))
    systems = {
        name: {what: {"median": value} for what in ("wall", "core")}
        for name, value in (("post hoc", 10.0), ("this package", 7.0))
    }
    ratios = {"wall over post hoc": {"median": 0.7}}
    document = {
        "goals": {"wall over post hoc": 0.6},
        "rows": {"8 MiB": {"systems": systems, "ratios": ratios}},
    }
    (tmp_path / "whole_run.json").write_text(json.dumps(document))
    head, _, row, *_ = generated.whole_run_lines(tmp_path)
    assert head == "| wall s / core-s | post hoc | this package | wall over post hoc |"
    assert row == "| 8 MiB | 10.0 / 10.0 | 7.0 / 7.0 | 0.7 (goal 0.6, **not reached**) |"


def test_the_table_of_heat_and_pca_has_costs_and_ratios_of_each_size(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    generated = importlib.import_module("generated")
    results, pictures = tmp_path / "results", tmp_path / "pictures"
    results.mkdir()
    pictures.mkdir()
    assert "benchmarks heat_pca" in next(generated.heat_pca_lines(results, pictures))

    def costs(*values):
        names = ("simulation", "analytics", "total")
        return {name: {"median": value} for name, value in zip(names, values, strict=True)}

    row = {
        "kind": "weak",
        "ranks": 1,
        "rows": 256,
        "systems": {"scatter": costs(7.0, 6.0, 13.0), "this package": costs(1.0, 2.0, 3.0)},
        "ratios": {"scatter over this package": costs(7.0, 3.0, 4.333)},
    }
    (results / "heat_pca.json").write_text(json.dumps({"rows": [row]}))
    (results / "heat_pca_held.svg").write_text("<svg/>")
    lines = list(generated.heat_pca_lines(results, pictures))
    assert "| weak, 1 rank, 256 rows | 7 / 6 / 13 | 1 / 2 / 3 | 7 / 3 / 4.3 |" in lines
    assert (pictures / "heat_pca_held.svg").exists()


def test_the_tables_for_users_have_medians_and_the_machine(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    measured = importlib.import_module("measured")
    assert (
        "python -m benchmarks peers"
        in dict(measured.pages(tmp_path, tmp_path))["measured_peers.md"]
    )
    machine = {"cpus": 2, "memory GiB": 24.0, "system": "Linux 6", "python": "3.11"}
    document = {
        "machine": machine | {"distributed": "2026.8.0"},
        "turns of each method": 5,
        "ratios": [
            {
                "block KiB": size,
                "held, over shm": name,
                "paced": {"median": ratio, "p10": 0.0},
                "flat out": {"median": 10 * ratio, "p10": 0.0},
            }
            for name, ratio in (("zarr", 2.0), ("tcp", 1.0), ("mpi", 0.5))
            for size in (32, 2048)
        ],
    }
    (tmp_path / "peers.json").write_text(json.dumps(document))
    text = dict(measured.pages(tmp_path, tmp_path))["measured_peers.md"]
    assert text.splitlines() == [
        "| times as long as `put`, with pauses / step after step | 32 KiB | 2 MiB |",
        "|---|---|---|",
        "| `MPI.Send` to a fifth rank | 0.5 / 5 | 0.5 / 5 |",
        "| Zarr files, Dask afterwards | 2 / 20 | 2 / 20 |",
        "",
        "Medians of 5 turns; 2 cores, 24 GiB, Linux 6, Python 3.11, distributed 2026.8.0.",
        "",
        f"![Plot of the table above]({tmp_path.name}/measured_peers.svg)",
    ]
    assert "<svg" in (tmp_path / "measured_peers.svg").read_text()
