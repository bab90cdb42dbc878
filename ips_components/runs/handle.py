"""Start a coupled run from Python, watch it, and get its results.

``ips.py`` runs in a process of its own, in a session of its own: an interrupt in a notebook ends
the wait and not the run. It ends when this process ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ips_components.config._overrides import override
from ips_components.deadlines import Deadline, poll_until
from ips_components.errors import ConfigError, ContactError, RecordError, RunFailed
from ips_components.report.progress import POLL_INTERVAL, Progress
from ips_components.report.progress_file import ENVIRONMENT, read_progress
from ips_components.runs.result import Figure, Report, RunResult

if TYPE_CHECKING:
    import xarray

    from ips_components.live import LiveRun

_REFUSED = 2
"""Exit status of ``ips.py`` when files cannot work."""
_KILL = 20.0
"""Seconds that a run has to end after it was asked to."""
_TAIL = 1 << 20
_QUOTED = 20


def run(
    config: str | os.PathLike[str],
    platform: str | os.PathLike[str],
    *,
    directory: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
    **overrides: Any,
) -> Run:
    """Start ``ips.py`` on a config, and return at once.

    Parameters
    ----------
    config, platform : path-like
        Config and platform file; relative ones are relative to `directory`.
    directory : path-like, optional
        Where ``ips.py`` starts, hence ``$PWD`` in the config; the current directory by default.
    environment : mapping of str to str, optional
        Environment variables to set, beside those of this process.
    **overrides
        Parameters of the config to replace. A parameter that only one section can have is given
        by its name, ``NSTEP=50``; others with their section or port,
        ``ANALYTICS={"DASK_WORKERS_PER_NODE": 2, "ANALYSIS_ARGS": {"n_components": 4}}``. Values
        may be numbers, booleans, sequences and mappings; None takes a parameter out of the config.

    Returns
    -------
    Run
        Shows its progress in a notebook; ``wait()`` returns what it left.

    Raises
    ------
    ConfigError
        When a file cannot be read, or an override does not fit.

    Examples
    --------
    >>> import ips_components
    >>> started = ips_components.run(
    ...     "configs/heat2d_ipca.config", "platform/workstation.conf", NSTEP=50
    ... )  # doctest: +SKIP
    >>> started.wait().results["explained_variance_ratio"]  # doctest: +SKIP
    """
    place = Path.cwd() if directory is None else Path(directory).absolute()
    if not place.is_dir():
        raise ConfigError(f"directory: expected an existing directory, got {str(place)!r}")
    machine = place / platform
    if not machine.is_file():
        raise ConfigError(f"{machine}: cannot be read; give the path of an existing platform file")
    conf = override(place / config, overrides)
    scratch = Path(tempfile.mkdtemp(prefix="ips_components-run-"))
    try:
        conf.filename = str(scratch / Path(config).name)
        conf.write()
        return Run(Path(conf.filename), machine, place, scratch, environment or {})
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


class Run:
    """A run that :func:`ips_components.run` has started.

    As the last expression of a notebook's cell it shows the progress, up to date until the run has
    ended.
    """

    def __init__(
        self,
        config: Path,
        platform: Path,
        directory: Path,
        scratch: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.config = config.stem
        """Name of the config file."""
        self._scratch = scratch
        self._known: dict[str, Any] = {}
        self._output = ""
        self._stopped = False
        self._shown = False
        self._ended = threading.Event()
        alive, self._alive = os.pipe()
        command = [sys.executable, "-m", "ips_components.runs.child", str(alive), str(scratch)]
        command += ["--config", str(config), "--platform", str(platform)]
        try:
            with self._output_file.open("wb") as output:
                self._process = subprocess.Popen(
                    command,
                    cwd=directory,
                    env=self._environment(directory, environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[alive],
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._alive)
            raise
        finally:
            os.close(alive)
        # The thread holds this object until the run has ended, referenced or not.
        threading.Thread(target=self._follow, name="ips-components-run", daemon=True).start()

    def _environment(self, directory: Path, changes: Mapping[str, str]) -> dict[str, str]:
        """What an activated environment has, and a notebook's kernel does not."""
        environment = {**os.environ, **changes}
        if environment.get("MPLBACKEND", "").startswith("module://"):
            del environment["MPLBACKEND"]  # the notebook's own
        own = str(Path(sys.executable).parent)
        path = environment.get("PATH", os.defpath).split(os.pathsep)
        if own not in path:
            path.insert(0, own)
        environment["PATH"] = os.pathsep.join(path)
        environment["PWD"] = str(directory)
        environment["PYTHONUNBUFFERED"] = "1"
        environment[ENVIRONMENT] = str(self._progress_file)
        return environment

    # --- while it is on --------------------------------------------------------------------------

    @property
    def status(self) -> str:
        """``running``, ``succeeded`` or ``failed``."""
        if not self._ended.is_set():
            return "running"
        return "failed" if self._process.returncode else "succeeded"

    @property
    def progress(self) -> dict[str, Any]:
        """What is known of the run now.

        ``run`` (id), ``run_dir``, ``doing`` (in words), ``live_page``, and ``state``: ``phase``,
        ``steps`` and ``n_steps``, ``delivered`` (bytes), ``waited`` (seconds) and more. Empty
        before the run has begun.
        """
        if not self._ended.is_set():
            self._known = read_progress(self._progress_file) or self._known
        return self._known

    @property
    def output(self) -> str:
        """What ``ips.py`` has printed so far: the last MiB of it."""
        if self._ended.is_set():
            return self._output
        return _tail(self._output_file)

    @property
    def directory(self) -> Path | None:
        """Directory of the run; None as long as there is none."""
        found = self.progress.get("run_dir")
        return None if found is None else Path(found)

    def attach(self, timeout: float = 120.0) -> LiveRun:
        """Look into the run while it goes on; see `ips_components.attach`.

        Parameters
        ----------
        timeout
            Seconds to wait until it can be attached to.

        Raises
        ------
        ContactError
            When it has ended, or cannot be attached to in time.
        """
        from ips_components.live import attach
        from ips_components.live.find import find_contact

        def found() -> bool:
            directory = self.directory
            if directory is not None:
                with suppress(ContactError):
                    find_contact(directory)
                    return True
            return self.status != "running"

        poll_until(found, Deadline(timeout), pause=0.1, growth=1.5, max_pause=0.5)
        if self.directory is None:
            raise ContactError(f"the run has no directory after {timeout:g} s: {self.status}")
        return attach(self.directory)

    def wait(self, timeout: float | None = None) -> RunResult:
        """Wait until the run has ended, and show how far it is.

        Parameters
        ----------
        timeout : float, optional
            Longest wait in seconds. The run goes on when it has passed.

        Returns
        -------
        RunResult
            What the run left.

        Raises
        ------
        RunFailed
            With the cause, when the run failed.
        ConfigError
            With everything that is wrong, when the files cannot work.
        TimeoutError
            When the run has not ended in time.
        """
        if _in_notebook() and not self._shown:
            self._ipython_display_()
        deadline = Deadline(float("inf") if timeout is None else timeout)
        with Progress(quiet=_in_notebook() or not sys.stderr.isatty()) as progress:
            while not self._ended.wait(min(POLL_INTERVAL, deadline.left)):
                if deadline.expired:
                    raise TimeoutError(
                        f"{self.config} has not ended within {timeout:g} s; it goes on"
                    )
                progress.show_known(self.progress)
        if self._process.returncode:
            self._fail()
        if self.directory is None:
            raise RecordError(
                f"{self.config} succeeded, but has no coupled run to open: no component of it is "
                "ips_components.analytics"
            )
        return RunResult(self.directory)

    def stop(self, timeout: float = _KILL) -> None:
        """End the run, with everything that it has started; nothing when it has ended.

        Parameters
        ----------
        timeout : float
            Seconds that it has to end by itself; then it is killed.
        """
        self._stopped = not self._ended.is_set()
        self._signal(signal.SIGTERM)
        if not self._ended.wait(timeout):
            self._signal(signal.SIGKILL)
            self._ended.wait(_KILL)

    # --- when it has ended -----------------------------------------------------------------------

    @property
    def result(self) -> RunResult:
        """What the run left, also when it failed; waits for its end.

        Raises
        ------
        RecordError
            If the run ended before it had a record.
        """
        self._ended.wait()
        if self.directory is None:
            raise RecordError(f"{self.config} ended before it had a record: {self.cause}")
        return RunResult(self.directory)

    @property
    def results(self) -> xarray.Dataset:
        """The results; waits for the end of the run, and raises as `wait` does."""
        return self.wait().results

    @property
    def figure(self) -> Figure:
        """The figure of the results; waits for the end of the run, and raises as `wait` does."""
        return self.wait().figure

    @property
    def report(self) -> Report:
        """The report, also of a run that failed; waits for its end."""
        return self.result.report

    @property
    def cause(self) -> str:
        """Why the run failed; empty while it is on, and when it did not."""
        if self.status != "failed":
            return ""
        if self._stopped:
            return "stopped"
        with suppress(RecordError):
            if self.directory is not None and (cause := RunResult(self.directory).cause):
                return cause
        return _cause(self._output) or f"ips.py ended with exit status {self._process.returncode}"

    # --- internals -------------------------------------------------------------------------------

    @property
    def _progress_file(self) -> Path:
        return self._scratch / "progress.json"

    @property
    def _output_file(self) -> Path:
        return self._scratch / "output.txt"

    def _signal(self, signum: int) -> None:
        with suppress(ProcessLookupError):
            if not self._ended.is_set():
                self._process.send_signal(signum)

    def _follow(self) -> None:
        """Wait for the process, keep what its files say, and remove them."""
        self._process.wait()
        os.close(self._alive)
        self._known = read_progress(self._progress_file) or self._known
        self._output = _tail(self._output_file)
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._ended.set()

    def _fail(self) -> None:
        if self._process.returncode == _REFUSED and not self._stopped:
            raise ConfigError(self.cause)
        result = None
        with suppress(RecordError):
            result = None if self.directory is None else RunResult(self.directory)
        raise RunFailed(self.cause, result)

    def __repr__(self) -> str:
        doing = self.progress.get("doing") if self.status == "running" else self.cause
        return f"<Run {self.config}: {self.status}{f', {doing}' if doing else ''}>"

    def _repr_html_(self) -> str:
        from ips_components.runs.html import progress_html

        if self.status == "succeeded" and self.directory is not None:
            return RunResult(self.directory)._repr_html_()
        return progress_html(self.config, self.status, self.progress, self.cause)

    def _ipython_display_(self) -> None:
        """Show the progress, and keep it up to date from a thread."""
        from IPython.display import HTML, display

        self._shown = True
        shown = display(HTML(self._repr_html_()), display_id=True)

        def update() -> None:
            ended = False
            while not ended:
                ended = self._ended.wait(POLL_INTERVAL)
                shown.update(HTML(self._repr_html_()))

        if shown is not None:
            self._display = threading.Thread(target=update, daemon=True)
            self._display.start()


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return hasattr(shell, "kernel")


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _cause(output: str) -> str:
    """What ``ips.py`` printed about its failure, else its last lines."""
    mark = "ips_components: "
    where = output.rfind(f"\n{mark}")
    if where >= 0:
        return output[where + 1 + len(mark) :].strip()
    return "\n".join(output.strip().splitlines()[-_QUOTED:])
