"""What a finished run left in its directory."""

from __future__ import annotations

import html
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ips_components.errors import RecordError

if TYPE_CHECKING:
    import xarray


class RunResult:
    """A finished run, opened from its directory.

    Parameters
    ----------
    directory : path-like
        ``SIM_ROOT/run_<run id>``, which holds ``run.json``.

    Raises
    ------
    RecordError
        If there is no readable record of a run.

    Examples
    --------
    >>> from ips_components import RunResult
    >>> result = RunResult("run/heat2d_ipca/run_20260801-120000-0123abcd")  # doctest: +SKIP
    >>> result.ok, result.results["mean"]  # doctest: +SKIP
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        from ips_components.report.record import read_record

        path = Path(directory)
        self.record: dict[str, Any] = read_record(path)
        """Content of ``run.json``, with defaults for what is missing."""
        self.directory: Path = (path if path.is_dir() else path.parent).absolute()
        """Directory of the run."""

    @property
    def run(self) -> str:
        """The run id."""
        return str(self.record["run"])

    @property
    def ok(self) -> bool:
        """Whether the run succeeded."""
        return bool(self.record["status"] == "ok")

    @property
    def cause(self) -> str | None:
        """Why the run failed, None when it did not."""
        return self.record["cause"]

    @property
    def results(self) -> xarray.Dataset:
        """The results, opened lazily; of a store with groups, those of its root.

        Raises
        ------
        RecordError
            If the run has no results.
        """
        return self._groups["/"]

    @property
    def tree(self) -> xarray.DataTree:
        """The results with all their groups.

        Raises
        ------
        RecordError
            If the run has no results.
        """
        import xarray

        return xarray.DataTree.from_dict(self._groups)

    @property
    def figure(self) -> Figure:
        """The figure of the results; a notebook shows it.

        Raises
        ------
        RecordError
            If the run has none.
        """
        for name in self.record["figures"]:
            if (self.directory / name).is_file():
                return Figure(self.directory / name)
        raise RecordError(
            f"{self.directory} has no figure: FIGURE = False in the section of the analytics, no "
            "results, or results that cannot be drawn (the log of the run says why)"
        )

    @property
    def report(self) -> Report:
        """The report of the run, as a link; ``report.show()`` shows the page itself.

        Raises
        ------
        RecordError
            If there is none.
        """
        path = self.directory / "report.html"
        if not path.is_file():
            raise RecordError(
                f"{path} does not exist; `ips-components report {self.directory}` writes it"
            )
        return Report(path)

    @cached_property
    def _groups(self) -> dict[str, Any]:
        from ips_components.report.stored import open_groups

        path = self.record["results"]["path"]
        if not path or not Path(path).exists():
            why = f": {self.cause}" if self.cause else ""
            raise RecordError(f"run {self.run} has no results{why}")
        return open_groups(Path(path))

    def __str__(self) -> str:
        from ips_components.report.ledger import summary_table

        return summary_table(self.record, self.directory)

    def __repr__(self) -> str:
        return f"<RunResult {self.run}: {self.record['status']}, {self.directory}>"

    def _repr_html_(self) -> str:
        from ips_components.runs.html import result_html

        return result_html(self)


class Figure:
    """A picture on disk that a notebook shows.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<Figure {self.path}>"

    def _repr_png_(self) -> bytes | None:
        return self.path.read_bytes() if self.path.suffix == ".png" else None


class Report:
    """The report of a run: a page that needs neither a network nor a server.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<Report {self.path}>"

    def _repr_html_(self) -> str:
        # Notebook servers serve files below the notebook's folder under relative links only.
        link = os.path.relpath(self.path)
        target = self.path.as_uri() if link.startswith("..") else link
        return f'<a href="{html.escape(target)}" target="_blank">{html.escape(str(self.path))}</a>'

    def show(self, height: int = 700) -> Page:
        """Return the page itself, for the output of a notebook's cell.

        Parameters
        ----------
        height : int
            Of its frame, in pixels.
        """
        return Page(self.path, height)


class Page:
    """The page of a report within the output of a notebook's cell."""

    def __init__(self, path: Path, height: int) -> None:
        self.path = path
        self.height = height

    def _repr_html_(self) -> str:
        page = html.escape(self.path.read_text(encoding="utf-8"))
        return (
            f'<iframe srcdoc="{page}" sandbox="" style="width: 100%; height: {self.height}px; '
            'border: 1px solid #8884"></iframe>'
        )
