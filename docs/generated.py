"""Pages made from the code and from measurements, so that they cannot be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measured

from ips_components.config import reference

ROOT = Path(__file__).parent.parent
#: Core-seconds by which two starts differ: smaller differences are not shown.
LEAST = 0.1


def write_pages(docs: Path) -> None:
    """Write ``_generated/*.md``; the pages that include them are committed."""
    folder = docs / "_generated"
    folder.mkdir(exist_ok=True)
    # The page has its own title; the reference's own would be a second one.
    _, _, parameters = reference().partition("\n")
    pages = {
        "parameters.md": parameters,
        "c.md": "\n".join(c_lines(ROOT / "ips_components" / "bridge" / "c")) + "\n",
        "benchmarks.md": "\n".join(benchmark_lines(ROOT / "benchmarks" / "results", folder)) + "\n",
        "whole_run.md": "\n".join(whole_run_lines(ROOT / "benchmarks" / "results")) + "\n",
        "startup.md": "\n".join(startup_lines(ROOT / "benchmarks" / "results")) + "\n",
        "heat_pca.md": "\n".join(heat_pca_lines(ROOT / "benchmarks" / "results", folder)) + "\n",
        **dict(measured.pages(ROOT / "benchmarks" / "results", folder)),
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
        ("ips_bridge.h", "c", "C"),
        ("ips_bridge_mpi.h", "c", "The broadcast, for programs with MPI"),
        ("ips_bridge.hpp", "cpp", "C++17"),
        ("ips_bridge.f90", "fortran", "Fortran"),
        ("ips_bridge_life.inc", "fortran", "Fortran: opening, joining, closing, errors"),
        ("ips_bridge_describe.inc", "fortran", "Fortran: describing arrays"),
        ("ips_bridge_steps.inc", "fortran", "Fortran: steps, blocks in place, accounts"),
        ("ips_bridge_receive.inc", "fortran", "Fortran: what the analysis sends"),
        ("ips_bridge_put.inc", "fortran", "Fortran: putting, by rank of the array"),
        ("ips_bridge_mpi.f90", "fortran", "Fortran with MPI"),
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


def whole_run_lines(results: Path) -> Iterator[str]:
    """The results of `benchmarks.whole_run` as one table, with the ratios that have goals."""
    document = measured.stored(results, "whole_run")
    if not document:
        yield measured.missing("whole_run")
        return
    goals = document["goals"]
    systems = list(next(iter(document["rows"].values()))["systems"])
    yield "| wall s / core-s | " + " | ".join([*systems, *goals]) + " |"
    yield "|" + "---|" * (1 + len(systems) + len(goals))
    for name, row in document["rows"].items():
        cells = [
            " / ".join(f"{each[what]['median']:.1f}" for what in ("wall", "core"))
            for each in row["systems"].values()
        ]
        for goal, limit in goals.items():
            found = row["ratios"].get(goal)
            reached = "" if found is None or found["median"] <= limit else ", **not reached**"
            text = "" if found is None else f"{found['median']:.2g}"
            if text and name != "nothing":
                text += f" (goal {limit:g}{reached})"
            cells.append(text)
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""
    yield (
        "Medians; ratios are formed turn by turn. The row *nothing* is start and end with next to "
        "no data."
    )


def startup_lines(results: Path) -> Iterator[str]:
    """The results of `benchmarks.startup` as a table with its goals."""
    document = measured.stored(results, "startup")
    if not document:
        yield measured.missing("startup")
        return
    bare, job = (document["systems"][name]["wall"]["median"] for name in ("bare", "main job"))
    yield "| | median | goal |"
    yield "|---|---|---|"
    yield f"| `LocalCluster` of two workers, and matplotlib imported | {bare:.1f} s | |"
    yield f"| the main job | {job:.1f} s | |"
    for name, meaning in (
        ("overhead", "of it, all but the time from the first put to the last"),
        ("overhead over bare", "the same over the first line"),
        ("to the first put", "from the command to the first put"),
        ("to the exit", "from the last step that was analysed to the exit"),
    ):
        found, goal = document["main job"][name]["median"], document["goals"][name]
        unit = "" if "over bare" in name else " s"
        reached = "" if found <= goal else ", **not reached**"
        yield f"| {meaning} | {found:.2g}{unit} | {goal:g}{unit}{reached} |"


def heat_pca_lines(results: Path, pictures: Path) -> Iterator[str]:
    """The results of `benchmarks.heat_pca`: what each system costs, and the ratios with goals."""
    document = measured.stored(results, "heat_pca")
    if not document:
        yield measured.missing("heat_pca")
        return
    costs = ("simulation", "analytics", "total")
    systems = list(document["rows"][0]["systems"])
    ratios = list(document["rows"][0]["ratios"])
    yield f"| {' / '.join(costs)} | " + " | ".join([*systems, *ratios]) + " |"
    yield "|" + "---|" * (1 + len(systems) + len(ratios))
    for row in document["rows"]:
        ours = list(row["systems"].values())[-1]
        cells = [
            " / ".join(_seconds(each[cost]["median"]) for cost in costs)
            for each in row["systems"].values()
        ]
        cells += [
            " / ".join(
                f"{each[cost]['median']:.2g}" if ours[cost]["median"] >= LEAST else "-"
                for cost in costs
            )
            for each in row["ratios"].values()
        ]
        ranks = "1 rank" if row["ranks"] == 1 else f"{row['ranks']} ranks"
        yield f"| {row['kind']}, {ranks}, {row['rows']} rows | " + " | ".join(cells) + " |"
    yield ""
    yield (
        "Medians, in rank-seconds of the loop (simulation) and core-seconds of everything else "
        "beyond start and end (analytics)."
    )
    for picture in sorted(results.glob("heat_pca_*.svg")):
        shutil.copy(picture, pictures / picture.name)
        yield ""
        yield (
            "![How long each step holds a rank, over the steps; the band is from the least to the "
            f"most of all ranks]({pictures.name}/{picture.name})"
        )


def _seconds(value: float) -> str:
    return f"{value:.3g}" if value >= LEAST else f"below {LEAST:g}"


def benchmark_lines(results: Path, pictures: Path | None = None) -> Iterator[str]:
    """A section for each file of results, with its plots; a sentence when there is none.

    Parameters
    ----------
    results
        Folder of the JSON files, and of plots whose names begin with a file's.
    pictures
        Folder for copies of the plots, below that of the documentation.
    """
    files = sorted(results.glob("*.json")) if results.is_dir() else []
    if not files:
        yield "No results are stored with this version."
        return
    for path in files:
        title = path.stem.replace("_", " ")
        yield f"### {title.capitalize()}"
        yield ""
        yield from _document_lines(json.loads(path.read_text(encoding="utf-8")))
        yield ""
        for plot in sorted(results.glob(f"{path.stem}*.svg")) if pictures else ():
            shutil.copy(plot, pictures / plot.name)
            yield f"![Plot of {title}]({pictures.name}/{plot.name})"
            yield ""


def _document_lines(document: Any) -> Iterator[str]:
    """Numbers and words as a list, rows (also by name) as tables."""
    if isinstance(document, list):
        document = {"results": document}
    tables = {}
    for name, value in document.items():
        if isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values()):
            tables[name] = [{name: key, **_flat(row)} for key, row in value.items()]
        elif isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            tables[name] = [_flat(row) for row in value]
        elif isinstance(value, dict):
            words = ", ".join(f"{_words(k)} {_cell(v)}" for k, v in _flat(value).items())
            yield f"- {_words(name)}: {words}"
        else:
            yield f"- {_words(name)}: {_cell(value)}"
    for rows in tables.values():
        yield ""
        yield from _table(rows)


def _flat(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key} ")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    yield "| " + " | ".join(map(_words, columns)) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(_cell(row.get(column)) for column in columns) + " |"


def _words(name: Any) -> str:
    return str(name).replace("_", " ")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return str("" if value is None else value).replace("|", "\\|")
