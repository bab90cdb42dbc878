"""Tables and plots of the page on performance, from what `python -m benchmarks` has written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

# What a method is called on the page; the order is that of the table's rows.
PUT = {
    "copy": "a copy in memory, to compare with",
    "C in place": "`put` in C, computed in place",
    "in place": "`put` in Python, computed in place",
    "C shm": "`put` in C, one copy",
    "shm": "`put` in Python, one copy",
    "C tcp": "`put` in C, TCP",
    "tcp": "`put` in Python, TCP",
    "mpi": "`MPI.Send`, shared memory",
    "mpi tcp": "`MPI.Send`, TCP",
}
PEERS = {
    "mpi": "`MPI.Send` to a fifth rank",
    "shm": "this package",
    "adios2 sst": "ADIOS2, SST engine",
    "scatter": "`Client.scatter` of every rank",
    "deisa-dask": "deisa-dask 0.6.3",
    "hdf5": "HDF5 files, Dask afterwards",
    "zarr": "Zarr files, Dask afterwards",
}
LANES = {"shm": "shared memory", "tcp": "TCP"}


@dataclass(frozen=True, slots=True)
class Table:
    """A table of medians, and its plot.

    Attributes
    ----------
    source
        Name of the results, without ``.json``.
    rows
        Key of the rows of the results.
    title
        Heading of the first column, which is also the label of the plot.
    down, across
        The name of a table's row, and of its column, for a row of the results; an empty name of a
        row leaves it out.
    values
        The medians of a cell; the first is plotted.
    names
        Order of the rows.
    """

    source: str
    rows: str
    title: str
    down: Callable[[Row], str]
    across: Callable[[Row], str]
    values: Callable[[Row], list[float]]
    names: tuple[str, ...] = ()

    def cells(self, document: Row) -> dict[str, dict[str, list[float]]]:
        """Medians by row and column."""
        cells: dict[str, dict[str, list[float]]] = {name: {} for name in self.names}
        for row in document[self.rows]:
            if name := self.down(row):
                cells.setdefault(name, {})[self.across(row)] = self.values(row)
        return {name: line for name, line in cells.items() if line}

    def lines(self, document: Row) -> Iterator[str]:
        """The table in Markdown, and on which machine it was measured."""
        cells = self.cells(document)
        columns = list(dict.fromkeys(column for line in cells.values() for column in line))
        yield f"| {self.title} | " + " | ".join(columns) + " |"
        yield "|" + "---|" * (1 + len(columns))
        for name, line in cells.items():
            words = (" / ".join(map(_number, line.get(column, ()))) for column in columns)
            yield f"| {name} | " + " | ".join(words) + " |"
        machine = document["machine"]
        turns = next((value for key, value in document.items() if key.startswith("turns of")), "")
        yield ""
        yield (
            f"Medians of {turns} turns; {machine['cpus']} cores, {machine['memory GiB']:g} GiB, "
            f"{machine['system']}, Python {machine['python']}, distributed "
            f"{machine['distributed']}."
        )

    def draw(self, document: Row, path: Path) -> None:
        """Plot the first value of each cell, a line for each row."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        cells = self.cells(document)
        style = {"svg.hashsalt": path.stem, "font.size": 9, "axes.grid": True, "grid.alpha": 0.4}
        with matplotlib.rc_context(style):
            drawn, axes = pyplot.subplots(figsize=(7, 3.4), layout="constrained")
            for i, (name, line) in enumerate(cells.items()):
                axes.plot(
                    list(line), [values[0] for values in line.values()],
                    "o-" if i < len(cells) / 2 else "s--", label=name.replace("`", ""), ms=4,
                )  # fmt: skip
            axes.set_yscale("log")
            axes.set_ylabel(self.title.partition(" / ")[0].replace("`", ""))
            axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
            drawn.savefig(path, metadata={"Date": None})
            pyplot.close(drawn)


def _size(row: Row) -> str:
    kib = row["block KiB"]
    return f"{kib} KiB" if kib < 1024 else f"{kib // 1024} MiB"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _medians(*keys: str) -> Callable[[Row], list[float]]:
    return lambda row: [row[key]["median"] for key in keys]


def _share(row: Row) -> str:
    return "one cell" if row["wanted"] == "0" else f"{row['wanted']} of the cells"


TABLES = {
    "put_paced": Table(
        "put_blocking", "rows", "ms, with pauses between steps",
        lambda row: PUT.get(row["method"], "") if row["phase"] == "paced" else "",
        _size, _medians("held ms"), tuple(PUT.values()),
    ),
    "put_flat_out": Table(
        "put_blocking", "rows", "ms, step after step",
        lambda row: PUT.get(row["method"], "") if row["phase"] == "flat out" else "",
        _size, _medians("held ms"), tuple(PUT.values()),
    ),
    "peers": Table(
        "peers", "ratios", "times as long as `put`, with pauses / step after step",
        lambda row: PEERS.get(row["held, over shm"], ""),
        _size, _medians("paced", "flat out"), tuple(PEERS.values()),
    ),
    "cost": Table(
        "peers", "cost", "core-seconds / seconds to the result",
        lambda row: PEERS.get(row["method"], ""),
        _size, _medians("core-seconds", "time to result s"), tuple(PEERS.values()),
    ),
    "contract": Table(
        "contract", "rows", "ms",
        lambda row: f"{LANES[row['lane']]}, {row['phase']}", _share, _medians("held ms"),
    ),
    "scheduler": Table(
        "scheduler", "rows", "scheduler CPU, ms per step",
        lambda row: row["chunks"], lambda row: f"{row['ranks']:,} ranks",
        _medians("scheduler CPU per step, ms"),
    ),
}  # fmt: skip


def stored(results: Path, benchmark: str) -> dict[str, Any]:
    """Return what a benchmark has written; nothing where no results are stored."""
    path = results / f"{benchmark}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def missing(benchmark: str) -> str:
    """Say that there are no results, and how to get them."""
    return f"No results are stored with this version (`python -m benchmarks {benchmark}`)."


def pages(results: Path, pictures: Path) -> Iterator[tuple[str, str]]:
    """Yield name and text of each table with its plot.

    Parameters
    ----------
    results
        Folder of the JSON files.
    pictures
        Folder for the plots, below that of the documentation.
    """
    for name, table in TABLES.items():
        document = stored(results, table.source)
        lines = [missing(table.source)]
        if document.get(table.rows):
            table.draw(document, pictures / f"measured_{name}.svg")
            lines = [*table.lines(document), ""]
            lines.append(f"![Plot of the table above]({pictures.name}/measured_{name}.svg)")
        yield f"measured_{name}.md", "\n".join(lines) + "\n"
