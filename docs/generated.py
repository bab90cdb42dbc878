"""Pages made from the code and from measurements, so that they cannot be wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ips_components.config import reference

ROOT = Path(__file__).parent.parent


def write_pages(docs: Path) -> None:
    """Write ``_generated/*.md``; the pages that include them are committed."""
    folder = docs / "_generated"
    folder.mkdir(exist_ok=True)
    # The page has its own title; the reference's own would be a second one.
    _, _, parameters = reference().partition("\n")
    pages = {
        "parameters.md": parameters,
        "c.md": "\n".join(c_lines(ROOT / "ips_components" / "bridge" / "c")) + "\n",
        "benchmarks.md": "\n".join(benchmark_lines(ROOT / "benchmarks" / "results")) + "\n",
    }
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def c_lines(folder: Path) -> Iterator[str]:
    """The public header of the C bridge and the Fortran module, as far as they are there."""
    header = folder / "ips_bridge.h"
    if not header.exists():
        yield "This version has no bridge for C or Fortran."
        return
    parts = (
        ("ips_bridge.h", "c", "C and C++"),
        ("ips_bridge_mpi.h", "c", "The broadcast, for programs with MPI"),
        ("ips_bridge.f90", "fortran", "Fortran"),
    )
    for name, language, title in parts:
        path = folder / name
        if path.exists():
            yield f"## {title}: `{name}`"
            yield ""
            yield f"```{language}"
            yield path.read_text(encoding="utf-8").rstrip()
            yield "```"
            yield ""


def benchmark_lines(results: Path) -> Iterator[str]:
    """A section for each file of results; a sentence when there is none."""
    files = sorted(results.glob("*.json")) if results.is_dir() else []
    if not files:
        yield "No results are stored with this version."
        return
    for path in files:
        document = json.loads(path.read_text(encoding="utf-8"))
        yield f"### {path.stem.replace('_', ' ').capitalize()}"
        yield ""
        yield from _document_lines(document)
        yield ""


def _document_lines(document: Any) -> Iterator[str]:
    """Scalars as sentences, lists of rows as tables."""
    if isinstance(document, list):
        document = {"results": document}
    for name, value in document.items():
        title = str(name).replace("_", " ")
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            yield ""
            yield from _table(value)
            yield ""
        elif isinstance(value, dict):
            yield f"- {title}: " + ", ".join(f"{k} {_cell(v)}" for k, v in value.items())
        elif not isinstance(value, list):
            yield f"- {title}: {_cell(value)}"


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    yield "| " + " | ".join(column.replace("_", " ") for column in columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(_cell(row.get(column)) for column in columns) + " |"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str("" if value is None else value).replace("|", "\\|")
