"""A process that draws the figure of a run, and has read its libraries before the run ends.

Reading matplotlib takes about as long as drawing; both happen beside other work of the run: the
first while it computes, the second while its results are written and its workers end. What is drawn
was taken from the results where they are written, see `panels`: xarray and zarr are not read here.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path

FIGURE = "results.png"
TIME_OUT = 300.0
"""Seconds for a figure; without one, the run is as good."""
_IDLE = 10
"""Nice value while libraries are read: ranks and workers go first."""
_LOOK = 0.05
"""Seconds between two looks for the panels; the request for the figure comes at once."""


class Drawing:
    """The process, from its start on; as a context manager it has ended when the block has.

    Parameters
    ----------
    panels
        Where the file of `write_panels` appears; it is drawn then, into memory.

    Raises
    ------
    OSError
        When no process can be started.
    """

    def __init__(self, panels: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import main; main()", str(panels)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is answered by the framework alone
        )

    def begin(self, path: Path) -> None:
        """Ask for the figure at this path; the panels are complete."""
        assert self._process.stdin is not None
        with suppress(OSError):  # when the process has ended, which `result` finds out
            self._process.stdin.write(json.dumps(str(path)).encode() + b"\n")
            self._process.stdin.flush()

    def result(self, time_out: float = TIME_OUT) -> str:
        """Wait until the figure is drawn.

        Parameters
        ----------
        time_out
            In seconds.

        Returns
        -------
        str
            Why there is none; empty when there is.
        """
        try:
            answer, _ = self._process.communicate(timeout=time_out)
        except subprocess.TimeoutExpired:
            return f"it took longer than {time_out:g} s"
        try:
            return str(json.loads(answer))
        except ValueError:
            return f"the process that draws it ended with status {self._process.returncode}"

    def close(self) -> None:
        """End the process, whatever it does."""
        with self._process:
            self._process.kill()

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def main() -> None:
    """Be the process: read the libraries, draw what there is, and write it when it is asked for."""
    parent = os.getppid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    reading = threading.Thread(target=_read_libraries)
    reading.start()
    panels, line, drawn, picture = Path(sys.argv[1]), "", None, b""
    while not panels.exists() and not line:
        if select.select([sys.stdin], [], [], _LOOK)[0]:
            line = _request(parent)
    reading.join()
    try:
        if not line:
            drawn, picture = _version(panels), _draw(panels)
            line = _request(parent)
        if drawn != _version(panels):  # the analysis was called again after its worker had died
            picture = _draw(panels)
        _write(picture, json.loads(line))
        answer = ""
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # nothing is left to do; taking all libraries apart would take a while


def _request(parent: int) -> str:
    line = sys.stdin.readline()
    if not line or os.getppid() != parent:  # no process waits any more
        os._exit(0)
    return line


def _version(panels: Path) -> tuple[int, int]:
    found = panels.stat()
    return found.st_ino, found.st_mtime_ns


def _draw(panels: Path) -> bytes:
    from ips_components.report.figure import figure_of, png_of
    from ips_components.report.panels import read_panels

    return png_of(figure_of(*read_panels(panels)))


def _write(picture: bytes, path: str) -> None:
    from ips_components.report.figure import write_picture

    write_picture(picture, path)


def _read_libraries() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _IDLE)  # of this thread, on Linux
    # matplotlib reads its axes in three dimensions, which are drawn nowhere, where it finds them.
    sys.modules["mpl_toolkits.mplot3d"] = None  # type: ignore[assignment]
    warnings.simplefilter("ignore")
    import_module("ips_components.report.figure")
